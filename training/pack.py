"""Stage "pack": trained weights -> a folder in the official layout, weights in half precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.network import NetworkShape

TOKENIZER_NAME = "chn_jpn_yue_eng_ko_spectok.bpe.model"


def write_cmvn(path: Path, shift: Tensor, scale: Tensor) -> None:
    """Kaldi's text form, as FunASR reads it."""
    width = len(shift)
    rows = [
        "<Nnet>",
        f"<Splice> {width} {width}",
        "[ 0 ]",
        f"<AddShift> {width} {width}",
        "<LearnRateCoef> 0 [ " + " ".join(f"{v:.6f}" for v in shift.tolist()) + " ]",
        f"<Rescale> {width} {width}",
        "<LearnRateCoef> 0 [ " + " ".join(f"{v:.6f}" for v in scale.tolist()) + " ]",
        "</Nnet>",
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def half_precision(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The state dict in fp16."""
    return {prefix + name: tensor.detach().half().cpu() for name, tensor in model.state_dict().items()}


def pack_recogniser(
    out: Path, network: nn.Module, shape: NetworkShape, frontend: Frontend, tokenizer: Path
) -> None:
    """Write the recogniser's five files."""
    out.mkdir(parents=True, exist_ok=True)
    torch.save(half_precision(network), out / "model.pt")
    write_cmvn(out / "am.mvn", frontend.shift, frontend.scale)
    shutil.copy(tokenizer, out / TOKENIZER_NAME)
    (out / "config.yaml").write_text(
        yaml.safe_dump(recogniser_config(shape), sort_keys=False), encoding="utf-8"
    )
    paths = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": TOKENIZER_NAME},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    _write_configuration(out, "auto-speech-recognition", paths)


def pack_vad(out: Path, encoder: nn.Module, frontend: Frontend) -> None:
    """Write the detector's four files."""
    out.mkdir(parents=True, exist_ok=True)
    torch.save(half_precision(encoder, "encoder."), out / "model.pt")
    write_cmvn(out / "am.mvn", frontend.shift, frontend.scale)
    (out / "config.yaml").write_text(yaml.safe_dump(VAD_CONFIG, sort_keys=False), encoding="utf-8")
    paths = {"init_param": "model.pt", "config": "config.yaml", "frontend_conf": {"cmvn_file": "am.mvn"}}
    _write_configuration(out, "voice-activity-detection", paths)


def _write_configuration(out: Path, task: str, paths: dict[str, Any]) -> None:
    content = {
        "framework": "pytorch",
        "task": task,
        "model": {"type": "funasr"},
        "pipeline": {"type": "funasr-pipeline"},
        "file_path_metas": paths,
    }
    (out / "configuration.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def recogniser_config(shape: NetworkShape) -> dict[str, Any]:
    """The official `config.yaml` with this network's numbers."""
    return {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {
            "output_size": shape.output_size,
            "attention_heads": shape.attention_heads,
            "linear_units": shape.linear_units,
            "num_blocks": shape.num_blocks,
            "tp_blocks": shape.tp_blocks,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": shape.kernel_size,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "dither": 0.0,  # FunASR's default of 1 would make its results random
            "lfr_m": 7,
            "lfr_n": 6,
            "cmvn_file": None,
        },
    }


VAD_CONFIG: dict[str, Any] = {
    "frontend": "WavFrontendOnline",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "dither": 0.0,
        "lfr_m": 5,
        "lfr_n": 1,
    },
    "model": "FsmnVADStreaming",
    "model_conf": {
        "sample_rate": 16000,
        "detect_mode": 1,
        "snr_mode": 0,
        "max_end_silence_time": 800,
        "max_start_silence_time": 3000,
        "do_start_point_detection": True,
        "do_end_point_detection": True,
        "window_size_ms": 200,
        "sil_to_speech_time_thres": 150,
        "speech_to_sil_time_thres": 150,
        "speech_2_noise_ratio": 1.0,
        "do_extend": 1,
        "lookback_time_start_point": 200,
        "lookahead_time_end_point": 100,
        "max_single_segment_time": 60000,
        "snr_thres": -100.0,
        "noise_frame_num_used_for_snr": 100,
        "decibel_thres": -100.0,
        "speech_noise_thres": 0.6,
        "fe_prior_thres": 0.0001,
        "silence_pdf_num": 1,
        "sil_pdf_ids": [0],
        "speech_noise_thresh_low": -0.1,
        "speech_noise_thresh_high": 0.3,
        "output_frame_probs": False,
        "frame_in_ms": 10,
        "frame_length_ms": 25,
    },
    "encoder": "FSMN",
    "encoder_conf": {
        "input_dim": 400,
        "input_affine_dim": 140,
        "fsmn_layers": 4,
        "linear_dim": 250,
        "proj_dim": 128,
        "lorder": 20,
        "rorder": 0,
        "lstride": 1,
        "rstride": 0,
        "output_affine_dim": 140,
        "output_dim": 248,
    },
}

"""Small checkpoints in the official layouts, made in a moment: right in form, wrong in content.

The recogniser's weights are random, with a head that is scaled until the best token changes often, so that
comparing two implementations means something. The VAD's weights hold an energy detector plus a little noise,
so that it finds the loud parts of a recording.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import yaml

from sensevoice.network import NetworkShape, SenseVoiceNetwork

LANGUAGE_TAGS = ("zh", "en", "yue", "ja", "ko", "nospeech")
EMOTION_TAGS = (
    *("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL"),
    *("DISGUSTED", "SURPRISED", "OTHER", "EMO_UNKNOWN"),
)
EVENT_TAGS = (
    *("Speech", "BGM", "Laughter", "Applause", "Cry", "Sneeze"),
    *("Breath", "Cough", "Sing", "Speech_Noise", "GBG", "Event_UNK"),
)
OTHER_TAGS = ("withitn", "woitn", "SPECIAL_TOKEN_1", "SPECIAL_TOKEN_2", "SPECIAL_TOKEN_3")
SENTENCES = (
    "the quick brown fox jumps over the lazy dog.",
    "今天天气真好，我们去公园吧。",
    "呢度嘅嘢好好食。",
    "きょうはいいてんきですね。",
    "오늘은 날씨가 좋네요.",
)
MODEL_WIDTH, VAD_WIDTH = 560, 400  # stacked mels: 80 * 7 and 80 * 5
ENERGY_THRESHOLD = 0.0  # of the normalised log-mel mean, above which the small VAD hears speech


def make_tokenizer(path: Path, *, merges: int = 40, dummy_prefix: bool = True) -> int:
    """Write a SentencePiece BPE of a few hundred pieces, tags included; returns its size."""
    tags = [f"<|{name}|>" for name in (*LANGUAGE_TAGS, *EMOTION_TAGS, *EVENT_TAGS, *OTHER_TAGS)]
    letters = set("".join(SENTENCES)) | {"▁"}
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 10),
        model_writer=model,
        model_type="bpe",
        vocab_size=3 + len(tags) + len(letters) + merges,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=dummy_prefix,
        user_defined_symbols=tags,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return int(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).GetPieceSize())


def make_cmvn(path: Path, width: int, *, shift: float = -12.0, scale: float = 0.25) -> None:
    """Write a Kaldi CMVN in text form whose values differ from column to column."""
    columns = np.linspace(-0.5, 0.5, width)
    rows = {"AddShift": shift + columns, "Rescale": scale * (1 + 0.1 * columns)}
    lines = ["<Nnet>", f"<Splice> {width} {width}", "[ 0 ]"]
    for name, values in rows.items():
        numbers = " ".join(f"{value:.6f}" for value in values)
        lines += [f"<{name}> {width} {width}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    path.write_text("\n".join([*lines, "</Nnet>", ""]))


def make_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    hidden: int = 64,
    blocks: int = 3,
    tp_blocks: int = 2,
    heads: int = 4,
    merges: int = 40,
    dummy_prefix: bool = True,
    banned_pieces: Iterable[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random SenseVoiceSmall of small size; `banned_pieces` are never the best token of a frame."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = directory / "chn_jpn_yue_eng_ko_spectok.bpe.model"
    vocab_size = make_tokenizer(tokenizer, merges=merges, dummy_prefix=dummy_prefix)
    make_cmvn(directory / "am.mvn", MODEL_WIDTH)
    (directory / "config.yaml").write_text(yaml.safe_dump(_config(hidden, blocks, tp_blocks, heads)))
    (directory / "configuration.json").write_text(json.dumps(_configuration(tokenizer.name)))
    shape = NetworkShape(MODEL_WIDTH, hidden, heads, 4 * hidden, blocks, tp_blocks, 11, vocab_size)
    state = _random_weights(shape, seed)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    for piece in banned_pieces:
        state["ctc.ctc_lo.bias"][pieces.PieceToId(piece)] = -1e4
    torch.save({name: value.to(dtype) for name, value in state.items()}, directory / "model.pt")
    return directory


def _random_weights(shape: NetworkShape, seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = SenseVoiceNetwork(shape).state_dict()
        state["embed.weight"] *= 3  # the queries should matter
        state["ctc.ctc_lo.weight"] *= 8  # and confident, varied tokens come out
        state["ctc.ctc_lo.bias"][0] += 4  # with blanks between them
        for unused in (1, 2):
            state["ctc.ctc_lo.bias"][unused] = -1e4  # sentence marks decode to nothing
    return state


def _config(hidden: int, blocks: int, tp_blocks: int, heads: int) -> dict[str, object]:
    return {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {
            **{"output_size": hidden, "attention_heads": heads, "linear_units": 4 * hidden},
            **{"num_blocks": blocks, "tp_blocks": tp_blocks, "kernel_size": 11, "sanm_shfit": 0},
            **{"dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1},
            **{"input_layer": "pe", "pos_enc_class": "SinusoidalPositionEncoder"},
            **{"normalize_before": True, "selfattention_layer_type": "sanm"},
        },
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": _frontend(7, 6),
    }


def _frontend(lfr_m: int, lfr_n: int) -> dict[str, object]:
    return {
        **{"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10},
        **{"dither": 0.0, "lfr_m": lfr_m, "lfr_n": lfr_n, "cmvn_file": None},
    }


def _configuration(tokenizer: str | None) -> dict[str, object]:
    paths: dict[str, object] = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    if tokenizer:
        paths["tokenizer_conf"] = {"bpemodel": tokenizer}
    return {"framework": "pytorch", "model": {"type": "funasr"}, "file_path_metas": paths}


def make_vad(directory: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Write an FSMN-VAD of the official shape that calls whatever is loud speech."""
    directory.mkdir(parents=True, exist_ok=True)
    make_cmvn(directory / "am.mvn", VAD_WIDTH)
    (directory / "config.yaml").write_text(yaml.safe_dump(VAD_CONFIG))
    (directory / "configuration.json").write_text(json.dumps(_configuration(None)))
    state = {name: value.to(dtype) for name, value in _energy_detector(seed).items()}
    torch.save(state, directory / "model.pt")
    return directory


def _energy_detector(seed: int) -> dict[str, torch.Tensor]:
    """Channel 0 carries the mean of the normalised frame to the silence class; the rest is small noise."""
    random = torch.Generator().manual_seed(seed)
    state = {name: 0.003 * torch.randn(shape, generator=random) for name, shape in _vad_shapes().items()}
    state["encoder.in_linear1.linear.weight"][0] = 1 / VAD_WIDTH
    state["encoder.in_linear1.linear.bias"][0] = 4 - ENERGY_THRESHOLD  # positive through the rectifiers
    for name in ("in_linear2", *(f"fsmn.{i}.{part}" for i in range(4) for part in ("linear", "affine"))):
        state[f"encoder.{name}.linear.weight"][0, 0] = 1
    state["encoder.out_linear1.linear.weight"][0, 0] = 1
    state["encoder.out_linear2.linear.weight"][0, 0] = -8
    state["encoder.out_linear2.linear.bias"][0] = 8 * 4 + math.log(247)  # as likely as the other 247 together
    return state


def _vad_shapes() -> dict[str, tuple[int, ...]]:
    sizes = {"in_linear1": (140, 400), "in_linear2": (250, 140)}
    sizes |= {f"fsmn.{i}.affine": (250, 128) for i in range(4)}
    sizes |= {"out_linear1": (140, 250), "out_linear2": (248, 140)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in sizes.items():
        shapes[f"encoder.{name}.linear.weight"] = (outputs, inputs)
        shapes[f"encoder.{name}.linear.bias"] = (outputs,)
    for i in range(4):
        shapes[f"encoder.fsmn.{i}.linear.linear.weight"] = (128, 250)
        shapes[f"encoder.fsmn.{i}.fsmn_block.conv_left.weight"] = (128, 1, 20, 1)
    return shapes


VAD_CONFIG = {
    "frontend": "WavFrontendOnline",
    "frontend_conf": _frontend(5, 1),
    "model": "FsmnVADStreaming",
    "model_conf": {
        **{"sample_rate": 16000, "detect_mode": 1, "snr_mode": 0, "do_extend": 1},
        **{"max_end_silence_time": 800, "max_start_silence_time": 3000, "window_size_ms": 200},
        **{"do_start_point_detection": True, "do_end_point_detection": True},
        **{"sil_to_speech_time_thres": 150, "speech_to_sil_time_thres": 150, "speech_2_noise_ratio": 1.0},
        **{"lookback_time_start_point": 200, "lookahead_time_end_point": 100},
        **{"max_single_segment_time": 60000, "snr_thres": -100.0, "noise_frame_num_used_for_snr": 100},
        **{"decibel_thres": -100.0, "speech_noise_thres": 0.6, "fe_prior_thres": 0.0001},
        **{"silence_pdf_num": 1, "sil_pdf_ids": [0], "output_frame_probs": False},
        **{"speech_noise_thresh_low": -0.1, "speech_noise_thresh_high": 0.3},
        **{"frame_in_ms": 10, "frame_length_ms": 25},
    },
    "encoder": "FSMN",
    "encoder_conf": {
        **{"input_dim": 400, "input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128},
        **{
            "lorder": 20,
            "rorder": 0,
            "lstride": 1,
            "rstride": 0,
            "output_affine_dim": 140,
            "output_dim": 248,
        },
    },
}


def speech_like(seconds: float, *, seed: int = 0, pauses: bool = False) -> np.ndarray:
    """Voiced, changing sound of [samples] float32 at 16 kHz; with `pauses`, 1 s of near silence every 3 s."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    pitch = 120 + 60 * np.sin(2 * np.pi * random.uniform(0.5, 1.5) * time + random.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    weights = random.uniform(0.2, 1, 20) / np.arange(1, 21)
    moving = [
        1 + 0.9 * np.sin(2 * np.pi * random.uniform(1, 6) * time + random.uniform(0, 6)) for _ in weights
    ]
    sound = sum(
        w * m * np.sin(k * phase) for k, (w, m) in enumerate(zip(weights, moving, strict=True), start=1)
    )
    loudness = np.where(time % 3 < 2, 1.0, 1e-3) if pauses else 1.0
    noisy = 0.1 * loudness * sound + 1e-4 * random.standard_normal(len(time))
    return noisy.astype(np.float32)

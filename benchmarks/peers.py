"""What this program is compared with, each only if its package is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import onnx_peers
from sensevoice.audio import SAMPLE_RATE, decode

Peer = Callable[[Any], object]  # transcribes a file or [samples]

WHISPER_TOKENS = 126  # that 30 s of speech are written with
WHISPER_WINDOW_S = 30


def funasr(model: Path, vad: Path, device: str, *, times: bool = False) -> Peer:
    """FunASR's AutoModel on the same folders; with `times`, it aligns the tokens, too."""
    warnings.simplefilter("ignore")
    from funasr import AutoModel

    auto = AutoModel(
        model=str(model),
        vad_model=str(vad),
        vad_kwargs={"max_single_segment_time": 30_000, "max_end_silence_time": 800},
        device=device,
        disable_update=True,
        disable_pbar=True,
        log_level="ERROR",
    )
    return lambda source: auto.generate(
        str(source) if isinstance(source, Path) else [source],
        cache={},
        use_itn=True,
        batch_size_s=300,
        output_timestamp=times,
    )


def whisper(_: Path, __: Path, device: str) -> Peer:
    """A network of Whisper-large-v3's shape in transformers, random weights, 126 tokens for each 30 s."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    shape: dict[str, Any] = {"d_model": 1280, "num_mel_bins": 128, "vocab_size": 51_866}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_layers": 32, f"{side}_attention_heads": 20, f"{side}_ffn_dim": 5120}
    dtype = torch.float32 if device == "cpu" else torch.float16
    with torch.device(device):
        network = WhisperForConditionalGeneration(WhisperConfig(**shape)).to(dtype).eval()

    @torch.inference_mode()
    def transcribe(source: Any) -> object:
        samples: npt.NDArray[np.float32] = decode(source)
        windows = -(-len(samples) // (WHISPER_WINDOW_S * SAMPLE_RATE))
        for first in range(0, windows, 16):
            mels = torch.zeros(min(16, windows - first), 128, 3000, device=device, dtype=dtype)
            network.generate(mels, min_new_tokens=WHISPER_TOKENS, max_new_tokens=WHISPER_TOKENS, num_beams=1)
        return None

    return transcribe


PEERS: dict[str, Callable[[Path, Path, str], Peer]] = {
    "funasr": funasr,
    "funasr-times": partial(funasr, times=True),
    "onnx-fp32": onnx_peers.fp32,
    "onnx-int8": onnx_peers.int8,
    "sherpa-int8": onnx_peers.sherpa,
    "whisper": whisper,
}

"""From samples to the network's input: log-mel filter bank, frame stacking (LFR), normalisation (CMVN).

Kaldi's conventions throughout (https://kaldi-asr.org/doc/feat.html): 25 ms Hamming window every
10 ms, DC removal and pre-emphasis inside the window, 512-point power spectrum, no dither, and
samples on the scale of 16-bit integers. All of it is tensor arithmetic, on whatever device the
frontend was moved to, over any number of leading batch dimensions.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sensevoice.errors import ModelFileError
from sensevoice.spans import SAMPLE_RATE as SAMPLE_RATE

WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT_SIZE = 512
INT16_SCALE = 32_768.0
PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
ENERGY_FLOOR = 1.1920929e-07  # float32 epsilon, as in Kaldi
BLOCK_FRAMES = 3_000  # 30 s at a time keeps the spectra of a long recording in the processor's cache
GPU_BLOCK_FRAMES = 32_000  # 60 MB for each step of the arithmetic


def frame_count(samples: int) -> int:
    """Whole windows in so many samples (Kaldi's `snip_edges`)."""
    return max(0, 1 + (samples - WINDOW) // HOP)


def to_mel(hz: Tensor) -> Tensor:
    """Frequencies in Hz on Kaldi's mel scale (https://kaldi-asr.org/doc/mel-computations_8h_source.html)."""
    return 1127.0 * torch.log1p(hz / 700.0)


def to_hz(mel: Tensor) -> Tensor:
    """The frequencies of points on the mel scale: the inverse of `to_mel`."""
    return 700.0 * torch.expm1(mel / 1127.0)


def mel_range() -> tuple[float, float]:
    """The lowest and the highest point on the mel scale that the filters cover."""
    low, high = to_mel(torch.tensor([LOWEST_HZ, SAMPLE_RATE / 2], dtype=torch.float64, device="cpu")).tolist()
    return low, high


def mel_filters(n_mels: int) -> npt.NDArray[np.float32]:
    """Kaldi's triangular filters, [FFT_SIZE // 2, n_mels]; the Nyquist bin is left out as Kaldi does."""
    edges = np.linspace(*mel_range(), n_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = to_mel(torch.from_numpy(np.arange(FFT_SIZE // 2) * (SAMPLE_RATE / FFT_SIZE))).numpy()[:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters: npt.NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def read_cmvn(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Read Kaldi's text form of a CMVN: (shift to add, scale to multiply by), each [stacked width]."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(str(path), "it cannot be read") from error
    vectors = [
        np.array(match.split(), dtype=np.float32)
        for match in re.findall(r"<LearnRateCoef>\s+\S+\s+\[([^\]]*)\]", text)
    ]
    if len(vectors) != 2 or vectors[0].shape != vectors[1].shape:
        raise ModelFileError(str(path), "it is no CMVN with one shift and one scale")
    return vectors[0], vectors[1]


class Frontend(nn.Module):
    """Samples -> normalised, stacked log-mel frames."""

    window: Tensor
    filters: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        shift: npt.NDArray[np.float32],
        scale: npt.NDArray[np.float32],
        *,
        n_mels: int = 80,
        lfr_m: int = 7,
        lfr_n: int = 6,
    ) -> None:
        super().__init__()
        self.lfr_m, self.lfr_n = lfr_m, lfr_n
        self.register_buffer("window", torch.hamming_window(WINDOW, periodic=False))
        self.register_buffer("filters", torch.from_numpy(mel_filters(n_mels)))
        self.register_buffer("shift", torch.from_numpy(np.ascontiguousarray(shift)))
        self.register_buffer("scale", torch.from_numpy(np.ascontiguousarray(scale)))

    @classmethod
    def from_config(cls, config: dict[str, Any], cmvn_path: Path) -> Frontend:
        """Build from a checkpoint's `frontend_conf` and `am.mvn`."""
        shift, scale = read_cmvn(cmvn_path)
        n_mels, lfr_m, lfr_n = config.get("n_mels", 80), config.get("lfr_m", 1), config.get("lfr_n", 1)
        if len(shift) != n_mels * lfr_m:
            reason = f"it has {len(shift)} values, but the frontend makes {n_mels * lfr_m} a frame"
            raise ModelFileError(str(cmvn_path), reason)
        return cls(shift, scale, n_mels=n_mels, lfr_m=lfr_m, lfr_n=lfr_n)

    def forward(self, samples: Tensor | npt.NDArray[np.float32]) -> Tensor:
        """[..., samples] in [-1, 1] -> [..., ceil(frames / lfr_n), n_mels * lfr_m]."""
        if isinstance(samples, np.ndarray):
            samples = torch.from_numpy(samples)
        return self.normalise(self.stack(self.log_mel(samples.to(self.filters.device))))

    def log_mel(self, samples: Tensor) -> Tensor:
        """[..., samples] in [-1, 1] -> natural logarithm of the mel energies, [..., frames, n_mels]."""
        if frame_count(samples.shape[-1]) == 0:
            return samples.new_zeros(*samples.shape[:-1], 0, self.filters.shape[1])
        frames = samples.unfold(-1, WINDOW, HOP)  # [..., frames, WINDOW], a view
        blocks = torch.split(frames, GPU_BLOCK_FRAMES if samples.is_cuda else BLOCK_FRAMES, dim=-2)
        return torch.cat([self._mel_block(block) for block in blocks], dim=-2)

    def _mel_block(self, frames: Tensor) -> Tensor:
        frames = frames * INT16_SCALE
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * self.window, n=FFT_SIZE)
        power = spectrum.real.square() + spectrum.imag.square()
        energies: Tensor = power[..., :-1] @ self.filters
        return energies.clamp_min(ENERGY_FLOOR).log()

    def stack(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Low frame rate: frame i is mel frames `i*n - (m-1)//2 ... + m-1` side by side, edges repeated.

        mel: [..., frames, n_mels]; lengths: [...] valid frames of each, all if None.
        Returns [..., ceil(frames / n), m * n_mels].
        """
        frames = mel.shape[-2]
        if frames == 0:
            return mel.new_zeros(*mel.shape[:-2], 0, self.lfr_m * mel.shape[-1])
        rows = torch.arange(math.ceil(frames / self.lfr_n), device=mel.device)[:, None] * self.lfr_n
        index = rows + torch.arange(self.lfr_m, device=mel.device) - (self.lfr_m - 1) // 2  # [stacked, m]
        if lengths is None:
            picked = mel[..., index.clamp(0, frames - 1), :]
        else:
            index = index.clamp_min(0).minimum((lengths - 1).clamp_min(0)[..., None, None])
            batch = torch.arange(mel.shape[0], device=mel.device)[:, None, None]
            picked = mel[batch, index]
        return picked.flatten(-2)

    def normalise(self, stacked: Tensor) -> Tensor:
        """Apply the checkpoint's CMVN."""
        return (stacked + self.shift) * self.scale

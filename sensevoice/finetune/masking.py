"""SpecAugment for stacked frames (https://arxiv.org/abs/1904.08779)."""

from __future__ import annotations

import torch
from torch import Tensor

N_MELS = 80
N_MASKS = 2  # of each kind
LONGEST_STRETCH = 10  # frames, 600 ms
LONGEST_STRETCH_SHARE = 0.08  # of the utterance
WIDEST_BAND = 16  # mels


def mask_features(features: Tensor, frames: Tensor, strength: float) -> Tensor:
    """Set two stretches of time and two bands of mels of each utterance to zero, which is the mean.

    features: [batch, frames, k * 80], normalised; frames: [batch]; strength: 0 (nothing) to 1.
    """
    return features * _kept_frames(features, frames, strength) * _kept_mels(features, strength)


def _kept_frames(features: Tensor, frames: Tensor, strength: float) -> Tensor:
    """1 where a frame stays, else 0: [batch, frames, 1]."""
    batch, width, _ = features.shape
    keep = torch.ones(batch, width, 1, device=features.device)
    steps = torch.arange(width, device=features.device)[None]
    for _ in range(N_MASKS):
        longest = (frames * LONGEST_STRETCH_SHARE).clamp(max=LONGEST_STRETCH) * strength
        size = torch.rand(batch, device=features.device) * longest
        first = torch.rand(batch, device=features.device) * (frames - size)
        hidden = (steps >= first[:, None]) & (steps < (first + size)[:, None])
        keep = keep * (~hidden)[..., None]
    return keep


def _kept_mels(features: Tensor, strength: float) -> Tensor:
    """1 where a mel stays, else 0, the same in every frame of a stack: [batch, 1, k * 80]."""
    batch, _, width = features.shape
    mels = torch.arange(N_MELS, device=features.device)[None]
    bands = torch.ones(batch, N_MELS, device=features.device)
    for _ in range(N_MASKS):
        size = torch.rand(batch, 1, device=features.device) * WIDEST_BAND * strength
        first = torch.rand(batch, 1, device=features.device) * (N_MELS - size)
        bands = bands * ~((mels >= first) & (mels < first + size))
    return bands.repeat(1, width // N_MELS)[:, None]

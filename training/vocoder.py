"""Kokoro's residual blocks as a GPU likes them: norm, style and snake in one pass, convolutions in half precision.

As they are written, most of a vocoder's time goes into reading and writing the same numbers: seventeen passes for
each convolution, where three do. What a block adds up stays in float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training import fused

NORM_EPS = 1e-5


def quicken(decoder: nn.Module, dtype: torch.dtype = torch.float16) -> None:
    """Let the blocks of Kokoro's decoder, whose weight norm was removed, work so from now on; in place."""
    generator: Any = decoder.generator
    for block in (*generator.resblocks, *generator.noise_res):
        block.convs1.to(dtype)
        block.convs2.to(dtype)
        block.forward = partial(residual, block)


def residual(block: Any, x: Tensor, style: Tensor) -> Tensor:
    """What the block `AdaINResBlock1` makes of [batch, channels, length] float32 and styles [batch, n]."""
    half = block.convs1[0].weight.dtype
    for first, norm, alpha, second, later_norm, later_alpha in zip(
        *(block.convs1, block.adain1, block.alpha1, block.convs2, block.adain2, block.alpha2), strict=True
    ):
        inner = first(styled(x, *modulation(norm, style), alpha.flatten(), half))
        x = x + second(styled(inner, *modulation(later_norm, style), later_alpha.flatten(), half))
    return x


def modulation(norm: Any, style: Tensor) -> tuple[Tensor, Tensor]:
    """What an adaptive norm multiplies its normalised input by, and adds to it: [batch, channels] each."""
    gamma, beta = norm.fc(style).chunk(2, dim=1)
    return (1 + gamma) * norm.norm.weight, (1 + gamma) * norm.norm.bias + beta


def styled(x: Tensor, gain: Tensor, shift: Tensor, alpha: Tensor, dtype: torch.dtype) -> Tensor:
    """Each row of [batch, channels, length] normalised, times its gain plus its shift, then y + sin²(alpha y) / alpha.

    gain, shift: [batch, channels]; alpha: [channels]. Computed in float32, returned as `dtype`.
    """
    if fused.usable(x):
        return fused.styled(x, gain, shift, alpha, dtype, NORM_EPS)
    variance, mean = torch.var_mean(x.float(), dim=2, correction=0, keepdim=True)
    y = (x - mean) * (variance + NORM_EPS).rsqrt() * gain[..., None] + shift[..., None]
    return (y + torch.sin(alpha[:, None] * y) ** 2 / alpha[:, None]).to(dtype)

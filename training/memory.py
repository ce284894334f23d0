"""The FSMN memory in training: the network's depthwise convolution, whose gradient costs no more than itself.

cuDNN's backward pass of a depthwise convolution is many times as slow, and wants the frames last. Here they stay
where the network has them, so that nothing is transposed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training import fused


class ShiftedProducts(nn.Conv1d):
    """A depthwise Conv1d without bias, computed as a sum of shifted products; weights and names are the same."""

    @classmethod
    def in_place_of(cls, convolution: nn.Conv1d) -> ShiftedProducts:
        """One with the weights of another, which it shares."""
        width, _, order = convolution.weight.shape
        made = cls(width, width, order, padding=(order - 1) // 2, groups=width, bias=False)
        made.weight = convolution.weight
        return made

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, frames] -> [batch, width, frames]."""
        return _Memory.apply(x.transpose(1, 2), self.weight).transpose(1, 2)  # type: ignore[no-any-return, no-untyped-call]


class _Memory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor) -> Tensor:
        """values: [batch, frames, width]; weight: [width, 1, order]."""
        taps = weight[:, 0].t().contiguous()  # [order, width]
        ctx.save_for_backward(values, taps)
        return convolved(values, taps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """The correlation with the same taps, and a dot product for each tap."""
        values, taps = ctx.saved_tensors
        slope = tap_slopes(grads[0], values, len(taps))
        return convolved(grads[0], taps.flip(0)), slope.t().contiguous()[:, None]


def convolved(values: Tensor, taps: Tensor) -> Tensor:
    """Each frame's neighbours, weighted by the taps: [batch, frames, width] and [order, width], an odd order."""
    if fused.usable(values):
        return fused.convolved(values, taps)
    frames = values.shape[1]
    around = _with_edges(values, len(taps))
    total = around[:, :frames] * taps[0]
    for tap in range(1, len(taps)):
        total.addcmul_(around[:, tap : tap + frames], taps[tap])
    return total.to(values.dtype)


def tap_slopes(slope: Tensor, values: Tensor, order: int) -> Tensor:
    """The gradient of the taps, [order, width], from that of the result, [batch, frames, width]."""
    if fused.usable(values):
        return fused.tap_slopes(slope, values, order)
    frames = values.shape[1]
    around = _with_edges(values, order)
    return torch.stack([(slope.float() * around[:, tap : tap + frames]).sum((0, 1)) for tap in range(order)])


def _with_edges(values: Tensor, order: int) -> Tensor:
    return F.pad(values.float(), (0, 0, order // 2, order // 2))

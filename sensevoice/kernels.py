"""The steps between the matrix products of the network, in plain PyTorch; `triton_kernels.py` fuses them.

The residual stream is float32 in every precision: 140 sums in half precision would cost more bits than
all the products do.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EPSILON = 1e-5  # of every layer norm


class Norm(NamedTuple):
    """A layer norm's weights, float32 [width]."""

    weight: Tensor
    bias: Tensor


class PlainKernels:
    """The definition, on any device; what fuses them inherits. The sums are float32 in every precision."""

    def remember(
        self,
        x: Tensor | None,
        mixed: Tensor,
        values: Tensor,
        taps: Tensor,
        first: Tensor,
        end: Tensor,
        norm: Norm,
    ) -> tuple[Tensor, Tensor]:
        """Add attention, values and the FSMN memory of the values to `x`, and normalise: (sum, normalised).

        x, mixed, values: [rows, width], x None in a block that widens; taps: [order, width]; a row hears
        the rows [first, end) only. What is normalised has the values' number format.
        """
        rows = torch.arange(len(values), device=values.device)
        total = mixed.float() + values.float()
        for tap, weight in enumerate(taps):
            source = rows + tap - (len(taps) - 1) // 2
            heard = (source >= first) & (source < end)
            shifted = values[source.clamp(0, len(values) - 1)].float()
            total = total + torch.where(heard[:, None], shifted * weight, 0.0)
        total = total if x is None else x + total
        return total, normalised(total, norm).to(values.dtype)

    def add(self, x: Tensor, more: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """The sum of the two, and that normalised, in the number format of `more`: [rows, width] each."""
        total = x + more
        return total, normalised(total, norm).to(more.dtype)

    def best_tokens(self, logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`best_tokens` of logits that lack their bias, [rows, vocabulary] and [vocabulary]."""
        return best_tokens(logits + bias)


def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of [rows, vocabulary]: the best token's id (int32), its probability, and the log of the sum of exp."""
    best, ids = logits.max(-1)
    total = logits.logsumexp(-1)
    return ids.to(torch.int32), (best - total).exp(), total


def normalised(x: Tensor, norm: Norm) -> Tensor:
    """Layer norm over the last axis, float32."""
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, EPSILON)

"""What packed batches are made of on a processor: utterance by utterance wherever frames meet their neighbours.

An utterance's rows fit into the processor's cache, where a convolution as shifted sums and an attention
without a mask cost a third of their padded forms. Only the matrix products see all rows at once.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.kernels import Norm, PlainKernels, best_tokens, normalised
from sensevoice.network import SenseVoiceNetwork
from sensevoice.packed import Attend, Layer, PackedNetwork
from sensevoice.packing import PackedBatch
from sensevoice.precision import DTYPES, QuantisedLinear, in_precision

CANDIDATES = 8  # tokens whose logits are computed exactly: the best one has never been further down


class ProcessorKernels(PlainKernels):
    """Every row belongs to an utterance."""

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
        """See `PlainKernels`; `mixed` is used up."""
        total = mixed.float().add_(values)
        for start, stop in torch.unique_consecutive(torch.stack([first, end]), dim=1).t().tolist():
            add_filtered(total[start:stop], values[start:stop].float(), taps)
        total = total if x is None else total.add_(x)
        return total, normalised(total, norm).to(values.dtype)


def add_filtered(total: Tensor, values: Tensor, taps: Tensor) -> None:
    """Add to [rows, width] the values, each channel through its own FIR filter: taps [order, width]."""
    rows = len(values)
    for tap, weight in enumerate(taps):
        shift = tap - (len(taps) - 1) // 2
        first, stop = max(0, -shift), min(rows, rows - shift)
        if first < stop:
            total[first:stop].addcmul_(values[first + shift : stop + shift], weight)


def separate_attention(batch: PackedBatch, heads: int) -> Attend:
    """Each utterance by itself: nothing is masked, and nothing is padded."""
    bounds = list(pairwise(batch.indices.bounds.tolist()))

    def attend(qkv: Tensor) -> Tensor:
        mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for start, stop in bounds:
            rows = qkv[start:stop].view(stop - start, 3, heads, -1)
            query, key, value = rows.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)  # [1, heads, rows, size]
            heard = F.scaled_dot_product_attention(query, key, value)
            mixed[start:stop] = heard[0].transpose(0, 1).flatten(1)
        return mixed

    return attend


class ProcessorNetwork(PackedNetwork):
    """A `PackedNetwork` in memory that the processor shares with everything else."""

    head_rows = 128  # 13 MB, which stay near

    def __init__(
        self, network: SenseVoiceNetwork, frontend: Frontend, tag_ids: npt.NDArray[np.int32], precision: str
    ) -> None:
        chosen = in_precision(network, precision) if precision == "int8" else network
        super().__init__(chosen, frontend, tag_ids, DTYPES[precision], ProcessorKernels(), separate_attention)
        head = network.ctc.ctc_lo
        self._logits_of = RefinedHead(head) if precision == "int8" else head

    def _best_tokens(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return best_tokens(self._logits_of(rows))

    def _linear(self, linear: nn.Module) -> Layer:
        return linear if isinstance(linear, QuantisedLinear) else super()._linear(linear)


class RefinedHead:
    """The CTC head in int8, but exact for the likeliest tokens: a fifth of its time, and the same best token."""

    def __init__(self, head: nn.Linear) -> None:
        self._rough, self._exact = QuantisedLinear(head), head

    def __call__(self, rows: Tensor) -> Tensor:
        """[rows, size] -> logits [rows, vocabulary]."""
        logits: Tensor = self._rough(rows)
        near = logits.topk(min(CANDIDATES, logits.shape[-1])).indices  # [rows, candidates]
        exact = torch.einsum("rs,rcs->rc", rows, self._exact.weight[near]) + self._exact.bias[near]
        return logits.scatter_(1, near, exact)

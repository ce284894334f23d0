"""What packed batches are made of on a processor: utterance by utterance wherever frames meet their neighbours.

An utterance's rows fit into the processor's cache, where a convolution as shifted sums and an attention
without a mask cost a third of their padded forms. Only the matrix products see all rows at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.kernels import Norm, PlainKernels, normalised
from sensevoice.network import SenseVoiceNetwork
from sensevoice.packed import Attend, Layer, Linear, PackedNetwork
from sensevoice.packing import PackedBatch
from sensevoice.precision import DTYPES, QuantisedLinear, in_precision

# oneDNN and PyTorch keep up to a megabyte for each shape of a product, 1,024 of them each unless told before
# the first product. Shapes differ from batch to batch: that was 1.4 GB after 1,200, and no time is saved.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "32")

CANDIDATES = 8  # tokens whose logits are computed exactly: the best one has never been further down
GROUP = 128  # tokens that are searched together


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
        for start, stop in _utterances(end.tolist()):
            add_filtered(total[start:stop], values[start:stop].float(), taps)
        total = total if x is None else total.add_(x)
        return total, normalised(total, norm).to(values.dtype)

    def add(self, x: Tensor, more: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """See `PlainKernels`; `x` becomes the sum."""
        return x.add_(more), normalised(x, norm).to(more.dtype)


def _utterances(ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first row of each utterance and the one after its last, given for every row where its utterance ends."""
    start = 0
    while start < len(ends):
        yield start, ends[start]
        start = ends[start]


def add_filtered(total: Tensor, values: Tensor, taps: Tensor) -> None:
    """Add to [rows, width] the values, each channel through its own FIR filter: taps [order, width]."""
    before = (len(taps) - 1) // 2
    padded = F.pad(values, (0, 0, before, len(taps) - 1 - before))
    for tap, weight in enumerate(taps):
        total.addcmul_(padded[tap : tap + len(values)], weight)


def separate_attention(batch: PackedBatch, heads: int) -> Attend:
    """Each utterance by itself: nothing is masked, and nothing is padded."""
    bounds = list(pairwise(batch.indices.bounds.tolist()))

    def attend(qkv: Tensor) -> Tensor:
        mixed = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        for start, stop in bounds:
            rows = qkv[start:stop].view(stop - start, 3, heads, -1)
            query, key, value = rows.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)  # [1, heads, rows, size]
            heard = F.scaled_dot_product_attention(query, key, value)
            mixed[start:stop].view(stop - start, heads, -1).copy_(heard[0].transpose(0, 1))
        return mixed

    return attend


class ProcessorNetwork(PackedNetwork):
    """A `PackedNetwork` in memory that the processor shares with everything else."""

    head_rows = 64  # 6 MB, which stay near

    def __init__(
        self, network: SenseVoiceNetwork, frontend: Frontend, tag_ids: npt.NDArray[np.int32], precision: str
    ) -> None:
        chosen = in_precision(network, precision) if precision == "int8" else network
        super().__init__(chosen, frontend, tag_ids, DTYPES[precision], ProcessorKernels(), separate_attention)
        head = network.ctc.ctc_lo
        self._logits_of = RefinedHead(head) if precision == "int8" else float_layer(in_groups(head))

    def _best_tokens(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return best_tokens(self._logits_of(rows))

    def _linear(self, linear: nn.Module) -> Layer:
        if isinstance(linear, QuantisedLinear):
            return linear
        assert isinstance(linear, nn.Linear)
        return float_layer(linear) if self._dtype is torch.float32 else super()._linear(linear)


def float_layer(linear: nn.Linear) -> Layer:
    """The layer as this processor computes it fastest, in float32."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_onednn and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return ReorderedLinear(linear)
    return Linear(linear.weight.detach(), linear.bias.detach())


class ReorderedLinear:
    """A copy of a linear layer in oneDNN's order of weights, as `torch.compile` makes them."""

    def __init__(self, linear: nn.Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = linear.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""
        return self._compute(x, "none")

    def rectified(self, x: Tensor) -> Tensor:
        """The same through a rectifier."""
        return self._compute(x, "relu")

    def _compute(self, x: Tensor, then: str) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, then, [], "")
        return result


class RefinedHead:
    """The CTC head in int8, but exact for the likeliest tokens: a fifth of its time, and the same best token."""

    def __init__(self, head: nn.Linear) -> None:
        self._rough, self._exact = QuantisedLinear(in_groups(head)), head
        self._count = min(CANDIDATES, head.out_features)

    def __call__(self, rows: Tensor) -> Tensor:
        """[rows, size] -> logits [rows, whole groups]."""
        logits: Tensor = self._rough(rows)
        near = likeliest(logits, self._count)  # [rows, candidates]
        exact = torch.einsum("rs,rcs->rc", rows, self._exact.weight[near]) + self._exact.bias[near]
        return logits.scatter_(1, near, exact)


def in_groups(head: nn.Linear) -> nn.Linear:
    """A copy with outputs that never win, up to a whole number of groups."""
    missing = -head.out_features % GROUP
    padded = nn.Linear(head.in_features, head.out_features + missing, device="meta")
    padded.weight = nn.Parameter(F.pad(head.weight.detach(), (0, 0, 0, missing)), requires_grad=False)
    padded.bias = nn.Parameter(F.pad(head.bias.detach(), (0, missing), value=-math.inf), requires_grad=False)
    return padded


def likeliest(logits: Tensor, count: int) -> Tensor:
    """Of [rows, whole groups], the places of the largest, in falling order: [rows, count].

    They are in the groups with the largest maxima: a fifth of the time of a search through everything.
    """
    groups = logits.view(len(logits), -1, GROUP)
    best = groups.amax(2).topk(min(count, groups.shape[1])).indices
    held = groups.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    among = held.topk(count).indices
    return best.gather(1, among // GROUP).mul_(GROUP).add_(among % GROUP)


def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.best_tokens` of [rows, whole groups], in half of its time."""
    ids = likeliest(logits, 1)
    probabilities = logits.softmax(-1).gather(1, ids)
    totals = logits.gather(1, ids) - probabilities.log()
    return ids[:, 0].to(torch.int32), probabilities[:, 0], totals[:, 0]

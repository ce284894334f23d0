"""`kernels.py` fused, for GPUs: each reads its inputs once and writes its results once.

Triton comes with PyTorch's CUDA builds; without it, `TritonKernels` cannot be made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sensevoice.kernels import EPSILON, Norm, PlainKernels

try:
    import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    triton = tl = None

HAS_TRITON = triton is not None
ROWS = 4  # of a program: its taps overlap, and a small batch still reaches every multiprocessor
VOCABULARY_BLOCK = 2_048


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(function) if triton else function


@_jit
def _layer_norm(total, weight, bias, column, epsilon, width: tl.constexpr):  # type: ignore[no-untyped-def]
    wide = column < width
    mean = tl.sum(total, axis=1) / width
    centred = tl.where(wide[None, :], total - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + epsilon)
    gain = tl.load(weight + column, mask=wide, other=0.0)
    offset = tl.load(bias + column, mask=wide, other=0.0)
    return centred * scale[:, None] * gain[None, :] + offset[None, :]


@_jit
def _remember(  # type: ignore[no-untyped-def]
    x,
    mixed,
    values,
    taps,
    first,
    end,
    weight,
    bias,
    total_out,
    normalised_out,
    rows,
    values_stride,
    epsilon,
    width: tl.constexpr,
    block: tl.constexpr,
    rows_each: tl.constexpr,
    order: tl.constexpr,
    widens: tl.constexpr,
) -> None:
    row = tl.program_id(0) * rows_each + tl.arange(0, rows_each)
    column = tl.arange(0, block)
    there, wide = row < rows, column < width
    keep = there[:, None] & wide[None, :]
    at = row[:, None] * width + column[None, :]
    begin = tl.load(first + row, mask=there, other=0)
    stop = tl.load(end + row, mask=there, other=0)
    total = tl.load(mixed + at, mask=keep, other=0.0).to(tl.float32)
    own = values + row[:, None] * values_stride + column[None, :]
    total += tl.load(own, mask=keep, other=0.0).to(tl.float32)
    for tap in tl.static_range(order):
        source = row + (tap - (order - 1) // 2)
        heard = there & (source >= begin) & (source < stop)
        place = values + source[:, None] * values_stride + column[None, :]
        value = tl.load(place, mask=heard[:, None] & wide[None, :], other=0.0).to(tl.float32)
        factor = tl.load(taps + tap * width + column, mask=wide, other=0.0)
        total += value * factor[None, :]
    if not widens:
        total += tl.load(x + at, mask=keep, other=0.0)
    tl.store(total_out + at, total, mask=keep)
    result = _layer_norm(total, weight, bias, column, epsilon, width)
    tl.store(normalised_out + at, result.to(normalised_out.dtype.element_ty), mask=keep)


@_jit
def _add(  # type: ignore[no-untyped-def]
    x,
    more,
    weight,
    bias,
    total_out,
    normalised_out,
    rows,
    epsilon,
    width: tl.constexpr,
    block: tl.constexpr,
    rows_each: tl.constexpr,
) -> None:
    row = tl.program_id(0) * rows_each + tl.arange(0, rows_each)
    column = tl.arange(0, block)
    wide = column < width
    keep = (row < rows)[:, None] & wide[None, :]
    at = row[:, None] * width + column[None, :]
    total = tl.load(x + at, mask=keep, other=0.0) + tl.load(more + at, mask=keep, other=0.0).to(tl.float32)
    tl.store(total_out + at, total, mask=keep)
    result = _layer_norm(total, weight, bias, column, epsilon, width)
    tl.store(normalised_out + at, result.to(normalised_out.dtype.element_ty), mask=keep)


@_jit
def _best(  # type: ignore[no-untyped-def]
    logits, bias, ids_out, probability_out, total_out, size: tl.constexpr, block: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    best = tl.full((), float("-inf"), tl.float32)
    mass = tl.full((), 0.0, tl.float32)
    chosen = tl.full((), 0, tl.int32)
    for start in range(0, size, block):
        column = start + tl.arange(0, block)
        inside = column < size
        scores = tl.load(logits + row * size + column, mask=inside, other=float("-inf"))
        scores += tl.load(bias + column, mask=inside, other=0.0)
        peak, index = tl.max(scores, axis=0, return_indices=True)
        chosen = tl.where(peak > best, start + index, chosen)
        highest = tl.maximum(best, peak)
        mass = mass * tl.exp(best - highest) + tl.sum(tl.exp(scores - highest), axis=0)
        best = highest
    tl.store(ids_out + row, chosen)
    tl.store(probability_out + row, 1.0 / mass)
    tl.store(total_out + row, best + tl.log(mass))


class TritonKernels(PlainKernels):
    """Every tensor is contiguous but `values`, whose rows may lie apart."""

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
        """See `PlainKernels`."""
        rows, width = mixed.shape
        total = torch.empty(rows, width, device=mixed.device, dtype=torch.float32)
        result = torch.empty_like(mixed)
        _remember[(triton.cdiv(rows, ROWS),)](
            *(total if x is None else x, mixed, values, taps, first, end, norm.weight, norm.bias),
            *(total, result, rows, values.stride(0), EPSILON),
            width=width,
            block=triton.next_power_of_2(width),
            rows_each=ROWS,
            order=len(taps),
            widens=x is None,
        )
        return total, result

    def add(self, x: Tensor, more: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """See `PlainKernels`."""
        rows, width = more.shape
        total, result = torch.empty_like(x), torch.empty_like(more)
        _add[(triton.cdiv(rows, ROWS),)](
            *(x, more, norm.weight, norm.bias, total, result, rows, EPSILON),
            width=width,
            block=triton.next_power_of_2(width),
            rows_each=ROWS,
        )
        return total, result

    def best_tokens(self, logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `PlainKernels`."""
        rows, size = logits.shape
        ids = torch.empty(rows, device=logits.device, dtype=torch.int32)
        probabilities, totals = torch.empty(2, rows, device=logits.device, dtype=torch.float32)
        _best[(rows,)](logits, bias, ids, probabilities, totals, size=size, block=VOCABULARY_BLOCK)
        return ids, probabilities, totals

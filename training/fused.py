"""Triton kernels of training; beside each call stands the plain version that defines it.

Each reads what it needs once and writes its result once, where PyTorch makes a pass over the batch for every step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

ROWS = 8  # of one program of a convolution
SLOPE_ROWS = 256  # of one program that sums gradients
SAMPLES = 2_048  # of one program that makes sound
VOCABULARY = 2_048  # logits of one step of a program


def usable(tensor: Tensor) -> bool:
    """Whether kernels can work on the tensor: it is on a GPU, or Triton interprets."""
    return triton is not None and (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(function) if triton else function


# --- the FSMN memory: see memory.py ----------------------------------------------------------------


@_jit
def _convolve(  # type: ignore[no-untyped-def]
    values,
    taps,
    out,
    rows,
    frames,
    stride,
    width: tl.constexpr,
    block: tl.constexpr,
    rows_each: tl.constexpr,
    order: tl.constexpr,
):
    row = tl.program_id(0) * rows_each + tl.arange(0, rows_each)
    column = tl.arange(0, block)
    there, wide = row < rows, column < width
    frame = row % frames
    total = tl.zeros((rows_each, block), tl.float32)
    for tap in tl.static_range(order):
        shift = tap - order // 2
        heard = there & (frame + shift >= 0) & (frame + shift < frames)
        place = values + (row + shift)[:, None] * stride + column[None, :]
        value = tl.load(place, mask=heard[:, None] & wide[None, :], other=0.0).to(tl.float32)
        factor = tl.load(taps + tap * width + column, mask=wide, other=0.0)
        total += value * factor[None, :]
    keep = there[:, None] & wide[None, :]
    at = out + row[:, None] * width + column[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=keep)


@_jit
def _sum_slopes(  # type: ignore[no-untyped-def]
    slope,
    values,
    out,
    rows,
    frames,
    slope_stride,
    stride,
    width: tl.constexpr,
    block: tl.constexpr,
    rows_each: tl.constexpr,
    chunk: tl.constexpr,
    order: tl.constexpr,
):
    tap = tl.program_id(1)
    shift = tap - order // 2
    column = tl.arange(0, block)
    wide = column < width
    total = tl.zeros((block,), tl.float32)
    for first in range(0, chunk, rows_each):
        row = tl.program_id(0) * chunk + first + tl.arange(0, rows_each)
        frame = row % frames
        heard = (row < rows) & (frame + shift >= 0) & (frame + shift < frames)
        keep = heard[:, None] & wide[None, :]
        mine = tl.load(slope + row[:, None] * slope_stride + column[None, :], mask=keep, other=0.0)
        value = tl.load(values + (row + shift)[:, None] * stride + column[None, :], mask=keep, other=0.0)
        total += tl.sum(mine.to(tl.float32) * value.to(tl.float32), axis=0)
    tl.store(out + (tl.program_id(0) * order + tap) * width + column, total, mask=wide)


def convolved(values: Tensor, taps: Tensor) -> Tensor:
    """See `memory.convolved`."""
    values = _evenly_spaced(values)
    batch, frames, width = values.shape
    out = torch.empty(batch, frames, width, device=values.device, dtype=values.dtype)
    _convolve[(triton.cdiv(batch * frames, ROWS),)](
        *(values, taps, out, batch * frames, frames, values.stride(1)),
        width=width,
        block=triton.next_power_of_2(width),
        rows_each=ROWS,
        order=len(taps),
    )
    return out


def tap_slopes(slope: Tensor, values: Tensor, order: int) -> Tensor:
    """See `memory.tap_slopes`."""
    slope, values = _evenly_spaced(slope), _evenly_spaced(values)
    batch, frames, width = values.shape
    chunks = triton.cdiv(batch * frames, SLOPE_ROWS)
    out = torch.empty(chunks, order, width, device=values.device, dtype=torch.float32)
    _sum_slopes[(chunks, order)](
        *(slope, values, out, batch * frames, frames, slope.stride(1), values.stride(1)),
        width=width,
        block=triton.next_power_of_2(width),
        rows_each=ROWS,
        chunk=SLOPE_ROWS,
        order=order,
    )
    return out.sum(0)


def _evenly_spaced(x: Tensor) -> Tensor:
    """[batch, frames, width] whose rows are one stride apart, over the ends of utterances, too."""
    spaced = x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if spaced else x.contiguous()


# --- the CTC loss: see spelling.py -----------------------------------------------------------------


@_jit
def _log_sum(logits, out, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full((block,), -1e30, tl.float32)
    mass = tl.zeros((block,), tl.float32)
    for first in range(0, size, block):
        column = first + tl.arange(0, block)
        score = tl.load(logits + row * size + column, mask=column < size, other=-1e30).to(tl.float32)
        peak = tl.maximum(highest, score)
        mass = mass * tl.exp(highest - peak) + tl.exp(score - peak)
        highest = peak
    top = tl.max(highest, axis=0)
    tl.store(out + row, top + tl.log(tl.sum(mass * tl.exp(highest - top), axis=0)))


@_jit
def _softmax_slope(logits, totals, weights, out, size, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < size
    score = tl.load(logits + row * size + column, mask=inside, other=0.0).to(tl.float32)
    slope = tl.exp(score - tl.load(totals + row)) * tl.load(weights + row)
    tl.store(out + row * size + column, slope.to(out.dtype.element_ty), mask=inside)


@_jit
def _draw_together(  # type: ignore[no-untyped-def]
    logits, totals, slope, weight, out, apart, pairs, size, parts, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    column = part * block + tl.arange(0, block)
    inside = column < size
    at = row * size + column
    twin = at + pairs.to(tl.int64) * size
    one = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32) - tl.load(totals + row)
    other = tl.load(logits + twin, mask=inside, other=0.0).to(tl.float32) - tl.load(totals + row + pairs)
    further = tl.where(inside, tl.exp(one) - tl.exp(other), 0.0)
    step = further * tl.load(weight)
    before = tl.load(slope + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (before + step).to(out.dtype.element_ty), mask=inside)
    before = tl.load(slope + twin, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + twin, (before - step).to(out.dtype.element_ty), mask=inside)
    tl.store(apart + row * parts + part, tl.sum(further * (one - other), axis=0))


def log_sums(logits: Tensor) -> Tensor:
    """See `spelling.log_sums`."""
    logits = logits.contiguous()
    out = torch.empty(logits.shape[:2], device=logits.device)
    _log_sum[(out.numel(),)](logits, out, logits.shape[2], block=VOCABULARY)
    return out


def softmax_slopes(logits: Tensor, totals: Tensor, weights: Tensor) -> Tensor:
    """See `spelling.softmax_slopes`."""
    logits, out = logits.contiguous(), torch.empty_like(logits, memory_format=torch.contiguous_format)
    size = logits.shape[2]
    grid = (totals.numel(), triton.cdiv(size, VOCABULARY))
    _softmax_slope[grid](logits, totals, weights.contiguous(), out, size, block=VOCABULARY)
    return out


def drawn_together(logits: Tensor, totals: Tensor, slope: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """See `spelling.drawn_together`."""
    logits, slope, totals = logits.contiguous(), slope.contiguous(), totals.contiguous()
    out, size = torch.empty_like(slope), logits.shape[2]
    pairs, parts = totals.numel() // 2, triton.cdiv(size, VOCABULARY)
    apart = torch.empty(pairs, parts, device=logits.device)
    _draw_together[(pairs, parts)](
        *(logits, totals, slope, weight, out, apart, pairs, size, parts), block=VOCABULARY
    )
    return out, apart.sum()


# --- sound: see batches.py and augment.py ----------------------------------------------------------


@_jit
def _lay_out(  # type: ignore[no-untyped-def]
    audio, source, begin, length, out, width, pieces, edge, block: tl.constexpr
):
    row = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for piece in range(pieces):
        first = tl.load(begin + row * pieces + piece)
        count = tl.load(length + row * pieces + piece)
        start = tl.load(source + row * pieces + piece)
        heard = (column >= first) & (column < first + count)
        inwards = tl.minimum(column - first, first + count - 1 - column) + 1  # samples from the nearer edge
        sound = tl.load(audio + start + (column - first), mask=heard, other=0).to(tl.float32)
        total += sound * tl.minimum(inwards.to(tl.float32) / edge, 1.0)
    tl.store(out + row.to(tl.int64) * width + column, total / 32768.0, mask=column < width)


@_jit
def _mix(  # type: ignore[no-untyped-def]
    samples,
    noises,
    music,
    kind,
    rows,
    start,
    gain,
    out,
    width,
    noise_width,
    music_width,
    block: tl.constexpr,
    talkers: tl.constexpr,
):
    row = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    at = row.to(tl.int64) * width + column
    total = tl.load(samples + at, mask=inside, other=0.0)
    what, first, loud = tl.load(kind + row), tl.load(start + row), tl.load(gain + row)
    chosen = tl.load(rows + row * talkers)
    if what == 0:
        place = chosen * noise_width + (first + column) % noise_width
        total += loud * tl.load(noises + place, mask=inside, other=0.0)
    elif what == 1:
        place = chosen * music_width + (first + column) % music_width
        total += loud * tl.load(music + place, mask=inside, other=0.0)
    else:
        for talker in tl.static_range(talkers):
            other = tl.load(rows + row * talkers + talker)
            total += loud * tl.load(samples + other * width + column, mask=inside, other=0.0)
    tl.store(out + at, total, mask=inside)


def laid_out(audio: Tensor, source: Tensor, begin: Tensor, length: Tensor, width: int, edge: int) -> Tensor:
    """See `batches.laid_out`."""
    rows, pieces = begin.shape
    out = torch.empty(rows, width, device=audio.device)
    whole = (t.to(torch.int64).contiguous() for t in (source, begin, length))
    _lay_out[(rows, triton.cdiv(width, SAMPLES))](audio, *whole, out, width, pieces, edge, block=SAMPLES)
    return out


def mixed(
    samples: Tensor,
    noises: Tensor,
    music: Tensor,
    kind: Tensor,
    rows: Tensor,
    start: Tensor,
    gain: Tensor,
) -> Tensor:
    """See `augment.mixed`."""
    batch, width = samples.shape
    samples, out = samples.contiguous(), torch.empty_like(samples, memory_format=torch.contiguous_format)
    _mix[(batch, triton.cdiv(width, SAMPLES))](
        *(samples, noises, music, kind, rows, start, gain, out),
        *(width, noises.shape[1], music.shape[1]),
        block=SAMPLES,
        talkers=rows.shape[1],
    )
    return out


# --- the vocoder's blocks: see vocoder.py ----------------------------------------------------------


@_jit
def _style_rows(  # type: ignore[no-untyped-def]
    values, out, gains, shifts, alphas, channels, length, eps, block: tl.constexpr
):
    row = tl.program_id(0)
    first = row.to(tl.int64) * length
    column = tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    squares = tl.zeros((block,), tl.float32)
    for start in range(0, length, block):
        at = start + column
        value = tl.load(values + first + at, mask=at < length, other=0.0).to(tl.float32)
        total += value
        squares += value * value
    mean = tl.sum(total, axis=0) / length
    variance = tl.maximum(tl.sum(squares, axis=0) / length - mean * mean, 0.0)
    gain = tl.load(gains + row) / tl.sqrt(variance + eps)
    shift = tl.load(shifts + row) - mean * gain
    alpha = tl.load(alphas + row % channels)
    for start in range(0, length, block):
        at = start + column
        value = tl.load(values + first + at, mask=at < length, other=0.0).to(tl.float32)
        level = value * gain + shift
        wave = tl.sin(alpha * level)
        styled_value = level + wave * wave / alpha
        tl.store(out + first + at, styled_value.to(out.dtype.element_ty), mask=at < length)


def styled(x: Tensor, gain: Tensor, shift: Tensor, alpha: Tensor, dtype: torch.dtype, eps: float) -> Tensor:
    """See `vocoder.styled`."""
    batch, channels, length = x.shape
    out = torch.empty(batch, channels, length, device=x.device, dtype=dtype)
    _style_rows[(batch * channels,)](
        *(x.contiguous(), out, gain.contiguous(), shift.contiguous(), alpha.contiguous()),
        *(channels, length, eps),
        block=SAMPLES,
    )
    return out

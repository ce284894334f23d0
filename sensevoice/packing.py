"""Batches without padding: utterances of any length laid end to end, and where each of them is.

On the sample axis an utterance begins at a whole hop, so that one framing of the whole axis holds the
frames of every utterance; those that straddle two are made and not used. On the row axis an utterance of
T stacked frames has its 4 query rows and then T more. Both axes may be longer than what is on them: a
captured graph has one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensevoice.features import HOP, WINDOW, frame_count
from sensevoice.network import query_ids
from sensevoice.scores import N_QUERY_FRAMES, FrameScores, Query

ROW_FIELDS = 6
ROW_STEP = 64  # few different sizes, so that libraries prepare for few


class Indices(NamedTuple):
    """What the device is told of a batch, int32; a row without an utterance is all zeros, its query -1."""

    place: Tensor  # [rows] of the row in its utterance
    first: Tensor  # [rows] its utterance's first row
    end: Tensor  # [rows] the row after its utterance's last
    first_frame: Tensor  # [rows] its utterance's first 10 ms frame
    last_frame: Tensor  # [rows]
    query: Tensor  # [rows] of the query table, -1 for a row of speech
    bounds: Tensor  # [sequences + 1] first row of each utterance, and the end
    query_rows: Tensor  # [4 * sequences]


@dataclass(frozen=True)
class PackedBatch:
    """A batch on the device."""

    samples: Tensor  # [hops * HOP + WINDOW - HOP] float32
    numbers: Tensor  # [6 * rows + 5 * sequences + 1] int32: what `indices` reads
    lengths: tuple[int, ...]  # rows of each utterance, known to the host
    rows: int
    sequences: int
    longest: int  # at least the largest of `lengths`

    @property
    def indices(self) -> Indices:
        """Views of the numbers."""
        sizes = [self.rows] * ROW_FIELDS + [self.sequences + 1, N_QUERY_FRAMES * self.sequences]
        return Indices(*torch.split(self.numbers, sizes))


@dataclass(frozen=True)
class Packing:
    """The plan of a batch of at least one utterance, on the host."""

    utterances: Sequence[npt.NDArray[np.float32]]
    queries: Sequence[Query]
    lfr_n: int
    rows: int
    sequences: int
    longest: int  # at least the rows of any utterance

    @classmethod
    def of(
        cls,
        utterances: Sequence[npt.NDArray[np.float32]],
        queries: Sequence[Query],
        lfr_n: int,
        row_step: int = ROW_STEP,
    ) -> Packing:
        """With no more rows than are needed, but for fewer than `row_step`."""
        lengths = [row_count(len(utterance), lfr_n) for utterance in utterances]
        rows = -(-sum(lengths) // row_step) * row_step
        return cls(utterances, queries, lfr_n, rows, len(utterances), max(lengths))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each utterance."""
        return tuple(row_count(len(utterance), self.lfr_n) for utterance in self.utterances)

    @cached_property
    def hops(self) -> list[int]:
        """Whole hops that each utterance takes on the sample axis."""
        return [-(-len(utterance) // HOP) for utterance in self.utterances]

    def fill_samples(self, target: npt.NDArray[np.float32]) -> None:
        """Write the utterances, and silence between them: [sum(hops) * HOP]."""
        start = 0
        for utterance, hops in zip(self.utterances, self.hops, strict=True):
            end = start + hops * HOP
            np.copyto(target[start : start + len(utterance)], utterance)
            target[start + len(utterance) : end] = 0
            start = end

    def numbers(self) -> npt.NDArray[np.int32]:
        """What `PackedBatch.indices` reads."""
        lengths = np.array(self.lengths)
        bounds = np.full(self.sequences + 1, lengths.sum())
        bounds[: len(lengths)] = np.cumsum(lengths) - lengths
        starts = bounds[: len(lengths)]
        used = int(lengths.sum())
        table = np.zeros((ROW_FIELDS, self.rows), np.int32)
        table[0, :used] = np.arange(used) - np.repeat(starts, lengths)
        table[1, :used] = np.repeat(starts, lengths)
        table[2, :used] = np.repeat(starts + lengths, lengths)
        table[3:5, :used] = np.repeat(self._frame_ranges(), lengths, axis=1)
        table[5] = -1
        query_rows = starts[:, None] + np.arange(N_QUERY_FRAMES)
        table[5, query_rows] = [query_ids(query.language, query.use_itn) for query in self.queries]
        padded = np.zeros((self.sequences, N_QUERY_FRAMES), np.int32)
        padded[: len(lengths)] = query_rows
        return np.concatenate([table.ravel(), bounds, padded.ravel()]).astype(np.int32)

    def _frame_ranges(self) -> npt.NDArray[np.int64]:
        """[2, utterances] the first and the last 10 ms frame of each."""
        first = np.cumsum([0, *self.hops])[:-1]
        frames = np.array([frame_count(len(utterance)) for utterance in self.utterances])
        return np.stack([first, first + np.maximum(frames - 1, 0)])

    def read(self, answer: npt.NDArray[np.int32], tag_ids: npt.NDArray[np.int32]) -> list[FrameScores]:
        """Take apart what `PackedNetwork` returned."""
        ids, bits = answer[: self.rows], answer[self.rows :].view(np.float32)
        probabilities, tags = bits[: self.rows], bits[self.rows :]
        tags = tags.reshape(self.sequences, N_QUERY_FRAMES, len(tag_ids))
        ends = np.cumsum(self.lengths).tolist()
        starts = [0, *ends[:-1]]
        return [
            FrameScores(ids[start:end], probabilities[start:end], tags[index], tag_ids)
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]


def row_count(samples: int, lfr_n: int) -> int:
    """Rows of an utterance of so many samples, its query rows included."""
    return N_QUERY_FRAMES + -(-frame_count(samples) // lfr_n)


def sample_room(rows: int, lfr_n: int) -> int:
    """Samples that utterances of so many rows take at most: the query rows' share is enough for rounding."""
    return rows * lfr_n * HOP + WINDOW - HOP


def number_count(rows: int, sequences: int) -> int:
    """How many numbers `PackedBatch.indices` reads."""
    return ROW_FIELDS * rows + sequences + 1 + N_QUERY_FRAMES * sequences


def host_buffer(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[size] on the host, from where a GPU can fetch it by itself."""
    return torch.empty(size, dtype=dtype, pin_memory=device.type == "cuda")


def on_host(packing: Packing, device: torch.device) -> tuple[Tensor, Tensor]:
    """The samples and the numbers of a batch, ready to be copied."""
    samples = host_buffer(sum(packing.hops) * HOP, torch.float32, device)
    packing.fill_samples(samples.numpy())
    numbers = host_buffer(number_count(packing.rows, packing.sequences), torch.int32, device)
    np.copyto(numbers.numpy(), packing.numbers())
    return samples, numbers


def new_batch(packing: Packing, device: torch.device) -> PackedBatch:
    """Room for the batch on the device; silence, and no utterance yet."""
    return PackedBatch(
        torch.zeros(sample_room(packing.rows, packing.lfr_n), device=device),
        torch.zeros(number_count(packing.rows, packing.sequences), dtype=torch.int32, device=device),
        packing.lengths,
        packing.rows,
        packing.sequences,
        packing.longest,
    )


def fill(batch: PackedBatch, samples: Tensor, numbers: Tensor) -> None:
    """Copy what `on_host` made; the host does not wait."""
    batch.samples[: len(samples)].copy_(samples, non_blocking=True)
    batch.numbers.copy_(numbers, non_blocking=True)

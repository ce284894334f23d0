"""CUDA graphs: a batch costs the host one launch instead of six hundred.

A small batch would otherwise wait for its launches, and a large one for the interpreter's lock, which every
launch gives up and 256 callers want. Graphs have fixed sizes, so a batch is put into the next larger one.
They are captured when a size is first needed, and share their memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Lock

import torch
from torch import Tensor

from sensevoice.packing import PackedBatch, Packing, fill, number_count, sample_room

log = logging.getLogger(__name__)

GRAPH_ROWS = (
    *(128, 256, 384, 512, 768, 1_024, 1_536),
    *range(2_048, 8_192, 1_024),
    *range(8_192, 22_529, 2_048),
)
GRAPH_LONGEST = (512, 1_024)  # 30 s and 61 s: what VAD leaves
ROWS_PER_SEQUENCE = 32  # room for utterances of 2 s on average,
LEAST_SEQUENCES = 16  # and for so many in any case
GRAPH_BYTES = 3 << 30  # of all graphs together; beyond, batches run without one

_CAPTURING = Lock()  # PyTorch allows one capture at a time in a process

Network = Callable[[PackedBatch], Tensor]


def graph_sized(packing: Packing) -> Packing | None:
    """The batch with the size of the graph that it fits into, None if it fits into none."""
    used = sum(packing.lengths)
    rows = next((size for size in GRAPH_ROWS if size >= used), None)
    longest = next((size for size in GRAPH_LONGEST if size >= packing.longest), None)
    if rows is None or longest is None or packing.sequences > sequence_room(rows):
        return None
    return replace(packing, rows=rows, sequences=sequence_room(rows), longest=min(longest, rows))


def sequence_room(rows: int) -> int:
    """For how many utterances a graph of so many rows has room."""
    return max(LEAST_SEQUENCES, rows // ROWS_PER_SEQUENCE)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    batch: PackedBatch
    answer: Tensor  # overwritten by the next replay of any graph


class GraphCache:
    """The graphs of one network on one GPU; to be used by one thread at a time."""

    def __init__(self, network: Network, device: torch.device, lfr_n: int) -> None:
        self._network, self._device = network, device
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._bytes = 0
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        largest = max(GRAPH_ROWS)
        self._samples = torch.zeros(sample_room(largest, lfr_n), device=device)
        numbers = number_count(largest, sequence_room(largest))
        self._numbers = torch.zeros(numbers, dtype=torch.int32, device=device)

    @property
    def count(self) -> int:
        """How many sizes have been captured."""
        return len(self._captured)

    def run(self, packing: Packing, samples: Tensor, numbers: Tensor) -> Tensor:
        """The network's answer to a batch of `graph_sized`; it lasts until the next call."""
        known = self._captured.get((packing.rows, packing.longest))
        if known is not None:
            fill(known.batch, samples, numbers)
            known.graph.replay()
            return known.answer
        batch = self._shared_batch(packing)
        fill(batch, samples, numbers)
        answer = self._network(batch)  # compiles kernels and plans transforms, which a capture could not
        if self._bytes < GRAPH_BYTES:
            self._try_to_capture(batch)
        return answer

    def _shared_batch(self, packing: Packing) -> PackedBatch:
        numbers = number_count(packing.rows, packing.sequences)
        return PackedBatch(
            self._samples[: sample_room(packing.rows, packing.lfr_n)],
            self._numbers[:numbers],
            packing.lengths,
            packing.rows,
            packing.sequences,
            packing.longest,
        )

    def _try_to_capture(self, batch: PackedBatch) -> None:
        try:
            self._capture(batch)
        except RuntimeError as error:  # out of memory too
            self._bytes = GRAPH_BYTES
            log.warning("batches run without further CUDA graphs from now on: %s", error)

    def _capture(self, batch: PackedBatch) -> None:
        before = torch.cuda.memory_reserved(self._device)
        graph = torch.cuda.CUDAGraph()
        # other threads may go on using this GPU and others meanwhile, hence "thread_local"
        with _CAPTURING, torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            answer = self._network(batch)
        self._bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
        self._captured[batch.rows, batch.longest] = _Captured(graph, batch, answer)

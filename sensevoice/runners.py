"""One packed batch on one device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from threading import Barrier, Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensevoice.features import Frontend
from sensevoice.graphs import GraphCache, graph_sized
from sensevoice.kernels import Norm, PlainKernels
from sensevoice.network import NetworkShape, SenseVoiceNetwork
from sensevoice.packed import Attention, PackedNetwork, padded_attention, varlen_attention
from sensevoice.packing import PackedBatch, Packing, fill, new_batch, on_host, row_count
from sensevoice.precision import DTYPES
from sensevoice.processor import ProcessorNetwork
from sensevoice.runtime import niceness, stand_back
from sensevoice.scores import FrameScores, Query
from sensevoice.triton_kernels import HAS_TRITON, TritonKernels

log = logging.getLogger(__name__)

Utterance = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

CPU_BATCH_FRAMES = 1_280  # what `scheduler.BATCH_S` of speech needs: more does not make a processor faster
LARGER_HALF = 0.6  # of a batch: two threads that share every step take 0.6 to 0.7 of the time of one
GPU_BATCH_FRAMES = 22_528  # what `scheduler.GPU_BATCH_S` of speech needs: the largest graph's size


class Runner(Protocol):
    """Computes one batch; safe to call from several threads."""

    batch_frames: int  # that one batch should hold, of 60 ms each
    pads: bool  # whether every utterance counts as the longest of its batch

    def __call__(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> list[FrameScores]:
        """One FrameScores for each utterance, in order; torch.OutOfMemoryError if they are too many."""
        ...


class ProcessorRunner:
    """`processor.py`; the scheduler gives a processor one batch at a time, and that all cores.

    Half of the cores compute half of the batch where it can be halved: two threads that share every step
    wait for each other at each, and leave the short steps to one of them.
    """

    batch_frames = CPU_BATCH_FRAMES
    pads = False

    def __init__(
        self, network: SenseVoiceNetwork, frontend: Frontend, tag_ids: Ids, precision: str = "fp32"
    ) -> None:
        self._network = ProcessorNetwork(network, frontend, tag_ids, precision)
        self._lfr_n, self._tag_ids = frontend.lfr_n, tag_ids
        threads = torch.get_num_threads()
        self._pool = two_workers(-(-threads // 2)) if threads > 1 else None

    def __call__(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> list[FrameScores]:
        """See `Runner`."""
        halves = halved([row_count(len(one), self._lfr_n) for one in utterances])
        if self._pool is None or halves is None:
            return self._compute(utterances, queries)
        running = [
            self._pool.submit(
                self._half, niceness(), [utterances[i] for i in half], [queries[i] for i in half]
            )
            for half in halves
        ]
        scores = chain.from_iterable(future.result() for future in running)
        found = dict(zip(chain.from_iterable(halves), scores, strict=True))
        return [found[index] for index in range(len(utterances))]

    def _half(
        self, caller: int, utterances: Sequence[Utterance], queries: Sequence[Query]
    ) -> list[FrameScores]:
        """In a thread that stands back as far as its caller."""
        stand_back(caller)
        return self._compute(utterances, queries)

    @torch.inference_mode()
    def _compute(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> list[FrameScores]:
        packing, device = Packing.of(utterances, queries, self._lfr_n, row_step=1), torch.device("cpu")
        batch = new_batch(packing, device)
        fill(batch, *on_host(packing, device))
        return packing.read(self._network(batch).numpy(), self._tag_ids)


def two_workers(threads: int) -> ThreadPoolExecutor:
    """Two threads, each of which computes with so many of PyTorch's own; they end with the pool."""
    usual, both = torch.get_num_threads(), Barrier(2)
    pool = ThreadPoolExecutor(2, "half", initializer=_use_threads, initargs=(threads,))
    for started in [pool.submit(both.wait) for _ in range(2)]:
        started.result()
    torch.set_num_threads(usual)  # what a thread sets is also the default of those that come after it
    return pool


def _use_threads(count: int) -> None:
    torch.get_num_threads()  # a thread that asks for the first time gets the default, whatever it has set
    torch.set_num_threads(count)


def halved(rows: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Indices of two parts that hold about as many rows; None if the larger would hold too many."""
    parts: tuple[list[int], list[int]] = [], []
    held = [0, 0]
    for index in sorted(range(len(rows)), key=lambda i: -rows[i]):
        smaller = held.index(min(held))
        parts[smaller].append(index)
        held[smaller] += rows[index]
    return parts if max(held) <= LARGER_HALF * sum(held) else None


class PackedRunner:
    """`packed.py` on a GPU: one upload, one launch where there is a graph for the size, one download.

    Threads take turns to launch, and wait for their results side by side, so that with two of them the
    GPU always has its next batch.
    """

    batch_frames = GPU_BATCH_FRAMES

    def __init__(
        self,
        network: SenseVoiceNetwork,
        frontend: Frontend,
        tag_ids: Ids,
        device: torch.device,
        precision: str = "fp32",
        *,
        graphs: bool = True,
    ) -> None:
        """`frontend` is moved to the device; `graphs`: whether to capture CUDA graphs."""
        dtype = DTYPES[precision]
        self._frontend = frontend.to(device)
        self._device, self._tag_ids = device, tag_ids
        with current(device):
            attention = choose_attention(network.shape, device, dtype)
            kernels = choose_kernels(device)
            self._network = PackedNetwork(network, self._frontend, tag_ids, dtype, kernels, attention)
            self._graphs = self._no_graphs_yet() if graphs and attention is varlen_attention else None
        self.pads = attention is padded_attention
        self._may_overflow = dtype is torch.float16
        self._launching = Lock()

    def __call__(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> list[FrameScores]:
        """See `Runner`. If the numbers grow too large for fp16, they are computed in bf16 from then on."""
        may_overflow = self._may_overflow
        scores = self._compute(Packing.of(utterances, queries, self._frontend.lfr_n))
        if may_overflow and np.isnan(np.concatenate([one.probabilities for one in scores])).any():
            self._leave_fp16()
            return self(utterances, queries)
        return scores

    def _compute(self, packing: Packing) -> list[FrameScores]:
        sized = graph_sized(packing) if self._graphs else None
        plan = sized or packing
        samples, numbers = on_host(plan, self._device)
        with self._launching, current(self._device):
            if self._graphs and sized:
                answer = self._graphs.run(sized, samples, numbers)
            else:
                batch = new_batch(plan, self._device)
                fill(batch, samples, numbers)
                answer = self._network(batch)
            wait = fetch(answer)
        return plan.read(wait(), self._tag_ids)

    def _leave_fp16(self) -> None:
        with self._launching, current(self._device):
            if not self._may_overflow:  # another thread has just done it
                return
            log.warning("this model's numbers are too large for fp16: bf16 is used from now on")
            self._network = self._network.in_dtype(torch.bfloat16)
            self._graphs = self._no_graphs_yet() if self._graphs else None
            self._may_overflow = False

    def _no_graphs_yet(self) -> GraphCache:
        return GraphCache(self._network, self._device, self._frontend.lfr_n)


def current(device: torch.device) -> AbstractContextManager[object]:
    """In it, new streams, events and kernels are this GPU's."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def fetch(answer: Tensor) -> Callable[[], Ids]:
    """Start to copy it to the host; what is returned waits for the copy."""
    if not answer.is_cuda:
        return answer.numpy
    host = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True)
    host.copy_(answer, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> Ids:
        copied.synchronize()
        return np.array(host.numpy())  # a copy: page-locked memory is scarce

    return wait


def prepare(device: torch.device) -> None:
    """Wake a GPU, and compile for it, which takes seconds: to be done while something else is loaded."""
    if device.type == "cuda":
        with current(device):
            choose_kernels(device)


def choose_attention(shape: NetworkShape, device: torch.device, dtype: torch.dtype) -> Attention:
    """Flash attention over packed utterances where it works, which is in half precision on most GPUs."""
    if device.type != "cuda" or dtype == torch.float32:
        return padded_attention
    numbers = torch.tensor([0] * 48 + [0, 8] + [0] * 4, dtype=torch.int32, device=device)
    batch = PackedBatch(torch.empty(0, device=device), numbers, (8,), 8, 1, 8)
    try:
        varlen_attention(batch, shape.attention_heads)(
            torch.zeros(8, 3 * shape.output_size, dtype=dtype, device=device)
        )
        torch.cuda.synchronize(device)
    except (ImportError, RuntimeError, TypeError) as error:
        log.warning("attention runs on padded batches: %s", error)
        return padded_attention
    return varlen_attention


def choose_kernels(device: torch.device) -> PlainKernels:
    """The fused kernels where Triton can build them: it needs a C compiler and a folder to keep them in."""
    if device.type != "cuda" or not HAS_TRITON:
        return PlainKernels()
    fused, (row,) = TritonKernels(), torch.ones(1, 1, 16, device=device)
    try:
        fused.add(row, row, Norm(row[0], row[0]))
        torch.cuda.synchronize(device)
    except Exception as error:  # whatever a compiler that is missing or broken leads to
        log.warning("the network runs without fused kernels, and slower: %s", error)
        return PlainKernels()
    return fused

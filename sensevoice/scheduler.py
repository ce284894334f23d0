"""One worker per processor and two per GPU, batching the utterances of all callers together.

    engine = BatchingEngine([TorchEngine(checkpoint, "cuda:0"), TorchEngine(checkpoint, "cuda:1")])

A caller's `recognise` waits until its own utterances are done. Callers take turns, an utterance each,
so that a short request does not wait behind an hour's recording. What arrives while a batch is being
computed makes up the next one: the busier the engine, the larger its batches. A worker lives as long
as there is work.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread
from time import perf_counter

import torch

from sensevoice.checkpoint import Checkpoint
from sensevoice.engine import ANY_LANGUAGE, Engine, TorchEngine, choose_device
from sensevoice.features import SAMPLE_RATE
from sensevoice.runners import Utterance
from sensevoice.scores import FrameScores, Query

log = logging.getLogger(__name__)

BATCH_S = 60.0  # of speech a batch, on a processor
GPU_BATCH_S = 1_200.0
WORKERS_PER_GPU = 2  # one prepares and launches a batch while the other waits for its results


def load_engine(checkpoint: Checkpoint, device: str = "auto", precision: str = "auto") -> BatchingEngine:
    """Engines for the device, or for every GPU there is if it is `auto`, behind one queue."""
    first = choose_device(device)
    count = torch.cuda.device_count() if device == "auto" and first.type == "cuda" else 1
    names = [f"cuda:{index}" for index in range(count)] if count > 1 else [str(first)]
    own = [checkpoint, *(copy.deepcopy(checkpoint) for _ in names[1:])]
    return BatchingEngine(
        [TorchEngine(one, name, precision=precision) for one, name in zip(own, names, strict=True)]
    )


@dataclass
class _Call:
    """One caller's utterances; those from `next` on wait to be taken."""

    utterances: Sequence[Utterance]
    queries: Sequence[Query]
    done: Future[None] = field(default_factory=Future)
    results: dict[int, FrameScores] = field(default_factory=dict)
    next: int = 0

    @property
    def wants_more(self) -> bool:
        return self.next < len(self.utterances) and not self.done.done()


_Work = list[tuple[_Call, int]]


class BatchingEngine:
    """An Engine over other engines, all of the same checkpoint."""

    def __init__(self, engines: Sequence[Engine], *, batch_s: float | None = None) -> None:
        """`batch_s`: seconds of speech that one batch holds at most; one utterance may be longer."""
        if not engines:
            raise ValueError("a BatchingEngine needs an engine")
        first = engines[0]
        self.vocabulary, self.tags, self.info = first.vocabulary, first.tags, first.info
        self.device = ", ".join(engine.device for engine in engines)
        # the engine of each worker; all engines get one before any gets another
        self._workers = [*engines] * (1 if first.device == "cpu" else WORKERS_PER_GPU)
        self._batch_samples = (batch_s or (BATCH_S if first.device == "cpu" else GPU_BATCH_S)) * SAMPLE_RATE
        self._calls: deque[_Call] = deque()  # guarded by the lock, as are the workers
        self._working: set[int] = set()
        self._lock = Lock()
        # each is told how many utterances every batch held, and how many seconds it took
        self.observers: list[Callable[[int, float], None]] = []

    @property
    def waiting(self) -> int:
        """Utterances that no batch has taken yet."""
        with self._lock:
            return sum(len(call.utterances) - call.next for call in self._calls if call.wants_more)

    def recognise(
        self, utterances: Sequence[Utterance], query: Query | Sequence[Query] = ANY_LANGUAGE
    ) -> list[FrameScores]:
        """One FrameScores for each utterance, in order; an error of the engine is raised here."""
        queries = [query] * len(utterances) if isinstance(query, Query) else list(query)
        call = _Call(utterances, queries)
        if not utterances:
            return []
        with self._lock:
            self._calls.append(call)
            for index in set(range(len(self._workers))) - self._working:
                self._working.add(index)
                # no daemon: at the program's end, a batch that is being computed is waited for
                Thread(target=self._serve, args=(index,), name=f"sensevoice-{index}").start()
        try:
            call.done.result()
        except BaseException:  # Ctrl-C too: what nobody waits for need not be computed
            call.done.cancel()
            raise
        return [call.results[index] for index in range(len(utterances))]

    def _serve(self, index: int) -> None:
        engine = self._workers[index]
        while work := self._take(index):
            start = perf_counter()
            try:
                scores = engine.recognise(
                    [call.utterances[i] for call, i in work], [call.queries[i] for call, i in work]
                )
            except BaseException as error:  # whatever it is, the callers must not wait for ever
                self._retry_alone(engine, work, error)
            else:
                for observe in self.observers:
                    observe(len(work), perf_counter() - start)
                self._deliver(work, scores)

    def _take(self, index: int) -> _Work:
        """The next batch, an utterance of each caller in turn; empty, and the worker's end, without any."""
        work: _Work = []
        samples = 0
        with self._lock:
            while self._calls:
                call = self._calls.popleft()
                if not call.wants_more:
                    continue
                samples += len(call.utterances[call.next])
                if work and samples > self._batch_samples:
                    self._calls.appendleft(call)
                    break
                work.append((call, call.next))
                call.next += 1
                self._calls.append(call)
            if not work:
                self._working.discard(index)
        return work

    def _deliver(self, work: _Work, scores: Sequence[FrameScores]) -> None:
        for (call, index), one in zip(work, scores, strict=True):
            call.results[index] = one
            if len(call.results) == len(call.utterances) and not call.done.done():
                call.done.set_result(None)

    def _retry_alone(self, engine: Engine, work: _Work, error: BaseException) -> None:
        """Find out whose utterance it was: the others of the batch must not fail with it."""
        if len(work) == 1:
            call = work[0][0]
            if not call.done.done():
                call.done.set_exception(error)
            return
        log.warning("a batch of %d segments failed and is run one by one: %s", len(work), error)
        for call, index in work:
            try:
                scores = engine.recognise([call.utterances[index]], [call.queries[index]])
            except BaseException as own_error:
                self._retry_alone(engine, [(call, index)], own_error)
            else:
                self._deliver([(call, index)], scores)

"""One worker per processor and two per GPU, batching the utterances of all callers together.

    engine = BatchingEngine([TorchEngine(checkpoint, "cuda:0"), TorchEngine(checkpoint, "cuda:1")])

Callers take turns, an utterance each, so that a short request does not wait behind an hour's recording:
see `batching.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import torch

from sensevoice.batching import Batcher
from sensevoice.checkpoint import Checkpoint
from sensevoice.engine import ANY_LANGUAGE, Engine, TorchEngine, choose_device
from sensevoice.features import SAMPLE_RATE
from sensevoice.runners import Utterance
from sensevoice.scores import FrameScores, Query

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


class BatchingEngine:
    """An Engine over other engines, all of the same checkpoint."""

    def __init__(self, engines: Sequence[Engine], *, batch_s: float | None = None) -> None:
        """`batch_s`: seconds of speech that one batch holds at most; one utterance may be longer."""
        if not engines:
            raise ValueError("a BatchingEngine needs an engine")
        self.engines = tuple(engines)
        first = engines[0]
        self.vocabulary, self.tags, self.info = first.vocabulary, first.tags, first.info
        self.device = ", ".join(engine.device for engine in engines)
        is_cpu = first.device == "cpu"
        # all engines get a worker before any gets another
        workers = [*engines] * (1 if is_cpu else WORKERS_PER_GPU)
        self._batcher: Batcher[tuple[Utterance, Query], FrameScores] = Batcher(
            [partial(self._compute, engine) for engine in workers],
            cost=lambda work: len(work[0]),
            most=(batch_s or (BATCH_S if is_cpu else GPU_BATCH_S)) * SAMPLE_RATE,
        )
        # each is told how many utterances every batch held, and how many seconds it took
        self.observers: list[Callable[[int, float], None]] = []

    @property
    def waiting(self) -> int:
        """Utterances that no batch has taken yet."""
        return self._batcher.waiting

    def recognise(
        self, utterances: Sequence[Utterance], query: Query | Sequence[Query] = ANY_LANGUAGE
    ) -> list[FrameScores]:
        """One FrameScores for each utterance, in order; an error of the engine is raised here."""
        queries = [query] * len(utterances) if isinstance(query, Query) else query
        return self._batcher.run(list(zip(utterances, queries, strict=True)))

    def _compute(self, engine: Engine, work: Sequence[tuple[Utterance, Query]]) -> list[FrameScores]:
        start = perf_counter()
        scores = engine.recognise([utterance for utterance, _ in work], [query for _, query in work])
        for observe in self.observers:
            observe(len(work), perf_counter() - start)
        return scores

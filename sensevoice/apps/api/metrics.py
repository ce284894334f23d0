"""What Prometheus is told; one registry for each application, so that several can live in a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

STAGE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one application; every method may be called from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "HTTP requests answered", "method", "route", "status")
        self.errors = self._counter("errors", "Requests that failed, by class of error", "kind")
        self.audio_seconds = self._counter("audio_seconds", "Seconds of sound transcribed")
        self.stages = Histogram(
            "sensevoice_stage_seconds",
            "How long each stage of a request took",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "sensevoice_batch_size",
            "Utterances that the engine was given at once",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.worker_restarts = self._counter("worker_restarts", "Worker threads that ended unexpectedly")
        self._watch_gpu()

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(f"sensevoice_{name}", description, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long the block takes, if it ends well."""
        start = perf_counter()
        yield
        self.stages.labels(stage).observe(perf_counter() - start)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"sensevoice_{name}", description, labels, registry=self.registry)

    def _watch_gpu(self) -> None:
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            self.watch(
                f"gpu{index}_memory_bytes",
                f"Memory that PyTorch holds on GPU {index}",
                lambda index=index: float(torch.cuda.memory_reserved(index)),  # type: ignore[misc]
            )

"""What Prometheus is told; one registry for each application, so that several can live in a process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
            "How long a request waited (queue) and was worked on (recognise, of which decode and vad: a minute "
            "of its sound), and how long the batches took (network)",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "sensevoice_batch_size",
            "Utterances, of all callers together, that the network was given at once",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.worker_restarts = self._counter("worker_restarts", "Worker threads that ended unexpectedly")
        self._watch_gpus()

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(f"sensevoice_{name}", description, registry=self.registry).set_function(value)

    def see_stage(self, stage: str, took_s: float) -> None:
        """To be told of every stretch that was decoded or searched for speech: see `Transcriber.observe`."""
        self.stages.labels(stage).observe(took_s)

    def see_batch(self, utterances: int, took_s: float) -> None:
        """To be told of every batch: see `BatchingEngine.observers`."""
        self.batch_size.observe(utterances)
        self.stages.labels("network").observe(took_s)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"sensevoice_{name}", description, labels, registry=self.registry)

    def _watch_gpus(self) -> None:
        gauge = Gauge(
            "sensevoice_gpu_memory_bytes", "Memory that PyTorch holds", ["gpu"], registry=self.registry
        )
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            gauge.labels(str(index)).set_function(partial(torch.cuda.memory_reserved, index))

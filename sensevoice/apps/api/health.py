"""`/health`, `/ready` and `/metrics`: what those who run the service ask it."""

from __future__ import annotations

import asyncio
import io
import threading
import time
import wave
from typing import TYPE_CHECKING

import numpy as np
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sensevoice import __version__
from sensevoice.apps.api.models import HealthReply, ReadyReply, responses
from sensevoice.apps.api.service import CurrentService
from sensevoice.audio import SAMPLE_RATE
from sensevoice.options import TranscribeOptions

if TYPE_CHECKING:
    from sensevoice.pipeline import Transcriber

router = APIRouter(tags=["operation"])

PROBE_VALID_S = 30.0  # an orchestrator asks every few seconds; the model need not answer each time


class Probe:
    """A short clip that the model must be able to transcribe."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber
        self._lock = threading.Lock()
        self._checked_at = -PROBE_VALID_S
        self._took_ms = 0.0

    def took_ms(self) -> float:
        """How long the last probe took; made again if it was long ago. Raises what the model raises."""
        with self._lock:
            if time.monotonic() - self._checked_at > PROBE_VALID_S:
                self._took_ms = self._run()
                self._checked_at = time.monotonic()
            return self._took_ms

    def _run(self) -> float:
        """Decoder and network; not the VAD, which would keep the noise from the network."""
        start = time.perf_counter()
        self._transcriber.transcribe(_probe_clip(), TranscribeOptions(use_vad=False))
        return round((time.perf_counter() - start) * 1000, 1)


def _probe_clip() -> bytes:
    """A second of soft noise, as a wav."""
    noise = np.random.default_rng(0).normal(0, 1_000, SAMPLE_RATE).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(noise.tobytes())
    return buffer.getvalue()


def device_of(transcriber: Transcriber) -> str:
    """Where the model runs; a test's transcriber may not say."""
    return str(getattr(getattr(transcriber, "engine", None), "device", "cpu"))


@router.get("/health")
async def health(service: CurrentService) -> HealthReply:
    """The process is alive. Needs no key."""
    return HealthReply(model=service.transcriber.info.name, version=__version__)


@router.get("/ready", responses=responses(401, 500, 503))
async def ready(service: CurrentService) -> ReadyReply:
    """The model is loaded and has transcribed a probe clip within the last half minute."""
    took_ms = await asyncio.to_thread(service.probe.took_ms)
    transcriber = service.transcriber
    return ReadyReply(model=transcriber.info.name, device=device_of(transcriber), probe_ms=took_ms)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401)},
)
async def metrics(service: CurrentService) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

"""A clip to prove that the model works."""

from __future__ import annotations

import io
import threading
import time
import wave
from typing import TYPE_CHECKING

import numpy as np

from sensevoice.audio import SAMPLE_RATE
from sensevoice.options import TranscribeOptions

if TYPE_CHECKING:
    from sensevoice.pipeline import Transcriber

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

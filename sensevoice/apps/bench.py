"""`sensevoice bench`: how fast this machine is, as a short table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sensevoice.strings import text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sensevoice.pipeline import Transcriber
    from sensevoice.settings import Settings

LENGTHS_S = (10, 60)
ROUNDS = 3
UTTERANCE_MS = 10_000  # what people say in one go, at most


@dataclass(frozen=True)
class Timing:
    """How long the quickest of some runs took."""

    name: str  # of the row, for people
    sound_s: float
    took_s: float

    @property
    def rtfx(self) -> float:
        """Seconds of sound for each second of work."""
        return self.sound_s / self.took_s


def bench_report(settings: Settings, recording: Path | None, lang: str) -> Iterator[str]:
    """The lines of the report, each as soon as it is known."""
    from sensevoice.pipeline import Transcriber

    began = time.perf_counter()
    transcriber = Transcriber.load(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        hub=settings.hub,
        offline=settings.offline,
    )
    loaded_s = time.perf_counter() - began
    device = transcriber.engine.device
    facts = {"model": transcriber.info.name, "device": device, "precision": settings.precision}
    yield text("bench.model", lang, **facts, seconds=f"{loaded_s:.1f}")
    for timing in timings(transcriber, recording, lang):
        yield text(
            "bench.row",
            lang,
            name=timing.name,
            sound=f"{timing.sound_s:.0f}",
            took=f"{timing.took_s:.3f}",
            rtfx=f"{timing.rtfx:.0f}",
        )


def timings(transcriber: Transcriber, recording: Path | None, lang: str) -> Iterator[Timing]:
    """Speech detection and recognition of noise, whose content costs no less than speech; or all of a recording."""
    if recording is not None:
        durations = [transcriber.transcribe(recording).duration_s]  # which also warms up
        took_s = quickest(lambda: transcriber.transcribe(recording))
        yield Timing(text("bench.recording", lang, name=recording.name), durations[0], took_s)
        return
    for length_s in LENGTHS_S:
        samples = noise(length_s)
        for name, work in (("detect", transcriber.vad.speech_spans), ("recognise", _recogniser(transcriber))):
            work(samples)
            took_s = quickest(lambda work=work, samples=samples: work(samples))  # type: ignore[misc]
            yield Timing(text(f"bench.{name}", lang), length_s, took_s)


def _recogniser(transcriber: Transcriber) -> Callable[[npt.NDArray[np.float32]], object]:
    from sensevoice.options import TranscribeOptions, VadOptions

    vad = VadOptions(max_single_segment_time_ms=UTTERANCE_MS)
    options = TranscribeOptions(use_vad=False, vad=vad)
    return lambda samples: transcriber.transcribe(samples, options)


def noise(seconds: int) -> npt.NDArray[np.float32]:
    """[samples] at 16 kHz, the same each time."""
    import numpy as np

    from sensevoice.audio import SAMPLE_RATE

    return np.random.default_rng(0).normal(0, 0.03, seconds * SAMPLE_RATE).astype(np.float32)


def quickest(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the quickest of so many runs: the others were held up by something else."""
    took_s = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - began)
    return min(took_s)

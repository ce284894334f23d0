"""A transcriber with canned answers, so that the interfaces can be tested without a model."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sensevoice.checkpoint import ModelInfo
from sensevoice.ctc import Token
from sensevoice.errors import NotAudioError
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Progress
from sensevoice.spans import Span
from sensevoice.transcript import Segment, Transcript, make_transcript

Source = str | os.PathLike[str] | bytes | BinaryIO
MAGIC = (b"RIFF", b"\0\0\0", b"ID3", b"\xff\xfb", b"\xff\xf3", b"fLaC", b"OggS", b"\x1aE\xdf\xa3")
DURATION_S = 12.5


def segment(start_s: float, end_s: float, text: str, **tags: object) -> Segment:
    """A segment with the given words, spread evenly over its time; everything else can be overridden."""
    step = (end_s - start_s) / max(len(text), 1)
    tokens = tuple(
        Token(piece, round(start_s + i * step, 3), round(start_s + (i + 1) * step, 3), 0.9)
        for i, piece in enumerate(text)
    )
    plain = Segment(
        start_s, end_s, text, "zh", 0.98, "yue", "NEUTRAL", 0.9, "HAPPY", False, "Speech", 0.97, "BGM", tokens
    )
    return replace(plain, **tags)  # type: ignore[arg-type]


SEGMENTS = (
    segment(0.4, 3.1, "今天天气真好，我们去公园走走吧！", emotion="HAPPY", emotion_probability=0.93),
    segment(3.9, 6.2, "好啊，听说那里的樱花开了。", event="Laughter", event_probability=0.88),
    segment(
        6.9, 9.0, "Let us meet at half past three.", language="en", emotion="SAD",
        emotion_probability=0.41, emotion_runner_up="NEUTRAL", emotion_uncertain=True,
    ),
    segment(9.4, 11.8, "", event="Applause", event_probability=0.99, language="nospeech"),
)  # fmt: skip
SKIPPED = (Span(0, 400), Span(9000, 9400), Span(11800, 12500))


class FakeTranscriber:
    """Answers with `segments`, one report of progress after each; refuses what has no audio's first bytes."""

    def __init__(
        self, segments: tuple[Segment, ...] = SEGMENTS, *, pause_s: float = 0.0, is_starter: bool = True
    ) -> None:
        self.info = ModelInfo("fake-starter", Path("fake"), is_starter, "tests", "MIT", 7)
        self.segments = segments
        self.pause_s = pause_s
        self.error: Exception | None = None
        self.asked: list[TranscribeOptions] = []
        self.reports = 0
        self.threads: list[str] = []

    def transcribe(
        self,
        source: Source,
        options: TranscribeOptions | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Transcript:
        """As `Transcriber.transcribe`."""
        options = options or TranscribeOptions()
        self.asked.append(options)
        self.threads.append(threading.current_thread().name)
        self._check(source)
        for count in range(1, len(self.segments) + 1):
            time.sleep(self.pause_s)
            self._report(on_progress, self.segments[:count])
        return make_transcript(
            self.segments, duration_s=DURATION_S, skipped=SKIPPED, options=options, model=self.info.name
        )

    def _check(self, source: Source) -> None:
        if self.error:
            raise self.error
        if not first_bytes(source).startswith(MAGIC):
            raise NotAudioError(name_of(source))

    def _report(self, on_progress: Callable[[Progress], None] | None, done: tuple[Segment, ...]) -> None:
        self.reports += 1
        if on_progress:
            on_progress(Progress("recognise", done[-1].end_s, DURATION_S, done))


def first_bytes(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:4]
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            return file.read(4)
    return source.read(4)


def name_of(source: Source) -> str:
    return Path(source).name if isinstance(source, str | os.PathLike) else "the recording"

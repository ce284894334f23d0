"""Transcribe while somebody speaks.

    stream = StreamingTranscriber(transcriber)
    for samples in microphone:                  # float32 mono at 16 kHz, blocks of any size
        finalised, draft = stream.add(samples)
    finalised = stream.finish()

The final segments are those that `Transcriber.transcribe` finds in the same samples, however they are cut
into blocks. A draft is the open segment as far as it has been spoken; a final segment replaces it. Memory
holds the open segment, or the half second in which one may begin, and nothing older.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sensevoice.audio import SAMPLE_RATE
from sensevoice.errors import AudioTooLongError
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.spans import SAMPLES_PER_MS, Span
from sensevoice.transcript import Segment, make_segment
from sensevoice.vad_stream import FixedCuts, LiveDetector, SpanFinder

Samples = npt.NDArray[np.float32]

PIECE_SAMPLES = SAMPLE_RATE  # what is worked on at a time, however much is added at once
DRAFT_EVERY_MS = 400
DRAFT_SHARE = 0.5  # of the time may go into drafts: a slow engine drafts less often
LEAST_CAPACITY = 4 * SAMPLE_RATE


class Update(NamedTuple):
    """What the samples just added have brought."""

    finalised: tuple[Segment, ...]
    draft: Segment | None  # of the open segment; None if there is nothing new to say of it


class StreamingTranscriber:
    """One live recording; it shares the transcriber, and serves one thread at a time."""

    def __init__(
        self,
        transcriber: Transcriber,
        options: TranscribeOptions | None = None,
        *,
        draft_every_ms: int = DRAFT_EVERY_MS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`draft_every_ms` of new speech call for a draft; `clock`, in seconds, tells what one costs."""
        self._transcriber = transcriber
        self._options = options or TranscribeOptions()
        self._spans = _span_finder(transcriber, self._options)
        self._buffer = SampleBuffer()
        self._draft_every_ms = self._pace_ms = draft_every_ms
        self._drafted_ms = 0  # up to where the last draft went
        self._clock = clock

    @property
    def duration_s(self) -> float:
        """How much has been added."""
        return self._buffer.end / SAMPLE_RATE

    @property
    def held_samples(self) -> int:
        """How many samples are in memory."""
        return self._buffer.end - self._buffer.start

    def add(self, samples: Samples, *, draft: bool = True) -> Update:
        """Take the samples that follow, [n] float32 mono 16 kHz in [-1, 1].

        draft: False while there is a backlog, so that no time goes into what is outdated at once. Raises
        AudioTooLongError, and takes nothing, if the recording would grow beyond `max_duration_s`.
        """
        limit_s = self._options.max_duration_s
        if (self._buffer.end + len(samples)) / SAMPLE_RATE > limit_s:
            raise AudioTooLongError("the recording", limit_s)
        finalised: list[Segment] = []
        for first in range(0, len(samples), PIECE_SAMPLES):
            finalised += self._add_piece(samples[first : first + PIECE_SAMPLES])
        return Update(tuple(finalised), self._draft() if draft else None)

    def finish(self) -> tuple[Segment, ...]:
        """The segments that were still open when the recording ended; nothing can be added afterwards."""
        return tuple(self._recognise(self._spans.finish()))

    def _add_piece(self, samples: Samples) -> list[Segment]:
        self._buffer.append(samples)
        segments = self._recognise(self._spans.add(samples))
        self._buffer.drop_before(self._spans.earliest_ms * SAMPLES_PER_MS)
        return segments

    def _draft(self) -> Segment | None:
        since_ms, until_ms = self._spans.open_since_ms, self._spans.heard_until_ms
        if since_ms is None or until_ms - max(since_ms, self._drafted_ms) < self._pace_ms:
            return None
        began = self._clock()
        (segment,) = self._recognise([Span(since_ms, self._buffer.end // SAMPLES_PER_MS)])
        cost_ms = 1000 * (self._clock() - began)
        self._pace_ms = max(self._draft_every_ms, round(cost_ms / DRAFT_SHARE))
        self._drafted_ms = until_ms
        return segment

    def _recognise(self, spans: Sequence[Span]) -> list[Segment]:
        if not spans:
            return []
        utterances = [
            self._buffer.cut(span.start_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS) for span in spans
        ]
        readings = self._transcriber.read(utterances, self._options)
        return [
            make_segment(span, reading, self._options) for span, reading in zip(spans, readings, strict=True)
        ]


def _span_finder(transcriber: Transcriber, options: TranscribeOptions) -> SpanFinder:
    if options.use_vad:
        return LiveDetector(transcriber.vad, options.vad)
    return FixedCuts(options.vad.max_single_segment_time_ms)


class SampleBuffer:
    """The last samples of an endless recording, addressed by their place in all of it."""

    def __init__(self) -> None:
        self.start = self.end = 0  # what is held: [start, end)
        self._samples = np.empty(LEAST_CAPACITY, np.float32)
        self._origin = 0  # the place of _samples[0]

    def append(self, samples: Samples) -> None:
        """Add the samples that follow, [n]."""
        if self.end - self._origin + len(samples) > len(self._samples):
            self._move(self.end - self.start + len(samples))
        at = self.end - self._origin
        self._samples[at : at + len(samples)] = samples
        self.end += len(samples)

    def cut(self, start: int, end: int) -> Samples:
        """A copy of the samples [start, end), as far as they have come."""
        if start < self.start:
            raise IndexError(f"sample {start} was dropped: {self.start} is the first that is held")
        held: Samples = self._samples[start - self._origin : min(end, self.end) - self._origin].copy()
        return held

    def drop_before(self, start: int) -> None:
        """Forget what lies before this place."""
        self.start = min(max(start, self.start), self.end)

    def _move(self, needed: int) -> None:
        """To an array of twice what is needed: moves are rare, and a long segment's room is given back."""
        samples = np.empty(max(LEAST_CAPACITY, 2 * needed), np.float32)
        samples[: self.end - self.start] = self.cut(self.start, self.end)
        self._samples, self._origin = samples, self.start

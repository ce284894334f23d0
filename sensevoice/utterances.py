"""From a recording in pieces to its utterances: each span of speech with its samples, as soon as it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sensevoice.options import TranscribeOptions
from sensevoice.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from sensevoice.vad import VoiceActivityDetector
from sensevoice.vad_stream import NOTHING, FixedCuts, LiveDetector, SpanFinder

Samples = npt.NDArray[np.float32]

LEAST_CAPACITY = 4 * SAMPLE_RATE


class Utterance(NamedTuple):
    """What is recognised in one piece: [samples] float32 mono 16 kHz, and where they lie in the recording."""

    span: Span
    samples: Samples


class UtteranceCutter:
    """Cuts one recording, in one thread; it holds the samples that an utterance may still need, and no others."""

    def __init__(self, vad: VoiceActivityDetector, options: TranscribeOptions) -> None:
        """With VAD, the spans where somebody speaks; else everything, in pieces of the longest length."""
        self._finder: SpanFinder = (
            LiveDetector(vad, options.vad)
            if options.use_vad
            else FixedCuts(options.vad.max_single_segment_time_ms)
        )
        self._buffer = SampleBuffer()

    @property
    def received(self) -> int:
        """How many samples have been added."""
        return self._buffer.end

    @property
    def held(self) -> int:
        """How many of them are in memory."""
        return self._buffer.end - self._buffer.start

    @property
    def heard_until_ms(self) -> int:
        """Up to where the open utterance is known to hold speech."""
        return self._finder.heard_until_ms

    @property
    def open_since_ms(self) -> int | None:
        """Where the utterance begins that is still open; None if there is none."""
        return self._finder.open_since_ms

    def add(self, samples: Samples) -> list[Utterance]:
        """The utterances that are now complete, given the samples that follow, [n]."""
        self._buffer.append(samples)
        utterances = self._cut(self._finder.add(samples))
        self._buffer.drop_before(self._finder.earliest_ms * SAMPLES_PER_MS)
        return utterances

    def finish(self, samples: Samples = NOTHING) -> list[Utterance]:
        """The rest, given the last samples of the recording, [n]."""
        self._buffer.append(samples)
        return self._cut(self._finder.finish(samples))

    def open_utterance(self, since_ms: int) -> Utterance:
        """Everything from `since_ms` on, as far as it has come."""
        span = Span(since_ms, self._buffer.end // SAMPLES_PER_MS)
        return self._cut([span])[0]

    def _cut(self, spans: Sequence[Span]) -> list[Utterance]:
        return [
            Utterance(span, self._buffer.cut(span.start_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS))
            for span in spans
        ]


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

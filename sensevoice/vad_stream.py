"""Where somebody speaks, while it is being recorded: the spans that `vad.py` finds in the whole recording.

The frames, their scores and the decisions are the same bit for bit, however the samples arrive. A frame
is scored once its window and the two frames after it are there, and ten at a time: 25 ms + 20 ms + up to
100 ms after it began.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sensevoice.features import HOP, WINDOW, frame_count
from sensevoice.options import VadOptions
from sensevoice.sample_buffer import SampleBuffer, Samples
from sensevoice.spans import SAMPLES_PER_MS, Span
from sensevoice.vad import (
    CHUNK_FRAMES,
    CHUNK_MS,
    CHUNK_SAMPLES,
    WITHHELD_FRAMES,
    VoiceActivityDetector,
    even_blocks,
    frame_decibels,
    merge_spans,
)
from sensevoice.vad_decision import VadState, needs_decibels
from sensevoice.vad_scoring import LEAST_FRAMES, Block


class SpanFinder(Protocol):
    """Cuts a recording that is still going on; one object serves one recording, in one thread."""

    @property
    def open_since_ms(self) -> int | None:
        """Where the span begins that is still open, None if there is none."""

    @property
    def heard_until_ms(self) -> int:
        """Up to where the open span is known to hold speech."""

    @property
    def earliest_ms(self) -> int:
        """No span that is still to come begins before this."""

    def add(self, *blocks: Samples) -> list[Span]:
        """The spans that are now known to be complete, given the samples that follow, [n] each."""

    def finish(self, *blocks: Samples) -> list[Span]:
        """The rest, given the last samples of the recording, [n] each."""


class FixedCuts:
    """Everything, in pieces of one length: what a request without VAD asks for."""

    def __init__(self, length_ms: int) -> None:
        self._length_ms = length_ms
        self._received = 0  # samples
        self._start_ms = 0

    @property
    def open_since_ms(self) -> int:
        """Where the present piece begins."""
        return self._start_ms

    @property
    def heard_until_ms(self) -> int:
        """All that has come."""
        return self._received // SAMPLES_PER_MS

    @property
    def earliest_ms(self) -> int:
        """Where the present piece begins."""
        return self._start_ms

    def add(self, *blocks: Samples) -> list[Span]:
        """The pieces that are now full."""
        self._received += sum(map(len, blocks))
        return [self._cut(self._length_ms) for _ in range(self._open_ms() // self._length_ms)]

    def finish(self, *blocks: Samples) -> list[Span]:
        """The last pieces, of which the very last may be shorter."""
        pieces = self.add(*blocks)
        self._received += -self._received % SAMPLES_PER_MS
        return [*pieces, self._cut(self._open_ms())] if self._open_ms() else pieces

    def _open_ms(self) -> int:
        return self.heard_until_ms - self._start_ms

    def _cut(self, length_ms: int) -> Span:
        span = Span(self._start_ms, self._start_ms + length_ms)
        self._start_ms = span.end_ms
        return span


class LiveDetector:
    """FSMN-VAD over a recording that is still going on: `VoiceActivityDetector.speech_spans`, bit by bit."""

    def __init__(self, vad: VoiceActivityDetector, options: VadOptions) -> None:
        self._options = options
        self._scorer = LiveScorer(vad)
        self._state = VadState(options, vad.noise_frames)
        self._uses_decibels = needs_decibels(options)
        self._waiting: list[Span] = []  # the last span, while the next one may be joined to it

    @property
    def open_since_ms(self) -> int | None:
        """Where the span begins that is still open, None in silence."""
        if self._state.open_since_ms is None or not self._waiting:
            return self._state.open_since_ms
        return self._waiting[0].start_ms

    @property
    def heard_until_ms(self) -> int:
        """Up to where the open span is known to hold speech: a pause at its end does not count."""
        return self._state.heard_until_ms

    @property
    def earliest_ms(self) -> int:
        """No span that is still to come begins before this."""
        return self._waiting[0].start_ms if self._waiting else self._state.earliest_ms

    def add(self, *blocks: Samples) -> list[Span]:
        """The spans that are now known to be complete, given the samples that follow, [n] each."""
        self._scorer.add(*blocks)
        return self._settled(self._decide(self._scorer.complete_frames))

    def finish(self, *blocks: Samples) -> list[Span]:
        """The rest, given the last samples of the recording, [n] each."""
        self._scorer.add(*blocks)
        spans = self._decide(self._scorer.frames) + self._state.finish()
        return self._joined(spans)

    def _decide(self, stop: int) -> list[Span]:
        """The spans that end before this frame."""
        spans: list[Span] = []
        missing = stop - self._scorer.scored
        if missing < LEAST_FRAMES and stop < self._scorer.frames:
            return spans
        for first, last in even_blocks(missing, self._scorer.block_frames):
            spans += self._decide_block(stop - missing + first, stop - missing + last)
        return spans

    def _decide_block(self, first: int, stop: int) -> list[Span]:
        decibels = self._scorer.decibels(first, stop) if self._uses_decibels else None
        silence = self._scorer.score(stop)
        if self._options.max_end_silence_time_ms is not None:
            return self._state.feed(silence, decibels)
        spans: list[Span] = []
        for start, end in pairwise(sorted({first, *self._chunk_starts(first, stop), stop})):
            if start in self._chunk_starts(first, stop):
                self._state.adapt(CHUNK_MS)
            part = slice(start - first, end - first)
            spans += self._state.feed(silence[part], None if decibels is None else decibels[part])
        return spans

    def _chunk_starts(self, first: int, stop: int) -> list[int]:
        """Where in [first, stop) FunASR's chunks begin: a minute must be complete for the next to begin."""
        minutes = self._scorer.received // CHUNK_SAMPLES
        starts = (max(0, minute * CHUNK_FRAMES - WITHHELD_FRAMES) for minute in range(minutes + 1))
        return [start for start in starts if first <= start < stop]

    def _settled(self, spans: list[Span]) -> list[Span]:
        """The joined spans, less the last while it may still grow."""
        self._waiting, joined = [], self._joined(spans)
        if joined and self._may_grow(joined[-1]):
            self._waiting = [joined.pop()]
        return joined

    def _joined(self, spans: list[Span]) -> list[Span]:
        options = self._options
        return merge_spans(
            [*self._waiting, *spans], up_to_ms=options.merge_up_to_ms, gap_ms=options.merge_gap_ms
        )

    def _may_grow(self, span: Span) -> bool:
        gap_ms = self._state.earliest_ms - span.end_ms
        return span.duration_ms < self._options.merge_up_to_ms and gap_ms <= self._options.merge_gap_ms


class LiveScorer:
    """The probability of silence in each frame, as `VoiceActivityDetector.silence_probabilities` has it."""

    def __init__(self, vad: VoiceActivityDetector) -> None:
        self._scorer = vad.scorer
        self._context = vad.frontend.lfr_m // 2
        self.block_frames = vad.block_frames
        self._memories: list[Tensor] | None = None
        self._buffer = SampleBuffer()
        self.scored = 0  # frames

    @property
    def received(self) -> int:
        """How many samples there are."""
        return self._buffer.end

    @property
    def frames(self) -> int:
        """How many frames there are if nothing more comes."""
        return frame_count(self.received)

    @property
    def complete_frames(self) -> int:
        """How many of them have their right context, so that they stay what they are."""
        return max(0, self.frames - self._context)

    def add(self, *blocks: Samples) -> None:
        """Take the samples that follow, [n] each."""
        self._buffer.append(*blocks)

    def score(self, stop: int) -> npt.NDArray[np.float64]:
        """P(silence) of the frames before `stop` that are not scored yet, [T].

        Fewer than LEAST_FRAMES, and the very last, are for the end of the recording: nothing can be scored
        after them.
        """
        start = max(0, self.scored - self._context - LEAST_FRAMES)
        parts = self._buffer.parts(*_samples_of(start, min(self.frames, stop + self._context)))
        block = Block(parts, self.scored - start, stop - start, self._memories)
        silence, self._memories = self._scorer.score(block)
        self.scored = stop
        self._buffer.drop_before((stop - self._context - LEAST_FRAMES) * HOP)
        return silence

    def decibels(self, first: int, stop: int) -> npt.NDArray[np.float64]:
        """The level of each of these frames."""
        return frame_decibels(self._buffer.cut(*_samples_of(first, stop)))


def _samples_of(first: int, stop: int) -> tuple[int, int]:
    """Where the windows of these frames begin and end."""
    return first * HOP, (stop - 1) * HOP + WINDOW

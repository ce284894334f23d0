"""From a recording in pieces to its utterances: each span of speech with its samples, as soon as it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sensevoice.options import TranscribeOptions
from sensevoice.sample_buffer import SampleBuffer, Samples
from sensevoice.spans import SAMPLES_PER_MS, Span
from sensevoice.vad import VoiceActivityDetector
from sensevoice.vad_stream import FixedCuts, LiveDetector, SpanFinder


class Utterance(NamedTuple):
    """What is recognised in one piece: [samples] float32 mono 16 kHz, and where they lie in the recording."""

    span: Span
    samples: Samples


class UtteranceCutter:
    """Cuts one recording, in one thread; it holds the blocks that an utterance may still need, and no others.

    Blocks are kept as they are, and utterances are parts of them: they are not to be written to.
    """

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

    def add(self, *blocks: Samples) -> list[Utterance]:
        """The utterances that are now complete, given the samples that follow, [n] each."""
        self._buffer.append(*blocks)
        utterances = self._cut(self._finder.add(*blocks))
        self._buffer.drop_before(self._finder.earliest_ms * SAMPLES_PER_MS)
        return utterances

    def finish(self, *blocks: Samples) -> list[Utterance]:
        """The rest, given the last samples of the recording, [n] each."""
        self._buffer.append(*blocks)
        return self._cut(self._finder.finish(*blocks))

    def open_utterance(self, since_ms: int) -> Utterance:
        """Everything from `since_ms` on, as far as it has come."""
        span = Span(since_ms, self._buffer.end // SAMPLES_PER_MS)
        return self._cut([span])[0]

    def _cut(self, spans: Sequence[Span]) -> list[Utterance]:
        return [
            Utterance(span, self._buffer.cut(span.start_ms * SAMPLES_PER_MS, span.end_ms * SAMPLES_PER_MS))
            for span in spans
        ]

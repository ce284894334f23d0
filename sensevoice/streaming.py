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

from sensevoice.audio import SAMPLE_RATE
from sensevoice.errors import AudioTooLongError
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from sensevoice.sample_buffer import Samples
from sensevoice.transcript import Segment
from sensevoice.utterances import Utterance, UtteranceCutter

PIECE_SAMPLES = SAMPLE_RATE  # what is worked on at a time, however much is added at once
DRAFT_EVERY_MS = 400
DRAFT_SHARE = 0.5  # of the time may go into drafts: a slow engine drafts less often


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
        self._cutter = UtteranceCutter(transcriber.vad, self._options)
        self._draft_every_ms = self._pace_ms = draft_every_ms
        self._drafted_ms = 0  # up to where the last draft went
        self._clock = clock

    @property
    def duration_s(self) -> float:
        """How much has been added."""
        return self._cutter.received / SAMPLE_RATE

    @property
    def held_samples(self) -> int:
        """How many samples are in memory."""
        return self._cutter.held

    def add(self, samples: Samples, *, draft: bool = True) -> Update:
        """Take the samples that follow, [n] float32 mono 16 kHz in [-1, 1].

        draft: False while there is a backlog, so that no time goes into what is outdated at once. Raises
        AudioTooLongError, and takes nothing, if the recording would grow beyond `max_duration_s`.
        """
        limit_s = self._options.max_duration_s
        if (self._cutter.received + len(samples)) / SAMPLE_RATE > limit_s:
            raise AudioTooLongError("the recording", limit_s)
        finalised: list[Segment] = []
        for first in range(0, len(samples), PIECE_SAMPLES):
            piece = samples[first : first + PIECE_SAMPLES].copy()  # the caller may write to his own again
            finalised += self._recognise(self._cutter.add(piece))
        return Update(tuple(finalised), self._draft() if draft else None)

    def finish(self) -> tuple[Segment, ...]:
        """The segments that were still open when the recording ended; nothing can be added afterwards."""
        return tuple(self._recognise(self._cutter.finish()))

    def _draft(self) -> Segment | None:
        since_ms, until_ms = self._cutter.open_since_ms, self._cutter.heard_until_ms
        if since_ms is None or until_ms - max(since_ms, self._drafted_ms) < self._pace_ms:
            return None
        began = self._clock()
        (segment,) = self._recognise([self._cutter.open_utterance(since_ms)])
        cost_ms = 1000 * (self._clock() - began)
        self._pace_ms = max(self._draft_every_ms, round(cost_ms / DRAFT_SHARE))
        self._drafted_ms = until_ms
        return segment

    def _recognise(self, utterances: Sequence[Utterance]) -> list[Segment]:
        return self._transcriber.recognise(utterances, self._options)

"""From a score per 10 ms frame to stretches of speech: FSMN-VAD's decision logic.

The rules are those of FunASR 1.4.16 (`FsmnVADStreaming`, several utterances, extended ends), and
so are the results, frame for frame. FunASR runs a state machine over every frame; here the next
frame at which anything changes is looked up, so that the cost depends on how often speech starts
and stops.

    silence --[enough speech in the window]--> speech --[too little in the window]--> pause
       ^                                        |  ^                                  |   |
       |<-------------[segment too long]--------+  +-----[enough speech again]--------+   |
       +<-----------------------[segment too long, or the pause is]-----------------------+
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sensevoice.errors import OptionError
from sensevoice.options import VadOptions
from sensevoice.spans import Span

FRAME_MS = 10
NOISE_FRAMES = 100  # how slowly the noise level follows, unless the checkpoint says otherwise

# Samples in [-1, 1] give every 25 ms frame -60 to +26 dB, so thresholds below these decide nothing.
QUIETEST_DB = -61.0
LOWEST_SNR_DB = -87.0
NO_NOISE_DB = -100.0  # the noise level before any noise was heard

# FunASR's DEFAULT_SILENCE_SCHEDULE: (in speech for up to so many ms, pause that ends the segment)
SILENCE_SCHEDULE_MS = (
    (10_000, 2_000),
    (20_000, 1_000),
    (30_000, 800),
    (40_000, 600),
    (50_000, 400),
    (60_000, 200),
)
LAST_SILENCE_MS = 100
SCHEDULED_SPEECH_NOISE_THRES = 0.5


def needs_decibels(options: VadOptions) -> bool:
    """Whether the level of a frame can make any difference under these options."""
    return options.decibel_thres > QUIETEST_DB or options.snr_thres > LOWEST_SNR_DB


def scheduled_silence_ms(in_speech_ms: int) -> int:
    """The pause that ends a segment which has lasted so long, by FunASR's schedule."""
    allowed = (silence for limit, silence in SILENCE_SCHEDULE_MS if in_speech_ms <= limit)
    return next(allowed, LAST_SILENCE_MS)


class FrameClassifier:
    """Says of each frame whether it is speech, from its score and its level."""

    def __init__(self, options: VadOptions, noise_frames: int = NOISE_FRAMES) -> None:
        self.speech_noise_thres = options.speech_noise_thres
        self._options = options
        self._noise_frames = noise_frames
        self._noise_db = NO_NOISE_DB

    def __call__(
        self, silence: npt.NDArray[np.float64], decibels: npt.NDArray[np.float64] | None
    ) -> npt.NDArray[np.bool_]:
        """[T] probability of silence and [T] dB -> [T] is speech."""
        options = self._options
        noise = silence**options.speech_2_noise_ratio
        margin = self.speech_noise_thres if options.fe_prior_thres < 1.0 else math.inf
        speech: npt.NDArray[np.bool_] = 1.0 - silence >= noise + margin
        if decibels is not None and needs_decibels(options):
            audible = decibels >= options.decibel_thres
            above_noise = decibels - self._noise_levels(decibels, audible & ~speech)
            speech &= audible & (above_noise >= options.snr_thres)
        return speech

    def _noise_levels(
        self, decibels: npt.NDArray[np.float64], is_noise: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """[T] the running mean of the noise frames before each frame."""
        levels, level, weight = [], self._noise_db, self._noise_frames
        for decibel, noise in zip(decibels.tolist(), is_noise.tolist(), strict=True):
            levels.append(level)
            if noise and level < NO_NOISE_DB + 0.1:
                level = decibel
            elif noise:
                level = (decibel + level * (weight - 1)) / weight
        self._noise_db = level
        return np.array(levels)


class SpeechWindow:
    """Counts the speech among the last frames, and finds where the count crosses its bounds."""

    def __init__(self, options: VadOptions) -> None:
        self.size = options.window_size_ms // FRAME_MS
        if self.size < 1:
            raise OptionError(
                f"window_size_ms must be at least {FRAME_MS}.", window_size_ms=options.window_size_ms
            )
        enough = int(options.sil_to_speech_time_thres_ms / FRAME_MS)
        too_few = int(options.speech_to_sil_time_thres_ms / FRAME_MS)
        self._bounds = np.array([[enough], [too_few + 1]])
        self._first = 0
        self._heard = np.zeros(self.size, np.int64)  # 1 for speech: the last frames of old, then the new
        # whether each frame has enough speech behind it, and whether it has more than too little
        self._speech, self._more = bytearray(), bytearray()

    def feed(self, is_speech: npt.NDArray[np.bool_]) -> None:
        """Move on to the frames [T] that follow."""
        self._first += len(self._speech)
        self._heard = np.concatenate([self._heard[-self.size :], is_speech])
        total = self._heard.cumsum()
        self._speech, self._more = self._marks(total[self.size :] - total[: -self.size])

    def _marks(self, count: npt.NDArray[np.int64]) -> tuple[bytearray, bytearray]:
        enough, more = count >= self._bounds
        return bytearray(enough.tobytes()), bytearray(more.tobytes())

    def next_speech(self, frame: int, stop: int) -> int:
        """The first frame in [frame, stop) with enough speech behind it, else -1."""
        return self._find(self._speech, True, frame, stop)

    def next_silence(self, frame: int, stop: int) -> int:
        """The first frame in [frame, stop) with too little speech behind it, else -1."""
        return self._find(self._more, False, frame, stop)

    def _find(self, marks: bytearray, mark: bool, frame: int, stop: int) -> int:
        found = marks.find(mark, frame - self._first, stop - self._first)
        return found if found < 0 else found + self._first

    def forget(self, frame: int) -> None:
        """Count as silence whatever lies before this frame."""
        at = frame - self._first
        self._heard[at : at + self.size] = 0
        self._speech[at : at + self.size], self._more[at : at + self.size] = self._marks(
            self._heard[at + self.size : at + 2 * self.size].cumsum()
        )


class VadState:
    """The decisions about one recording: feed it block by block, then finish it.

    However the recording is cut into blocks, the spans are the same. Times count from the first
    frame fed. One object serves one recording, in one thread.
    """

    def __init__(self, options: VadOptions, noise_frames: int = NOISE_FRAMES) -> None:
        self._is_speech = FrameClassifier(options, noise_frames)
        self._window = SpeechWindow(options)
        self._options = options
        self._longest = options.max_single_segment_time_ms // FRAME_MS
        self._latency = self._window.size + int(options.lookback_time_start_point_ms / FRAME_MS)
        self._seen = 0  # frames fed so far
        self._free = 0  # the first frame that belongs to no finished span
        self._start: int | None = None  # where the open span begins
        self._pause: int | None = None  # where the window fell silent within it
        self._in_speech_ms = 0
        self._set_end_silence((options.max_end_silence_time_ms or 0) - options.speech_to_sil_time_thres_ms)

    @property
    def open_since_ms(self) -> int | None:
        """Where the span begins that has not ended yet; None in silence."""
        return None if self._start is None else self._start * FRAME_MS

    @property
    def heard_until_ms(self) -> int:
        """Up to where there is speech: all that was fed, less the pause that may end the open span."""
        return (self._seen if self._pause is None else self._pause) * FRAME_MS

    @property
    def earliest_ms(self) -> int:
        """No span that is still to come begins before this."""
        start = max(self._free, self._seen - self._latency) if self._start is None else self._start
        return start * FRAME_MS

    def adapt(self, chunk_ms: int) -> None:
        """Before each chunk of so many ms: end spans the sooner, the longer they have lasted.

        This is FunASR's dynamic silence threshold: the longer speech has gone on, the shorter the
        pause that ends it. It replaces `max_end_silence_time_ms` and `speech_noise_thres`.
        """
        if self._start is not None:
            self._in_speech_ms += chunk_ms
        silence_ms = scheduled_silence_ms(self._in_speech_ms)
        self._set_end_silence(max(silence_ms - self._options.speech_to_sil_time_thres_ms, 0))
        self._is_speech.speech_noise_thres = SCHEDULED_SPEECH_NOISE_THRES

    def _set_end_silence(self, patience_ms: int) -> None:
        """End a span so long after the window fell silent, and count part of that wait in."""
        lookahead = int(self._options.lookahead_time_end_point_ms / FRAME_MS)
        self._patience = -(-patience_ms // FRAME_MS)
        self._lookback = max(0, int(patience_ms / FRAME_MS) - lookahead - 1)

    def feed(
        self, silence: npt.NDArray[np.float64], decibels: npt.NDArray[np.float64] | None = None
    ) -> list[Span]:
        """The spans that end within the next frames.

        silence: probability of silence, [T]; decibels: level, [T], needed if `needs_decibels`.
        """
        self._window.feed(self._is_speech(silence, decibels))
        end = self._seen + len(silence)
        spans = list(self._ended(self._seen, end))
        self._seen = end
        if spans:
            self._in_speech_ms = 0
        return spans

    def finish(self) -> list[Span]:
        """The span that was still open when the recording ended, if any."""
        if self._start is None:
            return []
        return [self._close(self._seen - 1)]

    def _ended(self, frame: int, end: int) -> Iterator[Span]:
        while frame < end:
            if self._start is None:
                frame = self._await_speech(frame, end)
                continue
            await_change = self._await_pause if self._pause is None else self._await_end
            frame, last = await_change(self._start, frame, end)
            if last is not None:
                self._window.forget(frame)
                yield self._close(last)

    def _await_speech(self, frame: int, end: int) -> int:
        """In silence: go on to the frame after the one that opens a span."""
        onset = self._window.next_speech(frame, end)
        if onset < 0:
            return end
        self._start = max(self._free, onset - self._latency)
        return onset + 1

    def _await_pause(self, start: int, frame: int, end: int) -> tuple[int, int | None]:
        """In speech: go on to the next frame to look at; also the span's last frame if it ended."""
        too_long = max(frame, start + self._longest)
        pause = self._window.next_silence(frame, min(end, too_long))
        if pause >= 0:
            self._pause = pause
            return pause + 1, None
        return (too_long + 1, too_long) if too_long < end else (end, None)

    def _await_end(self, start: int, frame: int, end: int) -> tuple[int, int | None]:
        """In a pause: the same."""
        assert self._pause is not None
        too_long = max(frame, start + self._longest)
        too_quiet = max(frame, self._pause + self._patience)
        stop = min(too_long, too_quiet)
        speech = self._window.next_speech(frame, min(end, stop + 1))
        if 0 <= speech < too_long:
            self._pause = None
            return speech + 1, None
        if stop >= end:
            return end, None
        # at one and the same frame, speech outranks a long pause, which outranks a long span
        return stop + 1, stop - self._lookback if speech < 0 and stop == too_quiet else stop

    def _close(self, last: int) -> Span:
        assert self._start is not None
        span = Span(self._start * FRAME_MS, (last + 1) * FRAME_MS)
        self._free = last + 1
        self._start = self._pause = None
        return span

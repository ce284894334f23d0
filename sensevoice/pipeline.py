"""The whole program: decode -> find speech -> recognise -> read tags and times -> transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sensevoice.audio import SAMPLE_RATE, AudioSource, decode
from sensevoice.checkpoint import ModelInfo, load_checkpoint
from sensevoice.ctc import Reading, heard_language, read_scores
from sensevoice.engine import Engine
from sensevoice.hub import find_model
from sensevoice.options import SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.scheduler import load_engine
from sensevoice.scores import FrameScores, Query
from sensevoice.spans import SAMPLES_PER_MS, Span
from sensevoice.transcript import Segment, Transcript, make_segment, make_transcript
from sensevoice.vad import VoiceActivityDetector, gaps_between

Samples = npt.NDArray[np.float32]

WINDOW_MS = 60_000  # of speech recognised between two reports of progress
GPU_WINDOW_MS = 600_000  # enough to fill a GPU's batches


@dataclass(frozen=True)
class Progress:
    """How far one transcription has come; `segments` are those finished so far."""

    stage: str  # "decode", "vad", "recognise" or "done"
    done_s: float
    total_s: float
    segments: tuple[Segment, ...] = ()


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Transcriber:
    """A loaded model. It keeps nothing of a request: any number of threads may share one."""

    engine: Engine
    vad: VoiceActivityDetector
    starter_reason: str = ""  # why the starter is used although nobody asked for it

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        hub: str = "modelscope",
        offline: bool = False,
    ) -> Transcriber:
        """Load `model` (a folder or hub id), by default the official model if it is there, else the starter.

        Raises a ModelError that says what is missing or damaged.
        """
        found = find_model(model, hub=hub, offline=offline)
        engine = load_engine(load_checkpoint(found.directory), device, precision)
        return cls(engine, VoiceActivityDetector.load(found.vad_directory), found.reason)

    @property
    def info(self) -> ModelInfo:
        """Which model this is, and on what terms."""
        return self.engine.info

    def transcribe(
        self,
        source: AudioSource,
        options: TranscribeOptions | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Transcript:
        """Turn one recording into a tagged transcript.

        `on_progress` is called in this thread after each stage and each window of speech; an exception
        that it raises ends the work. Raises AudioError if the recording cannot be used.
        """
        options, report = options or TranscribeOptions(), on_progress or _ignore
        report(Progress("decode", 0.0, 0.0))
        samples = decode(source, max_duration_s=options.max_duration_s)
        duration_s = len(samples) / SAMPLE_RATE
        report(Progress("vad", 0.0, duration_s))
        spans = self.find_speech(samples, options)
        segments: list[Segment] = []
        report(Progress("recognise", 0.0, duration_s))
        for window in self._windows(spans):
            segments += self._recognise(samples, window, options)
            report(Progress("recognise", window[-1].end_ms / 1000, duration_s, tuple(segments)))
        report(Progress("done", duration_s, duration_s, tuple(segments)))
        return make_transcript(
            segments,
            duration_s=duration_s,
            skipped=gaps_between(spans, round(duration_s * 1000)),
            options=options,
            model=self.info.name,
            tags=self.engine.tags,
        )

    def transcribe_stream(
        self, source: AudioSource, options: TranscribeOptions | None = None
    ) -> Iterator[Segment]:
        """The segments of one recording in order of time, each as soon as its window is recognised."""
        options = options or TranscribeOptions()
        samples = decode(source, max_duration_s=options.max_duration_s)
        for window in self._windows(self.find_speech(samples, options)):
            yield from self._recognise(samples, window, options)

    def find_speech(self, samples: Samples, options: TranscribeOptions) -> list[Span]:
        """What is to be recognised: the VAD's spans, or everything in pieces of the longest length."""
        if options.use_vad:
            return self.vad.speech_spans(samples, options.vad)
        end_ms = -(-len(samples) // SAMPLES_PER_MS)
        edges = [*range(0, end_ms, options.vad.max_single_segment_time_ms), end_ms]
        return [Span(start, end) for start, end in pairwise(edges)]

    def _windows(self, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """Consecutive spans that together hold about a window of speech."""
        limit_ms = WINDOW_MS if self.engine.device == "cpu" else GPU_WINDOW_MS
        window: list[Span] = []
        for span in spans:
            if window and sum(s.duration_ms for s in window) + span.duration_ms > limit_ms:
                yield window
                window = []
            window.append(span)
        if window:
            yield window

    def _recognise(
        self, samples: Samples, spans: Sequence[Span], options: TranscribeOptions
    ) -> list[Segment]:
        utterances = [samples[s.start_ms * SAMPLES_PER_MS : s.end_ms * SAMPLES_PER_MS] for s in spans]
        readings = self.read(utterances, options)
        return [make_segment(span, reading, options) for span, reading in zip(spans, readings, strict=True)]

    def read(self, utterances: Sequence[Samples], options: TranscribeOptions) -> list[Reading]:
        """What each utterance says, in order; times count from its start.

        What was heard in a forbidden language is recognised again in the best allowed one: to mask
        the language tag would leave the text in the forbidden language, since the query steers the words.
        """
        allowed = _allowed_languages(options)
        query = Query(allowed[0] if len(allowed) == 1 else "auto", options.use_itn)
        scores = self.engine.recognise(utterances, query)
        if query.language == "auto" and set(allowed) != set(SPOKEN_LANGUAGES):
            for language, indices in self._misheard(scores, allowed).items():
                again = self.engine.recognise(
                    [utterances[i] for i in indices], replace(query, language=language)
                )
                for i, better in zip(indices, again, strict=True):
                    scores[i] = better
        return [self._interpret(one, options, allowed) for one in scores]

    def _misheard(self, scores: Sequence[FrameScores], allowed: Sequence[str]) -> dict[str, list[int]]:
        """Utterances heard in a forbidden language, by the best allowed one."""
        found: dict[str, list[int]] = {}
        for index, one in enumerate(scores):
            if heard_language(one, self.engine.vocabulary) not in (*allowed, "nospeech"):
                best = read_scores(one, self.engine.vocabulary, allowed_languages=allowed).language.name
                if best in allowed:
                    found.setdefault(best, []).append(index)
        return found

    def _interpret(self, scores: FrameScores, options: TranscribeOptions, allowed: Sequence[str]) -> Reading:
        return read_scores(
            scores,
            self.engine.vocabulary,
            allowed_languages=allowed,
            ban_emo_unk=options.ban_emo_unk,
            tags=self.engine.tags,
        )


def _allowed_languages(options: TranscribeOptions) -> tuple[str, ...]:
    """The languages that a segment may be in, in the table's order."""
    if options.language != "auto":
        return (options.language,)
    if not options.allowed_languages or "auto" in options.allowed_languages:
        return SPOKEN_LANGUAGES
    return tuple(language for language in SPOKEN_LANGUAGES if language in options.allowed_languages)


def _ignore(_: Progress) -> None:
    """Nobody asked for progress."""

"""The whole program: decode -> find speech -> recognise -> read tags and times -> transcript.

The stages run side by side, a stretch of the recording at a time: text is there while later stretches are
still being decoded, and memory holds a few of them, however long the recording is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import NamedTuple

from sensevoice.audio import MINUTE_SAMPLES, SAMPLE_RATE, AudioSource, decode_blocks
from sensevoice.background import Background
from sensevoice.checkpoint import ModelInfo, load_checkpoint
from sensevoice.ctc import Reading, TagChoices, heard_language, read_scores
from sensevoice.engine import Engine, choose_device
from sensevoice.errors import AudioError
from sensevoice.hub import find_model
from sensevoice.options import SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.runners import prepare
from sensevoice.sample_buffer import Samples
from sensevoice.scheduler import load_engine
from sensevoice.scores import FrameScores, Query
from sensevoice.spans import Span
from sensevoice.transcript import Segment, Transcript, make_segment, make_transcript
from sensevoice.utterances import Utterance, UtteranceCutter
from sensevoice.vad import VoiceActivityDetector, gaps_between

# A stretch of the recording is the grain of the work: what lies between two reports of progress. The first is a
# minute, so that text comes early, and each is twice as long as the one before, up to so many minutes. A GPU needs
# hardly longer for four than for one, and its launches then disturb the decoder less often.
CPU_MINUTES, GPU_MINUTES = 1, 4
STRETCHES_AHEAD = 2  # decoded before they are listened to
CPU_WORKERS = 2  # while one reads its scores, the other's network runs
GPU_WORKERS = 6  # stretches that wait together make up a GPU's batches

# Reading never leaves the interpreter, which one thread has at a time anyway. Without this lock a hundred callers whose
# scores have come would all ask for it at once, and with them the one thread that has the GPU's next batch to prepare.
_READING = Lock()


@dataclass(frozen=True)
class Progress:
    """How far one transcription has come; `segments` are those finished so far."""

    stage: str  # "recognise" at the start and after each stretch of the recording, then "done"
    done_s: float  # up to here the recording has been transcribed
    total_s: float  # by its header until it is "done", and 0.0 if that says nothing
    segments: tuple[Segment, ...] = ()


ProgressCallback = Callable[[Progress], None]
StageObserver = Callable[[str, float], None]  # "decode" or "vad", and the seconds that a stretch took


@dataclass(frozen=True)
class Transcriber:
    """A loaded model. It keeps nothing of a request: any number of threads may share one."""

    engine: Engine
    vad: VoiceActivityDetector
    starter_reason: str = ""  # why the starter is used although nobody asked for it
    observe: StageObserver = lambda *_: None  # may be called from several threads
    _chosen: dict[tuple[tuple[str, ...], bool], TagChoices] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )  # as many as there are sets of languages, twice

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
        loaded = cls.load_folders(found.directory, found.vad_directory, device=device, precision=precision)
        return replace(loaded, starter_reason=found.reason)

    @classmethod
    def load_folders(
        cls, model: Path, vad: Path, *, device: str = "auto", precision: str = "auto"
    ) -> Transcriber:
        """Load what lies in these folders; raises as `load` does."""
        place = choose_device(device)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(prepare, place)  # if it fails, so does what needs it
            checkpoint = load_checkpoint(model)
        engine = load_engine(checkpoint, device, precision)
        return cls(engine, VoiceActivityDetector.load(vad, place))

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

        `on_progress` is called in this thread, at the start and after each minute of the recording (on a GPU,
        up to four); an exception that it raises ends the work. Raises AudioError if the recording cannot be used.
        """
        options, report = options or TranscribeOptions(), on_progress or _ignore
        report(Progress("recognise", 0.0, 0.0))
        segments: list[Segment] = []
        spans: list[Span] = []
        duration_s = 0.0
        with closing(self._follow(source, options)) as stretches:
            for stretch in stretches:
                segments += stretch.segments
                spans += [span for span, _ in stretch.utterances]
                duration_s = stretch.end_s
                report(Progress("recognise", duration_s, stretch.total_s, tuple(segments)))
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
        """The segments of one recording in order of time, each as soon as its stretch is recognised.

        Closing the iterator ends the work. Raises what `transcribe` does, after the segments before the fault.
        """
        with closing(self._follow(source, options or TranscribeOptions())) as stretches:
            for stretch in stretches:
                yield from stretch.segments

    def _follow(self, source: AudioSource, options: TranscribeOptions) -> Generator[_Stretch, None, None]:
        """The way of the data, from the recording to its segments.

        Each stage works beside the others, unless there is but a minute: then threads would cost more than they gain.
        """
        cutter, length = UtteranceCutter(self.vad, options), _Length()
        blocks = decode_blocks(source, max_duration_s=options.max_duration_s, on_length=length.expect)
        is_cpu = self.engine.device == "cpu"
        minutes, workers = (CPU_MINUTES, CPU_WORKERS) if is_cpu else (GPU_MINUTES, GPU_WORKERS)
        with closing(_timed(_grouped(blocks, minutes), self.observe)) as sounds:
            first = next(sounds)
            with Background(threads=not first.is_last) as background:
                decoded = background.ahead(chain([first], sounds), STRETCHES_AHEAD)
                stretches = _find_speech(decoded, cutter, length, self.observe)
                yield from background.map(partial(self._recognised, options=options), stretches, workers)

    def _recognised(self, stretch: _Stretch, options: TranscribeOptions) -> _Stretch:
        return stretch._replace(segments=self.recognise(stretch.utterances, options))

    def recognise(self, utterances: Sequence[Utterance], options: TranscribeOptions) -> list[Segment]:
        """What is said in these pieces of a recording, a segment for each."""
        spans = [span for span, _ in utterances]
        readings = self.read([samples for _, samples in utterances], options, spans)
        return [make_segment(span, reading, options) for span, reading in zip(spans, readings, strict=True)]

    def read(
        self,
        utterances: Sequence[Samples],
        options: TranscribeOptions,
        spans: Iterable[Span | None] = repeat(None),
    ) -> list[Reading]:
        """What each utterance says, in order; times count from its start, or as if it were at its span.

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
        with _READING:
            choices = self._choices(allowed, options.ban_emo_unk)
            return [
                read_scores(one, self.engine.vocabulary, choices, span)
                for one, span in zip(scores, spans, strict=False)
            ]

    def _misheard(self, scores: Sequence[FrameScores], allowed: tuple[str, ...]) -> dict[str, list[int]]:
        """Utterances heard in a forbidden language, by the best allowed one."""
        found: dict[str, list[int]] = {}
        vocabulary, every, choices = self.engine.vocabulary, self._choices(()), self._choices(allowed)
        for index, one in enumerate(scores):
            if heard_language(one, vocabulary, every) not in (*allowed, "nospeech"):
                best = heard_language(one, vocabulary, choices)
                if best in allowed:
                    found.setdefault(best, []).append(index)
        return found

    def _choices(self, allowed: tuple[str, ...], ban_emo_unk: bool = False) -> TagChoices:
        chosen = self._chosen.get((allowed, ban_emo_unk))
        if chosen is None:
            chosen = self._chosen[allowed, ban_emo_unk] = TagChoices.of(
                self.engine.vocabulary,
                allowed_languages=allowed,
                ban_emo_unk=ban_emo_unk,
                tags=self.engine.tags,
            )
        return chosen


class _Sound(NamedTuple):
    """The samples of a stretch, [n] each; perhaps none in the last."""

    blocks: Sequence[Samples]
    is_last: bool


class _Stretch(NamedTuple):
    """The utterances that have ended by `end_s`, and had not in the stretch before."""

    utterances: Sequence[Utterance]
    end_s: float
    total_s: float  # as in Progress
    segments: Sequence[Segment] = ()


class _Length:
    """How long the recording will turn out to be, as far as anything says so."""

    expected_s = 0.0

    def expect(self, seconds: float) -> None:
        self.expected_s = seconds


def _grouped(blocks: Iterable[Samples], most_minutes: int) -> Iterator[_Sound]:
    """A minute of blocks or a little more, then two, then four, up to `most_minutes`; then the rest."""
    held, samples, minutes = list[Samples](), 0, 1
    try:
        for block in blocks:
            held.append(block)
            samples += len(block)
            if samples >= minutes * MINUTE_SAMPLES:
                yield _Sound(held, is_last=False)
                held, samples, minutes = [], 0, min(2 * minutes, most_minutes)
    except AudioError:  # what came before the fault is good
        yield _Sound(held, is_last=True)
        raise
    yield _Sound(held, is_last=True)


def _timed(sounds: Iterator[_Sound], observe: StageObserver) -> Generator[_Sound, None, None]:
    start = perf_counter()
    for sound in sounds:
        observe("decode", perf_counter() - start)
        yield sound
        start = perf_counter()


def _find_speech(
    sounds: Iterable[_Sound], cutter: UtteranceCutter, length: _Length, observe: StageObserver
) -> Iterator[_Stretch]:
    for sound in sounds:
        start = perf_counter()
        utterances = cutter.finish(*sound.blocks) if sound.is_last else cutter.add(*sound.blocks)
        observe("vad", perf_counter() - start)
        end_s = cutter.received / SAMPLE_RATE
        yield _Stretch(utterances, end_s, max(length.expected_s, end_s) if length.expected_s else 0.0)


def _allowed_languages(options: TranscribeOptions) -> tuple[str, ...]:
    """The languages that a segment may be in, in the table's order."""
    if options.language != "auto":
        return (options.language,)
    if not options.allowed_languages or "auto" in options.allowed_languages:
        return SPOKEN_LANGUAGES
    return tuple(language for language in SPOKEN_LANGUAGES if language in options.allowed_languages)


def _ignore(_: Progress) -> None:
    """Nobody asked for progress."""

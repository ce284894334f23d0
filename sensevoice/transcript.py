"""The result of a transcription: what was said and heard, when, and how sure the model is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sensevoice.ctc import Reading, Token
from sensevoice.options import SPOKEN_LANGUAGES, TranscribeOptions
from sensevoice.spans import Span
from sensevoice.tags import NEVER_SHOWN, TAGS, Tag, TagKind, find_tag, marker
from sensevoice.typography import join_texts


@dataclass(frozen=True)
class Segment:
    """One utterance; all times are seconds from the start of the recording, in whole milliseconds."""

    start_s: float
    end_s: float
    text: str
    # the tags' names; a runner-up is None where the vocabulary has but one tag of the kind
    language: str
    language_probability: float
    language_runner_up: str | None
    emotion: str
    emotion_probability: float
    emotion_runner_up: str | None
    emotion_uncertain: bool
    event: str
    event_probability: float
    event_runner_up: str | None
    # where each piece of the text was spoken
    tokens: tuple[Token, ...] = ()

    @property
    def duration_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Gap:
    """A stretch of the recording in which the VAD heard nobody; it was not transcribed."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Transcript:
    """All segments of one recording in order of time, and what was asked."""

    segments: tuple[Segment, ...]
    duration_s: float
    language: str  # the one of most speech, "" if nobody speaks
    skipped: tuple[Gap, ...] = ()
    options: TranscribeOptions = field(default_factory=TranscribeOptions)
    model: str = ""
    tags: tuple[Tag, ...] = TAGS  # the table that names this model's tags

    @property
    def text(self) -> str:
        """The words alone, joined with spaces where their script has them."""
        return join_texts(segment.text for segment in self.segments)


def make_segment(span: Span, reading: Reading, options: TranscribeOptions) -> Segment:
    """The segment of the utterance that `span` holds, which its reading knows (`read_scores`)."""
    return Segment(
        start_s=span.start_ms / 1000,
        end_s=span.end_ms / 1000,
        text=reading.text,
        language=reading.language.name,
        language_probability=reading.language.probability,
        language_runner_up=reading.language.runner_up,
        emotion=reading.emotion.name,
        emotion_probability=reading.emotion.probability,
        emotion_runner_up=reading.emotion.runner_up,
        emotion_uncertain=reading.emotion.probability < options.emotion_threshold,
        event=reading.event.name,
        event_probability=reading.event.probability,
        event_runner_up=reading.event.runner_up,
        tokens=reading.tokens,
    )


def make_transcript(
    segments: Iterable[Segment],
    *,
    duration_s: float,
    skipped: Iterable[Span] = (),
    options: TranscribeOptions | None = None,
    model: str = "",
    tags: tuple[Tag, ...] = TAGS,
) -> Transcript:
    """Assemble the result; `skipped` are the spans that the VAD left out."""
    ordered = tuple(sorted(segments, key=lambda segment: (segment.start_s, segment.end_s)))
    return Transcript(
        segments=ordered,
        duration_s=round(duration_s * 1000) / 1000,
        language=dominant_language(ordered),
        skipped=tuple(Gap(span.start_ms / 1000, span.end_ms / 1000) for span in skipped),
        options=options or TranscribeOptions(),
        model=model,
        tags=tags,
    )


def dominant_language(segments: Iterable[Segment]) -> str:
    """The language spoken longest, the earlier one of equals; "" if there are no words."""
    spoken_ms: Counter[str] = Counter()
    for segment in segments:
        if segment.text and segment.language in SPOKEN_LANGUAGES:
            spoken_ms[segment.language] += round(segment.duration_s * 1000)
    return max(spoken_ms, key=spoken_ms.__getitem__, default="")


def shown_emotion(segment: Segment, options: TranscribeOptions, tags: tuple[Tag, ...] = TAGS) -> Tag | None:
    """The emotion that a reader is told of, None if it is not worth telling.

    An emotion colours words, so that a segment without any shows none. NEUTRAL is shown if asked for,
    EMO_UNKNOWN never.
    """
    if not segment.text:
        return None
    return _shown(segment.emotion, TagKind.EMOTION, tags, {} if options.show_neutral else {"NEUTRAL"})


def shown_event(segment: Segment, options: TranscribeOptions, tags: tuple[Tag, ...] = TAGS) -> Tag | None:
    """The event that a reader is told of: Speech if asked for, Event_UNK never."""
    return _shown(segment.event, TagKind.EVENT, tags, {} if options.show_speech else {"Speech"})


def _shown(name: str, kind: TagKind, tags: tuple[Tag, ...], hidden: Iterable[str]) -> Tag | None:
    tag = find_tag(name, tags)
    if tag is None or tag.kind is not kind or tag.token in {*hidden, *NEVER_SHOWN}:
        return None
    return tag


def labelled_text(
    source: Transcript | Iterable[Segment],
    lang: str = "zh",
    style: str = "label",
    *,
    options: TranscribeOptions | None = None,
    tags: tuple[Tag, ...] | None = None,
) -> str:
    """The transcript as people read it: a line for each segment's words, then one for its event.

    An emotion leads its line, `[开心] 今天天气真好!`, with a question mark if it is uncertain, `[开心?] …`;
    an event stands alone, `[掌声]`. `options` and `tags` default to those of the transcript. Styles and
    languages, and the errors they raise, are those of `tags.marker`.
    """
    if isinstance(source, Transcript):
        options, tags = options or source.options, tags or source.tags
        source = source.segments
    options, tags = options or TranscribeOptions(), tags or TAGS
    lines = (line for segment in source for line in _lines(segment, lang, style, options, tags))
    return "\n".join(filter(None, lines))


def _lines(
    segment: Segment, lang: str, style: str, options: TranscribeOptions, tags: tuple[Tag, ...]
) -> Iterator[str]:
    emotion = shown_emotion(segment, options, tags)
    lead = marker(emotion, style, lang, uncertain=segment.emotion_uncertain) if emotion else ""
    yield f"{lead} {segment.text}".strip()
    if event := shown_event(segment, options, tags):
        yield marker(event, style, lang)

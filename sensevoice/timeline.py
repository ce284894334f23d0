"""A transcript as a timeline to click: HTML whose every line knows the stretch of sound it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from sensevoice.strings import text
from sensevoice.tags import Tag, find_tag, label
from sensevoice.transcript import Gap, Segment, Transcript, shown_emotion, shown_event

MIN_GAP_S = 0.5  # a shorter pause is breath, not a passage that somebody could miss
MIN_MARK_PERCENT = 0.4  # a mark narrower than this cannot be hit


@dataclass(frozen=True)
class TagCount:
    """In how many segments a tag is shown; `kind` is "emotion" or "event"."""

    kind: str
    tag: Tag
    count: int


def tag_counts(transcript: Transcript) -> list[TagCount]:
    """The emotions, then the events that a reader is told of, the most frequent first."""
    options, tags = transcript.options, transcript.tags
    emotions = Counter(shown_emotion(segment, options, tags) for segment in transcript.segments)
    events = Counter(shown_event(segment, options, tags) for segment in transcript.segments)
    return [
        TagCount(kind, tag, count)
        for kind, counter in (("emotion", emotions), ("event", events))
        for tag, count in counter.most_common()
        if tag is not None
    ]


def timeline_html(transcript: Transcript, audio_path: str, lang: str) -> str:
    """The timeline of `transcript`; `audio_path` is what the page's script plays; "" without segments.

    Everything that can be played carries `data-start` and `data-end`, in seconds.
    """
    if not transcript.segments:
        return ""
    return (
        f'<section class="sv-timeline" data-audio="{escape(audio_path)}">'
        f"<header><h3>{_words('timeline.title', lang)}</h3><p>{_words('timeline.hint', lang)}</p></header>"
        f'<div class="sv-track" aria-hidden="true">{"".join(_marks(transcript))}</div>'
        f'<ol class="sv-lines">{"".join(_lines(transcript, lang))}</ol>'
        f'<p class="sv-unplayable" role="alert" hidden>{_words("timeline.unplayable", lang)}</p>'
        "</section>"
    )


def clock(seconds: float, *, tenths: bool = True) -> str:
    """A time of day of the recording: 0:04.2, 12:30.0, 1:02:03.4."""
    total_tenths = round(seconds * 10) if tenths else int(seconds) * 10
    minutes, rest = divmod(total_tenths, 600)
    second = f"{rest // 10:02d}.{rest % 10}" if tenths else f"{rest // 10:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second}" if hours else f"{minutes}:{second}"


def _words(key: str, lang: str, **values: object) -> str:
    return escape(text(key, lang, **values))


def _marks(transcript: Transcript) -> Iterator[str]:
    """The recording as a strip: a coloured mark for each segment, where it is."""
    whole = transcript.duration_s or transcript.segments[-1].end_s or 1.0
    for segment in transcript.segments:
        left = 100 * segment.start_s / whole
        width = max(100 * segment.duration_s / whole, MIN_MARK_PERCENT)
        data = f"{_span(segment)} {_mood(segment, transcript)}"
        place = f"left:{left:.2f}%;width:{width:.2f}%"
        yield f'<button type="button" tabindex="-1" class="sv-mark" {data} style="{place}"></button>'


def _lines(transcript: Transcript, lang: str) -> Iterator[str]:
    gaps = (gap for gap in transcript.skipped if gap.end_s - gap.start_s >= MIN_GAP_S)
    parts: list[Segment | Gap] = [*transcript.segments, *gaps]
    for part in sorted(parts, key=lambda part: (part.start_s, part.end_s)):
        yield _gap_line(part, lang) if isinstance(part, Gap) else _segment_line(part, transcript, lang)


def _segment_line(segment: Segment, transcript: Transcript, lang: str) -> str:
    words = f'<span class="sv-words">{escape(segment.text)}</span>' if segment.text else ""
    chips = "".join(_chips(segment, transcript, lang))
    body = f'<span class="sv-body">{words}<span class="sv-chips">{chips}</span></span>'
    return _line("sv-line", segment, _mood(segment, transcript), body, lang)


def _gap_line(gap: Gap, lang: str) -> str:
    body = f'<span class="sv-body"><span class="sv-words">{_words("timeline.skipped", lang)}</span></span>'
    return _line("sv-line sv-gap", gap, "", body, lang)


def _line(css_class: str, part: Segment | Gap, attributes: str, body: str, lang: str) -> str:
    start, end = clock(part.start_s), clock(part.end_s)
    return (
        f'<li><button type="button" class="{css_class}" {_span(part)} {attributes} aria-pressed="false">'
        f'<span class="sv-play" aria-hidden="true"></span>'
        f'<span class="sv-visually-hidden">{_words("timeline.play", lang, start=start, end=end)}</span>'
        f'<span class="sv-time" aria-hidden="true">{start}<i>–{end}</i></span>{body}</button></li>'
    )


def _span(part: Segment | Gap) -> str:
    return f'data-start="{part.start_s:.3f}" data-end="{part.end_s:.3f}"'


def _mood(segment: Segment, transcript: Transcript) -> str:
    """The emotion as an attribute, which the style sheet turns into a colour; none when uncertain."""
    emotion = shown_emotion(segment, transcript.options, transcript.tags)
    return f'data-emotion="{escape(emotion.token)}"' if emotion and not segment.emotion_uncertain else ""


def _chips(segment: Segment, transcript: Transcript, lang: str) -> Iterator[str]:
    """The tags of a line, each with its probability, and its runner-up on hovering."""
    if emotion := shown_emotion(segment, transcript.options, transcript.tags):
        scores = (segment.emotion_probability, segment.emotion_runner_up)
        yield _chip("emotion", emotion, scores, transcript, lang, uncertain=segment.emotion_uncertain)
    if event := shown_event(segment, transcript.options, transcript.tags):
        yield _chip("event", event, (segment.event_probability, segment.event_runner_up), transcript, lang)
    if segment.text and (spoken := find_tag(segment.language, transcript.tags)):
        scores = (segment.language_probability, segment.language_runner_up)
        yield _chip("language", spoken, scores, transcript, lang)


def _chip(
    kind: str,
    tag: Tag,
    scores: tuple[float, str | None],
    transcript: Transcript,
    lang: str,
    *,
    uncertain: bool = False,
) -> str:
    percent = f"{100 * scores[0]:.0f}"
    doubt = f" · {_words('timeline.uncertain', lang)}" if uncertain else ""
    return (
        f'<span class="sv-chip" data-kind="{kind}"{" data-uncertain" if uncertain else ""} '
        f'title="{_chances(tag, percent, scores[1], transcript, lang)}">'
        f"{escape(f'{tag.emoji} {tag.label(lang)}'.strip())} <small>{percent} %{doubt}</small></span>"
    )


def _chances(tag: Tag, percent: str, runner_up: str | None, transcript: Transcript, lang: str) -> str:
    if runner_up is None:
        return _words("timeline.probability", lang, label=tag.label(lang), percent=percent)
    second = label(runner_up, lang, transcript.tags)
    return _words("timeline.runner_up", lang, label=tag.label(lang), percent=percent, runner_up=second)

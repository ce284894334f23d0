"""A transcript written in each file format; the registry that the page, the service and the CLI share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from sensevoice.ctc import Token
from sensevoice.errors import UnknownFormatError
from sensevoice.subtitles import make_cues
from sensevoice.transcript import Segment, Transcript, labelled_text

PROBABILITY_DIGITS = 4


@dataclass(frozen=True)
class Exporter:
    """One format; `render` takes the transcript and the language of the labels, "zh" or "en"."""

    name: str
    suffix: str
    media_type: str
    render: Callable[[Transcript, str], str]


def export(transcript: Transcript, format_name: str, lang: str = "zh") -> str:
    """Render `transcript` in a format of `EXPORTERS`; UnknownFormatError if there is none of that name."""
    if format_name not in EXPORTERS:
        raise UnknownFormatError(format_name, EXPORTERS)
    return EXPORTERS[format_name].render(transcript, lang)


def _render_txt(transcript: Transcript, lang: str) -> str:
    return "".join(f"{line}\n" for line in labelled_text(transcript, lang).splitlines())


# JSON: also the shape of the service's replies ----------------------------------------------------


def to_dict(transcript: Transcript) -> dict[str, object]:
    """The transcript as JSON has it: seconds, tags by name, probabilities to four digits."""
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration_s": transcript.duration_s,
        "model": transcript.model,
        "options": _finite(asdict(transcript.options)),
        "segments": [segment_dict(segment) for segment in transcript.segments],
        "skipped": [{"start_s": gap.start_s, "end_s": gap.end_s} for gap in transcript.skipped],
    }


def segment_dict(segment: Segment) -> dict[str, object]:
    """One segment as JSON has it."""
    return {
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "text": segment.text,
        "language": segment.language,
        "language_probability": round(segment.language_probability, PROBABILITY_DIGITS),
        "language_runner_up": segment.language_runner_up,
        "emotion": segment.emotion,
        "emotion_probability": round(segment.emotion_probability, PROBABILITY_DIGITS),
        "emotion_runner_up": segment.emotion_runner_up,
        "event": segment.event,
        "event_probability": round(segment.event_probability, PROBABILITY_DIGITS),
        "event_runner_up": segment.event_runner_up,
        "tokens": [_token_dict(token) for token in segment.tokens],
    }


def _token_dict(token: Token) -> dict[str, object]:
    probability = round(token.probability, PROBABILITY_DIGITS)
    return {"text": token.text, "start_s": token.start_s, "end_s": token.end_s, "probability": probability}


def _finite(value: object) -> object:
    """Options as JSON can hold them, which knows no infinity: "no limit" is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _render_json(transcript: Transcript, lang: str) -> str:
    return json.dumps(to_dict(transcript), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


# Subtitles ----------------------------------------------------------------------------------------


def _render_srt(transcript: Transcript, lang: str) -> str:
    """SubRip has no escapes, so the words stand as they are."""
    blocks = (
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(make_cues(transcript, lang), start=1)
    )
    return "".join(f"{block}\n\n" for block in blocks)


def _render_vtt(transcript: Transcript, lang: str) -> str:
    """WebVTT, https://www.w3.org/TR/webvtt1/."""
    blocks = (
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n" + "\n".join(map(_vtt_text, cue.lines))
        for cue in make_cues(transcript, lang)
    )
    return "WEBVTT\n\n" + "".join(f"{block}\n\n" for block in blocks)


def _clock(time_ms: int, point: str) -> str:
    """`01:02:03,456`; hours go on past 99."""
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"


def _vtt_text(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # "-->" would end the cue


# Tables -------------------------------------------------------------------------------------------

_TSV_COLUMNS = ("start_ms", "end_ms", "language", "emotion", "event", "text")
_TSV_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _render_tsv(transcript: Transcript, lang: str) -> str:
    """A row for each segment, tags by name; a tab or line break in the text is escaped by a backslash."""
    rows = [_TSV_COLUMNS, *map(_tsv_row, transcript.segments)]
    return "".join("\t".join(row) + "\n" for row in rows)


def _tsv_row(segment: Segment) -> tuple[str, ...]:
    times = (str(round(time_s * 1000)) for time_s in (segment.start_s, segment.end_s))
    words = (segment.language, segment.emotion, segment.event, segment.text)
    return (*times, *(word.translate(_TSV_ESCAPES) for word in words))


EXPORTERS: dict[str, Exporter] = {
    exporter.name: exporter
    for exporter in (
        Exporter("txt", ".txt", "text/plain", _render_txt),
        Exporter("json", ".json", "application/json", _render_json),
        Exporter("srt", ".srt", "application/x-subrip", _render_srt),
        Exporter("vtt", ".vtt", "text/vtt", _render_vtt),
        Exporter("tsv", ".tsv", "text/tab-separated-values", _render_tsv),
    )
}

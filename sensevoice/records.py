"""A transcript as one string from which it can be had back; nothing is rounded, as exporters do."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from sensevoice.ctc import Token
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.tags import TAGS, Tag, TagKind
from sensevoice.transcript import Gap, Segment, Transcript


def to_record(transcript: Transcript) -> str:
    """`transcript` as compact JSON; the table of tags is left out where it is the usual one."""
    record = {field.name: getattr(transcript, field.name) for field in fields(transcript)}
    record["segments"] = [_segment_record(segment) for segment in transcript.segments]
    record["skipped"] = [(gap.start_s, gap.end_s) for gap in transcript.skipped]
    record["options"] = options_record(transcript.options)
    record["tags"] = None if transcript.tags == TAGS else [asdict(tag) for tag in transcript.tags]
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def from_record(record: str) -> Transcript:
    """The transcript of which `to_record` made `record`."""
    values: dict[str, Any] = json.loads(record)
    values["segments"] = tuple(_segment(**segment) for segment in values["segments"])
    values["skipped"] = tuple(Gap(*gap) for gap in values["skipped"])
    values["options"] = options_from_record(values["options"])
    values["tags"] = TAGS if values["tags"] is None else tuple(_tag(**tag) for tag in values["tags"])
    return Transcript(**values)


def options_record(options: TranscribeOptions) -> dict[str, Any]:
    """The options as JSON can hold them."""
    return asdict(options)


def options_from_record(values: dict[str, Any]) -> TranscribeOptions:
    """The options of which `options_record` made `values`; OptionError if they are none."""
    return TranscribeOptions(
        **{
            **values,
            "vad": VadOptions(**values["vad"]),
            "allowed_languages": tuple(values["allowed_languages"]),
        }
    )


def _segment_record(segment: Segment) -> dict[str, Any]:
    return {field.name: getattr(segment, field.name) for field in fields(segment)}


def _segment(tokens: list[list[Any]], **values: Any) -> Segment:
    return Segment(**values, tokens=tuple(Token(*token) for token in tokens))


def _tag(kind: str, aliases: list[str], **values: Any) -> Tag:
    return Tag(kind=TagKind(kind), aliases=tuple(aliases), **values)

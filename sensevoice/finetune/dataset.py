"""Training data as FunASR's JSON lines: one recording a line, with its words and tags.

    {"key": "a1", "source": "a1.wav", "source_len": 312, "target": "Good morning.", "target_len": 2,
     "text_language": "<|en|>", "emo_target": "<|HAPPY|>", "event_target": "<|Speech|>",
     "with_or_wo_itn": "<|withitn|>"}

`source_len` counts frames of 10 ms. FunASR drops what it cannot use and ends with "data is empty";
here every line at fault is named, with what is wrong and how to mend it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sensevoice.ctc import FRAME_MS
from sensevoice.errors import DatasetError
from sensevoice.tags import TagKind, find_tag

FEATURE_MS = 10
TAG_FIELDS = {  # the kinds are Example's field names, too
    "text_language": TagKind.LANGUAGE,
    "emo_target": TagKind.EMOTION,
    "event_target": TagKind.EVENT,
    "with_or_wo_itn": TagKind.NORMALISATION,
}
_TAG = re.compile(r"<\|([^<>|]+)\|>")
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\s぀-ヿ㐀-鿿가-힯]+")


@dataclass(frozen=True)
class Example:
    """One line; a tag is "" where the line does not say."""

    key: str
    source: Path
    target: str
    # tags, by their names
    language: str = ""
    emotion: str = ""
    event: str = ""
    normalisation: str = ""
    # lengths
    source_len: int = 0  # frames of 10 ms; 0 if unknown
    target_len: int = 0  # words and characters


@dataclass(frozen=True)
class Problem:
    """A line that cannot be used, counted from 1, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


Encode = Callable[[str], Sequence[int]]


def read_examples(path: Path, encode: Encode | None = None) -> list[Example]:
    """All lines of a file; DatasetError names every line at fault, or says that there is none.

    A relative `source` counts from the file's folder. With `encode` (a vocabulary's), texts that have
    more tokens than their sound has frames are found, too.
    """
    examples, problems = check_examples(path, encode)
    if problems:
        raise DatasetError(str(path), [str(problem) for problem in problems])
    if not examples:
        raise DatasetError(str(path), ["it holds no line"])
    return examples


def check_examples(path: Path, encode: Encode | None = None) -> tuple[list[Example], list[Problem]]:
    """The usable lines of a file, and what is wrong with the others; DatasetError if it is no text file."""
    examples: list[Example] = []
    problems: list[Problem] = []
    keys: dict[str, int] = {}
    for number, row in _rows(path):
        try:
            example = _example(row, path.parent)
            _check_key(example.key, number, keys)
            _check_room(example, encode)
        except ValueError as error:
            problems.append(Problem(number, str(error)))
        else:
            examples.append(example)
    return examples, problems


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write FunASR's JSON lines; sources in or below the file's folder are written relative to it."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(_row(example, path.parent), ensure_ascii=False) + "\n")


def count_words(text: str) -> int:
    """Words of spaced scripts plus characters of Chinese, Japanese and Korean."""
    return len(_WORD.findall(text))


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(str(path), [f"it cannot be read ({error.strerror})"]) from error
    except UnicodeDecodeError as error:
        raise DatasetError(str(path), [f"it is no UTF-8 text (byte {error.start})"]) from error
    yield from ((number, row) for number, row in enumerate(text.split("\n"), 1) if row.strip())


def _example(row: str, folder: Path) -> Example:
    content = _content(row)
    tags = {name: _tag(content, name, kind) for name, kind in TAG_FIELDS.items()}
    source, target = folder / _text(content, "source"), _text(content, "target", empty=True).strip()
    if not source.is_file():
        raise ValueError(f"there is no file {str(source)!r}")
    if not target and tags["text_language"] != "nospeech" and tags["event_target"] in ("", "Speech"):
        raise ValueError(
            'target is empty: write what is said, or, if nobody speaks, "text_language": "<|nospeech|>"'
        )
    if _TAG.search(target):
        raise ValueError("target holds a tag: tags have fields of their own")
    return Example(
        key=str(content.get("key", source.stem)),
        source=source,
        target=target,
        source_len=_length(content, "source_len"),
        target_len=_length(content, "target_len"),
        **{kind.value: tags[name] for name, kind in TAG_FIELDS.items()},
    )


def _content(row: str) -> dict[str, Any]:
    try:
        content = json.loads(row)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _text(content: dict[str, Any], name: str, *, empty: bool = False) -> str:
    if name not in content:
        raise ValueError(f"{name} is missing")
    value = content[name]
    if not isinstance(value, str) or not (value.strip() or empty):
        raise ValueError(f"{name} must be a text, not {json.dumps(value, ensure_ascii=False)}")
    return value


def _tag(content: dict[str, Any], name: str, kind: TagKind) -> str:
    if name not in content:
        return ""
    match = _TAG.fullmatch(_text(content, name).strip())
    if not match:
        raise ValueError(f'{name} must be written like "<|zh|>", not {content[name]!r}')
    tag = find_tag(match[1])
    if not (tag and tag.kind is kind) and not match[1].startswith("SPECIAL_TOKEN_"):
        raise ValueError(f"{name} is {match[0]}, which is no {kind.value} tag")
    return tag.token if tag else match[1]


def _length(content: dict[str, Any], name: str) -> int:
    value = content.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number, not {json.dumps(value, ensure_ascii=False)}")
    return value


def _check_key(key: str, number: int, keys: dict[str, int]) -> None:
    if key in keys:
        raise ValueError(f"its key {key!r} is that of line {keys[key]}, too")
    keys[key] = number


def _check_room(example: Example, encode: Encode | None) -> None:
    """CTC needs a frame for each token, and a blank one between two that are equal."""
    if encode is None or not example.source_len:
        return
    ids = list(encode(example.target))
    needed = len(ids) + sum(a == b for a, b in pairwise(ids))
    length_ms, needed_ms = example.source_len * FEATURE_MS, needed * FRAME_MS
    if needed_ms > length_ms + FRAME_MS:
        raise ValueError(
            f"its {length_ms / 1000:g} s are too short for its text, which needs {needed_ms / 1000:g} s: "
            "the text may be another recording's, or source_len may be wrong (it counts 10 ms)"
        )


def _row(example: Example, folder: Path) -> dict[str, Any]:
    inside = example.source.is_relative_to(folder)
    tags = {name: getattr(example, kind.value) for name, kind in TAG_FIELDS.items()}
    return {
        "key": example.key,
        "source": str(example.source.relative_to(folder) if inside else example.source),
        "source_len": example.source_len,
        "target": example.target,
        "target_len": example.target_len,
        **{name: f"<|{tag}|>" for name, tag in tags.items() if tag},
    }

"""What is said in the game "Flight of the Amazon Queen": sentences out of its archive, and the recording of each.

The archive `queen.1c` is a table of files, then the files. Dialogues (.DOG), scenes (.CUT) and the hero's remarks
(QUEEN2.JAS) hold sentences; commands in them (`*` and two characters: faces, pauses, walks) part a sentence, and each
part has a voice file of its own, whose name follows from the sentence's place. Numbers are big-endian.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QTBL"
COUNT_AT, TABLE_AT = 13, 15
ENTRY = struct.Struct(">12sBII")  # name, number of the archive, offset, bytes
HEADER = 20  # bytes before what counts in a dialogue or a scene
TREE_AT, LEVEL_BYTES = 32, 96  # a dialogue's tree of answers; the hero's sentences follow it
POINTERS_AT = 22  # to the other person's sentences, to what follows, to what is said at the second meeting
FIRST_REMARK = 41  # the number of the voice file that the first line of the remarks has
COMMAND = re.compile(r"\*(?:XY\d\d\(\d+,\d+\)|[A-Z0-9]{2})")
ENCODING = "cp437"
LAUGHTER = re.compile(r"(?i)(?:n?ya+h?,? )?(?:h(?:a+|e+|u+)h?r*\b[ ,.!?]*){2,}")
SNEEZE = "<sneeze>"


class NotQueenError(ValueError):
    """The file is not the rebuilt archive of the game."""


@dataclass(frozen=True)
class Archive:
    """The files in queen.1c by name, in capitals."""

    files: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> Archive:
        """Raises NotQueenError if it is another file."""
        data = path.read_bytes()
        if not data.startswith(MAGIC):
            raise NotQueenError(f"{path.name} does not begin with {MAGIC!r}")
        (count,) = struct.unpack_from(">H", data, COUNT_AT)
        table = data[TABLE_AT : TABLE_AT + count * ENTRY.size]
        return cls(
            {
                name.rstrip(b"\0").decode(ENCODING): data[start : start + size]
                for name, _, start, size in ENTRY.iter_unpack(table)
            }
        )

    def spoken(self) -> dict[str, str]:
        """What is said in each voice file that a sentence names, by its name."""
        said: dict[str, str] = {}
        for name, data in self.files.items():
            for prefix, sentence in _sentences(name, data):
                said |= _parts(prefix, sentence)
        return {name: text for name, text in said.items() if name in self.files}

    def events(self) -> dict[str, str]:
        """What is heard in the voice files whose sentence is no speech, "laughter" or "sneeze", by its name."""
        return {name: event for name, text in self.spoken().items() if (event := _event(text))}


def _event(text: str) -> str:
    return "laughter" if LAUGHTER.fullmatch(text) else "sneeze" if text == SNEEZE else ""


def _sentences(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Sentences with the beginning of their voice files' names."""
    if name.endswith(".DOG"):
        yield from _dialogue(data[HEADER:])
    elif name.endswith(".CUT"):
        yield from _scene(name.removesuffix(".CUT"), data[HEADER:])
    elif name == "QUEEN2.JAS":
        for number, line in enumerate(data.decode(ENCODING).split("\r\n"), FIRST_REMARK):
            yield f"JOE{number:04}", line


def _dialogue(data: bytes) -> Iterator[tuple[str, str]]:
    levels, _, key, heros, others = struct.unpack_from(">5h", data)
    person, _, later = struct.unpack_from(">3H", data, POINTERS_AT)
    hero = TREE_AT + LEVEL_BYTES * abs(levels)
    if not _number(data, hero + 2):  # what the hero begins with
        yield f"{key:2}SSSSJ", _string(data, hero + 4)[0]
    for who in "PJ":
        sentence, later = _string(data, later)
        yield f"{key:2}XXXX{who}", sentence
    for who, at, count in (("J", hero, heros), ("P", person, others)):
        for _ in range(count):
            number = _number(data, at + 2)
            sentence, at = _string(data, at + 4, align=4)
            yield f"{key:2}{number:4x}{who}", sentence


def _scene(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    count, at = abs(struct.unpack_from(">h", data, 2)[0]), _number(data, 8)
    _, at = _string(data, at)  # how the hero stands
    for number in range(1, count + 1):
        if at >= len(data):
            break
        sentence, at = _string(data, at)
        yield f"{name:_<5}{number:02}", sentence


def _parts(prefix: str, sentence: str) -> dict[str, str]:
    """The parts of a sentence between commands, by voice file."""
    start = prefix.replace(" ", "0").upper()
    parts = enumerate(COMMAND.split(sentence), 1)
    return {f"{start}{number:X}.SB": part.strip() for number, part in parts if part.strip()}


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _string(data: bytes, at: int, align: int = 2) -> tuple[str, int]:
    """The string at this place, led by its length, and the place after it; an empty one is not aligned."""
    first, length = at + 1, data[at]
    end = first + length
    return data[first:end].decode(ENCODING), -(-end // align) * align if length else first

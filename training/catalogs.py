"""Sentences out of gettext catalogues (.mo): what programs and games say, in English and in translation."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

MAGIC = 0x950412DE  # of a little-endian catalogue (GNU gettext manual, "The Format of GNU MO Files")
HEADER = "<7I"
MARKUP = re.compile(r"<[^>]*>|\(\s*[_&]\w\)|\[[^\]]*\]|[_&~](?=\w)|[\"“”„「」『』《》«»*]")
ASIDE = re.compile(r" ?[(（][^()（）]*[)）]")
BREAK = re.compile(r"\s*(?:\.{2,}|…+|—+| - |--+)\s*")
ENDS = " ,，、;；-:：\n"


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Each message of a catalogue and its translation; of several plural forms the first."""
    data = path.read_bytes()
    magic, _, count, originals, translations, _, _ = struct.unpack_from(HEADER, data)
    if magic != MAGIC:
        return
    for index in range(count):
        original = _string(data, originals + 8 * index).rpartition("\x04")[2]  # after its context
        if original:
            yield original, _string(data, translations + 8 * index)


def _string(data: bytes, entry: int) -> str:
    length, offset = struct.unpack_from("<2I", data, entry)
    return data[offset : offset + length].decode("utf-8", "ignore").partition("\0")[0]


def catalogues(directories: Iterable[Path], locale: str) -> list[Path]:
    """The catalogues of a locale ("zh_CN") in packages, in order."""
    found = (path for directory in directories for path in directory.rglob(f"{locale}/LC_MESSAGES/*.mo"))
    return sorted(found)


def unmarked(message: str) -> str:
    """A message without tags, access keys, quotation marks and asides; dots and dashes become commas."""
    text = ASIDE.sub("", MARKUP.sub("", message.replace("\\n", " ")))
    return BREAK.sub(", ", re.sub(r"\s+", " ", text)).strip(ENDS)

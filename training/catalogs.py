"""Sentences out of gettext catalogues (.mo): what programs and games say, in English and in translation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import polib

MARKUP = re.compile(r"<[^>]*>|\(\s*[_&]\w\)|\[[^\]]*\]|[_&~](?=\w)|[\"“”„「」『』《》«»*]")
ASIDE = re.compile(r" ?[(（][^()（）]*[)）]")
BREAK = re.compile(r"\s*(?:\.{2,}|…+|—+| - |--+)\s*")
ENDS = " ,，、;；-:：\n"


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Each message of a catalogue and its translation; of several plural forms the first."""
    for entry in polib.mofile(str(path)):
        yield entry.msgid, entry.msgstr or entry.msgstr_plural[0]


def catalogues(directories: Iterable[Path], locale: str) -> list[Path]:
    """The catalogues of a locale ("zh_CN") in packages, in order."""
    found = (path for directory in directories for path in directory.rglob(f"{locale}/LC_MESSAGES/*.mo"))
    return sorted(found)


def unmarked(message: str) -> str:
    """A message without tags, access keys, quotation marks and asides; dots and dashes become commas."""
    text = ASIDE.sub("", MARKUP.sub("", message.replace("\\n", " ")))
    return BREAK.sub(", ", re.sub(r"\s+", " ", text)).strip(ENDS)

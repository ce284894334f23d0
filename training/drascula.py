"""What is said in the game "Drascula: The Vampire Strikes Back", in English: its sentences, and the recording of each.

`drascula.dat` has tables of the program ScummVM, then tables of sentences in six languages. The voice of sentence n is
the file n.ALS beside it, with the letters of the one who speaks before n: 8-bit PCM at 11,025 Hz. Numbers are
big-endian. The layout is known from ScummVM (engines/drascula: drascula.cpp, talk.cpp, sound.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"DRASCULA\x06"
ROW_BYTES = (4, 4, 4, 2, 4, 2, 4, 2, 2, 20, 20, 10, 8)  # of each of the program's tables
SPEAKERS = ("", "D", "B", "BJ", "E", "I", "L", "P", "T", "VB")  # in the order of the tables; "" is the hero
PADDING = 2  # bytes before the sentences of a language
NAMES = (
    "Alucsard", "B", "Billie", "Billy", "BJ", "Braun", "Brinner", "British", "Christmas", "Constantino", "Danube",
    "Desiderio", "Drascula", "Elvis", "Emilio", "Emma", "Evaristo", "Fernan", "Fernando", "Frank", "French",
    "Fruskynstein", "Ganimedes", "Garcia", "Gibraltar", "God", "Hacker", "Hamlet", "I", "Igor", "J", "Japanese",
    "Jean", "Jesus", "John", "Johnny", "Kleenex", "Lancha", "London", "Miguel", "Mr", "OK", "Oxford", "Paz",
    "Pelayo", "Plato", "Superman", "Tchaikovsky", "Tibet", "Transilvania", "Transilvanian", "TV", "Von", "Woody",
    "Yoda", "Yule",
)  # fmt: skip
# Voices in which Whisper-base hears other words than the sentence's in more than one of three places: mostly the actor
# says it another way.
_OFF_SCRIPT = {
    "": (8, 17, 22, 28, 32, 42, 50, 55, 58, 117, 120, 122, 124, 126, 136, 138, 140, 144, 147, 149, 152, 153,
        156, 164, 169, 174, 176, 178, 179, 182, 192, 199, 205, 207, 211, 213, 214, 221, 222, 235, 244, 249,
        254, 255, 256, 257, 258, 259, 264, 265, 270, 278, 281, 282, 285, 290, 295, 306, 317, 321, 336, 342,
        343, 347, 353, 362, 367, 368, 369, 370, 372, 373, 377, 379, 382, 396, 397, 398, 406, 410, 411, 420,
        425, 430, 434, 447, 448, 449, 452, 461, 472, 478, 487, 489, 490, 497),
    "B": (2, 5, 11, 13),
    "BJ": (13, 17),
    "D": (4, 13, 16, 21, 25, 26, 28, 39, 56, 58, 65, 67, 70, 78, 82),
    "E": (2, 3, 8, 10, 14, 18),
    "I": (4, 5, 8, 14, 17, 19),
    "L": (2, 4, 7, 12, 27),
    "P": (8, 10),
    "T": (1, 4, 5, 6, 9, 11, 12, 16, 21),
    "VB": (1, 2, 5, 17, 27, 33, 39, 43, 47, 49, 50),
}  # fmt: skip
OFF_SCRIPT = frozenset(f"{speaker}{n}.ALS" for speaker, own in _OFF_SCRIPT.items() for n in own)
MARKS = re.compile(r"([?!])[?!.]+")
SOUND_RATE = 11_025
HEADER, TRAILER = 32, 32  # bytes around a voice's samples


class NotDrasculaError(ValueError):
    """The file is not the game's table of sentences, or of another version."""


@dataclass(frozen=True)
class Game:
    """The sentences by the names of their voice files, and the folder of those."""

    sentences: dict[str, str]
    folder: Path

    @classmethod
    def read(cls, table: Path) -> Game:
        """Read drascula.dat; raises NotDrasculaError if it is another file."""
        data = table.read_bytes()
        if not data.startswith(MAGIC):
            raise NotDrasculaError(f"{table.name} does not begin with {MAGIC!r}")
        return cls(dict(_named(_tables(data))), table.parent)

    def spoken(self) -> dict[str, str]:
        """What is said in each voice file that a sentence names, by its name; all in capitals."""
        return {name: text for name, text in self.sentences.items() if (self.folder / name).exists()}

    def voice(self, name: str) -> bytes:
        """The recording: a byte a sample, 11,025 Hz."""
        return (self.folder / name).read_bytes()[HEADER:-TRAILER]


def _named(tables: Iterator[list[str]]) -> Iterator[tuple[str, str]]:
    for speaker, sentences in zip(SPEAKERS, tables, strict=False):
        yield from ((f"{speaker}{number}.ALS", _ended(text)) for number, text in enumerate(sentences))


def _ended(text: str) -> str:
    """The sentence with one mark at an end, and a full stop where it has none."""
    text = MARKS.sub(r"\1", text.strip())
    return f"{text}." if text[-1:].isalpha() else text


def _tables(data: bytes) -> Iterator[list[str]]:
    """The tables of sentences in the first language, which is English, in turn."""
    at = len(MAGIC)
    for size in ROW_BYTES:
        at += 2 + _number(data, at) * size
    languages = _number(data, at)
    at += 2
    while at < len(data):
        count = _number(data, at)
        at += 2
        yield _strings(data[at + 2 :], count)
        for _ in range(languages):
            at += 2 + _number(data, at)


def _strings(data: bytes, count: int) -> list[str]:
    """So many strings, each led by its bytes (these two with it) and ended by a zero."""
    strings, at = [], PADDING
    for _ in range(count):
        end = at + _number(data, at)
        strings.append(data[at + 2 : end].partition(b"\0")[0].decode("latin-1"))
        at = end
    return strings


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")

"""What is said in the game "Beneath a Steel Sky" (CD, version 0.0372): its sentences, and the recording of each.

`sky.dnr` lists the files in `sky.dsk` by number. A section's sentences are one file, all in one Huffman code. Sentence
k of section s has number s << 12 | k, and its voice is the file k files after the section's first one: 8-bit PCM at
11,025 Hz, packed or not. Numbers are little-endian. The layout, the numbers of the files and the code are known from
ScummVM (engines/sky: disk.cpp, text.cpp, hufftext.cpp, sound.cpp, logic.cpp).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from training import rnc

FAR, FAR_UNIT = 1 << 23, 16  # an offset with this bit counts in such units
SIZE_MASK = (1 << 22) - 1
TEXTS = 60600
FIRST_VOICES = (50000, 50600, 51100, 52430, 53380, 54530, 55080, 55230)  # of each section
SOUND_RATE = 11_025
HEADER = 22  # bytes before a voice
BLOCK = 32  # sentences
NAMES = (
    "Anita", "Babs", "Belle", "Blunt", "Burke", "Chutney", "Colston", "D", "Danielle", "Dr", "Eduardo", "Foster",
    "Gallagher", "Gilbert", "God", "Greaves", "Hobart", "Hobbins", "I", "ID", "Joey", "Kansas", "Ken", "Lamb",
    "Linc", "Mr", "Mrs", "Nora", "OK", "Overmann", "Piermont", "Potts", "Reich", "Rob", "Robert", "Schriebmann",
    "Spunky", "Stefan", "Stephen", "Steven", "TV", "Vincent", "Vue", "Walter", "X",
)  # fmt: skip
# The Huffman tree, branches (|) before their leaves, zeros left; · are letters that English does without.
TREE = (
    "||| |ea|||os|tn||.ir|||||\0Eu|mA|||lI|dR||NST|||||Ohc|Dg|||LC|pU||!yM|||||PvH|?b|||'f,|GB"
    "|||||VkF|qw|||K-W|J*||||zY|j+|||Q·)||Z·<|||||···|·:|||·]#||xX·|||||·`2||0·1|||/("
    '=|·^||||39|·4|||}8\\|"·||||&·|56||··|··||||·7·||··|$@||||[·_|>·|||·%\t||··|{|·!'
)
Tree = str | tuple["Tree", "Tree"]


class NotSteelSkyError(ValueError):
    """The file is not the game's list of files."""


@dataclass(frozen=True)
class Game:
    """The game's files by number, as they lie on its disk."""

    files: dict[int, bytes]

    @classmethod
    def read(cls, listed: Path) -> Game:
        """Read sky.dnr and sky.dsk beside it; raises NotSteelSkyError if the first is another file."""
        table = listed.read_bytes()
        if len(table) < 4 or len(table) != 4 + 8 * int.from_bytes(table[:4], "little"):
            raise NotSteelSkyError(f"{listed.name} is not as long as a list of the files it names")
        disk = listed.with_suffix(".dsk").read_bytes()
        return cls(dict(_file(disk, table[at : at + 8]) for at in range(4, len(table), 8)))

    def spoken(self) -> dict[int, str]:
        """The sentences that are said, by their numbers."""
        return {
            section << 12 | line: text
            for section, first in enumerate(FIRST_VOICES)
            for line, text in enumerate(_sentences(self.files.get(TEXTS + section, b"")))
            if first + line in self.files
        }

    def voice(self, number: int) -> bytes:
        """The recording of this sentence: a byte a sample, 11,025 Hz."""
        data = self.files[FIRST_VOICES[number >> 12] + (number & 0xFFF)][HEADER:]
        return rnc.unpack(data) if data.startswith(rnc.MAGIC) else data


def _file(disk: bytes, entry: bytes) -> tuple[int, bytes]:
    """The number and the bytes of a file."""
    number = int.from_bytes(entry[:2], "little")
    at, size = (int.from_bytes(entry[start : start + 3], "little") for start in (2, 5))
    if at & FAR:
        at = (at ^ FAR) * FAR_UNIT
    return number, disk[at : at + (size & SIZE_MASK)]


def _sentences(data: bytes) -> Iterator[str]:
    """All sentences of a section in turn; none of an empty file."""
    if not data:
        return
    lengths, texts = struct.unpack_from("<2H", data)
    blocks = struct.unpack_from(f"<{(lengths - 4) // 2}H", data, 4)  # pairs of bits in each
    for start, at in zip(range(lengths, texts, BLOCK), accumulate(blocks, initial=0), strict=False):
        for length in data[start : min(start + BLOCK, texts)]:
            yield _sentence(data, texts * 8 + at * 2)
            at += (length & 0x7F) << 3 if length & 0x80 else length


def _sentence(data: bytes, bit: int) -> str:
    """The sentence that begins at this bit, up to its zero."""
    text = ""
    while not text.endswith("\0"):
        node = _tree()
        while not isinstance(node, str):
            node = node[data[bit >> 3] >> (7 - bit % 8) & 1]
            bit += 1
        text += node
    return text[:-1]


@cache
def _tree() -> Tree:
    return _branch(iter(TREE))


def _branch(nodes: Iterator[str]) -> Tree:
    node = next(nodes)
    return (_branch(nodes), _branch(nodes)) if node == "|" else node

"""Rob Northen's compression, method 1, which games of the nineties have: runs of bytes, and copies of what came before.

After "RNC" and 1 come the unpacked and the packed length (big-endian), two checksums, and the number of blocks. A block
holds three Huffman tables (lengths of runs, distances and lengths of copies), a count, and so many pairs of a run
and a copy, the last without its copy. Bits are read from 16-bit little-endian words, lowest first; bytes of runs lie
between the words. The layout is known from ScummVM (engines/sky/rnc_deco.cpp).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = b"RNC\1"
HEADER = struct.Struct(">4sIIHHBB")  # magic, unpacked and packed bytes, two checksums, leeway, blocks
LONGEST_CODE = 16
SHORTEST_COPY = 2


class NotRncError(ValueError):
    """The data are not packed in this way, or damaged."""


def unpack(data: bytes) -> bytes:
    """The unpacked data; raises NotRncError."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise NotRncError(f"the data do not begin with {MAGIC!r}")
    _, length, _, _, _, _, blocks = HEADER.unpack_from(data)
    source, out = _Source(data, HEADER.size), bytearray()
    try:
        source.bits(2)  # whether it is locked or has a key: neither matters here
        for _ in range(blocks):
            _unpack_block(source, out)
    except (KeyError, IndexError) as error:
        raise NotRncError("the packed data are damaged") from error
    if len(out) != length:
        raise NotRncError(f"the packed data hold {len(out)} bytes and not {length}")
    return bytes(out)


Table = dict[tuple[int, int], int]  # (bits, code) to value


@dataclass
class _Source:
    data: bytes
    place: int
    waiting: int = field(default=0, init=False)  # bits that were read, the next one lowest
    count: int = field(default=0, init=False)

    def bits(self, count: int) -> int:
        while self.count < count:
            word = self.data[self.place : self.place + 2]  # the last one may be half a word
            self.waiting |= int.from_bytes(word, "little") << self.count
            self.place += 2
            self.count += 16
        value = self.waiting & ((1 << count) - 1)
        self.waiting >>= count
        self.count -= count
        return value

    def run(self, length: int) -> bytes:
        run = self.data[self.place : self.place + length]
        self.place += length
        return run

    def table(self) -> Table:
        """A canonical Huffman code out of the lengths of its codes."""
        lengths = [self.bits(4) for _ in range(self.bits(5))]
        table: Table = {}
        code = 0
        for length in range(1, LONGEST_CODE):
            for value, bits in enumerate(lengths):
                if bits == length:
                    table[length, code] = value
                    code += 1
            code <<= 1
        return table

    def number(self, table: Table) -> int:
        """A number whose count of bits is coded; its highest bit is not written."""
        length, code = 1, self.bits(1)
        while (length, code) not in table:
            if length == LONGEST_CODE:
                raise KeyError(code)
            length, code = length + 1, code << 1 | self.bits(1)
        size = table[length, code]
        return size if size < 2 else 1 << (size - 1) | self.bits(size - 1)


def _unpack_block(source: _Source, out: bytearray) -> None:
    runs, distances, lengths = source.table(), source.table(), source.table()
    for left in range(source.bits(16) - 1, -1, -1):
        out += source.run(source.number(runs))
        if left:
            _copy(out, source.number(distances) + 1, source.number(lengths) + SHORTEST_COPY)


def _copy(out: bytearray, distance: int, length: int) -> None:
    """Repeat what lies so far back, which may still be being written."""
    for _ in range(length):
        out.append(out[-distance])

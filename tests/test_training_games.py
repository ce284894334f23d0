"""What is said in Beneath a Steel Sky and in Drascula, out of small files made up in the games' formats."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from training import drascula, rnc, steel_sky
from training.lines import recorded_lines
from training.recorded_speech import pack_speech, small


class Packer:
    """Bits in words that lie where the first of them is needed, and bytes between."""

    def __init__(self) -> None:
        self.out, self.word, self.free = bytearray(), 0, 0

    def bits(self, value: int, count: int) -> None:
        for place in range(count):
            if not self.free:
                self.word, self.free = len(self.out), 16
                self.out += b"\0\0"
            used = 16 - self.free
            self.out[self.word + used // 8] |= (value >> place & 1) << used % 8
            self.free -= 1

    def number(self, value: int) -> None:
        size = value.bit_length()  # its code, as all sixteen have four bits
        for place in (3, 2, 1, 0):
            self.bits(size >> place & 1, 1)
        self.bits(value, max(size - 1, 0))

    def block(self, pairs: Sequence[tuple[bytes, int, int]]) -> None:
        """Runs, each with the distance and the length of the copy after it; the last has none."""
        for _ in range(3):
            self.bits(16, 5)
            for _ in range(16):
                self.bits(4, 4)
        self.bits(len(pairs), 16)
        for index, (run, distance, length) in enumerate(pairs):
            self.number(len(run))
            self.out += run
            if index < len(pairs) - 1:
                self.number(distance - 1)
                self.number(length - 2)


def packed(blocks: Sequence[Sequence[tuple[bytes, int, int]]], length: int) -> bytes:
    packer = Packer()
    packer.bits(0, 2)
    for block in blocks:
        packer.block(block)
    return struct.pack(">4sIIHHBB", b"RNC\1", length, len(packer.out), 0, 0, 0, len(blocks)) + packer.out


def test_runs_and_copies_are_unpacked() -> None:
    blocks = [[(b"abc", 3, 7), (b"", 1, 2), (b"X", 0, 0)], [(b"Y" * 300, 0, 0)]]
    assert rnc.unpack(packed(blocks, 313)) == b"abcabcabca" + b"aa" + b"X" + b"Y" * 300


@pytest.mark.parametrize("data", [
    b"RNC\2 and more than a header", b"RNC\1", packed([[(b"abc", 0, 0)]], 4),
    packed([[(b"a", 5, 2), (b"", 0, 0)]], 3), rnc.HEADER.pack(rnc.MAGIC, 9, 1, 0, 0, 0, 1) + b"\0\0",
])  # fmt: skip
def test_other_and_damaged_data_are_refused(data: bytes) -> None:
    with pytest.raises(rnc.NotRncError):
        rnc.unpack(data)


def letters(nodes: Iterator[str], code: str = "") -> dict[str, str]:
    """The codes of the letters under the next node."""
    node = next(nodes)
    return {**letters(nodes, code + "0"), **letters(nodes, code + "1")} if node == "|" else {node: code}


CODES = letters(iter(steel_sky.TREE))


def section(sentences: Sequence[str]) -> bytes:
    """A file of sentences: pairs of bits before each 32, lengths of all in pairs of bits, the bits."""
    bits, lengths, blocks = "", b"", [0]
    for index, sentence in enumerate(sentences):
        own = "".join(CODES[letter] for letter in sentence + "\0")
        own += "0" * (-len(own) % (2 if len(own) < 256 else 16))
        pairs = len(own) // 2
        lengths += bytes([pairs if pairs < 128 else 128 | pairs >> 3])
        if index % 32 == 0:
            blocks.append(0)
        blocks[-1] += pairs
        bits += own
    table = struct.pack(f"<{len(blocks) - 2}H", *blocks[1:-1])
    head = struct.pack("<2H", 4 + len(table), 4 + len(table) + len(lengths))
    bits += "0" * (-len(bits) % 8)
    return head + table + lengths + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def hum(seconds: float) -> bytes:
    """8-bit samples at 11,025 Hz."""
    return bytes((128 + 100 * np.sin(np.arange(int(11_025 * seconds)) * 0.3)).astype(np.uint8))


def steel_sky_files(folder: Path) -> Path:
    """sky.dnr, whose sky.dsk has one file far within."""
    voice = hum(1.0)
    sentences = [
        "What a DAY!",
        "I'm Mrs LAMB. HELLO.",
        *["Nobody says this."] * 31,
        "What now, " * 20 + "Joey?",
    ]
    files = {
        60600: section(sentences),
        60601: section(["ROUTINE inspection - of LINC..."]),
        50000: bytes(22) + voice,
        50001: bytes(22) + packed([[(voice[:9000], 0, 0)], [(voice[9000:], 0, 0)]], len(voice)),
        50033: bytes(22) + voice,
        50600: bytes(22) + voice * 2,
    }
    table, disk = b"", b""
    for number, data in files.items():
        far = number == 50600
        disk += bytes(-len(disk) % 16 if far else 0)
        at = 1 << 23 | len(disk) // 16 if far else len(disk)
        table += (
            struct.pack("<H", number) + at.to_bytes(3, "little") + (len(data) | 1 << 22).to_bytes(3, "little")
        )
        disk += data
    folder.mkdir(parents=True)
    (folder / "sky.dnr").write_bytes(struct.pack("<I", len(files)) + table)
    (folder / "sky.dsk").write_bytes(disk)
    return folder / "sky.dnr"


def test_sentences_that_have_a_voice_are_read_with_it(tmp_path: Path) -> None:
    game = steel_sky.Game.read(steel_sky_files(tmp_path / "game"))
    assert game.spoken() == {
        0: "What a DAY!",
        1: "I'm Mrs LAMB. HELLO.",
        33: "What now, " * 20 + "Joey?",
        0x1000: "ROUTINE inspection - of LINC...",
    }
    assert {number: len(game.voice(number)) for number in game.spoken()} == {
        **dict.fromkeys((0, 1, 33), 11_025),
        0x1000: 22_050,
    }
    assert game.voice(1) == game.voice(0) == hum(1.0)


def test_another_file_is_not_the_list_of_the_game(tmp_path: Path) -> None:
    (tmp_path / "sky.dnr").write_bytes(b"something else")
    with pytest.raises(steel_sky.NotSteelSkyError, match=r"sky\.dnr"):
        steel_sky.Game.read(tmp_path / "sky.dnr")


def texts(sentences: Sequence[str]) -> bytes:
    data = b"\0\0" + b"".join(struct.pack(">H", len(text) + 3) + text.encode() + b"\0" for text in sentences)
    return struct.pack(">H", len(data)) + data


def drascula_files(folder: Path) -> Path:
    """drascula.dat in two languages, and voices of the hero and of B."""
    rows = b"".join(struct.pack(">H", 1) + bytes(size) for size in drascula.ROW_BYTES)
    said = [["", "NOT REALLY", "WHY?!. WHAT... NOW"], ["UNSAID"], ["", "I'M BILLY. COME ON, IGOR"]]
    tables = b"".join(struct.pack(">H", len(own)) + texts(own) + texts(["¿QUÉ?"]) for own in said)
    folder.mkdir(parents=True)
    (folder / "drascula.dat").write_bytes(drascula.MAGIC + rows + struct.pack(">H", 2) + tables)
    for name in ("1", "2", "B1", "S1"):
        (folder / f"{name}.ALS").write_bytes(bytes(32) + hum(1.5) + bytes(32))
    return folder / "drascula.dat"


def test_sentences_of_drascula_belong_to_their_voice_files(tmp_path: Path) -> None:
    game = drascula.Game.read(drascula_files(tmp_path / "game"))
    assert game.spoken() == {
        "1.ALS": "NOT REALLY.",
        "2.ALS": "WHY? WHAT... NOW.",
        "B1.ALS": "I'M BILLY. COME ON, IGOR.",
    }
    assert game.voice("B1.ALS") == hum(1.5)


def test_another_file_is_not_the_table_of_drascula(tmp_path: Path) -> None:
    (tmp_path / "drascula.dat").write_bytes(b"DRASCULA\x04")
    with pytest.raises(drascula.NotDrasculaError, match=r"drascula\.dat"):
        drascula.Game.read(tmp_path / "drascula.dat")


@pytest.mark.parametrize(
    ("stressed", "text"),
    [
        ("Do you KNOW who I AM, lad?", "Do you know who I am, lad?"),
        ("HEY! THAT'S MRS LAMB'S CARD. A... WHAT?", "Hey! That's Mrs Lamb's card. A... what?"),
        ("It's an ID card. DON'T you SEE?", "It's an ID card. Don't you see?"),
        ("I've met McAdam and Kens.", "I've met McAdam and Kens."),
    ],
)
def test_capitals_are_left_to_names_and_beginnings(stressed: str, text: str) -> None:
    assert small(stressed, ("I", "ID", "Lamb", "Mrs")) == text


def test_both_games_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drascula, "OFF_SCRIPT", frozenset())
    steel_sky_files(tmp_path / "packages" / "sky")
    drascula_files(tmp_path / "packages" / "drascula")
    pack_speech(tmp_path / "packages", tmp_path / "recorded", [])
    lines = recorded_lines(tmp_path)
    assert [(line.text, line.length) for line in lines] == [
        ("What a day!", 16_000),
        ("I'm Mrs Lamb. Hello.", 16_000),  # the next is too short for its text
        ("Routine inspection, of Linc", 32_000),
        ("Not really.", 24_000),
        ("Why? What, now.", 24_000),
        ("I'm Billy. Come on, Igor.", 24_000),
    ]

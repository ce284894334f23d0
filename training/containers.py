"""Sounds that games and synthesizers keep inside one file.

Quake's .pk3, OpenTTD's .cat, the Amazon Queen's .1c (of which laughs and a sneeze are taken), SoundFont 2's .sf2.
"""

from __future__ import annotations

import re
import struct
import wave
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from training.amazon_queen import Archive

SAMPLE_HEADER = struct.Struct("<20s5I6x")  # of a SoundFont's sample: name, start, end, loop, loop, rate


def unpack_containers(root: Path) -> None:
    """Writes what each container under `root` holds into a folder beside it of its name without the end."""
    for path in sorted(root.rglob("*")):
        if path.suffix in UNPACKERS:
            UNPACKERS[path.suffix](path, path.with_suffix(""))


def _unpack_pk3(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith((".wav", ".ogg"))])


def _unpack_cat(path: Path, folder: Path) -> None:
    """A table of offsets and sizes, then WAV files, each after a sentence that begins with its name in quotes."""
    folder.mkdir(exist_ok=True)
    content = path.read_bytes()
    table_end = struct.unpack_from("<I", content)[0] & 0x7FFF_FFFF  # the first bit says which version it is
    for at in range(0, table_end, 8):
        offset, size = struct.unpack_from("<2I", content, at)
        offset &= 0x7FFF_FFFF
        start = offset + 1 + content[offset]
        title = content[offset + 1 : start].decode("latin-1").split('"')[1]
        (folder / f"{_slug(title)}.wav").write_bytes(content[start : start + size])


def _unpack_queen(path: Path, folder: Path) -> None:
    """The voices that do not speak: EVENT-NAME.mp3."""
    folder.mkdir(exist_ok=True)
    game = Archive.read(path)
    for name, event in game.events().items():
        (folder / f"{event}-{name.removesuffix('.SB')}.mp3").write_bytes(game.files[name])


def _unpack_sf2(path: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    content = path.read_bytes()
    chunks = dict(_chunks(content, 0, len(content)))
    samples = chunks[b"smpl"]
    for name, first, last, _, _, rate in SAMPLE_HEADER.iter_unpack(chunks[b"shdr"]):
        if rate:  # the last header is a mark of the end
            title = name.partition(b"\0")[0].decode("latin-1")
            _write_wav(folder / f"{_slug(title)}.wav", bytes(samples[2 * first : 2 * last]), rate)


def _chunks(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, memoryview]]:
    """The leaves of a RIFF file, by name."""
    while at + 8 <= end:
        name, size = struct.unpack_from("<4sI", content, at)
        if name in (b"RIFF", b"LIST"):
            yield from _chunks(content, at + 12, at + 8 + size)
        else:
            yield name, memoryview(content)[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _write_wav(path: Path, samples: bytes, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples)


def _slug(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")


UNPACKERS: dict[str, Callable[[Path, Path], None]] = {
    ".pk3": _unpack_pk3,
    ".cat": _unpack_cat,
    ".1c": _unpack_queen,
    ".sf2": _unpack_sf2,
}

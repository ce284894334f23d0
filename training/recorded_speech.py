"""People's speech that was recorded, with its text, packed by stage "fetch" and heard in stage "audio".

W/recorded/speech.ogg is all clips end to end in Opus, W/recorded/speech.jsonl a row a clip (`RecordedLine`). The
sources and their licences stand in training/README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE
from training.amazon_queen import Archive, is_another
from training.codecs import decoded, encode
from training.lines import RecordedLine
from training.syllables import FOLDER, Syllables, mandarin, said
from training.text import HeldOut, plain

PACKAGES = ("flight-of-the-amazon-queen", "asterisk-core-sounds-en", "asterisk-core-sounds-en-g722")
BIT_RATE = 10_000
GAP = SAMPLE_RATE // 20  # silence between clips, so that none is heard in its neighbour
SHORTEST_S, LONGEST_S = 0.5, 15.0
# characters a second at the slowest and fastest; beyond, text and recording do not belong together
PACES = {"en": (4.0, 22.0), "zh": (1.0, 9.0)}
JOINED = 1_500  # clips of Mandarin syllables
HERO_SHARE = 7  # one of so many lines that may be the hero's is kept: he is to be one voice among others
WRITTEN = re.compile(r"[A-Za-z'][A-Za-z' ,.?!-]*")
NO_WORDS = re.compile(r"(?i:([a-z])\1\1)|[A-Z]{4}")  # drawn out, or shouted
PAUSE = re.compile(r"\s*(?:\.{2,}|-{2,})\s*")


@dataclass(frozen=True)
class Recording:
    """A clip, and what is said in it as it is written."""

    text: str
    samples: npt.NDArray[np.int16]  # 16 kHz
    language: str = "en"


def pack_speech(packages: Path, target: Path) -> None:
    """Write the recordings in these unpacked packages to the folder `target`."""
    held_out = HeldOut()
    recordings = (*game_speech(packages), *prompts(packages), *joined_syllables(packages))
    target.mkdir(parents=True, exist_ok=True)
    write_recordings(target, [r for r in recordings if is_plausible(r) and not held_out.overlaps(r.text)])


def write_recordings(target: Path, recordings: Iterable[Recording]) -> None:
    """The sound file and its table."""
    rows, pieces, at = [], [], 0
    for recording in recordings:
        length = len(recording.samples)
        said = plain(recording.language, recording.text)
        rows.append(RecordedLine(recording.language, recording.text, said, at, length))
        pieces += [recording.samples, np.zeros(GAP, np.int16)]
        at += length + GAP
    file = io.BytesIO()
    encode(file, np.concatenate(pieces), "ogg", "libopus", SAMPLE_RATE, BIT_RATE)
    (target / "speech.ogg").write_bytes(file.getvalue())
    table = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (target / "speech.jsonl").write_text(table, encoding="utf-8")


def game_speech(packages: Path) -> Iterator[Recording]:
    """What is said in Flight of the Amazon Queen; a share of what the hero may have said."""
    for path in packages.rglob("queen.1c"):
        archive = Archive.read(path)
        said = sorted((not is_another(name), name, tidy(text)) for name, text in archive.spoken().items())
        for number, (sparse, name, text) in enumerate(said):
            if text and not (sparse and number % HERO_SHARE):
                yield Recording(text, decoded(io.BytesIO(archive.files[name]), "mp3"))


def prompts(packages: Path) -> Iterator[Recording]:
    """Telephone prompts of Asterisk, in one voice."""
    for listed in packages.rglob("core-sounds-en.txt.gz"):
        said = dict(re.findall(r"(?m)^([\w/-]+): (.+)$", gzip.decompress(listed.read_bytes()).decode()))
        for path in sorted(packages.rglob("*.g722")):
            name = path.relative_to(next(p for p in path.parents if p.parent.name == "sounds"))
            text = tidy(said.get(name.with_suffix("").as_posix(), ""))
            if text:
                yield Recording(text, decoded(str(path), "g722"))


def joined_syllables(packages: Path) -> Iterator[Recording]:
    """Mandarin sentences and strings of words, joined from one man's syllables."""
    for folder in packages.rglob(FOLDER):
        rng = random.Random(0)
        clips = islice(said(Syllables.read(folder), mandarin(rng), rng), JOINED)
        yield from (Recording(text, clip, "zh") for text, clip in clips)


def tidy(sentence: str) -> str:
    """The sentence as it is written, with commas for dots and dashes; "" if it has more than words."""
    text = PAUSE.sub(", ", sentence.replace('"', "")).strip(" ,-")
    return text if WRITTEN.fullmatch(text) and not NO_WORDS.search(text) else ""


def is_plausible(recording: Recording) -> bool:
    """Whether the clip is of a usable length, and of the one that its text would have."""
    seconds = len(recording.samples) / SAMPLE_RATE
    slowest, fastest = PACES[recording.language]
    return SHORTEST_S <= seconds <= LONGEST_S and slowest <= len(recording.text) / seconds <= fastest

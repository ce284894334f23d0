"""Recorded speech for training: out of packages, into one sound file with its text, and into batches."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import struct
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from sensevoice.checkpoint import find_tokenizer
from sensevoice.finetune.losses import NOT_GIVEN
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.spans import SAMPLE_RATE
from training import audio, other_voices, recorded_speech
from training.amazon_queen import Archive, NotQueenError
from training.batches import Catalogue, Planner, Recipe, Texts
from training.codecs import encode
from training.containers import unpack_containers
from training.lines import recorded_lines, training_lines
from training.materials import TAGS
from training.recorded_speech import Recording, is_plausible, pack_speech, tidy, write_recordings
from training.speech import UNKNOWN_EMOTION, Line
from training.text import HeldOut, write_lines

Samples = npt.NDArray[np.int16]


def tone(seconds: float, seed: int = 0) -> Samples:
    """A hum whose loudness goes up and down at random."""
    count = int(seconds * 20)
    envelope = np.repeat(np.random.default_rng(seed).uniform(0, 9_000, count), 800)
    wave: Samples = (envelope * np.sin(np.arange(len(envelope)) * 0.2)).astype(np.int16)
    return wave


def sound(container: str, codec: str, bit_rate: int, seconds: float = 2.0) -> bytes:
    file = io.BytesIO()
    encode(file, tone(seconds), container, codec, 16_000, bit_rate)
    return file.getvalue()


def string(text: str, align: int, at: int) -> bytes:
    """Led by its length; what follows an unempty one begins at a multiple of `align`, counted from `at`."""
    data = bytes([len(text)]) + text.encode()
    return data + bytes(-(at + len(data)) % align) if text else data


def dialogue(key: int, hero: Sequence[tuple[int, str]], other: Sequence[tuple[int, str]]) -> bytes:
    """A .DOG file with no tree of answers."""
    table = b""
    starts = []
    for sentences in (hero, other):
        starts.append(32 + len(table))
        for number, text in sentences:
            table += struct.pack(">HH", 1, number)
            table += string(text, 4, 32 + len(table))
    later = 32 + len(table)
    table += string("Hello again.", 2, later)
    table += string("", 2, 0)
    head = struct.pack(">5h12x", 0, 1, key, len(hero), len(other)) + struct.pack(">3H", starts[1], 0, later)
    return bytes(20) + head.ljust(32, b"\0") + table


def scene(sentences: Sequence[str]) -> bytes:
    """A .CUT file."""
    data = struct.pack(">Hhh2H", 0, -len(sentences), 0, 0, 10)
    for text in ("*FL", *sentences):
        data += string(text, 2, len(data))
    return bytes(20) + data


def archive(files: dict[str, bytes]) -> bytes:
    head = b"QTBLCEM10".ljust(13, b"\0") + struct.pack(">H", len(files))
    at, table = len(head) + 21 * len(files), b""
    for name, data in files.items():
        table += struct.pack(">12sBII", name.encode(), 1, at, len(data))
        at += len(data)
    return head + table + b"".join(files.values())


def game(path: Path, voices: Sequence[str], voice: bytes = b"") -> Path:
    """An archive with a dialogue, a scene and remarks, and these voice files."""
    texts = {
        "BUD1.DOG": dialogue(
            7, [(1, "Hi there Bud."), (0x1A, "*GD*FLStop!*03What now?")], [(1, "My name is Bud.")]
        ),
        "C1A.CUT": scene(["*", "Land*XY00(237,112)ho, my friends!"]),
        "QUEEN2.JAS": b"It is a door*24\r\nNothing here",
    }
    path.mkdir(exist_ok=True)
    (path / "queen.1c").write_bytes(archive({**texts, **{f"{name}.SB": voice for name in voices}}))
    return path / "queen.1c"


def test_every_voice_file_has_the_part_of_the_sentence_that_it_says(tmp_path: Path) -> None:
    names = ("07001AJ3", "07001AJ4", "070001P1", "07XXXXP1", "C1A__021", "C1A__022", "JOE00411", "JOE00421")
    said = Archive.read(game(tmp_path, (*names, "070099J1"))).spoken()
    assert said == {
        "07001AJ3.SB": "Stop!",
        "07001AJ4.SB": "What now?",
        "070001P1.SB": "My name is Bud.",
        "07XXXXP1.SB": "Hello again.",
        "C1A__021.SB": "Land",
        "C1A__022.SB": "ho, my friends!",
        "JOE00411.SB": "It is a door",
        "JOE00421.SB": "Nothing here",
    }


def test_laughs_and_a_sneeze_are_no_sentences(tmp_path: Path) -> None:
    texts = {"C1A.CUT": scene(["Ha ha haar!", "*12<sneeze>*03Bless you!", "Ha! Hear, hear!"])}
    voices = {f"C1A__0{name}.SB": b"" for name in ("11", "22", "23", "31")}
    (tmp_path / "queen.1c").write_bytes(archive({**texts, **voices}))
    events = Archive.read(tmp_path / "queen.1c").events()
    assert events == {"C1A__011.SB": "laughter", "C1A__022.SB": "sneeze"}
    unpack_containers(tmp_path)
    assert sorted(path.name for path in (tmp_path / "queen").iterdir()) == [
        "laughter-C1A__011.mp3",
        "sneeze-C1A__022.mp3",
    ]


def test_another_file_is_not_the_game(tmp_path: Path) -> None:
    (tmp_path / "queen.1c").write_bytes(b"something else")
    with pytest.raises(NotQueenError, match=r"queen\.1c"):
        Archive.read(tmp_path / "queen.1c")


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("...in a secret hangar...", "in a secret hangar"),
        ("But... there's only -- one problem!", "But, there's only, one problem!"),
        ('"Push the panel."', "Push the panel."),
        ("Aaaargh!", ""),
        ("STOP HIM", ""),
        ("No - it's a well-known ... oh, -- thing.", "No, it's a well-known, oh, thing."),
        ("Press 1 for help.", ""),
        ("[this is a beep]", ""),
        ("Nyah ha ha haar!", ""),
        ("Heh, heh.", ""),
        ("Heh heh, that's a common misconception.", "Heh heh, that's a common misconception."),
        ("Hear, hear! He has her hat.", "Hear, hear! He has her hat."),
    ],
)
def test_a_sentence_is_kept_as_words_or_not_at_all(sentence: str, text: str) -> None:
    assert tidy(sentence) == text


@pytest.mark.parametrize(("seconds", "letters", "kept"), [
    (0.4, 5, False), (0.6, 5, True), (15.5, 150, False), (10.0, 30, False), (1.0, 30, False), (2.0, 30, True),
])  # fmt: skip
def test_text_and_clip_must_be_of_one_length(seconds: float, letters: int, kept: bool) -> None:
    assert is_plausible(Recording("a" * letters, tone(seconds))) is kept


def packages(folder: Path) -> Path:
    """The game and a folder of prompts."""
    heros = [f"JOE{number:04}1" for number in (41, 42)]
    game(folder, ["070001P1", *heros], sound("mp3", "libmp3lame", 48_000))
    prompts = folder / "sounds" / "en_US" / "dictate"
    prompts.mkdir(parents=True)
    (prompts / "enter.g722").write_bytes(sound("g722", "g722", 64_000))
    (prompts / "unlisted.g722").write_bytes(sound("g722", "g722", 64_000))
    listed = "; Sounds\n\ndictate/enter: Enter a number.\ndictate/gone: Gone.\n"
    (folder / "core-sounds-en.txt.gz").write_bytes(gzip.compress(listed.encode()))
    return folder


def test_recordings_are_packed_with_their_text(tmp_path: Path) -> None:
    pack_speech(packages(tmp_path / "packages"), tmp_path / "recorded", [])
    lines = recorded_lines(tmp_path)
    assert [(line.text, line.plain) for line in lines] == [
        ("My name is Bud.", "my name is bud"),
        ("It is a door", "it is a door"),
        ("Nothing here", "nothing here"),
        ("Enter a number.", "enter a number"),
    ]


def test_a_recording_is_in_the_language_it_says(tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    said = [Recording("你好，世界。", tone(2.0), "zh"), Recording("Good day.", tone(2.0))]
    write_recordings(tmp_path / "recorded", said)
    lines = recorded_lines(tmp_path)
    assert [(line.lang, line.plain) for line in lines] == [("zh", "你好世界"), ("en", "good day")]


def test_a_sentence_that_is_judged_is_not_trained_on(tmp_path: Path) -> None:
    folder = packages(tmp_path / "packages")
    judged = HeldOut().sentences["en"]["test"][2]
    (folder / "sounds" / "en_US" / "dictate" / "enter.g722").write_bytes(sound("g722", "g722", 64_000, 5.0))
    (folder / "core-sounds-en.txt.gz").write_bytes(gzip.compress(f"dictate/enter: {judged}\n".encode()))
    assert tidy(judged) == judged and is_plausible(Recording(judged, tone(5.0)))
    pack_speech(folder, tmp_path / "recorded", [])
    assert [line.text for line in recorded_lines(tmp_path)] == [
        "My name is Bud.",
        "It is a door",
        "Nothing here",
    ]


def english(text: str, plain: str) -> Line:
    return Line("en", text, plain, "phonemes")


def test_each_line_is_said_once_by_one_of_two_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        english("One day.", "one day"),
        english("I have 5.", "i have five"),
        Line("ko", "One.", "one", ""),
        english("Two days.", "two days"),
        english('A "third".', "a third"),
        english("See Dr. Who.", "see doctor who"),
        english("Four days.", "four days"),
        english("Five days.", "five days"),
    ]
    for name, seconds in (("joe", 1.0), ("ked", 0.8)):
        clip = tone(seconds)
        monkeypatch.setattr(other_voices, name, lambda _, texts, rng, clip=clip: ((t, clip) for t in texts))
    monkeypatch.setattr(recorded_speech, "JOE", 2)
    monkeypatch.setattr(recorded_speech, "KED", 1)
    pack_speech(tmp_path, tmp_path / "recorded", lines)
    said = [(line.lang, line.text, line.plain, line.length) for line in recorded_lines(tmp_path)]
    assert said == [
        ("en", "One day.", "one day", 16_000),
        ("en", "Two days.", "two days", 16_000),
        ("en", "Four days.", "four days", 12_800),
    ]


FESTIVAL = """#!/usr/bin/env python3
import os, pathlib, re, sys
assert os.environ["LD_LIBRARY_PATH"].endswith("lib/here")
assert sys.argv[1] == "--datadir" and sys.argv[2].endswith("usr/share/festival") and sys.argv[3] == "-b"
script = pathlib.Path(sys.argv[4]).read_text()
assert script.startswith("(voice_ked_diphone)") and script.count("(") == script.count(")")
for text, path in re.findall('Text "(.*?)"[)][)] "(.*?)"', script):
    pathlib.Path(path).write_bytes(pathlib.Path(sys.argv[0]).with_name(text).read_bytes())
"""


def test_ked_says_each_text_in_a_manner_of_its_own(tmp_path: Path) -> None:
    programs = tmp_path / "usr" / "bin"
    for folder in (programs, tmp_path / "lib" / "here"):
        folder.mkdir(parents=True)
    (tmp_path / "lib" / "here" / "libestools.so.2.5").touch()
    (programs / "festival").write_text(FESTIVAL)
    (programs / "festival").chmod(0o755)
    for text, seconds in (("Short", 0.5), ("Long", 1.5)):
        (programs / text).write_bytes(sound("wav", "pcm_s16le", 256_000, seconds))
    said = list(other_voices.ked(tmp_path, ["Long", "Short"], random.Random(0)))
    assert [(text, len(clip)) for text, clip in said] == [("Long", 24_000), ("Short", 8_000)]
    first, second = (other_voices.ked_says("Long", "1.wav", random.Random(seed)) for seed in (0, 1))
    assert first != second
    assert 'Text "Long"' in first and first.endswith('"1.wav")\n')


class Piper:
    """Piper's package with a voice that holds a tone as long as it is told to."""

    manners: ClassVar[list[SimpleNamespace]] = []

    @classmethod
    def load(cls, path: Path) -> Piper:
        assert path.name == other_voices.JOE_WEIGHTS
        return cls()

    def synthesize_wav(self, text: str, writer: wave.Wave_write, manner: SimpleNamespace) -> None:
        self.manners.append(manner)
        writer.setparams((1, 2, 22_050, 0, "NONE", ""))
        writer.writeframes(tone(2.0)[: int(22_050 * manner.length_scale)].tobytes())


def test_joe_says_each_text_in_a_manner_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / other_voices.JOE_WEIGHTS).touch()
    module = SimpleNamespace(PiperVoice=Piper, SynthesisConfig=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "piper", module)
    said = list(other_voices.joe(tmp_path, ["Hello.", "Bye."], random.Random(0)))
    assert [text for text, _ in said] == ["Hello.", "Bye."]
    first, second = Piper.manners
    for (_, clip), manner in zip(said, Piper.manners, strict=True):
        assert len(clip) == pytest.approx(SAMPLE_RATE * manner.length_scale, abs=30)  # resampled
    assert first.length_scale != second.length_scale
    assert 0.4 <= first.noise_scale <= 0.9 and 0.5 <= first.noise_w_scale <= 1.0


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    line: dict[str, object] = {"text": "ab", "plain": "ab", "kind": "short", "lang": "ko", "phonemes": "ab"}
    write_lines(tmp_path / "text" / "train.jsonl.xz", [line] * 4)
    shutil.copy(find_tokenizer(STARTER_DIRECTORY), tmp_path / "text" / "starter.bpe.model")
    return tmp_path


def test_clips_come_back_in_their_places_after_all_other_lines(work: Path) -> None:
    said = ("Hello there.", "Ünknown", "Good day.")
    (work / "recorded").mkdir()
    write_recordings(work / "recorded", [Recording(text, tone(2.0, seed)) for seed, text in enumerate(said)])
    lines = training_lines(work, 3)
    assert [line.text for line in lines] == ["ab"] * 3 + list(said)
    clips = audio.recorded_clips(work, len(lines))
    assert [number for number, _ in clips] == [3, 5]
    for (_, clip), seed in zip(clips, (0, 2), strict=True):
        assert np.corrcoef(clip, tone(2.0, seed))[0, 1] > 0.8
        assert abs(int(np.abs(clip.astype(int)).max()) - 29_490) <= 1


def test_without_recordings_lines_are_as_before(work: Path) -> None:
    lines = training_lines(work)
    assert len(lines) == 4
    assert audio.recorded_clips(work, len(lines)) == []


def drawn(share: float) -> tuple[list[int], list[list[int]]]:
    """The first piece of every row of some plans, and the rows' tags; utterances from 400 on are recorded."""
    emotion = np.repeat([0, 1, UNKNOWN_EMOTION], 200)
    lengths, zeros = np.tile(np.linspace(16_000, 30_000, 200).astype(int), 3), np.zeros(600, int)
    tags_of, texts = dict.fromkeys(TAGS, 1), Texts(np.zeros(1, int), [[5]], [[5]], [[5]], [[5]])
    catalogue = Catalogue(lengths, zeros, emotion, zeros, texts, tags_of, {})
    shares = dict.fromkeys(("nothing_share", "event_share", "mixed_share"), 0.0)
    recipe = Recipe(batch_s=60.0, recorded_shares=(share,) * 5, **shares)
    planner = Planner(catalogue, recipe, seed=0)
    plans = [planner.draw() for _ in range(100)]
    rows = [(row[0], tags) for plan in plans for row, tags in zip(plan.utterance, plan.tags, strict=True)]
    return [int(piece) for piece, _ in rows], [tags.tolist() for _, tags in rows]


def test_recorded_speech_is_drawn_by_its_share_and_its_emotion_is_not_given() -> None:
    pieces, tags = drawn(0.3)
    assert np.mean(np.array(pieces) >= 400) == pytest.approx(0.3, abs=0.03)
    for piece, given in zip(pieces, tags, strict=True):
        assert given == [1, NOT_GIVEN if piece >= 400 else 1, 1, 1]


def test_a_detector_is_trained_without_recorded_speech() -> None:
    assert max(drawn(0.0)[0]) < 400

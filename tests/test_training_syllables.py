"""Mandarin joined from recorded syllables."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sensevoice.spans import SAMPLE_RATE
from training import recorded_speech, syllables
from training.codecs import Clip, encode
from training.lines import recorded_lines
from training.recorded_speech import Recording, is_plausible, pack_speech
from training.syllables import (
    FOLDER,
    GCIN,
    LIST_PAUSE_S,
    TEMPO,
    Manner,
    Syllables,
    changed,
    envelopes,
    faster,
    gcin,
    said,
    trimmed,
    yanyu,
)

PAIRS = [
    ("你好。", "你好。"),
    ("好马，你好。", "好马，你好。"),
    ("5匹马。", "五匹马。"),
    ("你走。", "你走。"),
    ("马你好。", "马 你好。"),
]


def hum(seconds: float, pitch: float = 200.0, edge: float = 0.0) -> Clip:
    """A tone with so much silence before and after it."""
    wave = 20_000 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return np.pad(wave, int(edge * SAMPLE_RATE)).astype(np.int16)


def loudness(clip: Clip, start_s: float, end_s: float) -> float:
    part = clip[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)].astype(np.float64)
    return float(np.sqrt(np.mean(part**2)))


def folder(path: Path, names: Sequence[str]) -> Path:
    """A package with recordings of these names."""
    (path / FOLDER).mkdir(parents=True)
    for name in names:
        file = io.BytesIO()
        encode(file, hum(0.5, edge=0.2), "mp3", "libmp3lame", SAMPLE_RATE, 64_000)
        (path / FOLDER / f"{name}.mp3").write_bytes(file.getvalue())
    return path


def gcin_folder(path: Path, names: Sequence[str]) -> Path:
    """Debian's package with such recordings by two speakers."""
    for name in names:
        (path / GCIN / name).mkdir(parents=True)
        file = io.BytesIO()
        encode(file, hum(0.5, edge=0.2), "ogg", "libopus", SAMPLE_RATE, 24_000)
        (path / GCIN / name / "3.ogg").write_bytes(file.getvalue())
        (path / GCIN / name / "5.ogg").write_bytes(b"tested on")
    return path


def test_a_syllable_begins_and_ends_where_it_is_loud() -> None:
    assert len(trimmed(hum(0.5, edge=0.2))) == pytest.approx(0.5 * SAMPLE_RATE, abs=400)


def test_a_syllable_that_lies_beside_zero_is_moved_there() -> None:
    clip = trimmed((hum(0.5, edge=0.2) // 2 + 8_000).astype(np.int16))
    assert len(clip) == pytest.approx(0.5 * SAMPLE_RATE, abs=600)
    assert abs(clip.mean()) < 50


def test_files_that_are_no_syllable_are_left_out(tmp_path: Path) -> None:
    clips = Syllables.read(yanyu(folder(tmp_path, ["ni3", "de", "1000", "bai2-old1"]))).clips
    assert sorted(clips) == ["de", "ni3"]
    assert len(clips["de"]) == pytest.approx(0.5 * SAMPLE_RATE, abs=400)


def test_only_the_speaker_who_is_not_tested_on_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pypinyin")
    files = gcin(gcin_folder(tmp_path, ["ㄊㄢ3", "ㄊㄧㄢ", "ㄇㄛ1", "ㄅ"]))  # a neutral tone, and no syllable
    assert {name: path.name for name, path in files.items()} == {"tan3": "3.ogg", "tian1": "3.ogg"}
    assert sorted(Syllables.read(files).clips) == ["tan3", "tian1"]


def test_without_a_package_it_has_no_speaker(tmp_path: Path) -> None:
    assert yanyu(tmp_path) == gcin(tmp_path) == {}


def test_phrases_are_further_apart_than_their_syllables() -> None:
    voice = Syllables({"a": hum(0.5), "b": hum(0.5)})
    clip = voice.join([["a", "b"], ["b"]], gap_s=0.1, pause_s=0.4)
    assert len(clip) == 2.0 * SAMPLE_RATE
    assert [loudness(clip, at, at + 0.1) == 0 for at in (0.2, 0.5, 0.8, 1.1, 1.4, 1.7)] == [
        *(False, True, False),
        *(True, True, False),
    ]


def test_a_syllable_may_begin_before_the_other_has_ended() -> None:
    clip = Syllables({"a": hum(0.5)}).join([["a", "a"]], gap_s=-0.1, pause_s=-0.02)
    assert len(clip) == 0.9 * SAMPLE_RATE
    assert loudness(clip, 0.4, 0.5) > 5_000  # one fades as the other rises


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_what_is_faster_keeps_its_pitch(factor: float) -> None:
    clip = faster(hum(2.0, pitch=300.0), factor)
    assert len(clip) / SAMPLE_RATE == pytest.approx(2.0 / factor, abs=0.05)
    middle = clip[SAMPLE_RATE // 4 : SAMPLE_RATE]
    peak = int(np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))))
    assert peak * SAMPLE_RATE / len(middle) == pytest.approx(300, abs=4)


def pulses(seconds: float, pitch: float, formant: float) -> Clip:
    """A voice with a single formant."""
    at = np.arange(int(seconds * SAMPLE_RATE))
    impulses = (np.diff(np.floor(at * pitch / SAMPLE_RATE), prepend=-1) > 0).astype(np.float64)
    decay = np.exp(-at[:400] / 60) * np.sin(2 * np.pi * formant * at[:400] / SAMPLE_RATE)
    wave = np.convolve(impulses, decay)[: len(at)]
    clip: Clip = (wave / np.abs(wave).max() * 20_000).astype(np.int16)
    return clip


def formant_of(clip: Clip) -> float:
    mean = envelopes(clip)[:, 10:-10].mean(1)
    return float(np.argmax(mean)) * SAMPLE_RATE / 2 / (len(mean) - 1)


@pytest.mark.parametrize(("pitch", "tract"), [(1.5, 1.0), (1.5, 1.2), (0.9, 1.0)])
def test_pitch_and_formants_change_by_themselves(pitch: float, tract: float) -> None:
    clip = pulses(1.5, 120.0, 1_500.0)
    other = changed(clip, 1.25, pitch, tract)
    assert len(other) / SAMPLE_RATE == pytest.approx(1.5 / 1.25, abs=0.05)
    assert formant_of(other) == pytest.approx(1_500 * tract, rel=0.08)
    middle = other[4_000:12_000].astype(np.float64)
    likeness = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    period = int(np.argmax(likeness[60:250])) + 60
    assert SAMPLE_RATE / period == pytest.approx(120 * pitch, rel=0.04)


def test_lists_have_longer_pauses_than_sentences_and_voices_differ() -> None:
    rng = random.Random(0)
    lists = [Manner.drawn([["a"], ["b"]], rng) for _ in range(300)]
    sentences = [Manner.drawn([["a", "b"], ["c"]], rng) for _ in range(300)]
    heard = [manner.pause_s / manner.tempo for manner in lists]
    assert min(heard) >= LIST_PAUSE_S[0] and max(heard) <= LIST_PAUSE_S[1] and np.ptp(heard) > 0.5
    assert max(manner.pause_s for manner in sentences) < 0.31
    assert all(TEMPO[0] <= manner.tempo <= TEMPO[1] for manner in lists)
    own = [manner for manner in lists if manner.pitch == manner.tract == 1]
    assert 110 < len(own) < 190
    assert max(manner.pitch for manner in lists) > 1.5 and min(manner.pitch for manner in lists) < 0.9


def test_only_what_the_syllables_have_is_said() -> None:
    pytest.importorskip("pypinyin")
    voice = Syllables({name: hum(0.4) for name in ("ni2", "ni3", "hao2", "hao3", "ma3", "wu3", "pi3")})
    texts = [text for text, _ in said(voice, PAIRS, random.Random(0))]
    assert texts == ["你好。", "好马，你好。", "马你好。"]  # one has a digit, and nobody said zou3


def test_third_tones_change_before_each_other() -> None:
    pytest.importorskip("pypinyin")
    voice = Syllables({"ni2": hum(0.3), "ni3": hum(3.0), "hao3": hum(0.3)})
    ((_, clip),) = said(voice, PAIRS[:1], random.Random(0))
    assert len(clip) < SAMPLE_RATE  # ni3 takes three seconds


@pytest.mark.parametrize(("seconds", "kept"), [(0.4, False), (1.0, True), (5.0, False), (0.6, False)])
def test_mandarin_has_a_pace_of_its_own(seconds: float, kept: bool) -> None:
    text = "你好" if seconds < 0.5 or seconds > 1 else "你好你好你好"
    assert is_plausible(Recording(text, hum(seconds), "zh")) is kept


def test_joined_syllables_are_packed_as_mandarin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pypinyin")
    folder(tmp_path / "package", ["ni2", "ni3", "hao2", "hao3", "ma3"])
    monkeypatch.setattr(syllables, "mandarin", lambda rng: PAIRS)
    monkeypatch.setattr(recorded_speech, "JOINED", 2)
    pack_speech(tmp_path, tmp_path / "recorded", [])
    lines = recorded_lines(tmp_path)
    assert [(line.lang, line.text, line.plain) for line in lines] == [
        ("zh", "你好。", "你好"),
        ("zh", "好马，你好。", "好马你好"),
    ]

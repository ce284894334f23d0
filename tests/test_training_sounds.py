from __future__ import annotations

import io
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from training import event_recordings
from training.batches import Item
from training.containers import unpack_containers
from training.event_recordings import Source, pack_train_clips
from training.events import EVENTS, make_event
from training.materials import load_bank, made_sounds
from training.sound_bank import (
    NOISE,
    Recordings,
    event_bank,
    loop_music,
    noise_bank,
    recorded_event,
    recorded_noise,
    room_bank,
)

SECOND = 16_000


def tone(hertz: float, seconds: float, rate: int = SECOND) -> np.ndarray:
    return (20_000 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def wav(samples: np.ndarray, rate: int = SECOND) -> bytes:
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return memory.getvalue()


def loudest_hz(sound: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound))) * SECOND / len(sound))


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    """Four recordings of each of two kinds, and noises: each kind a tone of its own."""
    clips = {f"Cough/made-{n}": tone(3_000, 0.5) for n in range(4)}
    clips |= {f"Applause/made-{n}": tone(5_000, 8) for n in range(4)}
    clips |= {f"{NOISE}/made-{n}": tone(1_000, 1.5) for n in range(2)}
    np.savez_compressed(tmp_path / "recorded.npz", **clips)
    return Recordings.of(tmp_path)


# --- playing ---------------------------------------------------------------------------------------


def test_loops_become_music_of_any_length() -> None:
    loops = {"tone": (20_000 * np.sin(np.arange(8_000) * 0.3)).astype(np.int16)}
    sound = loop_music(np.random.default_rng(5), loops, 1.5)
    assert sound.shape == (24_000,)
    assert 0.499 <= np.abs(sound).max() <= 0.901


@pytest.mark.parametrize("clip_s", [0.1, 1.2, 9.0])
@pytest.mark.parametrize("kind", ["Cough", "Applause"])
def test_a_recording_becomes_a_sound_of_any_length_a_little_quicker_or_slower(
    kind: str, clip_s: float
) -> None:
    for seed in range(6):
        sound = recorded_event(np.random.default_rng(seed), kind, [tone(1_500, clip_s)], 2.0)
        assert sound.dtype == np.float32
        assert sound.shape == (2 * SECOND,)
        assert 0.499 <= np.abs(sound).max() <= 0.901
        assert 0.79 * 1_500 <= loudest_hz(sound) <= 1.26 * 1_500


def test_a_background_goes_on_without_a_gap_or_a_click() -> None:
    hiss = np.random.default_rng(1).normal(0, 6_000, 18_000).astype(np.int16)
    even = recorded_noise(np.random.default_rng(2), [hiss], 4 * SECOND)
    assert np.mean(even**2) == pytest.approx(1.0, abs=1e-3)
    assert even.reshape(-1, 400).std(axis=1).min() > 0.8
    smooth = recorded_noise(np.random.default_rng(2), [tone(500, 1.1)], 4 * SECOND)
    assert np.abs(np.diff(smooth)).max() < 0.5


# --- banks -----------------------------------------------------------------------------------------


def test_banks_do_not_depend_on_the_number_of_workers(recordings: Recordings) -> None:
    alone, shared = (event_bank(2, 7, workers, recordings) for workers in (1, 2))
    assert tuple(alone) == tuple(shared) == (*EVENTS, NOISE)
    for kind in alone:
        for one, other in zip(alone[kind], shared[kind], strict=True):
            np.testing.assert_array_equal(one, other)
            assert 11_199 <= len(one) <= 96_000
    np.testing.assert_array_equal(noise_bank(3, 7, 1, recordings), noise_bank(3, 7, 2, recordings))
    for one, other in zip(room_bank(3, 7, 1), room_bank(3, 7, 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_recordings_a_bank_is_made_by_rule(tmp_path: Path) -> None:
    bank = event_bank(2, 7, 1, Recordings.of(tmp_path))
    assert tuple(bank) == EVENTS
    for kind in EVENTS:
        rng = np.random.default_rng((7, EVENTS.index(kind), 1))
        np.testing.assert_array_equal(bank[kind][1], make_event(kind, rng, rng.uniform(0.7, 6.0)))


def test_two_fifths_of_a_kind_and_a_third_of_the_noises_come_from_recordings(recordings: Recordings) -> None:
    by_rule = event_bank(60, 3, 1)
    mixed = event_bank(60, 3, 1, recordings)
    same = {
        kind: sum(np.array_equal(a, b) for a, b in zip(by_rule[kind], mixed[kind], strict=True))
        for kind in EVENTS
    }
    assert {kind for kind, count in same.items() if count == 60} == set(EVENTS) - {"Cough", "Applause"}
    played = [sound for sound in mixed["Cough"] if 2_390 < loudest_hz(sound) < 3_760]
    assert 15 <= len(played) <= 35
    tones = [noise for noise in noise_bank(60, 3, 1, recordings) if 790 < loudest_hz(noise) < 1_260]
    assert 12 <= len(tones) <= 30


def test_a_quarter_of_the_laughter_is_acted(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "laughs.npz", **{f"Laughter/{n}": tone(3_000, 1) for n in range(3)})
    by_rule, mixed = event_bank(60, 3, 1), event_bank(60, 3, 1, Recordings.of(tmp_path))
    assert tuple(mixed) == EVENTS
    assert 8 <= sum(2_390 < loudest_hz(sound) < 3_760 for sound in mixed["Laughter"]) <= 24
    for kind in set(EVENTS) - {"Laughter"}:
        assert all(np.array_equal(a, b) for a, b in zip(by_rule[kind], mixed[kind], strict=True))


def test_a_kind_with_one_recording_stays_mostly_made_by_rule(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "recorded.npz", **{"Cry/made": tone(3_000, 1)})
    cries = event_bank(60, 3, 1, Recordings.of(tmp_path))["Cry"]
    assert 1 <= sum(2_390 < loudest_hz(sound) < 3_760 for sound in cries) <= 14


def test_recorded_noises_are_heard_as_unknown_alone_and_as_nothing_beside_speech() -> None:
    assert Item(event=NOISE).tags(True) == ("nospeech", "EMO_UNKNOWN", "Event_UNK", "withitn")
    assert Item().tags(True) == Item(event=NOISE).tags(True)
    assert Item(pieces=[4], event=NOISE).tags(False)[2] == "Speech"
    assert Item(pieces=[4], event="Cough").tags(False)[2] == "Cough"


def test_the_mixers_bank_has_the_recorded_kind_and_even_loudness(recordings: Recordings) -> None:
    events, bank = load_bank(made_sounds(2, 1, 1, recordings))
    assert tuple(events) == (*EVENTS, NOISE)
    for sounds in events.values():
        assert sounds.shape == (2, 96_000)
        np.testing.assert_allclose(sounds.square().mean(1).cpu(), 1, atol=1e-3)
    assert bank.noises.shape == (2, 160_000)
    assert bank.rooms.shape == (2, 12_000)


# --- packing ---------------------------------------------------------------------------------------


def test_clips_are_packed_by_kind_without_silence_and_no_longer_than_they_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    quiet = np.zeros(SECOND, np.int16)
    (sounds / "laugh.wav").write_bytes(wav(np.concatenate([quiet, tone(300, 1) // 4, quiet])))
    (sounds / "rain.wav").write_bytes(wav(tone(300, 20)))
    (sounds / "rest.wav").write_bytes(wav(quiet))
    sources = (Source("pack", "Laughter", ("sounds/l*",)), Source("pack", NOISE, ("sounds/r*",)))
    monkeypatch.setattr(event_recordings, "TRAIN_SOURCES", sources)
    pack_train_clips(tmp_path, tmp_path / "recorded.npz")
    packed = np.load(tmp_path / "recorded.npz")
    assert sorted(packed.files) == [f"{NOISE}/pack-sounds-rain", "Laughter/pack-sounds-laugh"]
    laugh, rain = packed["Laughter/pack-sounds-laugh"], packed[f"{NOISE}/pack-sounds-rain"]
    assert laugh.dtype == np.int16
    assert len(laugh) == pytest.approx(SECOND, abs=20)
    assert np.abs(laugh).max() == pytest.approx(0.9 * 32_767, abs=1)
    assert len(rain) == 2.5 * SECOND
    assert not (rain % 64).any()


def test_a_source_whose_files_are_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recordings, "TRAIN_SOURCES", (Source("scratch", "Cry", ("Media/Baby*",)),))
    with pytest.raises(FileNotFoundError, match="scratch: no Cry"):
        pack_train_clips(tmp_path, tmp_path / "recorded.npz")


def test_sounds_are_taken_out_of_quakes_containers(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pak.pk3", "w") as archive:
        archive.writestr("sound/player/liz/gasp.wav", b"breath")
        archive.writestr("maps/room.bsp", b"walls")
    unpack_containers(tmp_path)
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")]
    assert sorted(files) == ["pak.pk3", "pak/sound/player/liz/gasp.wav"]


def test_sounds_are_taken_out_of_openttds_containers(tmp_path: Path) -> None:
    entries = [(b'"Big crash (1)". By one.', wav(tone(300, 0.1))), (b'"Wind". By two.', wav(tone(500, 0.2)))]
    table, body = b"", b""
    for title, sound in entries:
        table += struct.pack("<2I", (8 * len(entries) + len(body)) | 0x8000_0000, len(sound))
        body += bytes([len(title)]) + title + sound
    (tmp_path / "open.cat").write_bytes(table + body)
    unpack_containers(tmp_path)
    assert (tmp_path / "open/Big-crash-1.wav").read_bytes() == entries[0][1]
    assert (tmp_path / "open/Wind.wav").read_bytes() == entries[1][1]


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def test_samples_are_taken_out_of_soundfonts(tmp_path: Path) -> None:
    first, second = tone(300, 0.1), tone(500, 0.1, 8_000)
    samples = np.concatenate([first, second]).tobytes()
    headers = [(b"Laugh", 0, 1_600, SECOND), (b"Rain...(L)", 1_600, 2_400, 8_000), (b"EOS", 0, 0, 0)]
    shdr = b"".join(
        struct.pack("<20s5I6x", name, start, end, 0, 0, rate) for name, start, end, rate in headers
    )
    lists = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"odd")) + chunk(
        b"LIST", b"sdta" + chunk(b"smpl", samples)
    )
    font = chunk(b"RIFF", b"sfbk" + lists + chunk(b"LIST", b"pdta" + chunk(b"shdr", shdr)))
    (tmp_path / "font.sf2").write_bytes(font)
    unpack_containers(tmp_path)
    assert sorted(path.name for path in (tmp_path / "font").iterdir()) == ["Laugh.wav", "Rain-L.wav"]
    assert (tmp_path / "font/Laugh.wav").read_bytes() == wav(first)
    assert (tmp_path / "font/Rain-L.wav").read_bytes() == wav(second, 8_000)

"""Every recording becomes the same samples whatever its container, coding, rate or channels."""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from clips import FORMATS, Format

from sensevoice.audio import BLOCK_SAMPLES, SAMPLE_RATE, decode, decode_blocks, mixing, source_name
from sensevoice.errors import (
    AudioError,
    AudioTooLongError,
    EmptyAudioError,
    NoAudioStreamError,
    NoSuchAudioError,
    NotAudioError,
    TruncatedAudioError,
)

INDEX_FIRST = Format("mp4", "aac", ".mp4", muxer={"moov_size": "8192"})
FRAGMENTED = Format(
    "mp4", "aac", ".mp4", muxer={"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}
)
STATING = [
    *(name for name in FORMATS if name.startswith(("wav", "aiff"))),
    "mp3 constant",
    "mp3 variable",
    "flac",
    "webm",
]
NOT_STATING = ["mp3 variable without header", "aac", "ogg opus", "webm of a browser"]


def frequency(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 16 * len(samples)))
    return float(spectrum.argmax() * SAMPLE_RATE / (16 * len(samples)))


def level_db(samples: np.ndarray, amplitude: float = 0.25) -> float:
    """Of a tone, without its ends; 0 for a sine of that amplitude."""
    inner = samples[2000:-2000].astype(np.float64)
    return float(20 * np.log10(np.sqrt(np.mean(inner**2)) * math.sqrt(2) / amplitude + 1e-12))


def with_u32(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


class Pipe(io.RawIOBase):
    """A file that cannot be read twice."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.data.read(size)


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_a_tone_keeps_pitch_length_and_level_in_every_format(name: str, channels: int) -> None:
    form = FORMATS[name]
    samples = decode(clips.clip(form, channels=channels))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 0 <= len(samples) - SAMPLE_RATE <= math.ceil(form.frame_samples * SAMPLE_RATE / form.rate)
    assert frequency(samples) == pytest.approx(440, abs=0.5)
    assert level_db(samples) == pytest.approx(0, abs=max(form.tolerance_db, 0.5 * ("mp3" in name)))


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "avi"])
def test_a_video_gives_its_sound(container: str) -> None:
    codec = "mp2" if container == "avi" else "aac"
    samples = decode(clips.video(container, codec=codec))
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=1200)
    assert frequency(samples) == pytest.approx(440, abs=0.5)


@pytest.mark.parametrize(
    "rate", [4_000, 8_000, 11_025, 22_050, 32_000, 48_000, 88_200, 96_000, 192_000, 384_000]
)
def test_every_rate_gives_the_same_tone(rate: int) -> None:
    samples = decode(clips.encode(clips.tone(1, rate), rate, "wav 24 bit"))
    assert len(samples) == SAMPLE_RATE
    expected = clips.tone(1, SAMPLE_RATE)[:, 0]
    assert np.abs(samples - expected)[500:-500].max() < 1e-3


@pytest.mark.parametrize("name", ["m4a", "flac"])
def test_96_kHz_is_read_from_compressed_files_too(name: str) -> None:  # noqa: N802
    samples = decode(clips.encode(clips.tone(1, 96_000), 96_000, name))
    assert frequency(samples) == pytest.approx(440, abs=0.5)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("pitch", [9_000, 10_000, 12_000, 15_000, 20_000])
def test_a_tone_above_8_kHz_is_gone_by_60_dB(rate: int, pitch: int) -> None:  # noqa: N802
    samples = decode((rate, clips.tone(1, rate, frequency=pitch, level=0.5)))
    assert level_db(samples, 0.5) < -60


@pytest.mark.parametrize("pitch", [100, 1_000, 4_000, 6_500])
def test_a_tone_in_the_band_of_speech_passes_within_a_tenth_of_a_decibel(pitch: int) -> None:
    samples = decode((44_100, clips.tone(1, 44_100, frequency=pitch)))
    assert level_db(samples) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("name", ["wav 16 bit", "wav rf64", "wav 24 bit", "wav float", "aiff", "flac"])
def test_lossless_mono_at_16_kHz_is_exact(name: str) -> None:  # noqa: N802
    speech = clips.speechlike(2.5)
    assert np.array_equal(
        decode(clips.encode(speech, SAMPLE_RATE, name)), speech.astype(np.float32) / np.float32(32768)
    )


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".txt", ".m3u8", ""])
@pytest.mark.parametrize("name", ["wav 16 bit", "m4a", "mp3 variable", "ogg opus", "aac"])
def test_a_wrong_extension_changes_nothing(tmp_path: Path, name: str, suffix: str) -> None:
    data = clips.clip(name)
    path = tmp_path / f"recording{suffix}"
    path.write_bytes(data)
    assert np.array_equal(decode(path), decode(data))


@pytest.mark.parametrize("name", ["wav 16 bit", "mp3 variable", "m4a", "webm of a browser"])
def test_path_bytes_and_files_give_the_same_samples(tmp_path: Path, name: str) -> None:
    data = clips.clip(name)
    path = tmp_path / "clip"
    path.write_bytes(data)
    expected = decode(data)
    used = io.BytesIO(data)
    used.read()
    with path.open("rb") as file:
        for source in (path, str(path), file, used):
            assert np.array_equal(decode(source), expected)


@pytest.mark.parametrize("name", ["wav 16 bit", "flac", "webm of a browser", "ogg opus"])
def test_a_pipe_can_be_decoded(name: str) -> None:
    data = clips.clip(name)
    assert np.array_equal(decode(Pipe(data)), decode(data))  # type: ignore[arg-type]


def test_tags_in_an_unknown_character_set_do_not_matter() -> None:
    title = b"\x00" + "录音".encode("gbk")
    frame = b"TIT2" + len(title).to_bytes(4, "big") + b"\0\0" + title
    tag = b"ID3\x03\0\0" + bytes([0, 0, 0, len(frame)]) + frame
    data = clips.clip("mp3 constant")
    assert np.array_equal(decode(tag + data), decode(data))


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 7, 8, 16, 64])
def test_channels_without_known_places_are_averaged(channels: int) -> None:
    samples = np.stack([clips.speechlike(0.5, seed=i) for i in range(channels)], axis=1)
    expected = samples.astype(np.float64).mean(axis=1) / 32768
    assert np.abs(decode(clips.pcm_wav(samples)) - expected).max() < 1e-6
    assert np.abs(decode((SAMPLE_RATE, samples)) - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("channel", "weight"),
    [*enumerate([0.7071, 0.7071, 1.0, 0.0, 0.5, 0.5])],
    ids=["L", "R", "C", "LFE", "Ls", "Rs"],
)
def test_surround_sound_is_mixed_with_the_weights_of_ITU_BS_775(channel: int, weight: float) -> None:  # noqa: N802
    samples = np.zeros((8_000, 6), np.float32)
    samples[:, channel] = clips.tone(0.5, SAMPLE_RATE)[:, 0]
    mixed = decode(clips.encode(samples, SAMPLE_RATE, "wav float", layout="5.1"))
    gain = float(mixed @ samples[:, channel]) / float(samples[:, channel] @ samples[:, channel])
    assert gain == pytest.approx(weight / 3.4142, abs=1e-4)


def test_full_scale_on_all_channels_stays_full_scale() -> None:
    loud = np.full((16_000, 6), 32767, np.int16)
    assert decode(clips.encode(loud, SAMPLE_RATE, "wav 16 bit", layout="5.1")).max() <= 1.0
    assert decode(clips.pcm_wav(loud[:, :2])) == pytest.approx(32767 / 32768)


def test_a_stream_that_changes_rate_and_channels_midway_is_read_to_its_end() -> None:
    first = clips.clip("aac")
    second = clips.encode(clips.tone(1, 32_000, frequency=880, channels=2), 32_000, "aac")
    samples = decode(first + second)
    assert len(samples) == pytest.approx(2 * SAMPLE_RATE, abs=2_500)
    assert frequency(samples[2_000:14_000]) == pytest.approx(440, abs=1)
    assert frequency(samples[-14_000:-2_000]) == pytest.approx(880, abs=1)


def test_the_mix_sums_to_one() -> None:
    from av.audio.layout import AudioLayout

    for name in ("mono", "stereo", "5.1", "7.1", "quad", "5 channels"):
        terms = mixing(AudioLayout(name)).split("=")[1].split("+")
        assert sum(float(term.split("*")[0]) for term in terms) == pytest.approx(1, abs=1e-7)


# ---------------------------------------------------------------- arrays


SPEECH = clips.speechlike(1.5)
EXACT = SPEECH.astype(np.float32) / np.float32(32768)


@pytest.mark.parametrize(
    "samples",
    [
        SPEECH,
        SPEECH.astype(np.int32) * 65536,
        EXACT,
        EXACT.astype(np.float64),
        SPEECH[:, None],
        np.stack([SPEECH] * 2, axis=1),
    ],
    ids=["int16", "int32", "float32", "float64", "one column", "stereo"],
)
def test_an_array_of_any_type_holds_the_same_samples(samples: np.ndarray) -> None:
    assert np.array_equal(decode((SAMPLE_RATE, samples)), EXACT)


def test_a_bare_array_is_taken_as_16_kHz_mono() -> None:  # noqa: N802
    assert np.array_equal(decode(EXACT), EXACT)


def test_an_array_is_resampled_as_a_file_is() -> None:
    speech = clips.speechlike(3, rate=44_100)
    assert np.array_equal(decode((44_100, speech)), decode(clips.encode(speech, 44_100, "wav 16 bit")))


def test_samples_that_are_no_numbers_or_too_large_are_tamed() -> None:
    samples = EXACT.copy()
    samples[[10, 20, 30, 40]] = np.nan, np.inf, -np.inf, 1.5
    for source in ((SAMPLE_RATE, samples), clips.encode(samples, SAMPLE_RATE, "wav float")):
        assert decode(source)[[10, 20, 30, 40, 50]].tolist() == [0, 1, -1, 1, EXACT[50]]


@pytest.mark.parametrize(
    "source",
    [
        (SAMPLE_RATE, SPEECH.astype(np.int64)),
        (SAMPLE_RATE, np.array(["a"])),
        (SAMPLE_RATE, np.zeros((2, 3, 4), np.int16)),
        (SAMPLE_RATE, np.zeros((4, 0), np.int16)),
        (0, SPEECH),
        (2**31 - 1, SPEECH),
    ],
)
def test_an_array_that_is_no_sound_is_refused(source: tuple[int, np.ndarray]) -> None:
    with pytest.raises(NotAudioError):
        decode(source)


# ---------------------------------------------------------------- plain wav files

PLAIN = clips.pcm_wav(SPEECH)
FLOAT = clips.encode((SPEECH / 30_000).astype(np.float32), SAMPLE_RATE, "wav float")
TEXT = b"LIST\x0e\0\0\0INFOISFT\x02\0\0\0a\0"


def through_ffmpeg(data: bytes) -> np.ndarray:
    """As a live recording, since none of those is read without FFmpeg."""
    return np.concatenate(list(decode_blocks(io.BytesIO(data), live=True)))


@pytest.mark.parametrize(
    "data",
    {
        "16 bit": PLAIN,
        "float": FLOAT,
        "float beyond full scale": FLOAT[:-8] + np.array([np.nan, 7.5], "<f4").tobytes(),
        "longer than a minute": clips.pcm_wav(clips.speechlike(61)),
        "with a text before the samples": PLAIN[:36] + TEXT + PLAIN[36:],
        "with a text after the samples": PLAIN + TEXT,
        "with half a sample": with_u32(PLAIN, 40, 2 * len(SPEECH) - 1),
        "in two pieces": PLAIN + PLAIN[36:],
        "stereo": clips.pcm_wav(np.stack([SPEECH, -SPEECH // 2], axis=1)),
        "of another rate": clips.pcm_wav(SPEECH, 16_001),
        "of no length, as a header says that is written first": with_u32(PLAIN, 40, 0),
        "of a length that nobody knows": with_u32(PLAIN, 40, 0xFFFF_FFFF),
    }.items(),
    ids=itemgetter(0),
)
def test_a_wav_file_gives_what_ffmpeg_makes_of_it_bit_for_bit(data: tuple[str, bytes]) -> None:
    samples = decode(data[1])
    assert samples.tobytes() == through_ffmpeg(data[1]).tobytes()
    assert len(samples) >= len(SPEECH) - 1


def test_a_plain_wav_files_samples_are_read_once() -> None:
    class Counting(io.BytesIO):
        total = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.total += len(data)
            return data

    file = Counting(clips.pcm_wav(clips.speechlike(30)))
    decode(file)
    assert file.total < 1.3 * len(file.getvalue())


def test_a_wav_file_that_somebody_shortens_while_it_is_read_is_named_as_truncated() -> None:
    class Shortened(io.BytesIO):
        name = "call.wav"

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            if len(data) > 1_000_000:  # the first minute
                self.truncate(self.tell())
            return data

    data = clips.pcm_wav(clips.speechlike(61))
    with pytest.raises(TruncatedAudioError) as caught:
        decode(Shortened(data))
    assert "call.wav" in str(caught.value)


# ---------------------------------------------------------------- blocks


@pytest.mark.parametrize("name", ["wav 16 bit", "mp3 variable", "m4a", "ogg opus"])
def test_blocks_joined_are_the_whole_bit_for_bit(name: str) -> None:
    data = clips.clip(name, seconds=5, channels=2)
    blocks = list(decode_blocks(data))
    assert max(map(len, blocks)) <= BLOCK_SAMPLES
    assert np.concatenate(blocks).tobytes() == decode(data).tobytes()


def test_blocks_of_an_array_joined_are_the_whole_bit_for_bit() -> None:
    source = (48_000, clips.speechlike(5, rate=48_000))
    assert np.concatenate(list(decode_blocks(source))).tobytes() == decode(source).tobytes()


def test_what_is_16_kHz_already_comes_in_minutes_and_an_array_is_not_copied() -> None:  # noqa: N802
    samples = clips.speechlike(125)
    minutes = [60 * SAMPLE_RATE, 60 * SAMPLE_RATE, 5 * SAMPLE_RATE]
    for source in (clips.pcm_wav(samples), (SAMPLE_RATE, samples), (samples / 32768).astype(np.float32)):
        assert [len(block) for block in decode_blocks(source)] == minutes
    assert all(np.shares_memory(block, source) for block in decode_blocks(source))


def test_an_array_that_lies_scattered_in_memory_is_read_as_any_other() -> None:
    pairs = np.random.default_rng(0).uniform(-1, 1, (1_000, 2)).astype(np.float32)
    assert np.array_equal(decode(pairs[:, 0]), pairs[:, 0])


def test_blocks_can_be_written_to_and_stay_valid_after_the_next_one() -> None:
    data = clips.clip("mp3 constant", seconds=5)
    blocks = list(decode_blocks(data))
    copies = [block.copy() for block in decode_blocks(data)]
    assert all(np.array_equal(block, copy) for block, copy in zip(blocks, copies, strict=True))
    assert all(block.flags.writeable for block in [*blocks, decode(data)])


def test_two_threads_decode_without_disturbing_one_another() -> None:
    sources = [clips.clip(name, seconds=3) for name in ("mp3 variable", "m4a", "flac", "ogg opus")]
    with ThreadPoolExecutor(2) as pool:
        for samples, source in zip(pool.map(decode, sources), sources, strict=True):
            assert np.array_equal(samples, decode(source))


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["mp3 constant", "mp3 variable", "aac", "flac", "ogg opus", "m4a"])
def test_damage_in_the_middle_does_not_lose_the_rest(name: str) -> None:
    form = INDEX_FIRST if name == "m4a" else FORMATS[name]
    low, high = (clips.tone(2, form.rate, frequency=pitch) for pitch in (440, 880))
    data = clips.encode(np.concatenate([low, high]), form.rate, form)
    middle = int(len(data) * 0.4)
    broken = data[:middle] + np.random.default_rng(0).bytes(200) + data[middle + 200 :]
    samples = decode(broken)
    assert len(samples) >= 2.9 * SAMPLE_RATE
    assert frequency(samples[-14_000:-2_000]) == pytest.approx(880, abs=1)


@pytest.mark.parametrize("name", STATING)
def test_a_file_that_lost_its_end_is_named_as_truncated(name: str) -> None:
    data = clips.clip(name, seconds=4)
    with pytest.raises(TruncatedAudioError) as caught:
        decode(data[: len(data) // 2])
    assert caught.value.facts["declared_s"] == pytest.approx(4, abs=0.1)
    assert 1.4 < float(str(caught.value.facts["decoded_s"])) < 2.6


def test_an_mp4_with_its_index_first_that_lost_its_end_is_named_as_truncated() -> None:
    data = clips.encode(clips.tone(4), 44_100, INDEX_FIRST)
    with pytest.raises(TruncatedAudioError):
        decode(data[: len(data) // 2])


def test_an_m4a_that_lost_its_index_says_so() -> None:
    data = clips.clip("m4a", seconds=4)
    with pytest.raises(NotAudioError, match="index is missing"):
        decode(data[: len(data) // 2])


def test_a_truncated_mp3_behind_a_large_cover_picture_is_still_noticed() -> None:
    data = clips.clip("mp3 variable", seconds=4)
    size = 200_000
    tag = b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)
    with pytest.raises(TruncatedAudioError):
        decode(tag + data[: len(data) // 2])


@pytest.mark.parametrize("name", NOT_STATING)
def test_a_file_that_states_no_length_is_never_called_truncated(name: str) -> None:
    data = clips.clip(name, seconds=4)
    assert SAMPLE_RATE * 0.9 < len(decode(data[: len(data) // 2])) < SAMPLE_RATE * 2.6


def test_an_mp3_whose_bit_rate_misleads_about_its_length_is_not_called_truncated() -> None:
    rng = np.random.default_rng(0)
    sound = np.concatenate([np.zeros(6 * 44_100), rng.normal(0, 0.2, 44_100), np.zeros(44_100)])
    first_loud = np.roll(sound, 2 * 44_100)  # the estimate is made from the first frames
    for samples in (sound, first_loud, sound[::-1]):
        data = clips.encode(samples.astype(np.float32), 44_100, "mp3 variable without header")
        assert len(decode(data)) == pytest.approx(8 * SAMPLE_RATE, abs=1_300)


def test_a_fragmented_mp4_states_nothing() -> None:
    data = clips.encode(clips.tone(3), 44_100, FRAGMENTED)
    assert len(decode(data)) == pytest.approx(3 * SAMPLE_RATE, abs=1_000)
    assert len(decode(data[: len(data) // 2])) > SAMPLE_RATE


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_video_longer_than_its_sound_is_not_called_truncated(container: str) -> None:
    assert len(decode(clips.video(container, seconds=1, video_seconds=5))) < 1.1 * SAMPLE_RATE


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_wav_from_a_pipe_whose_header_holds_a_placeholder_is_read_to_its_end(size: int) -> None:
    data = with_u32(clips.pcm_wav(SPEECH), 40, size)
    assert np.array_equal(decode(data), EXACT)


def test_a_flac_of_unknown_length_is_read_to_its_end() -> None:
    data = bytearray(clips.encode(SPEECH, SAMPLE_RATE, "flac"))
    at = data.index(b"fLaC") + 8 + 13  # total samples: the low 4 bits and the next 4 bytes of STREAMINFO
    data[at] &= 0xF0
    data[at + 1 : at + 5] = bytes(4)
    assert np.array_equal(decode(bytes(data)), EXACT)


# ---------------------------------------------------------------- what is no recording


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.wav", f"{tmp_path}/a\0b.wav"):
        with pytest.raises(NoSuchAudioError, match="There is no file"):
            decode(path)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        clips.pcm_wav(np.zeros(0, np.int16)),
        (SAMPLE_RATE, np.zeros(0, np.int16)),
        np.zeros(0, np.float32),
    ],
    ids=["no bytes", "only a header", "empty array", "empty bare array"],
)
def test_no_sound_at_all_is_named(source: Any) -> None:
    with pytest.raises(EmptyAudioError):
        decode(source)


RANDOM = np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize(
    "data",
    [
        b"a",
        b"hello, this is no recording\n" * 1000,
        b"<html><body>404 Not Found</body></html>",
        b"1\n00:00:01,000 --> 00:00:02,000\nHello\n",
        b"%PDF-1.4\n" + RANDOM,
        b"PK\x03\x04" + RANDOM,
        bytes(100_000),
        RANDOM,
        RANDOM[::-1],
        clips.clip("wav 16 bit")[:20],
    ],
    ids=["byte", "text", "html", "subtitles", "pdf", "zip", "zeros", "random", "random 2", "half a header"],
)
def test_what_is_no_recording_is_named(data: bytes) -> None:
    with pytest.raises(NotAudioError):
        decode(data)


def test_a_folder_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(NotAudioError, match="directory"):
        decode(tmp_path)


@pytest.mark.parametrize(
    "data",
    [clips.video("mp4", codec=None), clips.video("matroska", codec=None), clips.picture()],
    ids=["mp4", "mkv", "png"],
)
def test_a_video_or_picture_without_sound_is_named(data: bytes) -> None:
    with pytest.raises(NoAudioStreamError):
        decode(data)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "secret.wav"
    target.write_bytes(clips.clip("wav 16 bit"))
    playlists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "b.ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
        "c.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    }
    for name, text in playlists.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(NotAudioError):
            decode(path)


@pytest.mark.parametrize(("channels", "rate"), [(65, 16_000), (300, 16_000), (1, 1), (1, 2**31 - 1)])
def test_channels_and_rates_beyond_reason_are_refused(channels: int, rate: int) -> None:
    data = with_u32(clips.pcm_wav(np.ones((160, channels), np.int16)), 24, rate)
    with pytest.raises(NotAudioError, match=r"channels|sampling rate"):
        decode(data)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("name", ["wav 16 bit", "mp3 variable", "flac", "m4a", "webm"])
def test_a_stated_length_over_the_limit_is_refused_before_the_first_block(name: str) -> None:
    blocks = decode_blocks(clips.clip(name, seconds=5), max_duration_s=4)
    with pytest.raises(AudioTooLongError, match="limit of 4 s"):
        next(blocks)


@pytest.mark.parametrize("name", ["mp3 variable without header", "webm of a browser", "aac"])
def test_an_unstated_length_over_the_limit_is_refused_when_it_is_reached(name: str) -> None:
    heard = 0
    with pytest.raises(AudioTooLongError):
        for block in decode_blocks(clips.clip(name, seconds=5), max_duration_s=4):
            heard += len(block)
    assert 0 < heard <= 4 * SAMPLE_RATE


def test_an_array_over_the_limit_is_refused() -> None:
    with pytest.raises(AudioTooLongError):
        decode((8_000, np.zeros(8_001, np.int16)), max_duration_s=1)
    assert len(decode((SAMPLE_RATE, np.zeros(16_000, np.int16)), max_duration_s=1)) == SAMPLE_RATE


UNDER_A_MEMORY_LIMIT = """
import io, resource, sys
from sensevoice.audio import decode_blocks
class Endless(io.RawIOBase):
    sent = 0
    def readable(self): return True
    def read(self, size=-1):
        if self.sent == 0:
            self.sent = 1
            return HEADER
        self.sent += size
        return bytes(size) if self.sent < 80_000_000 else b""
HEADER = sys.stdin.buffer.read()
for _ in decode_blocks(HEADER + bytes(8_000)): pass  # loads what is loaded on first use
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000,) * 2)
print(sum(map(len, decode_blocks(Endless()))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_blocks_of_a_long_recording_fit_in_60_MB() -> None:  # noqa: N802
    header = with_u32(clips.pcm_wav(np.zeros(0, np.int16)), 40, 0xFFFF_FFFF)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNDER_A_MEMORY_LIMIT],
        input=header,
        capture_output=True,
        check=False,
    )
    assert run.stderr.decode() == ""
    assert int(run.stdout) == pytest.approx(40_000_000, abs=100_000)  # 160 MB as float32


def lying_headers() -> Iterator[tuple[str, bytes]]:
    wav = clips.pcm_wav(SPEECH)
    yield "wav of 1 GiB", with_u32(wav, 40, 1 << 30)
    flac = bytearray(clips.encode(SPEECH, SAMPLE_RATE, "flac"))
    at = flac.index(b"fLaC") + 8 + 13
    flac[at] |= 0x0F
    flac[at + 1 : at + 5] = b"\xff" * 4
    yield "flac of 50 days", bytes(flac)
    mp3 = bytearray(clips.clip("mp3 variable"))
    at = mp3.index(b"Xing") + 8
    mp3[at : at + 4] = (1 << 30).to_bytes(4, "big")
    yield "mp3 of a year", bytes(mp3)


@pytest.mark.parametrize(("name", "data"), [*lying_headers()])
def test_a_header_that_lies_costs_nothing(name: str, data: bytes) -> None:
    del name
    with pytest.raises(AudioTooLongError):
        decode(data, max_duration_s=3600)
    before = _resident_bytes()
    with pytest.raises(TruncatedAudioError):
        decode(data)
    assert _resident_bytes() - before < 20_000_000


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0


# ---------------------------------------------------------------- manners


def test_nothing_is_left_open_or_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    descriptors = _open_files()
    path = tmp_path / "a.mp3"
    data = clips.clip("mp3 variable", seconds=4)
    for content in (data, data[: len(data) // 2], b"no sound"):
        path.write_bytes(content)
        with contextlib.suppress(AudioError):
            decode(path)
        blocks = decode_blocks(path)
        next(blocks, None) if content is data else None
        blocks.close()  # type: ignore[attr-defined]
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp3"]
    assert _open_files() == descriptors


def _open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []


def test_damaged_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = clips.clip("mp3 variable", seconds=2)
    decode(data[:8_000] + RANDOM[:300] + data[8_300:])
    with pytest.raises(NotAudioError):
        decode(RANDOM)
    assert capfd.readouterr() == ("", "")


def test_a_file_is_left_open_for_its_owner() -> None:
    file = io.BytesIO(clips.clip("flac"))
    decode(file)
    assert not file.closed


def test_sources_are_called_by_their_file_name(tmp_path: Path) -> None:
    path = tmp_path / "meeting.wav"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        assert [source_name(source) for source in (path, str(path), file)] == ["meeting.wav"] * 3
    for source in (b"x", io.BytesIO(b"x"), SPEECH, (8_000, SPEECH)):
        assert source_name(source) == "the recording"

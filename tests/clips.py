"""Recordings in every format, made by PyAV when a test asks for them; equal from run to run."""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np


@dataclass(frozen=True)
class Format:
    """How a recording is written."""

    container: str
    codec: str
    suffix: str
    rate: int = 44_100
    muxer: dict[str, str] = field(default_factory=dict)
    coder: dict[str, str] = field(default_factory=dict)
    frame_samples: int = 1  # what the coder may add at the end, in samples of its own rate
    tolerance_db: float = 0.1
    channels: int = 1  # the least that the coder takes


LAME_VBR = {"flags": "+qscale", "global_quality": str(4 * 118)}  # 118 = FF_QP2LAMBDA

FORMATS = {
    "wav 8 bit": Format("wav", "pcm_u8", ".wav"),
    "wav 16 bit": Format("wav", "pcm_s16le", ".wav"),
    "wav 24 bit": Format("wav", "pcm_s24le", ".wav"),
    "wav 32 bit": Format("wav", "pcm_s32le", ".wav"),
    "wav float": Format("wav", "pcm_f32le", ".wav"),
    "wav double": Format("wav", "pcm_f64le", ".wav"),
    "wav a-law": Format("wav", "pcm_alaw", ".wav", rate=8_000),
    "wav mu-law": Format("wav", "pcm_mulaw", ".wav", rate=8_000),
    "wav rf64": Format("wav", "pcm_s16le", ".wav", muxer={"rf64": "always"}),
    "aiff": Format("aiff", "pcm_s16be", ".aiff"),
    "mp3 constant": Format("mp3", "libmp3lame", ".mp3", coder={"b": "128000"}, frame_samples=1152),
    "mp3 variable": Format("mp3", "libmp3lame", ".mp3", coder=LAME_VBR, frame_samples=1152),
    "mp3 variable without header": Format(
        "mp3", "libmp3lame", ".mp3", coder=LAME_VBR, muxer={"write_xing": "0"}, frame_samples=3 * 1152
    ),
    "m4a": Format("ipod", "aac", ".m4a", frame_samples=1024, tolerance_db=0.5),
    "aac": Format("adts", "aac", ".aac", frame_samples=3 * 1024, tolerance_db=0.5),
    "flac": Format("flac", "flac", ".flac"),
    "ogg vorbis": Format(
        "ogg", "vorbis", ".ogg", coder={"strict": "-2"}, frame_samples=1024, tolerance_db=0.5, channels=2
    ),
    "ogg opus": Format("ogg", "libopus", ".opus", rate=48_000, frame_samples=960, tolerance_db=0.5),
    "webm": Format("webm", "libopus", ".webm", rate=48_000, frame_samples=960, tolerance_db=0.5),
    "webm of a browser": Format(
        "webm", "libopus", ".webm", rate=48_000, muxer={"live": "1"}, frame_samples=960, tolerance_db=0.5
    ),
}


def tone(
    seconds: float = 1.0, rate: int = 44_100, frequency: float = 440.0, level: float = 0.25, channels: int = 1
) -> np.ndarray:
    """A sine with amplitude `level`, the same on every channel: float32 [n, channels]."""
    wave_ = level * np.sin(2 * np.pi * frequency / rate * np.arange(round(seconds * rate)))
    return np.repeat(wave_.astype(np.float32)[:, None], channels, axis=1)


def encode(samples: np.ndarray, rate: int, form: Format | str, layout: str = "") -> bytes:
    """The file that holds `samples` (float32 or int16, [n] or [n, channels])."""
    form = FORMATS[form] if isinstance(form, str) else form
    file = io.BytesIO()
    with av.open(file, "w", format=form.container, options=form.muxer) as container:
        _encode_sound(container, samples, rate, form, layout)
    return file.getvalue()


def clip(form: Format | str, seconds: float = 1.0, channels: int = 1, **tone_options: float) -> bytes:
    """A tone in the format's own rate."""
    form = FORMATS[form] if isinstance(form, str) else form
    samples = tone(seconds, form.rate, channels=max(channels, form.channels), **tone_options)
    return encode(samples, form.rate, form)


def video(
    container: str, seconds: float = 1.0, video_seconds: float | None = None, codec: str | None = "aac"
) -> bytes:
    """A small moving picture; with a tone of `seconds`, unless `codec` is None."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        picture = output.add_stream("mpeg4", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        if codec:
            _encode_sound(output, tone(seconds, 48_000), 48_000, Format(container, codec, ""))
        for i in range(round((video_seconds or seconds) * 10)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 25 * i % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
    return file.getvalue()


def picture() -> bytes:
    """A png."""
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def pcm_wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """A 16-bit wav from the standard library, with a header of 44 bytes; int16 [n] or [n, channels]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        output.setsampwidth(2)
        output.setframerate(rate)
        output.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def speechlike(seconds: float = 1.0, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Noise with a syllable's envelope: int16 [n]; for where every sample counts."""
    n = round(seconds * rate)
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(n) / rate)
    return (np.random.default_rng(seed).normal(0, 3000, n) * envelope).clip(-32768, 32767).astype(np.int16)


def _encode_sound(container: Any, samples: np.ndarray, rate: int, form: Format, layout: str = "") -> None:
    samples = samples.reshape(len(samples), -1)
    channels = samples.shape[1]
    stream = container.add_stream(form.codec, rate=rate, layout=layout or _layout(channels))
    stream.options = form.coder
    step = 4096  # the coder's own buffer would make one packet of everything for PCM
    for start in range(0, len(samples), step):
        block = np.ascontiguousarray(samples[start : start + step].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(
            block, format="s16" if samples.dtype == np.int16 else "flt", layout=layout or _layout(channels)
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _layout(channels: int) -> str:
    return {1: "mono", 2: "stereo", 6: "5.1"}.get(channels, f"{channels} channels")

"""Lossy codecs, through which a share of the speech goes, as recordings that people keep have done.

Encoding is done in worker processes which know nothing of the GPU, by FFmpeg through PyAV.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing.pool import Pool
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE

Clip = npt.NDArray[np.int16]
LONGEST_FRAME = 60 * SAMPLE_RATE
# container, codec, sample rate, bit rates: voice messages, web audio, wideband and narrow-band telephony
CODECS: tuple[tuple[str, str, int, tuple[int, ...]], ...] = (
    ("ogg", "libopus", 16_000, (8_000, 12_000, 16_000, 24_000)),
    ("ogg", "libopus", 8_000, (6_000, 8_000, 12_000)),
    ("mp3", "libmp3lame", 16_000, (16_000, 24_000, 32_000, 48_000)),
    ("adts", "aac", 16_000, (16_000, 24_000, 32_000)),
    ("wav", "pcm_alaw", 8_000, (64_000,)),
)


def through_codec(clip: Clip, rng: np.random.Generator) -> Clip:
    """[samples] at 16 kHz, encoded and decoded by a codec drawn at random; the same length and alignment."""
    container, codec, rate, bit_rates = CODECS[rng.integers(len(CODECS))]
    file = io.BytesIO()
    encode(file, clip, container, codec, rate, int(rng.choice(bit_rates)))
    file.seek(0)
    return aligned(decoded(file), clip)


def encode(file: io.BytesIO, clip: Clip, container: str, codec: str, rate: int, bit_rate: int) -> None:
    """Write [samples] at 16 kHz as one stream."""
    with av.open(file, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(stream.format, "mono", rate, stream.codec_context.frame_size or 1024)
        for frame in chain(_frames(clip), [None]):
            for piece in resampler.resample(frame):
                output.mux(stream.encode(piece))
        output.mux(stream.encode(None))


def _frames(clip: Clip) -> Iterator[av.AudioFrame]:
    """[samples] in frames that FFmpeg can hold: it allocates no two gigabytes at once."""
    for start in range(0, len(clip), LONGEST_FRAME):
        frame = av.AudioFrame.from_ndarray(
            clip[None, start : start + LONGEST_FRAME], format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        frame.pts = start
        yield frame


def decoded(file: str | io.BytesIO, container: str | None = None) -> Clip:
    """A recording as [samples] at 16 kHz, mono; the container is guessed if it is not said."""
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    with av.open(file, format=container) as source:
        pieces = [p.to_ndarray()[0] for f in source.decode(audio=0) for p in resampler.resample(f)]
    pieces += [p.to_ndarray()[0] for p in resampler.resample(None)]
    return np.concatenate(pieces)


def levelled(clip: Clip) -> Clip:
    """The same with a peak of 0.9."""
    loudest = max(float(np.abs(clip.astype(np.float32)).max()), 1.0)
    even: Clip = (clip * (0.9 * 32_767 / loudest)).astype(np.int16)
    return even


def aligned(heard: Clip, clip: Clip, reach: int = 2_400) -> Clip:
    """Shift `heard` so that it lies over `clip`: codecs add a delay, of at most `reach` samples here."""
    size = 1 << (max(len(heard), len(clip)) + reach).bit_length()
    spectrum = np.fft.rfft(heard.astype(np.float32), size) * np.conj(
        np.fft.rfft(clip.astype(np.float32), size)
    )
    likeness = np.fft.irfft(spectrum, size)
    delay = int(np.argmax(np.concatenate([likeness[-reach:], likeness[: reach + 1]]))) - reach
    out = np.zeros_like(clip)
    part = heard[max(0, delay) : max(0, delay) + len(clip) - max(0, -delay)]
    out[max(0, -delay) : max(0, -delay) + len(part)] = part
    return out


def encoder_pool(workers: int) -> Pool:
    """Worker processes for `through_codecs`; forked, so to be made before anything touches the GPU."""
    return multiprocessing.get_context("fork").Pool(workers)


def _work(task: tuple[int, Clip]) -> Clip:
    seed, clip = task
    return through_codec(clip, np.random.default_rng(seed))


def through_codecs(clips: Iterable[Clip], seed: int, pool: Pool) -> Iterator[Clip]:
    """Each clip through a codec, in order; the same for any number of workers."""
    yield from pool.imap(_work, ((seed + index, clip) for index, clip in enumerate(clips)), chunksize=16)

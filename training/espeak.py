"""A second engine for variety: espeak-ng's rule-based voices, through its C library.

Robotic, but its formant synthesis shares nothing with a neural vocoder. It is used as a tool only; none
of its code or data is shipped.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import signal

Samples = npt.NDArray[np.int16]
VOICES = {"en": ("en-us", "en-gb", "en-gb-scotland"), "zh": ("cmn",), "yue": ("yue",), "ko": ("ko",)}
VARIANTS = ("", "f1", "f2", "f3", "f4", "f5", "m1", "m3", "m4", "m7", "Annie", "Denis", "Michael", "klatt2")
SYNCHRONOUS, RATE, VOLUME, PITCH, PITCH_RANGE = 2, 1, 2, 3, 4
UTF8 = 1
SHARES = 12  # of the texts, one to a worker at a time


class Espeak:
    """espeak-ng without an audio device."""

    def __init__(self, folder: Path) -> None:
        self.library = _own_library(next(folder.glob("libespeak-ng.so*")))
        self.sample_rate = self.library.espeak_Initialize(SYNCHRONOUS, 500, str(folder).encode(), 0)
        self.blocks: list[Samples] = []
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self.callback = callback(self._take)  # kept, or the library would call freed memory
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, *, rate: int, pitch: int, pitch_range: int) -> Samples:
        """The text in a voice, 16 kHz; empty if the voice is missing or silent."""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            return np.zeros(0, np.int16)
        for parameter, value in ((RATE, rate), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.blocks = []
        encoded = text.encode() + b"\0"
        self.library.espeak_Synth(encoded, len(encoded), 0, 1, 0, UTF8, None, None)
        if not self.blocks:
            return np.zeros(0, np.int16)
        resampled = signal.resample_poly(np.concatenate(self.blocks).astype(np.float32), 320, 441)
        peak = max(float(np.abs(resampled).max()), 1.0)
        loud: Samples = (resampled * (29_000 / peak)).astype(np.int16)
        return loud


def _own_library(path: Path) -> ctypes.CDLL:
    """The library with a state of its own: what it says depends on what it has said in this process before."""
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(shutil.copy(path, folder))


def _speak_share(job: tuple[Path, list[tuple[int, str, str]], int]) -> list[tuple[int, Samples]]:
    folder, texts, seed = job
    espeak, rng = Espeak(folder), np.random.default_rng(seed)
    spoken = []
    for index, language, text in texts:
        names = VOICES[language]
        variant = VARIANTS[rng.integers(len(VARIANTS))]
        voice = names[rng.integers(len(names))] + (f"+{variant}" if variant else "")
        samples = espeak.speak(
            text,
            voice,
            rate=int(rng.integers(130, 200)),
            pitch=int(rng.integers(25, 75)),
            pitch_range=int(rng.integers(35, 65)),
        )
        if len(samples) > 8_000:
            spoken.append((index, samples))
    return spoken


def speak_all(
    folder: Path, texts: Sequence[tuple[int, str, str]], *, seed: int, pool: Pool
) -> Callable[[], list[tuple[int, Samples]]]:
    """Begin to speak (index, language, text) triples in a pool; the result, without texts that fail, is waited for.

    It is the same for every number of workers, but for the noise in the voice klatt2.
    """
    jobs = [(folder, list(texts[i::SHARES]), seed * 100 + i) for i in range(SHARES)]
    spoken = pool.map_async(_speak_share, jobs, chunksize=1)
    return lambda: [one for share in spoken.get() for one in share]

"""What the test sets add to clean speech: noises that no training batch has, and a telephone line.

Training hears coloured noise, recorded noises (real rain and engines among them), babble of its own voices and
its own music; here it is rain and an engine made by rule, babble of the development voices and recorded loops
kept for testing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import signal

from sensevoice.spans import SAMPLE_RATE

Samples = npt.NDArray[np.float32]
BABBLE_VOICES = 4
TELEPHONE_HZ = (300, 3_400)
MU = 255  # ITU-T G.711


def rain(rng: np.random.Generator, length: int) -> Samples:
    """Drops: clicks at random times and levels, each through one of six resonances, over a faint hiss."""
    sound = 0.02 * rng.standard_normal(length)
    for centre_hz in rng.uniform(900, 6_500, 6):
        drops = (rng.random(length) < 60 / SAMPLE_RATE) * rng.exponential(1.0, length)
        low, high = centre_hz * 0.9, centre_hz * 1.1
        sound += signal.lfilter(*signal.butter(1, (low, high), "bandpass", fs=SAMPLE_RATE), drops)
    return _unit(sound)


def engine(rng: np.random.Generator, length: int) -> Samples:
    """A motor that idles: harmonics of a slowly drifting pitch, rough, with the whine of a fan."""
    seconds = np.arange(length) / SAMPLE_RATE
    pitch_hz = rng.uniform(28, 60) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * seconds))
    turns = np.cumsum(pitch_hz) / SAMPLE_RATE
    strengths = rng.uniform(0.3, 1.0, 24) / np.arange(1, 25) ** 0.8
    harmonics = (a * np.sin(2 * np.pi * (n * turns + rng.random())) for n, a in enumerate(strengths, 1))
    rough = 1 + 0.4 * signal.sawtooth(2 * np.pi * turns)
    whine = 0.15 * np.sin(2 * np.pi * rng.uniform(18, 30) * turns)
    return _unit(rough * sum(harmonics) + whine)


def babble(rng: np.random.Generator, length: int, clips: Sequence[Samples]) -> Samples:
    """Some voices at once, each starting anywhere in its clip."""
    chosen = rng.choice(len(clips), BABBLE_VOICES, replace=False)
    voices = (np.roll(_unit(clips[i]), int(rng.integers(len(clips[i])))) for i in chosen)
    return _unit(sum(np.resize(voice, length) for voice in voices))


def looped(rng: np.random.Generator, length: int, clips: Sequence[Samples]) -> Samples:
    """One recording, over and over."""
    return _unit(np.resize(clips[rng.integers(len(clips))], length))


def at_snr(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Speech plus noise; the levels are the root mean squares of the whole clips. Peak at most 0.98."""
    level = np.sqrt(np.mean(speech**2)) * 10 ** (-snr_db / 20)
    mixed = speech + level * _unit(noise)
    return _float32(mixed * min(1.0, 0.98 / np.abs(mixed).max()))


def telephone(speech: Samples) -> Samples:
    """300 to 3,400 Hz, 8 kHz, eight bits of mu-law, and back to 16 kHz."""
    band = signal.sosfilt(signal.butter(6, TELEPHONE_HZ, "bandpass", fs=SAMPLE_RATE, output="sos"), speech)
    narrow = signal.resample_poly(band, 1, 2)
    scale = max(float(np.abs(narrow).max()), 1e-6)
    folded = np.sign(narrow) * np.log1p(MU * np.abs(narrow) / scale) / np.log1p(MU)
    coded = np.round(folded * 127) / 127
    heard = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU * scale
    return _float32(signal.resample_poly(heard, 2, 1)[: len(speech)])


def _unit(sound: npt.NDArray[np.floating]) -> Samples:
    """The same at a root mean square of 1; silence stays silence."""
    return _float32(sound / max(float(np.sqrt(np.mean(np.square(sound)))), 1e-9))


def _float32(sound: npt.NDArray[np.floating]) -> Samples:
    return np.asarray(sound, dtype=np.float32)

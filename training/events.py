"""Sound events made by rule: laughter, applause, crying, coughs, sneezes, breath and music.

Every call draws hundreds of parameters, so that a network learns the class and not one sound. Voices
are a glottal pulse (KLGLOTT88) and breath noise through formant resonators; applause is many clappers;
music is chords, arpeggios, bass and drums in random keys, tempi and timbres. NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

from sensevoice.spans import SAMPLE_RATE

EVENTS = ("Laughter", "Applause", "Cry", "Cough", "Sneeze", "Breath", "BGM")
Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]
Rng = np.random.Generator

VOWELS = {  # first three formants of a man, Hz
    "a": (730, 1090, 2440),
    "ae": (660, 1720, 2410),
    "e": (530, 1840, 2480),
    "i": (290, 2200, 2950),
    "o": (500, 900, 2400),
    "u": (320, 870, 2240),
    "uh": (560, 1200, 2400),
}
UPPER_FORMANTS_HZ = (3400, 4400, 5500, 6600)


# --- noise, rooms and levels -----------------------------------------------------------------------


def coloured_noise(rng: Rng, samples: int, slope: float) -> Samples:
    """Noise [samples] of unit RMS whose power falls as frequency**slope: 0 white, -1 pink, -2 brown."""
    size = fft.next_fast_len(max(samples, 2), real=True)
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(hertz, 30.0) ** (slope / 2)
    noise = np.fft.irfft(spectrum, size)[:samples]
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) + 1e-12), np.float32)


def room_response(rng: Rng, rt60_s: float) -> Samples:
    """Impulse response [n] of a room: direct path at index 0, early reflections, diffuse tail; energy 1.

    The tail decays by 60 dB in `rt60_s` at low frequencies and up to three times quicker at high ones.
    """
    size = max(int(SAMPLE_RATE * min(rt60_s, 3.0)), 64)
    decay = np.exp(-6.91 / (rt60_s * SAMPLE_RATE) * np.arange(size))
    white = rng.standard_normal(size)
    dull = signal.lfilter([0.3], [1, -0.7], white)
    tail = decay * (dull + (white - dull) * decay ** rng.uniform(0.2, 2.0))
    first = int(rng.integers(16, min(160, size // 2)))  # 1 to 10 ms until the nearest wall answers
    tail[:first] = 0
    early = rng.integers(first, min(size, first + 1200), rng.integers(4, 14))
    tail[early] += rng.normal(0, 4, len(early)) * decay[early]
    direct_share = rng.uniform(0.15, 0.85)
    tail *= np.sqrt((1 - direct_share) / (np.sum(tail**2) + 1e-12))
    tail[0] = np.sqrt(direct_share)
    return np.asarray(tail / np.sqrt(np.sum(tail**2)), np.float32)


def _wander(rng: Rng, samples: int, rate_hz: float) -> Array:
    """A smooth random curve of unit variance at its knots, `rate_hz` of them a second."""
    knots = max(int(samples / SAMPLE_RATE * rate_hz) + 2, 2)
    return np.interp(np.linspace(0, knots - 1, samples), np.arange(knots), rng.standard_normal(knots))


def _band(rng: Rng, noise: Array, low_hz: float, high_hz: float) -> Array:
    edges = (min(low_hz, 6500.0), min(max(high_hz, low_hz * 1.3), 7800.0))
    return np.asarray(
        signal.sosfilt(signal.butter(1, edges, "bandpass", fs=SAMPLE_RATE, output="sos"), noise)
    )


def finish(rng: Rng, sound: Array, wet: float = 0.5) -> Samples:
    """A random microphone and, `wet` of the time, a room; then a peak of 0.5 to 0.9."""
    if rng.random() < wet:
        sound = signal.oaconvolve(sound, room_response(rng, rng.uniform(0.1, 0.9)))[: len(sound)]
    if rng.random() < 0.35:  # recordings are often compressed or overdriven
        sound = np.tanh(sound * (rng.uniform(1, 6) / (np.abs(sound).max() + 1e-9)))
    tilt = rng.uniform(-0.35, 0.35)
    sound = signal.lfilter([1, -tilt], [1], sound)
    cut = signal.butter(2, rng.uniform(30, 120), "highpass", fs=SAMPLE_RATE, output="sos")
    if rng.random() < 0.25:  # a narrow-band source
        top = signal.butter(4, rng.uniform(2800, 6500), fs=SAMPLE_RATE, output="sos")
        cut = np.concatenate([cut, top])
    sound = signal.sosfilt(cut, sound)
    fade = min(160, len(sound) // 4)
    sound[len(sound) - fade :] *= np.linspace(1, 0, fade)
    peak = np.abs(sound).max()
    return np.asarray(sound * (rng.uniform(0.5, 0.9) / (peak + 1e-9)), np.float32)


# --- the voice -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Voice:
    f0_hz: float
    tract: float  # formant scale: 1 for a man
    breathiness: float
    open_quotient: float
    dullness: float  # pole of the low-pass that tilts the glottal spectrum
    roughness: float


def _voice(rng: Rng, *, babies: float = 0.0) -> _Voice:
    if rng.random() < babies:
        f0, tract = rng.uniform(330, 560), rng.uniform(1.45, 1.9)
    else:
        low, high, least, most = ((85, 170, 0.9, 1.08), (165, 290, 1.08, 1.25), (240, 400, 1.22, 1.5))[
            rng.choice(3, p=(0.42, 0.4, 0.18))
        ]
        f0, tract = rng.uniform(low, high), rng.uniform(least, most)
    return _Voice(
        f0, tract, rng.uniform(0.05, 0.6), rng.uniform(0.4, 0.85), rng.uniform(0.0, 0.75), rng.beta(1, 3)
    )


def _glottal(rng: Rng, voice: _Voice, f0_hz: Array) -> Array:
    """Derivative of the glottal flow for a pitch track [n] in Hz (KLGLOTT88, Klatt & Klatt 1990)."""
    jitter = 1 + (0.008 + 0.03 * voice.roughness) * _wander(rng, len(f0_hz), 90)
    cycles = np.cumsum(f0_hz * jitter) / SAMPLE_RATE + rng.random()
    phase = (cycles % 1) / voice.open_quotient
    pulse = np.where(phase < 1, 2 * phase - 3 * phase**2, 0.0)
    if voice.roughness > 0.35:  # every second pulse weaker, as in a hoarse cry or laugh
        pulse *= 1 - 0.6 * voice.roughness * (cycles.astype(np.int64) % 2)
    return np.asarray(signal.lfilter([1 - voice.dullness], [1, -voice.dullness], pulse))


def _tract(rng: Rng, voice: _Voice, vowel: str, source: Array, damping: float) -> Array:
    """The cascade of formant resonators of one vowel, with this voice's own deviations."""
    formants = np.array((*VOWELS[vowel], *UPPER_FORMANTS_HZ)) * voice.tract
    formants *= rng.normal(1, 0.05, len(formants))
    formants = formants[formants < 7600]
    widths = damping * rng.uniform(0.7, 1.8) * (50 + 0.04 * formants)
    radius = np.exp(-np.pi * widths / SAMPLE_RATE)
    middle = -2 * radius * np.cos(2 * np.pi * formants / SAMPLE_RATE)
    ones, zeros = np.ones_like(radius), np.zeros_like(radius)
    gain = 1 + middle + radius**2  # unity at 0 Hz
    sections = np.stack([gain, zeros, zeros, ones, middle, radius**2], axis=1)
    return np.asarray(signal.sosfilt(sections, source))


class _Track:
    """The controls of a voice over time: pitch in Hz, level of voicing, level of breath noise; all [n]."""

    def __init__(self, voice: _Voice, samples: int) -> None:
        self.voice = voice
        self.f0_hz = np.full(samples, voice.f0_hz)
        self.voicing = np.zeros(samples)
        self.breath = np.zeros(samples)

    def add(self, start: int, shape: Array, *, voicing: float = 0.0, breath: float = 0.0) -> None:
        start, room = max(start, 0), len(self.breath) - max(start, 0)
        shape = shape[: max(room, 0)]
        self.voicing[start : start + len(shape)] += voicing * shape
        self.breath[start : start + len(shape)] += breath * shape

    def pitch(self, start: int, f0_hz: Array) -> None:
        f0_hz = f0_hz[: max(len(self.f0_hz) - start, 0)]
        self.f0_hz[start : start + len(f0_hz)] = f0_hz

    def sound(self, rng: Rng, vowel: str, noise_slope: float = 0.0) -> Array:
        """Voiced and breathed sources through the vowel's formants [n]."""
        samples = len(self.breath)
        noise = coloured_noise(rng, samples, noise_slope) * 0.25
        source = noise * (self.breath + self.voice.breathiness * self.voicing)
        if not self.voicing.any():  # an open glottis damps the formants
            return _tract(rng, self.voice, vowel, source, rng.uniform(1.5, 4))
        source = source + _glottal(rng, self.voice, self.f0_hz) * self.voicing
        return _tract(rng, self.voice, vowel, source, 1.0)


def _bump(samples: int, attack: float, sharpness: float = 1.5) -> Array:
    """A rise over the share `attack` and a decay over the rest, [samples], peak 1."""
    time = (np.arange(max(samples, 2)) + 0.5) / max(samples, 2)
    up, down = np.clip(time / attack, 0, 1), np.clip((1 - time) / (1 - attack), 0, 1)
    return np.sin(np.pi / 2 * up) ** 2 * down**sharpness


def _samples(rng: Rng, low_s: float, high_s: float) -> int:
    return int(SAMPLE_RATE * rng.uniform(low_s, high_s))


def _mix_in(sound: Array, start: int, part: Array) -> None:
    part = part[: max(len(sound) - start, 0)]
    sound[start : start + len(part)] += part


def _one_after_another(
    rng: Rng, samples: int, part: Callable[[], Array], pause_s: tuple[float, float]
) -> Array:
    """Parts with pauses between them until the time is full, [samples]."""
    sound = np.zeros(samples)
    position = _samples(rng, 0.0, 0.3)
    position = min(position, samples // 4)
    while position < samples:
        piece = part()
        _mix_in(sound, position, piece)
        position += len(piece) + _samples(rng, *pause_s)
    return sound


# --- laughter --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LaughStyle:
    rate_hz: float
    duty: float
    voicing: float
    breath: float
    pitch_rise: float
    pitch_fall: float
    vowels: Sequence[str]


def _laugh_style(rng: Rng) -> _LaughStyle:
    manner = rng.choice(4, p=(0.68, 0.17, 0.1, 0.05))  # song-like, chuckle, breathy, snorting
    return _LaughStyle(
        rate_hz=np.exp(rng.uniform(np.log(3.2), np.log(10.0))),
        duty=rng.uniform(0.3, 0.8),
        voicing=(1.0, 0.7, 0.15, 0.02)[manner],
        breath=(rng.uniform(0.02, 0.7), 0.3, 1.2, 1.5)[manner],
        pitch_rise=(rng.uniform(1.0, 2.3), rng.uniform(0.8, 1.2), 1.0, 1.0)[manner],
        pitch_fall=rng.uniform(0.5, 1.0),
        vowels=tuple(rng.choice(("a", "a", "ae", "e", "i", "o", "uh"), 2)),
    )


def _laugh_bout(rng: Rng, voice: _Voice, style: _LaughStyle) -> Array:
    """One breath of laughter: 'ha ha ha', slowing, falling in pitch and level, then perhaps an inhalation."""
    bursts = int(rng.integers(2, 14))
    period = SAMPLE_RATE / style.rate_hz * rng.uniform(0.85, 1.15)
    track = _Track(voice, int(period * bursts * 1.3) + SAMPLE_RATE // 5)
    peak_pitch, fade = voice.f0_hz * style.pitch_rise * rng.uniform(0.85, 1.15), rng.uniform(0.15, 1.0)
    position, slowing = 0.0, rng.uniform(0.99, 1.04)
    for step in np.linspace(0, 1, bursts):
        length = int(period * style.duty * rng.uniform(0.8, 1.2))
        level = fade**step * rng.uniform(0.6, 1.0)
        onset = int(length * rng.uniform(0.05, 0.4))  # the 'h' before the vowel
        arch = 1 + rng.uniform(-0.05, 0.25) * np.sin(np.linspace(0, np.pi * rng.uniform(0.6, 1), length))
        track.pitch(int(position), peak_pitch * style.pitch_fall**step * arch * rng.normal(1, 0.04))
        track.add(int(position), _bump(length, rng.uniform(0.15, 0.5)), breath=level * style.breath)
        track.add(
            int(position) + onset, _bump(length - onset, rng.uniform(0.1, 0.4)), voicing=level * style.voicing
        )
        period, position = period * slowing, position + period
    sound = track.sound(rng, style.vowels[int(rng.integers(len(style.vowels)))])[: int(position) + 400]
    return np.concatenate([sound, _inhalation(rng, voice)]) if rng.random() < 0.5 else sound


def _inhalation(rng: Rng, voice: _Voice, low_s: float = 0.15, high_s: float = 0.6) -> Array:
    track = _Track(voice, _samples(rng, low_s, high_s))
    shape = _bump(len(track.breath), rng.uniform(0.5, 0.85), rng.uniform(0.5, 1.0))
    track.add(0, shape, breath=rng.uniform(0.1, 0.8), voicing=rng.choice((0.0, 0.0, 0.25)))
    track.f0_hz *= np.linspace(1.2, rng.uniform(1.5, 2.5), len(shape))
    return track.sound(rng, str(rng.choice(("uh", "i", "e"))), rng.uniform(-0.5, 0.5))


def _another_person(rng: Rng, laugh: Array) -> Array:
    """The same laugh by a longer or shorter throat, at another moment [samples]."""
    pace = 2 ** rng.uniform(-0.35, 0.35)
    times = (np.arange(len(laugh)) * pace + rng.integers(len(laugh))) % len(laugh)
    return np.asarray(np.interp(times, np.arange(len(laugh)), laugh))


def _laughter(rng: Rng, samples: int) -> Samples:
    people = 1 if rng.random() < 0.65 else int(rng.integers(2, 9))
    laughs: list[Array] = []
    for _ in range(min(people, 3)):
        voice, style = _voice(rng, babies=0.05), _laugh_style(rng)
        pause = (0.05, rng.uniform(0.2, 0.9) * (1 + people / 4))
        laugh = _one_after_another(rng, samples, partial(_laugh_bout, rng, voice, style), pause)
        laughs.append(laugh / (np.abs(laugh).max() + 1e-9))
    laughs += [_another_person(rng, laughs[i % 3]) for i in range(people - len(laughs))]
    return finish(rng, np.sum([laugh * rng.uniform(0.3, 1.0) for laugh in laughs], axis=0))


# --- applause --------------------------------------------------------------------------------------


def _clap_kernel(rng: Rng) -> Array:
    """One pair of hands: a noise burst of a few milliseconds around its cavity's resonance."""
    length = _samples(rng, 0.012, 0.05)
    decay = np.exp(-np.arange(length) / (SAMPLE_RATE * rng.uniform(0.0012, 0.007)))
    centre = np.exp(rng.uniform(np.log(500), np.log(3000)))
    noise = rng.standard_normal(length) * decay
    kernel = _band(rng, noise, centre / rng.uniform(1.15, 2), centre * rng.uniform(1.15, 2.2))
    kernel += noise * rng.uniform(0.02, 0.35)  # the slap of skin reaches far above the cavity
    return np.asarray(kernel / np.sqrt(np.sum(kernel**2)))


def _clap_times(rng: Rng, clappers: int, samples: int) -> tuple[npt.NDArray[np.int64], Array]:
    """Onsets (in samples, a row a clapper) and levels; some crowds clap in time with one another."""
    together = rng.random() < 0.12
    rate = rng.uniform(2, 6, clappers) if not together else np.full(clappers, rng.uniform(1.5, 4))
    count = int(samples / SAMPLE_RATE * rate.max() * 1.3) + 2
    gaps = SAMPLE_RATE / rate[:, None] * np.maximum(rng.normal(1, 0.08, (clappers, count)), 0.4)
    first = rng.uniform(0, 1, clappers) * SAMPLE_RATE / rate if not together else rng.normal(0, 300, clappers)
    if together:
        gaps = np.broadcast_to(gaps[:1], gaps.shape) + rng.normal(0, 150, gaps.shape)
    times = (first[:, None] + np.cumsum(gaps, axis=1) - gaps[:, :1]).astype(np.int64)
    distance = rng.lognormal(0, 0.6, (clappers, 1))
    return times, distance * rng.lognormal(0, 0.25, times.shape)


def _claps(rng: Rng, samples: int, clappers: int) -> Array:
    times, levels = _clap_times(rng, clappers, samples)
    kinds = min(clappers, 6)
    hands = np.broadcast_to((np.arange(clappers) % kinds)[:, None], times.shape)
    inside = (times >= 0) & (times < samples)
    impulses = np.zeros((kinds, samples))
    np.add.at(impulses, (hands[inside], times[inside]), levels[inside])
    rows = [signal.oaconvolve(row, _clap_kernel(rng))[:samples] for row in impulses]
    return np.asarray(np.sum(rows, axis=0))


def _cheer(rng: Rng, samples: int) -> Array:
    """Voices calling 'woo' and 'yeah' over the crowd, and now and then a whistle."""
    sound = np.zeros(samples)
    for _ in range(rng.integers(2, 9)):
        voice = _voice(rng)
        track = _Track(voice, _samples(rng, 0.4, 1.6))
        shape = _bump(len(track.breath), rng.uniform(0.1, 0.5))
        track.add(0, shape, voicing=1.0, breath=0.5)
        track.f0_hz *= rng.uniform(1.4, 2.6) * (1 + rng.uniform(0.1, 0.5) * shape)
        call = track.sound(rng, str(rng.choice(("u", "e", "ae", "a"))))
        if rng.random() < 0.2:
            pitch = rng.uniform(1500, 3200) * (1 + 0.25 * rng.choice((-1, 1)) * shape)
            call = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * shape
        _mix_in(
            sound, int(rng.integers(0, samples)), call / (np.abs(call).max() + 1e-9) * rng.uniform(0.2, 1)
        )
    return sound


def _swell(rng: Rng, samples: int) -> Array:
    """Level of a crowd over time: it grows, wavers and may die away."""
    time = np.linspace(0, 1, samples)
    level = np.exp(0.2 * _wander(rng, samples, 1.0))
    if rng.random() < 0.4:
        level *= np.clip(time / rng.uniform(0.1, 0.6), 0.05, 1)
    if rng.random() < 0.5:
        level *= np.clip((1.05 - time) / rng.uniform(0.2, 0.9), 0, 1) ** rng.uniform(0.7, 2)
    return np.asarray(level)


def _applause(rng: Rng, samples: int) -> Samples:
    clappers = (
        int(np.exp(rng.uniform(np.log(3), np.log(400)))) if rng.random() < 0.85 else int(rng.integers(1, 4))
    )
    sound = _claps(rng, samples, clappers) * _swell(rng, samples)
    sound /= np.sqrt(np.mean(sound**2)) + 1e-9
    if clappers > 60:  # the far rows melt into a hiss
        hiss = coloured_noise(rng, samples, rng.uniform(-1, 0)).astype(np.float64)
        sound += rng.uniform(0, 0.8) * _band(rng, hiss, 500, rng.uniform(2500, 6000)) * _swell(rng, samples)
    if clappers > 8 and rng.random() < 0.35:
        sound += _cheer(rng, samples) * rng.uniform(0.5, 2.5)
    return finish(rng, sound, wet=0.7)


# --- coughs, sneezes, breath -----------------------------------------------------------------------


def _cough_burst(rng: Rng, voice: _Voice, voiced: float) -> Array:
    """Glottal explosion, turbulent phase, voiced tail (the three phases of Korpás et al. 1996)."""
    explosion, middle = _samples(rng, 0.015, 0.07), _samples(rng, 0.06, 0.22)
    tail = _samples(rng, 0.04, 0.2)
    track = _Track(voice, explosion + middle + tail + 800)
    track.add(0, _bump(explosion, rng.uniform(0.03, 0.2), 1.0), breath=rng.uniform(0.8, 2.8))
    track.add(
        explosion // 3, _bump(middle + explosion, 0.1, rng.uniform(0.3, 1.6)), breath=rng.uniform(0.5, 1.6)
    )
    onset = explosion + int(middle * rng.uniform(0.2, 0.8))
    track.add(
        onset,
        _bump(tail + middle // 3, rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.6)),
        voicing=voiced * rng.uniform(0.3, 1),
    )
    track.pitch(0, voice.f0_hz * np.linspace(rng.uniform(1.1, 2.0), rng.uniform(0.7, 1.2), len(track.breath)))
    sound = track.sound(rng, str(rng.choice(("uh", "a", "o", "ae", "e"))), rng.uniform(-0.8, 1.2))
    click = coloured_noise(rng, explosion, 0) * _bump(explosion, 0.05, 3)
    sound[:explosion] += click * np.abs(sound).max() * rng.uniform(0, 0.7)
    return sound


def _cough_fit(rng: Rng, voice: _Voice) -> Array:
    voiced = rng.choice((0.0, 0.4, 1.0), p=(0.25, 0.3, 0.45))
    pieces = [_inhalation(rng, voice)] if rng.random() < 0.3 else []
    for step in range(rng.integers(1, 5)):
        pieces.append(_cough_burst(rng, voice, voiced) * rng.uniform(0.5, 1) * 0.9**step)
        pieces.append(np.zeros(_samples(rng, 0.0, 0.15)))
    if rng.random() < 0.15:
        pieces.append(_throat_clearing(rng, voice))
    return np.concatenate(pieces)


def _throat_clearing(rng: Rng, voice: _Voice) -> Array:
    track = _Track(voice, _samples(rng, 0.25, 0.6))
    rattle = 1 + 0.8 * np.sign(
        np.sin(np.arange(len(track.breath)) * 2 * np.pi * rng.uniform(25, 60) / SAMPLE_RATE)
    )
    track.add(0, _bump(len(rattle), 0.3, 0.7) * rattle, voicing=0.5, breath=0.8)
    return track.sound(rng, "uh", -0.5)


def _cough(rng: Rng, samples: int) -> Samples:
    voice = _voice(rng)
    sound = _one_after_another(rng, samples, lambda: _cough_fit(rng, voice), (0.3, rng.uniform(0.6, 3)))
    return finish(rng, sound)


def _sneeze_build_up(rng: Rng, voice: _Voice) -> Array:
    """One to three gasps, 'ah... ah...', each stronger."""
    pieces = []
    for strength in np.linspace(0.4, 1, rng.integers(1, 4)):
        track = _Track(voice, _samples(rng, 0.2, 0.7))
        shape = _bump(len(track.breath), rng.uniform(0.5, 0.9), 0.7)
        track.f0_hz *= np.linspace(1, rng.uniform(1.1, 1.8), len(shape))
        track.add(0, shape, voicing=rng.uniform(0, 0.35) * strength, breath=0.5 * strength)
        pieces += [track.sound(rng, str(rng.choice(("a", "ae", "uh")))), np.zeros(_samples(rng, 0.02, 0.3))]
    return np.concatenate(pieces)


def _sneeze_burst(rng: Rng, voice: _Voice) -> Array:
    """'Choo': a wide-band explosion and fricative, then a vowel that falls away."""
    fricative, vowel = _samples(rng, 0.08, 0.28), _samples(rng, 0.1, 0.45)
    track = _Track(voice, fricative + vowel)
    track.add(0, _bump(fricative, 0.1, 1.0), breath=rng.uniform(0.5, 2))
    start = int(fricative * rng.uniform(0.2, 0.9))
    track.add(start, _bump(vowel, 0.15, rng.uniform(1, 2.5)), voicing=rng.choice((0, 0.5, 1)), breath=0.5)
    track.pitch(0, voice.f0_hz * np.linspace(rng.uniform(1.3, 2.2), 0.8, len(track.breath)))
    sound = track.sound(rng, str(rng.choice(("u", "u", "uh", "i", "o"))))
    sound /= np.abs(sound).max() + 1e-9
    hiss = coloured_noise(rng, fricative, rng.uniform(-0.5, 1)).astype(np.float64)
    hiss = _band(rng, hiss, rng.uniform(1200, 3200), rng.uniform(4000, 7500))
    hiss *= _bump(fricative, rng.uniform(0.03, 0.2), rng.uniform(0.6, 1.5))
    sound[:fricative] += hiss / (np.abs(hiss).max() + 1e-9) * rng.uniform(0.6, 2.5)
    return np.asarray(sound)


def _sneeze(rng: Rng, samples: int) -> Samples:
    voice = _voice(rng)

    def part() -> Array:
        burst = _sneeze_burst(rng, voice)
        if rng.random() < 0.15:
            return burst
        gasp = _sneeze_build_up(rng, voice)
        gasp *= rng.uniform(0.1, 0.6) * np.abs(burst).max() / (np.abs(gasp).max() + 1e-9)
        gasp = gasp[-max(samples - len(burst), 1) :]  # a short clip keeps the sneeze itself
        return np.concatenate([gasp, burst])

    return finish(rng, _one_after_another(rng, samples, part, (0.3, 2.0)))


def _breath_stroke(rng: Rng, voice: _Voice, low_s: float, high_s: float, inward: bool) -> Array:
    track = _Track(voice, _samples(rng, low_s, high_s))
    attack = rng.uniform(0.4, 0.8) if inward else rng.uniform(0.08, 0.4)
    shape = _bump(len(track.breath), attack, rng.uniform(0.6, 2))
    flutter = np.maximum(1 + 0.15 * _wander(rng, len(shape), 30), 0)
    track.add(0, shape * flutter, breath=1.0, voicing=0.0 if rng.random() < 0.9 else 0.1)
    return track.sound(
        rng, str(rng.choice(("i", "e", "uh") if inward else ("a", "uh", "u", "o"))), rng.uniform(-1, 0.5)
    )


def _breath(rng: Rng, samples: int) -> Samples:
    manner = rng.choice(4, p=(0.45, 0.25, 0.15, 0.15))  # calm, panting, sighing, sniffing
    low_s, high_s = ((0.6, 1.8), (0.12, 0.4), (0.8, 2.2), (0.1, 0.4))[manner]
    pause = ((0.05, 0.7), (0.0, 0.12), (0.2, 1.0), (0.1, 1.2))[manner]
    voice, outward = _voice(rng), rng.uniform(0.2, 1.5) if manner < 3 else 0.1

    def cycle() -> Array:
        inhaled = _breath_stroke(rng, voice, low_s, high_s, inward=True)
        rest = np.zeros(_samples(rng, 0.02, 0.1 + 0.15 * high_s))
        exhaled = _breath_stroke(rng, voice, low_s, high_s, inward=False)
        exhaled *= outward * np.abs(inhaled).max() / (np.abs(exhaled).max() + 1e-9)
        return np.concatenate([inhaled, rest, exhaled])

    sound = _one_after_another(rng, samples, cycle, pause)
    floor = coloured_noise(rng, samples, -1) * np.abs(sound).max() * 10 ** rng.uniform(-3.5, -1.8)
    return finish(rng, sound + floor, wet=0.3)


# --- crying ----------------------------------------------------------------------------------------


def _wail(rng: Rng, voice: _Voice, low_s: float, high_s: float) -> Array:
    """One exhaled cry: the pitch rises, wavers and falls; hard voices break into noise."""
    track = _Track(voice, _samples(rng, low_s, high_s))
    length = len(track.breath)
    time = np.linspace(0, 1, length)
    arch = (
        1
        + rng.uniform(0.0, 0.45) * np.sin(np.pi * time ** rng.uniform(0.4, 1.0))
        - rng.uniform(0, 0.35) * time
    )
    depth, rate = rng.uniform(0.01, 0.07), rng.uniform(4, 9)
    vibrato = (
        1
        + depth * np.sin(2 * np.pi * rate * np.arange(length) / SAMPLE_RATE)
        + 0.02 * _wander(rng, length, 8)
    )
    track.f0_hz *= arch * vibrato * rng.uniform(0.9, 1.15)
    shape = _bump(length, rng.uniform(0.08, 0.3), rng.uniform(0.4, 1.2))
    shape *= 1 + rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.uniform(4, 9) * np.arange(length) / SAMPLE_RATE)
    track.add(0, shape, voicing=1.0, breath=rng.uniform(0, 0.5))
    return track.sound(rng, str(rng.choice(("a", "ae", "e", "uh"))))


def _sob(rng: Rng, voice: _Voice) -> Array:
    """A wail that ends in shaken gasps, 'uh-uh-uh', then a sniff."""
    pieces = [_wail(rng, voice, 0.3, 1.6)]
    for _ in range(rng.integers(0, 5)):
        catch = _wail(rng, voice, 0.06, 0.2) if rng.random() < 0.6 else _inhalation(rng, voice, 0.06, 0.2)
        pieces += [catch * rng.uniform(0.2, 0.7), np.zeros(_samples(rng, 0.02, 0.15))]
    if rng.random() < 0.5:
        pieces.append(_breath_stroke(rng, voice, 0.1, 0.4, inward=True) * rng.uniform(0.2, 1.0))
    return np.concatenate(pieces)


def _cry(rng: Rng, samples: int) -> Samples:
    if rng.random() < 0.5:  # a baby: regular wails of a second, with a gasp between them
        voice = _voice(rng, babies=1.0)

        def part() -> Array:
            wail = _wail(rng, voice, 0.4, 1.6)
            return np.concatenate([wail, _inhalation(rng, voice, 0.1, 0.35)]) if rng.random() < 0.7 else wail

        return finish(rng, _one_after_another(rng, samples, part, (0.0, 0.4)))
    base = _voice(rng)
    voice = _Voice(base.f0_hz * rng.uniform(1.1, 1.9), base.tract, *list(vars(base).values())[2:])
    return finish(rng, _one_after_another(rng, samples, lambda: _sob(rng, voice), (0.05, 0.6)))


# --- music -----------------------------------------------------------------------------------------

TABLE_SIZE = 2048
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10))
PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (0, 3, 4, 4),
    (1, 4, 0, 0),
    (5, 3, 0, 4),
    (0, 0, 3, 4),
    (0, 6, 5, 4),
)


@dataclass(frozen=True)
class _Timbre:
    """An instrument: its wave or algorithm and the shape of its notes."""

    kind: str  # "wave", "fm", "pluck"
    table: Array  # [TABLE_SIZE] one period
    attack_s: float
    decay_s: float  # time constant; above 5 it is held
    vibrato: float
    ratio: float
    index: float


def _timbre(rng: Rng) -> _Timbre:
    name = str(rng.choice(("piano", "organ", "strings", "pad", "fm", "bell", "pluck", "lead", "choir")))
    harmonics = np.arange(1, 17)
    levels = harmonics ** -rng.uniform(0.6, 2.5) * rng.uniform(0.2, 1, 16)
    if name == "organ":
        levels = np.isin(harmonics, (1, 2, 3, 4, 6, 8)) * rng.uniform(0, 1, 16)
        levels[0] += 0.5
    if name == "lead" and rng.random() < 0.5:
        levels[1::2] = 0  # a square wave
    if name == "choir":
        formants = np.array(VOWELS[str(rng.choice(("a", "o", "u")))])[:, None] * rng.uniform(1, 1.25)
        levels *= np.exp(-(((harmonics * 260 - formants) / 250) ** 2)).sum(axis=0) + 0.1
    angles = np.outer(harmonics, np.arange(TABLE_SIZE)) * (2 * np.pi / TABLE_SIZE)
    table = levels @ np.sin(angles + rng.uniform(0, 2 * np.pi, (16, 1)))
    held = name in ("organ", "strings", "pad", "lead", "choir")
    return _Timbre(
        kind=name if name in ("fm", "pluck") else "fm" if name == "bell" else "wave",
        table=table / np.abs(table).max(),
        attack_s=rng.uniform(0.05, 0.3) if name in ("strings", "pad", "choir") else rng.uniform(0.002, 0.02),
        decay_s=9.0 if held else rng.uniform(0.15, 1.2),
        vibrato=rng.uniform(0.002, 0.012) if name in ("strings", "lead", "choir") else 0.0,
        ratio=float(rng.choice((1, 2, 3, 0.5, 1.41, 3.5))),
        index=rng.uniform(0.5, 5),
    )


def _note(rng: Rng, timbre: _Timbre, pitch: float, samples: int) -> Array:
    """One note, MIDI pitch, [samples] and at most 3 s of it."""
    samples = int(min(max(samples, 64), 3 * SAMPLE_RATE))
    hertz, time = 440 * 2 ** ((pitch - 69) / 12), np.arange(samples) / SAMPLE_RATE
    if timbre.kind == "pluck":
        sound = _plucked(rng, hertz, samples, timbre.index)
    else:
        cycles = hertz * time
        if timbre.vibrato:
            cycles = cycles + hertz * timbre.vibrato * np.sin(2 * np.pi * 5.5 * time) / (2 * np.pi * 5.5)
        if timbre.kind == "fm":
            wobble = timbre.index * np.exp(-time / timbre.decay_s) * np.sin(2 * np.pi * timbre.ratio * cycles)
            sound = np.sin(2 * np.pi * cycles + wobble)
        else:
            sound = timbre.table[((cycles + rng.random()) * TABLE_SIZE).astype(np.int64) % TABLE_SIZE]
    envelope = np.minimum(time / timbre.attack_s, 1) * np.minimum((time[-1] - time) / 0.03, 1)
    return np.asarray(
        sound * envelope * np.exp(-time / timbre.decay_s) if timbre.decay_s < 5 else sound * envelope
    )


def _plucked(rng: Rng, hertz: float, samples: int, brightness: float) -> Array:
    """A string by Karplus and Strong (1983)."""
    period = max(int(SAMPLE_RATE / hertz), 4)
    excitation = np.zeros(samples)
    burst = rng.uniform(-1, 1, min(period, samples))
    excitation[: len(burst)] = signal.lfilter([1], [1, -0.5 / max(brightness, 0.6)], burst)
    feedback = np.zeros(period + 2)
    feedback[0], feedback[period], feedback[period + 1] = 1, -0.498, -0.498
    return np.asarray(signal.lfilter([1], feedback, excitation))


def _kick(rng: Rng) -> Array:
    time = np.arange(_samples(rng, 0.12, 0.35)) / SAMPLE_RATE
    sweep = rng.uniform(40, 70) * time + rng.uniform(1, 5) * (1 - np.exp(-time * rng.uniform(20, 60)))
    return np.asarray(np.sin(2 * np.pi * sweep) * np.exp(-time * rng.uniform(8, 25)))


def _snare(rng: Rng) -> Array:
    time = np.arange(_samples(rng, 0.08, 0.25)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * rng.uniform(150, 260) * time) * np.exp(-time * 30)
    noise = _band(rng, rng.standard_normal(len(time)), rng.uniform(600, 1800), 7500)
    return np.asarray(tone * rng.uniform(0.1, 0.8) + 0.6 * noise * np.exp(-time * rng.uniform(15, 45)))


def _hat(rng: Rng) -> Array:
    length = _samples(rng, 0.03, 0.2)
    noise = np.diff(rng.standard_normal(length), prepend=0) * rng.uniform(0.1, 0.35)
    return np.asarray(noise * np.exp(-np.arange(length) / (SAMPLE_RATE * rng.uniform(0.008, 0.05))))


def _drums(rng: Rng, samples: int, beat: float) -> Array:
    """A pattern of sixteen steps, repeated: kick on strong steps, snare on the second and fourth beat."""
    likely = {
        "kick": np.full(16, 0.08),
        "snare": np.full(16, 0.05),
        "hat": np.full(16, rng.uniform(0.2, 0.7)),
    }
    likely["kick"][[0, 8]] = 0.9
    likely["kick"][[4, 12]] = rng.choice((0.1, 0.95))
    likely["snare"][[4, 12]] = 0.85
    likely["hat"][::2] = 0.8
    sound = np.zeros(samples)
    for name, make in (("kick", _kick), ("snare", _snare), ("hat", _hat)):
        hit, steps = make(rng) * rng.uniform(0.3, 1), np.flatnonzero(rng.random(16) < likely[name])
        for bar in np.arange(0, samples, 4 * beat):
            for start in bar + steps * beat / 4:
                _mix_in(sound, min(int(start), samples), hit * rng.uniform(0.6, 1))
    return sound


def _hand_drums(rng: Rng, samples: int, beat: float) -> Array:
    """Struck skins and wood, as congas, tabla or blocks: decaying pairs of sines on random sixteenths."""
    sound = np.zeros(samples)
    if rng.random() < 0.6:
        return sound
    pattern = rng.random((3, 16)) < rng.uniform(0.1, 0.4)
    for steps in pattern:
        time = np.arange(_samples(rng, 0.06, 0.3)) / SAMPLE_RATE
        pitch = np.exp(rng.uniform(np.log(90), np.log(1200))) * (1 + rng.uniform(0, 0.3) * np.exp(-time * 40))
        cycles = np.cumsum(pitch) / SAMPLE_RATE
        hit = np.sin(2 * np.pi * cycles) + 0.5 * np.sin(2 * np.pi * rng.uniform(1.4, 2.4) * cycles)
        hit *= np.exp(-time * rng.uniform(12, 60)) * rng.uniform(0.4, 1)
        for bar in np.arange(0, samples, 4 * beat):
            for start in bar + np.flatnonzero(steps) * beat / 4:
                _mix_in(sound, min(int(start), samples), hit * rng.uniform(0.4, 1))
    return sound


@dataclass(frozen=True)
class _Harmony:
    """Key, scale and the chords bar by bar."""

    tonic: int  # MIDI
    scale: Sequence[int]
    roots: Sequence[int]  # a degree a bar
    sizes: int  # notes in a chord

    def pitch(self, degree: int) -> int:
        octave, step = divmod(degree, 7)
        return self.tonic + 12 * octave + self.scale[step]

    def chord(self, bar: int) -> list[int]:
        return [self.roots[bar % len(self.roots)] + 2 * i for i in range(self.sizes)]


def _chords(rng: Rng, samples: int, beat: float, harmony: _Harmony) -> Array:
    timbre, every = _timbre(rng), float(rng.choice((4, 4, 2, 1)))
    held, sound = rng.uniform(0.5, 1.05), np.zeros(samples)
    for start in np.arange(0, samples, every * beat):
        for degree in harmony.chord(int(start // (4 * beat))):
            note = _note(rng, timbre, harmony.pitch(degree) + 12, int(every * beat * held))
            _mix_in(sound, int(start), note * rng.uniform(0.5, 1))
    return sound


def _arpeggio(rng: Rng, samples: int, beat: float, harmony: _Harmony) -> Array:
    timbre, step = _timbre(rng), float(rng.choice((0.25, 0.5, 0.5, 1.0)))
    order, sound = rng.permutation(2 * harmony.sizes), np.zeros(samples)
    for count, start in enumerate(np.arange(0, samples, step * beat)):
        chord = harmony.chord(int(start // (4 * beat)))
        degree = chord[order[count % len(order)] % len(chord)] + 7 * (order[count % len(order)] // len(chord))
        length = int(step * beat * rng.uniform(0.8, 2.0))
        _mix_in(
            sound, int(start), _note(rng, timbre, harmony.pitch(degree) + 12, length) * rng.uniform(0.6, 1)
        )
    return sound


def _melody(rng: Rng, samples: int, beat: float, harmony: _Harmony) -> Array:
    timbre, degree, position, sound = _timbre(rng), 7, 0.0, np.zeros(samples)
    while position < samples:
        beats = float(rng.choice((0.5, 0.5, 1, 1, 1.5, 2)))
        degree = int(np.clip(degree + rng.integers(-3, 4), 3, 15))
        if rng.random() < 0.85:
            _mix_in(sound, int(position), _note(rng, timbre, harmony.pitch(degree) + 12, int(beats * beat)))
        position += beats * beat
    return sound


def _bass(rng: Rng, samples: int, beat: float, harmony: _Harmony) -> Array:
    timbre, step, sound = _timbre(rng), float(rng.choice((4, 2, 1, 0.5))), np.zeros(samples)
    for start in np.arange(0, samples, step * beat):
        degree = harmony.chord(int(start // (4 * beat)))[0] + int(rng.choice((0, 0, 0, 4)))
        _mix_in(sound, int(start), _note(rng, timbre, harmony.pitch(degree) - 12, int(step * beat)))
    return sound


def _parts(rng: Rng) -> Iterator[tuple[Callable[[Rng, int, float, _Harmony], Array], float]]:
    """Which pitched parts play, and how loud; at least one of chords, arpeggio and melody."""
    present = rng.random(4) < (0.65, 0.5, 0.45, 0.55)
    if not present[:3].any():
        present[rng.integers(3)] = True
    for part, plays in zip((_chords, _arpeggio, _melody, _bass), present, strict=True):
        if plays:
            yield part, rng.uniform(0.3, 1.0)


def _music(rng: Rng, samples: int) -> Samples:
    """A few bars somewhere in a piece: chords, arpeggio, melody, bass, drums, and a hall."""
    beat = SAMPLE_RATE * 60 / rng.uniform(60, 170)
    harmony = _Harmony(
        int(rng.integers(43, 55)),
        SCALES[rng.integers(len(SCALES))],
        np.roll(PROGRESSIONS[rng.integers(len(PROGRESSIONS))], rng.integers(4)).tolist(),
        int(rng.integers(3, 5)),
    )
    lead_in = int(rng.uniform(0, 2) * beat)
    sound = np.zeros(samples + lead_in)
    drums_alone = rng.random() < 0.12
    layers = [] if drums_alone else [(part(rng, len(sound), beat, harmony), x) for part, x in _parts(rng)]
    if drums_alone or rng.random() < 0.5:
        layers += [
            (_drums(rng, len(sound), beat), rng.uniform(0.3, 1.3)),
            (_hand_drums(rng, len(sound), beat), 0.5),
        ]
    for layer, level in layers:
        sound += level * layer / (np.sqrt(np.mean(layer**2)) + 1e-9)
    sound = sound[lead_in:]
    if rng.random() < 0.3:  # a loud mix, as on the radio
        sound = np.tanh(sound / np.abs(sound).max() * rng.uniform(1, 4))
    return finish(rng, sound, wet=0.7)


# --- all of them -----------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[[Rng, int], Samples]] = {
    "Laughter": _laughter,
    "Applause": _applause,
    "Cry": _cry,
    "Cough": _cough,
    "Sneeze": _sneeze,
    "Breath": _breath,
    "BGM": _music,
}


def make_event(kind: str, rng: Rng, duration_s: float) -> Samples:
    """A sound of one of `EVENTS`: [duration_s * 16000] float32 mono at 16 kHz, peak 0.5 to 0.9.

    Raises KeyError for another kind and ValueError under 0.5 s.
    """
    if duration_s < 0.5:
        raise ValueError(f"an event needs at least 0.5 s, not {duration_s}")
    return _MAKERS[kind](rng, round(duration_s * SAMPLE_RATE))

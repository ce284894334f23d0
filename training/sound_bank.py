"""What a training run mixes with speech: events made by rule or played from recordings, noises and rooms.

Every sound has a generator of its own, seeded by its number, so that a bank is the same for every number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sensevoice.spans import SAMPLE_RATE
from training.events import EVENTS, coloured_noise, finish, make_event, room_response

NOISE = "Event_UNK"  # recorded noises, which are no event of `EVENTS`
DURATION_RANGE_S = (0.7, 6.0)
LOOP_SHARE = 0.25  # of the bank's music that is made from recorded loops, where there are any
LAUGHS, LAUGH_SHARE = "laughs.npz", 0.25  # of the bank's laughter that is acted, where there is any
RECORDED_SHARE, SHARE_OF_ONE = 0.4, 0.1  # of a kind's other sounds: at most, and for each of its recordings
NOISE_S = 10.0
RECORDED_NOISES = 1 / 3  # of the background noises
CROWDED = ("Laughter", "Applause")  # several recordings at once, at times
SHORTEST_LOOP = SAMPLE_RATE  # samples: what is shorter would buzz
FADE = 800  # samples, where a recording's end meets its beginning
NOISE_SEED, ROOM_SEED = 100, 101  # beside the numbers of the events
Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]
Clip = npt.NDArray[np.int16]
Rng = np.random.Generator
Job = TypeVar("Job")


@dataclass(frozen=True)
class Recordings:
    """Archives, or None: music loops and recordings of all kinds by stage "fetch", laughs by stage "laughs"."""

    loops: Path | None = None
    events: Path | None = None
    laughs: Path | None = None

    @staticmethod
    def of(folder: Path) -> Recordings:
        """Those of the three that the folder has."""
        paths = (folder / name for name in ("music.npz", "recorded.npz", LAUGHS))
        return Recordings(*(path if path.exists() else None for path in paths))

    def clips(self, kind: str) -> Sequence[Clip]:
        """The recordings of a kind, int16 [n] at 16 kHz each, in the order of their names."""
        return _by_kind(self.events).get(kind, ()) if self.events else ()

    def kinds(self) -> tuple[str, ...]:
        """What a bank has: `EVENTS`, and `NOISE` if noises were recorded."""
        return (*EVENTS, NOISE) if self.clips(NOISE) else EVENTS


@lru_cache(maxsize=1)
def _by_kind(path: Path) -> dict[str, list[Clip]]:
    kinds: dict[str, list[Clip]] = {}
    with np.load(path) as archive:
        for name in sorted(archive.files):
            kinds.setdefault(name.partition("/")[0], []).append(archive[name])
    return kinds


@lru_cache(maxsize=2)
def load_clips(path: Path) -> dict[str, Clip]:
    """The clips in an .npz file: name -> int16 [n] at 16 kHz."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


# --- from recordings -------------------------------------------------------------------------------


def loop_music(rng: Rng, loops: Mapping[str, Clip], duration_s: float) -> Samples:
    """Music from recorded loops (int16, 16 kHz): one or two of them, repeated, at another speed and pitch."""
    samples = int(duration_s * SAMPLE_RATE)
    sound = np.zeros(samples)
    names = sorted(loops)
    for _ in range(rng.integers(1, 3)):
        loop = loops[names[rng.integers(len(names))]].astype(np.float64)
        pace = 2 ** rng.uniform(-0.45, 0.45)
        times = (np.arange(samples) * pace + rng.integers(len(loop))) % len(loop)
        sound += np.interp(times, np.arange(len(loop)), loop / (np.sqrt(np.mean(loop**2)) + 1)) * rng.uniform(
            0.3, 1
        )
    return finish(rng, sound)


def recorded_event(rng: Rng, kind: str, clips: Sequence[Clip], duration_s: float) -> Samples:
    """A sound of the kind from its recordings: [duration_s * 16000], peak 0.5 to 0.9.

    At another speed and pitch, from anywhere within a long one, again and again if it is short; laughter and
    applause of several at times; then a microphone and a room.
    """
    samples = round(duration_s * SAMPLE_RATE)
    voices = int(rng.integers(2, 5)) if kind in CROWDED and rng.random() < 0.35 else 1
    sound = np.zeros(samples)
    for _ in range(voices):
        clip = _at_another_pace(rng, clips[rng.integers(len(clips))])
        endless = len(clip) >= SHORTEST_LOOP and rng.random() < 0.4
        played = _looped(rng, clip, samples) if endless else _with_gaps(rng, clip, samples)
        sound += played * rng.uniform(0.3, 1.0)
    return finish(rng, sound)


def recorded_noise(rng: Rng, clips: Sequence[Clip], samples: int) -> Samples:
    """A recording over and over, as a background: [samples] with a root mean square of one."""
    sound = _looped(rng, _at_another_pace(rng, clips[rng.integers(len(clips))]), samples)
    return np.asarray(sound / (np.sqrt(np.mean(sound**2)) + 1e-12), np.float32)


def _at_another_pace(rng: Rng, clip: Clip) -> Array:
    """The clip 0.8 to 1.25 times as quick, and as high; root mean square of one."""
    pace = 2 ** rng.uniform(np.log2(0.8), np.log2(1.25))
    sound = np.interp(np.arange(0, len(clip) - 1, pace), np.arange(len(clip)), clip)
    return np.asarray(sound / (np.sqrt(np.mean(sound**2)) + 1e-9))


def _looped(rng: Rng, clip: Array, samples: int) -> Array:
    """From anywhere in the clip on, its end faded into its beginning, [samples]."""
    fade = min(FADE, len(clip) // 4)
    rise = np.linspace(0, 1, fade)
    cycle = clip[fade:].copy()
    cycle[len(cycle) - fade :] *= np.sqrt(1 - rise)
    cycle[len(cycle) - fade :] += clip[:fade] * np.sqrt(rise)
    return np.resize(np.roll(cycle, -int(rng.integers(len(cycle)))), samples)


def _with_gaps(rng: Rng, clip: Array, samples: int) -> Array:
    """The clip, or a stretch of it if it is longer; and again after pauses of up to a second: [samples]."""
    sound, start = np.zeros(samples), int(rng.uniform(0, 0.2) * samples)
    skipped = int(rng.uniform(0, max(len(clip) - samples, 0)))
    while start < samples:
        part = clip[skipped : skipped + samples - start]
        sound[start : start + len(part)] = part
        start += len(part) + int(rng.uniform(0.05, 1.0) * SAMPLE_RATE)
    return sound


# --- banks -----------------------------------------------------------------------------------------


def event_bank(
    count_per_kind: int, seed: int, workers: int, recordings: Recordings | None = None
) -> dict[str, list[Samples]]:
    """`count_per_kind` sounds of 0.7 to 6 s of each of `recordings.kinds()`; the same for every number of workers.

    A quarter of the music is made from recorded loops, one of the laughter is acted, and up to `RECORDED_SHARE` of
    all other sounds are from recordings.
    """
    recordings = recordings or Recordings()
    kinds = recordings.kinds()
    jobs = [(kind, index, seed, recordings) for kind in kinds for index in range(count_per_kind)]
    sounds = _made(_bank_entry, jobs, workers)
    return {kind: sounds[i * count_per_kind : (i + 1) * count_per_kind] for i, kind in enumerate(kinds)}


def _bank_entry(job: tuple[str, int, int, Recordings]) -> Samples:
    kind, index, seed, recordings = job
    rng = np.random.default_rng((seed, (*EVENTS, NOISE).index(kind), index))
    duration_s = rng.uniform(*DURATION_RANGE_S)
    if kind == "BGM" and recordings.loops is not None and rng.random() < LOOP_SHARE:
        return loop_music(rng, load_clips(recordings.loops), duration_s)
    if kind == "Laughter" and recordings.laughs is not None and rng.random() < LAUGH_SHARE:
        return recorded_event(rng, kind, [*load_clips(recordings.laughs).values()], duration_s)
    clips = recordings.clips(kind)
    if kind == NOISE or (clips and rng.random() < min(RECORDED_SHARE, SHARE_OF_ONE * len(clips))):
        return recorded_event(rng, kind, clips, duration_s)
    return make_event(kind, rng, duration_s)


def noise_bank(
    count: int, seed: int, workers: int, recordings: Recordings | None = None
) -> npt.NDArray[np.float32]:
    """Background noises with a root mean square of one, [count, 160000]: coloured, and a third recorded."""
    jobs = [(index, seed, recordings or Recordings()) for index in range(count)]
    return np.stack(_made(_noise_entry, jobs, workers))


def _noise_entry(job: tuple[int, int, Recordings]) -> Samples:
    index, seed, recordings = job
    rng = np.random.default_rng((seed, NOISE_SEED, index))
    clips = [clip for clip in recordings.clips(NOISE) if len(clip) >= SHORTEST_LOOP]
    samples = int(NOISE_S * SAMPLE_RATE)
    if clips and rng.random() < RECORDED_NOISES:
        return recorded_noise(rng, clips, samples)
    return coloured_noise(rng, samples, rng.uniform(-2.2, 0.6))


def room_bank(count: int, seed: int, workers: int) -> list[Samples]:
    """Impulse responses of small and middling rooms."""
    return _made(_room_entry, [(index, seed) for index in range(count)], workers)


def _room_entry(job: tuple[int, int]) -> Samples:
    index, seed = job
    rng = np.random.default_rng((seed, ROOM_SEED, index))
    return room_response(rng, rng.uniform(0.12, 0.7))


def _made(make: Callable[[Job], Samples], jobs: Sequence[Job], workers: int) -> list[Samples]:
    """`make` of each job, in their order; by forked processes if there is more than one worker."""
    if workers <= 1:
        return list(map(make, jobs))
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return list(pool.map(make, jobs, chunksize=16))

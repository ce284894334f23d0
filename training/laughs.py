"""Stage "laughs": laughter as people act it, "ha ha ha", said by Kokoro's voices: W/events/laughs.npz.

A laugh that is acted has the sounds and the voice of speech; only its rhythm is another. Neither what `events.py` makes
by rule nor what people laughed without words is like it, and a network that hears such laughs in speech alone writes
them down.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training.audio import casting_of, synthesiser_of
from training.codecs import levelled
from training.event_recordings import LIMIT_S, sounding
from training.kokoro import Prosody, Request, Synthesiser
from training.sound_bank import LAUGHS
from training.speech import LANGUAGES, Casting

COUNT = 240
SYLLABLES = (3, 10)  # of one breath
TWICE = 0.25  # of the laughs are of two breaths, with a comma between them
VOWELS, VOWEL_SHARES = "ɑæʌɛioɔə", (0.34, 0.16, 0.12, 0.12, 0.08, 0.08, 0.05, 0.05)
OPENINGS = ("", "", "", "m", "w", "bw", "nj", "ɑ")  # before the first h: "mha ha", "ah ha ha"
BETWEEN, ENDS = ("", " "), "!."  # syllables, and a laugh
# how many times as long as Kokoro makes them: the h and the vowel of a laugh, and each by itself (a deviation)
ASPIRATION, VOICING, UNEVENNESS = (0.6, 1.5), (0.45, 1.2), 0.12
SLOWING = (0.98, 1.06)  # from syllable to syllable
PACE, PITCH, PITCH_RANGE, ENERGY = (0.9, 1.5), (0.9, 1.9), (0.6, 2.2), (-0.5, 1.2)
BATCH_FRAMES = 800  # of the vocoder, for a CPU
Entry = tuple[str, float]


def make_laughs(work: Path, args: argparse.Namespace) -> None:
    """Have the voices that training may hear laugh; W/kokoro and W/events are there."""
    torch.manual_seed(args.seed)
    requests = laugh_requests(casting_of(work), COUNT, args.seed)
    np.savez_compressed(work / "events" / LAUGHS, **dict(laughed(synthesiser_of(work), requests)))


def laugh_requests(casting: Casting, count: int, seed: int) -> list[Request]:
    """So many laughs, each in another voice, pitch and rhythm."""
    return [_request(casting, number, np.random.default_rng((seed, number))) for number in range(count)]


def laughed(
    synthesiser: Synthesiser, requests: Iterable[Request]
) -> Iterator[tuple[str, npt.NDArray[np.int16]]]:
    """(name, [samples] at 16 kHz without the silence around them) of each, the shortest first."""
    for spoken in synthesiser.speak(list(requests), batch_frames=BATCH_FRAMES):
        for request, samples in zip(spoken.requests, spoken.samples.cpu().numpy(), strict=True):
            clip = sounding(samples.astype(np.float64), LIMIT_S)
            yield (
                f"Laughter/{request.line:03}",
                levelled((clip * 32_767).clip(-32_768, 32_767).astype(np.int16)),
            )


def _request(casting: Casting, number: int, rng: np.random.Generator) -> Request:
    entries = [*_breath(rng)]
    if rng.random() < TWICE:
        entries += [(",", 1.0), (" ", 1.0), *_breath(rng)]
    entries.append((ENDS[rng.integers(len(ENDS))], 1.0))
    ids = [casting.symbols[symbol] for symbol, _ in entries]
    stretch = np.array([1.0, *(length for _, length in entries), 1.0], np.float32)
    stretch *= np.exp(rng.normal(0, UNEVENNESS, len(stretch)))
    pitch, pitch_range, pace, energy = (rng.uniform(*span) for span in (PITCH, PITCH_RANGE, PACE, ENERGY))
    style = casting.cast.draw(rng, str(rng.choice(LANGUAGES)), len(ids))
    return Request(ids, style, Prosody(pitch, pitch_range, pace, energy), number, 0, stretch=stretch)


def _breath(rng: np.random.Generator) -> Iterator[Entry]:
    """Phonemes of a breath of laughter, and how many times as long as usual they are."""
    vowel = VOWELS[int(rng.choice(len(VOWELS), p=VOWEL_SHARES))]
    between = BETWEEN[rng.integers(len(BETWEEN))]
    aspiration, voicing, slowing = (rng.uniform(*span) for span in (ASPIRATION, VOICING, SLOWING))
    yield from ((symbol, 1.0) for symbol in OPENINGS[rng.integers(len(OPENINGS))])
    for step in range(int(rng.integers(*SYLLABLES, endpoint=True))):
        if step:
            yield from ((symbol, 1.0) for symbol in between)
        yield "h", aspiration * slowing**step
        yield vowel, voicing * slowing**step

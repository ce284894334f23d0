"""The six tones of Cantonese, which Kokoro's four marks cannot tell apart: as contours of pitch, syllable by syllable.

A tone is a digit behind its syllable's phonemes. Chao's letters give how each one runs from level 1 to level 5
(Bauer and Benedict, Modern Cantonese Phonology, 1997): 55, 25, 33, 21, 23 and 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.phonemes import TONES

LEVELS = ((5.0, 5.0), (2.0, 5.0), (3.0, 3.0), (2.0, 1.0), (2.0, 3.0), (2.0, 2.0))
MIDDLE = 3.0  # the level of a voice's median
SEMITONES = 2.2  # a level
TURN = (0.3, 0.85)  # of a syllable: until then it keeps its first level, from then on it has its last
FALL_SEMITONES = 2.0  # from a sentence's beginning to its end
OWN_SHARE = 0.3  # of the synthesiser's own contour, for the sentence's melody
SMOOTH = 5  # points of 12.5 ms over which one syllable's tone passes into the next


@dataclass(frozen=True)
class Toned:
    """A syllable among an utterance's tokens, its end exclusive, and its tone 1 to 6."""

    first: int
    end: int
    tone: int


def tones_of(phonemes: str, symbols: dict[str, int]) -> tuple[Toned, ...]:
    """The syllables that a tone stands behind, counted in tokens, which tones and unknown symbols are not."""
    if not any(tone in phonemes for tone in TONES):  # as in all languages but one
        return ()
    found: list[Toned] = []
    first = count = 0
    for symbol in phonemes:
        if symbol in TONES:
            found.append(Toned(first, count, int(symbol)))
            first = count
        elif symbol in symbols:
            count += 1
            first = count if symbol in " ,.?!" else first
    return tuple(found)


def with_tones(
    pitch: Tensor, durations: Sequence[Tensor], syllables: Sequence[Sequence[Toned]], voiced_hz: float
) -> Tensor:
    """The pitch contours with the tones of their syllables.

    pitch: [batch, 2 x frames] Hz, under `voiced_hz` where no voice sounds, which stays.
    durations: of each utterance's tokens and its two end marks, in frames.
    """
    rows = [i for i, toned in enumerate(syllables) if toned]
    if not rows:
        return pitch
    levels = torch.stack([_levels(syllables[i], durations[i], pitch.shape[1]) for i in rows])
    toned = pitch.clone()
    toned[rows] = _sung(pitch[rows], levels, voiced_hz)
    return toned


def median_pitch(pitch: Tensor, voiced: Tensor) -> Tensor:
    """Each contour's median where a voice sounds, 150 Hz if none does: [batch, 1]."""
    median: Tensor = torch.where(voiced, pitch, torch.nan).nanmedian(dim=1, keepdim=True).values
    return median.nan_to_num(150.0)


def _levels(syllables: Sequence[Toned], durations: Tensor, points: int) -> Tensor:
    """The tones' levels at each point of a contour, [points]; nan where there is no tone."""
    place = durations.device
    # in points: token i begins at ends[i + 1], as the end mark comes first
    ends = F.pad(2 * durations.cumsum(0), (1, 0))
    first, last = (
        torch.tensor([getattr(s, n) for s in syllables], device=place) + 1 for n in ("first", "end")
    )
    low, high = (torch.tensor([LEVELS[s.tone - 1][i] for s in syllables], device=place) for i in (0, 1))
    begin, end = ends[first], ends[last]
    at = torch.arange(points, device=place)
    which = (torch.searchsorted(begin, at, right=True) - 1).clamp_min(0)
    within = (at >= begin[which]) & (at < end[which])
    share = (at + 0.5 - begin[which]) / (end - begin)[which]
    turned = ((share - TURN[0]) / (TURN[1] - TURN[0])).clamp(0, 1)
    return torch.where(within, low[which] + turned * (high - low)[which], torch.nan)


def _sung(pitch: Tensor, levels: Tensor, voiced_hz: float) -> Tensor:
    """Pitch contours at these levels about their own medians, falling a little: [batch, points] each."""
    voiced, toned = pitch > voiced_hz, ~levels.isnan()
    median = median_pitch(pitch, voiced)
    own = 12 * torch.log2(pitch.clamp_min(1.0) / median)
    heights = levels.nan_to_num(MIDDLE)[:, None]
    smooth = F.avg_pool1d(F.pad(heights, (SMOOTH // 2,) * 2, mode="replicate"), SMOOTH, 1)[:, 0]
    fall = FALL_SEMITONES * (0.5 - torch.linspace(0, 1, pitch.shape[1], device=pitch.device))
    semitones = SEMITONES * (smooth - MIDDLE) + fall + OWN_SHARE * own
    return torch.where(voiced & toned, median * 2 ** (semitones / 12), pitch)

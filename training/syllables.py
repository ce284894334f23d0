"""Mandarin out of recorded syllables: sentences joined from what one person has said a syllable at a time.

npm's `yanyu` has each syllable in its four tones and the neutral one, as `FOLDER`/ma3.mp3 and ma.mp3.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from sensevoice.checkpoint import find_tokenizer
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.spans import SAMPLE_RATE
from training import words
from training.codecs import Clip, decoded
from training.numbers import Pair
from training.templates import Templates
from training.text import word_strings, words_apart
from training.tokens import characters

PACKAGE = "yanyu@0.1.4"
FOLDER = "pinyin-syllables"
NAME = re.compile("[a-z]+[1-4]?")
HAN = re.compile("[一-鿿，。？！、]+")
PHRASE_END = re.compile("[ ，。？！、]+")
SILENT = 0.03  # of a syllable's loudest 10 ms; what is quieter before and after it is cut off
WINDOW = SAMPLE_RATE // 100
FADE = SAMPLE_RATE // 100
GAP_S = (-0.08, 0.05)  # between a clip's syllables; below 0 one begins before the other has ended
PAUSE_S = (-0.02, 0.3)  # between its phrases
TEMPO = (1.0, 1.7)  # said alone a syllable is long


@dataclass(frozen=True)
class Syllables:
    """What one person has said, by pinyin with the tone's number (none for the neutral tone)."""

    clips: dict[str, Clip]

    @classmethod
    def read(cls, folder: Path) -> Syllables:
        """All syllables of a folder; files of other names are something else."""
        paths = [path for path in sorted(folder.glob("*.mp3")) if NAME.fullmatch(path.stem)]
        return cls({path.stem: trimmed(decoded(str(path))) for path in paths})

    def say(self, phrases: Sequence[Sequence[str]], gap_s: float, pause_s: float) -> Clip:
        """[samples]: the syllables of each phrase `gap_s` apart, and the phrases `pause_s`."""
        gap, pause = round(gap_s * SAMPLE_RATE), round(pause_s * SAMPLE_RATE)
        out, end = np.zeros(0, np.float32), -pause
        for phrase in phrases:
            end += pause - gap
            for syllable in phrase:
                out = _laid(out, faded(self.clips[syllable], max(FADE, -gap)), max(end + gap, 0))
                end = len(out)
        return out.clip(-32_768, 32_767).astype(np.int16)


def _laid(out: npt.NDArray[np.float32], piece: npt.NDArray[np.float32], at: int) -> npt.NDArray[np.float32]:
    """`piece` over `out`, which grows with it, from sample `at` on."""
    longer = np.pad(out, (0, max(at + len(piece) - len(out), 0)))
    longer[at : at + len(piece)] += piece
    return longer


def trimmed(clip: Clip) -> Clip:
    """Without silence at both ends."""
    power = np.convolve(clip.astype(np.float32) ** 2, np.ones(WINDOW), "same")
    loud = np.flatnonzero(power >= SILENT**2 * power.max())
    return clip[loud[0] : loud[-1] + 1]


def faded(clip: Clip, samples: int) -> npt.NDArray[np.float32]:
    """Rising from nothing and falling to it in so many samples, in half of the clip at most."""
    count = min(samples, len(clip) // 2)
    ramp = np.ones(len(clip), np.float32)
    ramp[:count] = np.linspace(0, 1, count)
    ramp[len(clip) - count :] = np.linspace(1, 0, count)
    return clip * ramp


def faster(clip: Clip, factor: float) -> Clip:
    """In so much less time, at the same pitch."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(format="s16", sample_rate=SAMPLE_RATE, layout="mono")
    source.link_to(tempo := graph.add("atempo", f"{factor:.3f}"))
    tempo.link_to(graph.add("abuffersink"))
    graph.configure()
    frame = av.AudioFrame.from_ndarray(clip[None], format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    graph.push(frame)
    graph.push(None)
    return np.concatenate([piece.to_ndarray()[0] for piece in _pulled(graph)])


def _pulled(graph: av.filter.Graph) -> Iterator[av.AudioFrame]:
    with suppress(EOFError, av.BlockingIOError):
        while True:
            yield graph.pull()


def reading(phrase: str) -> list[str]:
    """The pinyin of Han characters, with tone sandhi."""
    from pypinyin import Style, lazy_pinyin

    return lazy_pinyin(phrase, style=Style.TONE3, tone_sandhi=True)


def said(syllables: Syllables, pairs: Iterable[Pair], rng: random.Random) -> Iterator[tuple[str, Clip]]:
    """Each text that these syllables can say, as it is written, and how it sounds at a pace of its own."""
    for written, spoken in pairs:
        phrases = [reading(phrase) for phrase in PHRASE_END.split(spoken) if phrase]
        if HAN.fullmatch(written) and all(syllables.clips.keys() >= set(phrase) for phrase in phrases):
            clip = syllables.say(phrases, rng.uniform(*GAP_S), rng.uniform(*PAUSE_S))
            yield written, faster(clip, rng.uniform(*TEMPO))


def mandarin(rng: random.Random) -> Iterator[Pair]:
    """Endless everyday sentences, strings of words and lists of characters by turns.

    Each word of a string and each character of a list is a phrase of its own. They are common ones, in the
    characters of the starter.
    """
    vocabulary = words.vocabulary("zh").within(characters(find_tokenizer(STARTER_DIRECTORY)))
    common = replace(vocabulary, words=vocabulary.frequent)
    strings = word_strings("zh", common, (), rng)
    lists = words_apart("zh", vocabulary, lambda character: reading(character)[0], rng)
    for pairs in zip(Templates("zh").sentences("everyday", rng), strings, lists, strict=False):
        yield from pairs

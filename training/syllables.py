"""Mandarin out of recorded syllables: sentences joined from what one person has said a syllable at a time.

npm's `yanyu` has each syllable in its four tones and the neutral one, as `FOLDER`/ma3.mp3 and ma.mp3; Debian's
`gcin-voice` most of them without the neutral one, as `GCIN`/ㄇㄚ3/3.ogg. Another person's 5.ogg beside it is tested on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from scipy import signal

from sensevoice.checkpoint import find_tokenizer
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.spans import SAMPLE_RATE
from training import words
from training.codecs import Clip, decoded
from training.numbers import Pair
from training.templates import Templates
from training.text import word_strings, words_apart
from training.tokens import characters

Real = npt.NDArray[np.floating[Any]]
PACKAGE, FOLDER = "yanyu@0.1.4", "pinyin-syllables"
GCIN_PACKAGE, GCIN, GCIN_SPEAKER = "gcin-voice", "usr/share/gcin-voice/ogg", "3.ogg"
NAME = re.compile("[a-z]+[1-4]?")
ZHUYIN_TONES = {"2": "ˊ", "3": "ˇ", "4": "ˋ"}  # gcin writes digits; no digit is the first tone, 1 the neutral
HAN = re.compile("[一-鿿，。？！、]+")
PHRASE_END = re.compile("[ ，。？！、]+")
DRIFT = signal.butter(2, 40, "highpass", fs=SAMPLE_RATE, output="sos")  # gcin's recordings lie beside zero
SILENT = 0.03  # of a syllable's loudest 10 ms; what is quieter before and after it is cut off
WINDOW = SAMPLE_RATE // 100
FADE = SAMPLE_RATE // 100
GAP_S = (-0.08, 0.05)  # between a clip's syllables; below 0 one begins before the other has ended
PAUSE_S = (-0.02, 0.3)  # between its phrases
LIST_PAUSE_S = (0.05, 0.6)  # between phrases of one syllable
TEMPO = (1.0, 1.8)  # said alone a syllable is long
SLOWEST = 0.85  # of the tempo that comes with the pitch: slowing down roughens
OWN_VOICE = 0.5  # of the clips
OCTAVES = (-0.25, 0.7)  # by which the others are higher: women speak one higher than men
TRACT = (0.95, 1.1)  # their formants, besides what comes with the pitch
TRACT_BY_PITCH = 0.2  # a woman's formants are a sixth higher than a man's
FRAME, HOP = 512, 128
ENVELOPE = 48  # cepstral coefficients: below the period of the pitch


@dataclass(frozen=True)
class Manner:
    """How a clip is said, against how its syllables were."""

    gap_s: float = 0.0
    pause_s: float = 0.0
    tempo: float = 1.0
    pitch: float = 1.0
    tract: float = 1.0  # the formants; below 1 the vocal tract is longer

    @classmethod
    def drawn(cls, phrases: Sequence[Sequence[str]], rng: random.Random) -> Manner:
        """One for these phrases."""
        own = rng.random() < OWN_VOICE
        pitch = 1.0 if own else 2 ** rng.uniform(*OCTAVES)
        tract = 1.0 if own else pitch**TRACT_BY_PITCH * rng.uniform(*TRACT)
        tempo = max(rng.uniform(*TEMPO), SLOWEST * pitch)
        listed = all(len(phrase) == 1 for phrase in phrases)
        pause_s = tempo * rng.uniform(*LIST_PAUSE_S) if listed else rng.uniform(*PAUSE_S)
        return cls(rng.uniform(*GAP_S), pause_s, tempo, pitch, tract)


@dataclass(frozen=True)
class Syllables:
    """What one person has said, by pinyin with the tone's number (none for the neutral tone)."""

    clips: dict[str, Clip]

    @classmethod
    def read(cls, files: Mapping[str, Path]) -> Syllables:
        """The syllables in these files."""
        return cls({name: trimmed(decoded(str(path))) for name, path in files.items()})

    def say(self, phrases: Sequence[Sequence[str]], manner: Manner) -> Clip:
        """[samples]: the syllables of all phrases, said like this."""
        joined = self.join(phrases, manner.gap_s, manner.pause_s)
        return changed(joined, manner.tempo, manner.pitch, manner.tract)

    def join(self, phrases: Sequence[Sequence[str]], gap_s: float, pause_s: float) -> Clip:
        """[samples]: the syllables of each phrase `gap_s` apart, and the phrases `pause_s`."""
        gap, pause = round(gap_s * SAMPLE_RATE), round(pause_s * SAMPLE_RATE)
        out, end = np.zeros(0, np.float32), -pause
        for phrase in phrases:
            end += pause - gap
            for syllable in phrase:
                out = _laid(out, faded(self.clips[syllable], max(FADE, -gap)), max(end + gap, 0))
                end = len(out)
        return sixteen_bits(out)


def yanyu(packages: Path) -> dict[str, Path]:
    """The files of yanyu's speaker; those of other names are something else."""
    paths = sorted(path for folder in packages.rglob(FOLDER) for path in folder.glob("*.mp3"))
    return {path.stem: path for path in paths if NAME.fullmatch(path.stem)}


def gcin(packages: Path) -> dict[str, Path]:
    """The files of gcin's speaker, as far as common characters are read so."""
    paths = sorted((packages / GCIN).glob(f"*/{GCIN_SPEAKER}"))
    known = common_syllables() if paths else {}
    named = ((known.get(zhuyin(path.parent.name)), path) for path in paths)
    return {name: path for name, path in named if name is not None}


def common_syllables() -> dict[str, str]:
    """Zhuyin with tone marks -> pinyin with tone numbers, of what the commonest 3,755 characters are read as."""
    from pypinyin import Style, pinyin

    characters = "".join(
        bytes([high, low]).decode("gb2312", "ignore")
        for high in range(0xB0, 0xD8)
        for low in range(0xA1, 0xFF)
    )
    marked = pinyin(characters, style=Style.BOPOMOFO, heteronym=False)
    numbered = pinyin(characters, style=Style.TONE3, heteronym=False)
    return {marks[0]: numbers[0] for marks, numbers in zip(marked, numbered, strict=True)}


def zhuyin(name: str) -> str:
    """The name of one of gcin's folders with the tone as a mark."""
    return name[:-1] + ZHUYIN_TONES.get(name[-1], "neutral") if name[-1].isdigit() else name


def _laid(out: Real, piece: Real, at: int) -> Real:
    """`piece` over `out`, which grows with it, from sample `at` on."""
    longer = np.pad(out, (0, max(at + len(piece) - len(out), 0)))
    longer[at : at + len(piece)] += piece
    return longer


def trimmed(clip: Clip) -> Clip:
    """About zero, and without silence at both ends."""
    clean = signal.sosfiltfilt(DRIFT, clip)
    power = np.convolve(clean**2, np.ones(WINDOW), "same")
    loud = np.flatnonzero(power >= SILENT**2 * power.max())
    return sixteen_bits(clean[loud[0] : loud[-1] + 1])


def faded(clip: Clip, samples: int) -> Real:
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


def changed(clip: Clip, tempo: float, pitch: float, tract: float) -> Clip:
    """[samples]: so much faster, with a pitch and formants so much higher."""
    if pitch == tract == 1:
        return faster(clip, tempo)
    higher = signal.resample(clip.astype(np.float32), round(len(clip) / pitch))
    spoken = faster(sixteen_bits(higher), tempo / pitch)
    *_, sound = signal.stft(spoken.astype(np.float32), nperseg=FRAME, noverlap=FRAME - HOP)
    before = envelopes(clip)[:, np.linspace(0, len(clip) // HOP, sound.shape[1]).astype(int)]
    heard, wanted = stretched(before, pitch), stretched(before, tract)
    _, samples = signal.istft(sound * np.exp(wanted - heard), nperseg=FRAME, noverlap=FRAME - HOP)
    return sixteen_bits(samples[: len(spoken)])


def sixteen_bits(samples: Real) -> Clip:
    """The same, clipped where they are too loud."""
    clip: Clip = samples.clip(-32_768, 32_767).astype(np.int16)
    return clip


def envelopes(clip: Clip) -> Real:
    """[bins, frames]: the logarithm of the spectrum without its harmonics."""
    *_, sound = signal.stft(clip.astype(np.float32), nperseg=FRAME, noverlap=FRAME - HOP)
    cepstra = np.fft.irfft(np.log(np.abs(sound) + 1), axis=0)
    cepstra[ENVELOPE : FRAME - ENVELOPE + 1] = 0
    smooth: Real = np.fft.rfft(cepstra, axis=0).real
    return smooth


def stretched(envelope: Real, factor: float) -> Real:
    """[bins, frames]: the same, its frequencies so much higher."""
    bins = np.minimum(np.arange(len(envelope)) / factor, len(envelope) - 1)
    low = bins.astype(int)
    high, part = np.minimum(low + 1, len(envelope) - 1), (bins - low)[:, None]
    between: Real = (1 - part) * envelope[low] + part * envelope[high]
    return between


def reading(phrase: str) -> list[str]:
    """The pinyin of Han characters, with tone sandhi."""
    from pypinyin import Style, lazy_pinyin

    return lazy_pinyin(phrase, style=Style.TONE3, tone_sandhi=True)


def said(syllables: Syllables, pairs: Iterable[Pair], rng: random.Random) -> Iterator[tuple[str, Clip]]:
    """Each text that these syllables can say, as it is written, and how it sounds in a manner of its own."""
    for written, spoken in pairs:
        phrases = [reading(phrase) for phrase in PHRASE_END.split(spoken) if phrase]
        if HAN.fullmatch(written) and all(syllables.clips.keys() >= set(phrase) for phrase in phrases):
            yield written, syllables.say(phrases, Manner.drawn(phrases, rng))


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

"""Excerpts: single words and short phrases cut out of spoken sentences, at the synthesiser's own phoneme times.

Sentences begin with few different words, and nobody can learn from them what any other word sounds like alone.
An excerpt is an utterance that shares its samples with the sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensevoice.spans import SAMPLE_RATE
from training.batches import UNIT_SAMPLES
from training.speech import Line, Speech
from training.text import plain

Array = npt.NDArray[Any]
PARTS = {  # the fewest and the most parts of an excerpt, and the fewest characters
    "en": (1, 4, 2),
    "zh": (1, 3, 2),  # one character alone may be any of those that sound alike
    "yue": (3, 6, 3),
    "ja": (1, 2, 2),
    "ko": (1, 3, 2),
}
TAKEN = 2  # excerpts of a sentence at most
SHORTEST_S, LONGEST_S = 0.25, 2.0
SEED = 0
MARKS = ",.?!"
WRITTEN_MARKS = "、，。？！,.?!"
CHARACTER = re.compile(rf"[^ {WRITTEN_MARKS}]")
# A Mandarin syllable's tone stands behind its vowel; a neutral one has none and ends its word.
MANDARIN_SYLLABLE = re.compile(r"[^→↗↓↘]+[→↗↓↘](?:ŋ|n(?![aeiouyɛəɤɔœjwɥ]))?|[^→↗↓↘]+$")
CANTONESE_SYLLABLE = re.compile(r"[^1-6 ,.?!]+[1-6]")
Span = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """The smallest piece of a sentence: where it stands among the phonemes and in the text."""

    said: Span
    written: Span


@dataclass(frozen=True)
class Excerpts:
    """Excerpts of the lines, in their order."""

    lines: list[Line]  # what each says
    counts: Array  # [sentences] how many there are of each
    first: Array  # [excerpts] the first of the sentence's units (its start mark is number 0)
    end: Array  # the unit after the last
    units: Array  # how many the sentence has, both marks counted

    @classmethod
    def none(cls, sentences: int) -> Excerpts:
        """None of so many lines."""
        nowhere = np.zeros(0, np.int64)
        return cls([], np.zeros(sentences, np.int64), nowhere, nowhere, nowhere)


def drawn_excerpts(lines: Sequence[Line], symbols: dict[str, int]) -> Excerpts:
    """Up to two excerpts of each line whose words or characters are known among its phonemes."""
    rng = np.random.default_rng(SEED)
    said: list[Line] = []
    counts, places = [], []
    for line in lines:
        units = [0, *accumulate(symbol in symbols for symbol in line.phonemes)]
        before = len(said)
        for begin, end in _drawn(parts_of(line), line, rng):
            text = line.text[begin.written[0] : end.written[1]]
            said.append(replace(line, text=text, plain=plain(line.lang, text), phonemes=""))
            places.append((1 + units[begin.said[0]], 1 + units[end.said[1]], 2 + units[-1]))
        counts.append(len(said) - before)
    first, end_units, total = np.array(places, np.int64).reshape(-1, 3).T
    return Excerpts(said, np.array(counts, np.int64), first, end_units, total)


def _drawn(parts: Sequence[Part], line: Line, rng: np.random.Generator) -> Iterator[tuple[Part, Part]]:
    """The first and the last part of each excerpt, which is never the whole line."""
    fewest, most, characters = PARTS[line.lang]
    most = min(most, len(parts) - 1)
    for count in rng.integers(fewest, most + 1, TAKEN) if fewest <= most else ():
        at = int(rng.integers(len(parts) - count + 1))
        begin, end = parts[at], parts[at + count - 1]
        if end.written[1] - begin.written[0] >= characters:
            yield begin, end


def parts_of(line: Line) -> list[Part]:
    """The words of English and Korean and of Mandarin as it is read, characters in Cantonese, clauses in Japanese.

    None where text and phonemes do not have as many, or where the text is not written as it is spoken.
    """
    if not line.phonemes or plain(line.lang, line.text) != line.plain:
        return []
    said, written = ALIGNERS[line.lang](line)
    if len(said) != len(written):
        return []
    return [Part(sound, letters) for sound, letters in zip(said, written, strict=True)]


def _between(gaps: str, line: Line) -> tuple[list[Span], list[Span]]:
    """What stands between these gaps, and between marks."""
    return _spans(rf"[^{gaps}{MARKS}]+", line.phonemes), _spans(rf"[^{gaps}{WRITTEN_MARKS}]+", line.text)


def _by_characters(line: Line) -> tuple[list[Span], list[Span]]:
    return _spans(CANTONESE_SYLLABLE, line.phonemes), _spans(CHARACTER, line.text)


def _by_read_words(line: Line) -> tuple[list[Span], list[Span]]:
    """Mandarin words, each as long as it has syllables."""
    said, characters = _between(" ", line)[0], _spans(CHARACTER, line.text)
    syllables = [len(MANDARIN_SYLLABLE.findall(line.phonemes[begin:end])) for begin, end in said]
    if sum(syllables) != len(characters):
        return [], []
    ends = [0, *accumulate(syllables)]
    return said, [(characters[first][0], characters[end - 1][1]) for first, end in pairwise(ends)]


def _spans(pattern: str | re.Pattern[str], text: str) -> list[Span]:
    return [found.span() for found in re.finditer(pattern, text)]


ALIGNERS: dict[str, Callable[[Line], tuple[list[Span], list[Span]]]] = {
    "en": partial(_between, " "),
    "ko": partial(_between, " "),
    "zh": _by_read_words,
    "yue": _by_characters,
    "ja": partial(_between, ""),
}


def with_excerpts(speech: Speech, excerpts: Excerpts, first_line: int) -> Speech:
    """Append the excerpts of the sentences that are spoken here, which share their samples.

    Their lines are numbered from `first_line` on. Those that last too short or too long are left out.
    """
    counts = torch.from_numpy(excerpts.counts)
    first, end, units = map(torch.from_numpy, (excerpts.first, excerpts.end, excerpts.units))
    of_line = counts[speech.line]
    spoken = torch.arange(len(of_line)).repeat_interleave(of_line)  # the utterance of each excerpt
    number = _counted_on((counts.cumsum(0) - counts)[speech.line], of_line)
    timed = (
        units[number] == speech.unit_count[spoken]
    )  # another engine's clip of the line has no phoneme times
    spoken, number = spoken[timed], number[timed]
    ends = torch.cat([torch.zeros(1, dtype=torch.long), speech.unit_frames.long().cumsum(0)]) * UNIT_SAMPLES
    origin = speech.unit_start[spoken]
    begin, length = ends[origin + first[number]], ends[origin + end[number]] - ends[origin + first[number]]
    kept = (length >= SHORTEST_S * SAMPLE_RATE) & (length <= LONGEST_S * SAMPLE_RATE)
    spoken, number, origin = spoken[kept], number[kept], origin[kept]
    count = end[number] - first[number]
    copied = _counted_on(origin + first[number], count)
    return speech.extended(
        start=speech.start[spoken] + begin[kept] - ends[origin],
        length=length[kept],
        line=first_line + number,
        emotion=speech.emotion[spoken],
        unit_start=len(speech.units) + count.cumsum(0) - count,
        unit_count=count,
        units=speech.units[copied],
        unit_frames=speech.unit_frames[copied],
    )


def _counted_on(first: Tensor, counts: Tensor) -> Tensor:
    """From each of `first` on, so many numbers, one behind the other."""
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (first - before).repeat_interleave(counts)

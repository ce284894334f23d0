"""Strings of words, for spellings and characters that sentences seldom have."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training import sources

COMMONEST = {"en": 40_000, "zh": 40_000, "ja": 50_000, "ko": 30_000}  # words of wordfreq that are looked at
WORD = {
    "en": re.compile("[a-z]{2,}|[ai]"),
    "zh": re.compile("[一-鿿]{1,4}"),
    "yue": re.compile("[㐀-鿿]{1,4}"),
    "ja": re.compile("[ァ-ヶー]{3,}|[一-鿿]{1,3}|[一-鿿]{1,2}[ぁ-ん]?[いうえきくけしすちつてみむめりるれ]"),
    "ko": re.compile("[가-힣]{2,5}"),
}
COARSE = re.compile(
    r"fuck|shit|boob|nazi|nude|naked|horny|hitler|bitch|cunt|nigg|porn|sex|rape|slut|whore|twat|dick$|cock|pussy|www|http|^(rt|lol|cc|th|st|nd|rd|ii|iii)$"
    r"|操你|屌|強姦|做愛|自殺|他妈|色情|性交|强奸|鸡巴|妓|セックス|エロ|섹스|씨발|새끼|강간|좆|병신|창녀|戇鳩|撚|閪|柒|仆街"
)
FLATTENING = 200  # ranks by which Zipf's law is flattened, so that rarer words are met too
LENGTHS = (2, 9)  # words of a string
APART = "apart"  # the kind of lines whose words are said one by one
APART_LENGTHS = (2, 8)  # words of a list
SINGLE_SHARE = 0.4  # of the lists are of one word, which is the hardest to read
COMMON = 0.25  # of the words are drawn by frequency, the others by need
CHARACTER_GOAL = 25  # times that each character is to be met before words are counted


@dataclass(frozen=True)
class Vocabulary:
    """The words of a language, the commonest first; those after the first `common` are for their characters."""

    words: tuple[str, ...]
    common: int

    @property
    def frequent(self) -> tuple[str, ...]:
        """The common words."""
        return self.words[: self.common]

    def weights(self) -> list[float]:
        """How often the common words are drawn by frequency, summed up from the first one on."""
        return list(itertools.accumulate(1 / (FLATTENING + rank) for rank in range(self.common)))

    def within(self, characters: set[str]) -> Vocabulary:
        """The words that are written with `characters` only."""
        common = [word for word in self.frequent if characters.issuperset(word)]
        rest = [word for word in self.words[self.common :] if characters.issuperset(word)]
        return Vocabulary((*common, *rest), len(common))


def vocabulary(language: str) -> Vocabulary:
    """The words of wordfreq and of other lists (zh, yue); in English those whose sound is not guesswork.

    Lists have characters of other languages, too; so what is not in use is taken in words only.
    """
    common = _fit(language, _in_use() if language == "yue" else _frequent(language))
    listed = [word for word in _fit(language, _listed(language)) if len(word) > 1]
    return Vocabulary(tuple(dict.fromkeys((*common, *listed))), len(common))


def _fit(language: str, words: Iterable[str]) -> list[str]:
    unique = dict.fromkeys(words)
    return [word for word in unique if WORD[language].fullmatch(word) and not COARSE.search(word)]


def _frequent(language: str) -> list[str]:
    import wordfreq

    words: list[str] = wordfreq.top_n_list(language, COMMONEST[language])
    return [word for word in words if _is_read(word)] if language == "en" else words


def _is_read(word: str) -> bool:
    """Whether the phonemiser reads an English word by its lexicon."""
    lexicon, context = _english_lexicon()
    return lexicon.get_word(word, "NN", None, context)[0] is not None


@cache
def _english_lexicon():  # type: ignore[no-untyped-def]
    from hibari.g2p import G2P, Context

    return G2P().lexicon, Context()


def _in_use() -> list[str]:
    """Cantonese words by how often their characters stand together in the sentences of CTCPC."""
    words = set(_listed("yue"))
    sentences = sources.cantonese()
    longest = 4
    counts = Counter(
        sentence[start:end]
        for sentence in sentences
        for start in range(len(sentence))
        for end in range(start + 1, min(start + longest, len(sentence)) + 1)
    )
    return sorted((word for word in words if counts[word]), key=lambda word: (-counts[word], word))


def _listed(language: str) -> Iterator[str]:
    """Words of lists without frequencies, for rare characters: jieba's (zh) and rime-cantonese's (yue)."""
    if language == "zh":
        import jieba

        lines = Path(jieba.__file__).with_name("dict.txt").read_text(encoding="utf-8").splitlines()
        listed = [line.split()[0] for line in lines]
        traditional = sources.traditional({*"".join(listed)})
        yield from (word for word in listed if traditional.isdisjoint(word))
    elif language == "yue":
        import pycantonese

        path = Path(pycantonese.__file__).parent / "data/rime_cantonese/chars_to_jyutping.json"
        yield from json.loads(path.read_text(encoding="utf-8"))


def strings(vocabulary: Vocabulary, met: Counter[str], rng: random.Random) -> Iterator[list[str]]:
    """Endless strings of 2 to 9 words, some drawn by frequency and most by need.

    `met`: how often each word and each character is met elsewhere; what the strings need is added.
    """
    frequent, weights = vocabulary.frequent, vocabulary.weights()
    in_need = needed(vocabulary, met, rng)
    while frequent:
        count = rng.randint(*LENGTHS)
        drawn = sum(rng.random() < COMMON for _ in range(count))
        chosen = rng.choices(frequent, cum_weights=weights, k=drawn)
        chosen += itertools.islice(in_need, count - drawn)
        rng.shuffle(chosen)
        yield chosen


def one_by_one(
    vocabulary: Vocabulary, reading: Callable[[str], str] | None, rng: random.Random
) -> Iterator[list[str]]:
    """Endless lists of up to eight common words that are said apart, and single words.

    With a `reading` they are characters, and of those that are read alike only the commonest: no word around it
    says which is meant, and nobody can tell by ear. Each reading is as likely as any other.
    """
    if reading is None:
        chosen, weights = vocabulary.frequent, vocabulary.weights()
    else:
        chosen, weights = _by_ear(vocabulary.frequent, reading), None
    while chosen:
        count = 1 if rng.random() < SINGLE_SHARE else rng.randint(*APART_LENGTHS)
        yield rng.choices(chosen, cum_weights=weights, k=count)


def _by_ear(words: Iterable[str], reading: Callable[[str], str]) -> tuple[str, ...]:
    """Of the characters among the words the first of each reading."""
    first: dict[str, str] = {}
    for character in (word for word in words if len(word) == 1):
        first.setdefault(reading(character), character)
    return tuple(first.values())


def needed(vocabulary: Vocabulary, met: Counter[str], rng: random.Random) -> Iterator[str]:
    """Words whose characters are met less than 25 times, the rarest first; then common words seldom met."""
    words, common = vocabulary.words, vocabulary.frequent
    for times in range(1, CHARACTER_GOAL + 1):
        for word in rng.sample(words, len(words)):
            if min(met[character] for character in word) < times:
                yield _counted(word, met)
    for times in itertools.count(1):
        for word in rng.sample(common, len(common)):
            if met[word] < times:
                yield _counted(word, met)


def _counted(word: str, met: Counter[str]) -> str:
    met.update(word)
    if len(word) > 1:
        met[word] += 1
    return word

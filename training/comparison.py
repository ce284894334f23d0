"""Two systems' words made comparable: spelling, script and numbers must not decide between them.

English goes through Whisper's own normaliser (PyPI `whisper-normalizer`). Chinese and Cantonese are compared
in simplified characters (`opencc-python-reimplemented`), and digits are spelled out in the way that fits best.
Syllables are compared by their pinyin (`pypinyin`): a character is right if any of its readings is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from sensevoice.finetune.scoring import comparable, edits
from training.numbers import HAN_DIGITS, HANGUL_DIGITS, chinese, english, korean, korean_native, sino

LARGEST_NUMBER = 99_999_999


def word_edits(found: str, wanted: str, language: str) -> tuple[int, int]:
    """Edits and units: words for English, characters otherwise."""
    target = units(wanted, language)
    return min(edits(units(text, language), target) for text in spelled_out(found, language)), len(target)


def units(text: str, language: str) -> list[str]:
    """What is counted of a text."""
    if language == "en":
        return english_normaliser()(text).split()
    return comparable(simplified(text, language), language)


def syllable_edits(found: str, pinyin: str, *, tones: bool) -> tuple[int, int]:
    """Edits and units of Mandarin syllables; `pinyin` has tone numbers and spaces."""
    target = [syllable if tones else syllable.rstrip("12345") for syllable in pinyin.split()]
    texts = (comparable(text, "zh") for text in spelled_out(found, "zh"))
    heard = ([_readings(character, tones) for character in text] for text in texts)
    return min(edits(one, target, lambda found, wanted: wanted in found) for one in heard), len(target)


def spelled_out(text: str, language: str) -> Iterator[str]:
    """The text with its digits as words: as one number, digit by digit, and so on."""
    joined = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    for speller in SPELLERS[language]:
        yield re.sub(r"\d+", partial(_spelled, speller), joined)


def simplified(text: str, language: str) -> str:
    """Traditional characters of Chinese and Cantonese as simplified ones."""
    return str(_converter().convert(text)) if language in ("zh", "yue") else text


def _spelled(speller: Callable[[str], str], match: re.Match[str]) -> str:
    digits = match[0]
    return speller(digits) if int(digits) <= LARGEST_NUMBER else digits


def _one_by_one(names: str) -> Callable[[str], str]:
    return lambda digits: "".join(names[int(digit)] for digit in digits)


def _native(digits: str) -> str:
    return korean_native(int(digits)) if 1 <= int(digits) <= 99 else korean(int(digits))


_HAN = (lambda digits: chinese(int(digits)), _one_by_one(HAN_DIGITS), lambda digits: digits)
SPELLERS: dict[str, tuple[Callable[[str], str], ...]] = {
    "en": (lambda digits: english(int(digits)), lambda digits: digits),
    "zh": _HAN,
    "yue": _HAN,
    "ja": (lambda digits: sino(int(digits)), _one_by_one(HAN_DIGITS), lambda digits: digits),
    "ko": (lambda digits: korean(int(digits)), _native, _one_by_one(HANGUL_DIGITS)),
}


@cache
def english_normaliser() -> Callable[[str], str]:
    """The normaliser that Whisper's authors score English with."""
    from whisper_normalizer.english import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser


@cache
def _converter() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


@cache
def _readings(character: str, tones: bool) -> frozenset[str]:
    from pypinyin import Style, pinyin

    style = Style.TONE3 if tones else Style.NORMAL
    return frozenset(pinyin(character, style=style, heteronym=True, neutral_tone_with_five=True)[0])

"""The training text's own rules: numbers, templates, Korean sounds, held-out sentences."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

pytest.importorskip("sentencepiece")

from training.numbers import chinese, english_year, korean, korean_native, number_slots, sino
from training.phonemes import korean as korean_phonemes
from training.templates import Templates
from training.text import LANGUAGES, HeldOut, plain, tidy


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        (0, "零"),
        (10, "十"),
        (15, "十五"),
        (105, "一百零五"),
        (110, "一百一十"),
        (1_005, "一千零五"),
        (20_300, "二万零三百"),
    ],
)
def test_chinese_numbers_name_the_skipped_places(number: int, spoken: str) -> None:
    assert chinese(number) == spoken


@pytest.mark.parametrize(
    ("number", "spoken"), [(100, "百"), (1_300, "千三百"), (10_000, "一万"), (2_024, "二千二十四")]
)
def test_japanese_numbers_have_no_one_before_ten_and_hundred(number: int, spoken: str) -> None:
    assert sino(number) == spoken


def test_korean_numbers_are_sino_korean_or_native_before_a_counter() -> None:
    assert [korean(n) for n in (6, 350, 10_000, 25_000)] == ["육", "삼백오십", "만", "이만오천"]
    assert [korean_native(n) for n in (2, 20, 21, 36)] == ["두", "스무", "스물한", "서른여섯"]


@pytest.mark.parametrize("language", ["zh", "yue", "ja", "ko"])
def test_no_digit_is_left_in_a_spoken_number(language: str) -> None:
    rng = random.Random(0)
    for slot in number_slots(language).values():
        for _ in range(50):
            written, spoken = slot(rng)
            assert re.search(r"\d", written)
            assert not re.search(r"[\d%]", spoken)


def test_english_years_are_said_in_pairs() -> None:
    pytest.importorskip("num2words")
    assert [english_year(year) for year in (1984, 1905, 2005, 2024)] == [
        "nineteen eighty four",
        "nineteen oh five",
        "two thousand five",
        "twenty twenty four",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_pattern_fills_completely(language: str) -> None:
    if language == "en":
        pytest.importorskip("num2words")
    templates = Templates(language)
    assert len(templates.patterns["everyday"]) >= 120
    for section, patterns in templates.patterns.items():
        for written, spoken in islice(templates.sentences(section, random.Random(1)), 3 * len(patterns)):
            assert not re.search(r"[{}()|@#/\ue000-\ue002]", written + spoken), written


@pytest.mark.parametrize(
    ("word", "symbols"),
    [
        ("같이", "kaʨʰi"),  # palatalisation
        ("없어요", "ʌpsʌjo"),  # a cluster moves on
        ("좋아요", "ʨoajo"),  # silent h
        ("축하", "ʨʰukʰa"),  # aspiration
        ("입니다", "imnida"),  # nasal
        ("독립", "toŋnip"),
        ("설날", "sʌllal"),
        ("갈게요", "kalkejo"),  # the promising -ㄹ게 is tense
    ],
)
def test_korean_words_are_said_by_the_standard_pronunciation(word: str, symbols: str) -> None:
    assert korean_phonemes(word) == symbols


def test_the_plain_form_keeps_only_spaces_beside_english_words() -> None:
    assert plain("zh", "我们明天有个 Meeting，你别忘了。") == "我们明天有个 meeting 你别忘了"
    assert plain("en", "It's three p.m., isn't it?") == "it's three p m isn't it"


def test_sentences_get_their_languages_punctuation() -> None:
    assert tidy("zh", "你好,吃了吗") == "你好，吃了吗？"
    assert tidy("ja", "はい,そうです") == "はい、そうです。"
    assert tidy("en", "It’s  late") == "It's late."


def test_held_out_sentences_are_sixty_a_language_with_one_example() -> None:
    sentences = HeldOut().sentences
    assert set(sentences) == set(LANGUAGES)
    for splits in sentences.values():
        assert (len(splits["test"]), len(splits["dev"])) == (40, 20)
        assert len({*splits["test"], *splits["dev"]}) == 60
        assert splits["example"] in splits["test"]


def test_a_near_copy_of_a_held_out_sentence_is_refused() -> None:
    held_out = HeldOut()
    sentence = held_out.sentences["en"]["test"][0]
    assert held_out.overlaps(sentence.upper())
    assert held_out.overlaps(sentence.rsplit(" ", 2)[0])
    assert not held_out.overlaps("The quick brown fox jumps over the lazy dog.")

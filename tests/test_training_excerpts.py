"""Excerpts of spoken sentences: where they are cut, and what they are said to say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("polib")
from training.excerpts import PARTS, Excerpts, drawn_excerpts, parts_of, with_excerpts
from training.speech import UNKNOWN_EMOTION, Line, Speech
from training.text import plain

SENTENCES = {
    "en": ("Could you tell me, please?", "kˌʊd ju tˈɛl mˌi, plˈiz?"),
    "zh": ("我们明天去北京。", "wo↓mən mi↗ŋtʰjɛ→n ʨʰy↘ pei↓ʨi→ŋ."),
    "yue": ("我哋聽日去，好？", "ŋɔ↗5tei↓6tʰɪŋ→1jɐt↓6høy3, hou↗2?"),
    "ja": ("図書館、テレビ、行く。", "toɕokaɴ. teɾebʲi. ikɯ."),
    "ko": ("내일 도서관에 갈까요?", "nɛil tosʌɡwane kalkajo?"),
}


def line(lang: str, text: str = "", phonemes: str = "") -> Line:
    text, phonemes = (text, phonemes) if text else SENTENCES[lang]
    return Line(lang, text, plain(lang, text), phonemes)


@pytest.mark.parametrize(
    ("lang", "wanted"),
    [
        ("en", [("Could", "kˌʊd"), ("you", "ju"), ("tell", "tˈɛl"), ("me", "mˌi"), ("please", "plˈiz")]),
        ("zh", [("我们", "wo↓mən"), ("明天", "mi↗ŋtʰjɛ→n"), ("去", "ʨʰy↘"), ("北京", "pei↓ʨi→ŋ")]),
        (
            "yue",
            [
                ("我", "ŋɔ↗5"),
                ("哋", "tei↓6"),
                ("聽", "tʰɪŋ→1"),
                ("日", "jɐt↓6"),
                ("去", "høy3"),
                ("好", "hou↗2"),
            ],
        ),
        ("ja", [("図書館", "toɕokaɴ"), ("テレビ", " teɾebʲi"), ("行く", " ikɯ")]),
        ("ko", [("내일", "nɛil"), ("도서관에", "tosʌɡwane"), ("갈까요", "kalkajo")]),
    ],
)
def test_parts_are_found_in_text_and_phonemes(lang: str, wanted: list[tuple[str, str]]) -> None:
    one = line(lang)
    found = [(one.text[slice(*part.written)], one.phonemes[slice(*part.said)]) for part in parts_of(one)]
    assert found == wanted


@pytest.mark.parametrize(
    "unknown",
    [
        line("en", "A well-known man.", "ɐ wˈɛl nˈOn mˈæn."),  # two words of sound for one of text
        line("zh", "你说什么。", "ni↓ ʂwo→ʂən↗."),  # a syllable is missing
        Line("en", "At 5 pm.", "at five p m", "æt fˈIv pˈi ˈɛm."),  # not written as it is spoken
        Line("en", "Recorded speech.", "recorded speech", ""),
    ],
)
def test_where_text_and_sound_cannot_be_told_to_agree_nothing_is_cut(unknown: Line) -> None:
    assert parts_of(unknown) == []


def test_excerpts_are_phrases_of_a_few_parts_and_never_the_whole() -> None:
    symbols = {
        symbol: number
        for number, symbol in enumerate({*"".join(said for _, said in SENTENCES.values())} - {*"123456"})
    }
    lines = [line(lang) for lang in SENTENCES for _ in range(40)]
    drawn = drawn_excerpts(lines, symbols)
    assert len(drawn.lines) == len(drawn.first) == drawn.counts.sum() > 200
    of = np.repeat(np.arange(len(lines)), drawn.counts)
    for said, whole, first, end, units in zip(
        drawn.lines, (lines[i] for i in of), drawn.first, drawn.end, drawn.units, strict=True
    ):
        fewest, _, characters = PARTS[said.lang]
        assert said.text in whole.text and said.plain == plain(said.lang, said.text) != whole.plain
        assert len(said.text) >= max(fewest, characters) and said.phonemes == ""
        assert 1 <= first < end < units == 2 + sum(symbol in symbols for symbol in whole.phonemes)
    english = {one.text for one in drawn.lines if one.lang == "en"}
    assert "Could" in english and "you" in english and "me, please" in english
    assert {len(one.text) for one in drawn.lines if one.lang == "yue"} <= {3, 4, 5, 6, 7}


def sentence_and_clip() -> Speech:
    """Line 1 by the synthesiser, of 6 units, and again by an engine without phoneme times."""
    frames = [10, 20, 30, 40, 10, 10]
    return Speech(
        audio=torch.arange(120 * 400 + 1_000).to(torch.int16),
        start=torch.tensor([0, 48_000]),
        length=torch.tensor([48_000, 1_000]),
        line=torch.tensor([1, 1]),
        emotion=torch.tensor([2, UNKNOWN_EMOTION]),
        unit_start=torch.tensor([0, 6]),
        unit_count=torch.tensor([6, 1]),
        units=torch.tensor([0, 5, 6, 7, 8, 0, 255], dtype=torch.uint8),
        unit_frames=torch.tensor([*frames, 255], dtype=torch.uint8),
    )


def test_an_excerpt_shares_the_samples_between_its_phonemes_and_has_their_times() -> None:
    said = [line("en", text, "") for text in ("star", "a star", "long")]
    places = np.array([(2, 4, 6), (1, 3, 6), (1, 5, 6)]).T
    excerpts = Excerpts(said, np.array([0, 3]), *places)
    speech = with_excerpts(sentence_and_clip(), excerpts, first_line=2)
    # the third lasts 2.5 s, and of the clip nobody knows where the words are
    assert speech.line.tolist() == [1, 1, 2, 3]
    assert speech.start.tolist() == [0, 48_000, 30 * 400, 10 * 400]
    assert speech.length.tolist() == [48_000, 1_000, 70 * 400, 50 * 400]
    assert speech.emotion.tolist() == [2, UNKNOWN_EMOTION, 2, 2]
    assert speech.unit_start.tolist() == [0, 6, 7, 9] and speech.unit_count.tolist() == [6, 1, 2, 2]
    assert speech.units[7:].tolist() == [6, 7, 5, 6]
    assert speech.unit_frames[7:].tolist() == [30, 40, 20, 30]
    assert len(speech.audio) == 120 * 400 + 1_000


def test_too_short_an_excerpt_is_left_out() -> None:
    places = np.array([(4, 5, 6), (4, 6, 6)]).T  # a quarter of a second is the least: ten frames
    excerpts = Excerpts([line("en", "a", ""), line("en", "b c", "")], np.array([0, 2]), *places)
    speech = sentence_and_clip()
    speech.unit_frames[4] = 9
    assert with_excerpts(speech, excerpts, first_line=2).line.tolist() == [1, 1, 3]


def test_without_sentences_that_can_be_cut_speech_is_as_before() -> None:
    speech = with_excerpts(
        sentence_and_clip(), drawn_excerpts([line("en", "Yes.", "jˈɛs.")] * 2, {"j": 1}), 2
    )
    assert speech.line.tolist() == [1, 1] and len(speech.units) == 7

"""Error rates and tag scores: exact values, and jiwer and hand-made counts as oracles."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensevoice.finetune.scoring import Confusion, ErrorRate, comparable, edits

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@pytest.mark.parametrize(
    ("text", "language", "units"),
    [
        ("It's NINE, o'clock!", "en", ["its", "nine", "oclock"]),
        ("开放时间：早上９点。", "zh", list("开放时间早上9点")),
        ("안녕 하세요?", "ko", list("안녕하세요")),
        ("用 Python 写", "zh", list("用python写")),
    ],
)
def test_case_punctuation_and_width_do_not_count(text: str, language: str, units: list[str]) -> None:
    assert comparable(text, language) == units


@given(WORDS, WORDS.filter(bool))
def test_edits_are_those_that_jiwer_counts(found: list[str], wanted: list[str]) -> None:
    measured = jiwer.process_words(" ".join(wanted), " ".join(found))
    assert edits(found, wanted) == measured.substitutions + measured.insertions + measured.deletions


@given(WORDS, WORDS)
def test_edits_count_the_same_in_both_directions(found: list[str], wanted: list[str]) -> None:
    assert edits(found, wanted) == edits(wanted, found)


def test_edits_may_use_another_sense_of_equal() -> None:
    readings = [{"hang2", "xing2"}, {"le5", "liao3"}]
    assert edits(readings, ["xing2", "ma5"], lambda found, wanted: wanted in found) == 1


def test_the_error_rate_weighs_texts_by_their_length() -> None:
    rate = ErrorRate()
    rate.add(1, 2)
    rate.add(0, 8)
    assert (rate.rate, rate.clips) == (0.1, 2)
    assert ErrorRate().rate == 0


def test_a_confusion_gives_accuracy_and_f1_of_what_was_there() -> None:
    pairs = [("Cough", "Cough"), ("Cough", "Laughter"), ("Laughter", "Laughter"), ("BGM", "Laughter")]
    confusion = Confusion.of(pairs)
    assert confusion.accuracy == 0.5
    assert confusion.f1("Cough") == pytest.approx(2 / 3)  # one right, two claimed, one there
    assert confusion.f1("Laughter") == pytest.approx(2 / 4)
    assert confusion.macro_f1 == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert confusion.wanted() == ["Cough", "Laughter"]
    assert confusion.found() == ["Cough", "Laughter", "BGM"]

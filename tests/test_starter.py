"""The checkpoint that the repository carries does what the page promises a stranger."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import jiwer
import pytest

from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.pipeline import Transcriber
from sensevoice.transcript import Transcript

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TRUTH: dict[str, dict[str, Any]] = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
SPOKEN = [name for name, truth in TRUTH.items() if truth["text"]]
MAX_CER = 0.30
MAX_BYTES = 30_000_000


@pytest.fixture(scope="module")
def transcripts() -> dict[str, Transcript]:
    starter = Transcriber.load("starter", device="cpu", offline=True)
    return {name: starter.transcribe(EXAMPLES / name) for name in TRUTH}


def letters(text: str) -> str:
    """Lower case, without punctuation and spaces."""
    lower = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in lower if unicodedata.category(c)[0] in "LN")


@pytest.mark.parametrize("name", SPOKEN)
def test_an_example_is_heard_in_its_language(transcripts: dict[str, Transcript], name: str):
    assert transcripts[name].language == TRUTH[name]["language"]


@pytest.mark.parametrize("name", SPOKEN)
def test_an_example_is_readable(transcripts: dict[str, Transcript], name: str):
    wanted, found = letters(TRUTH[name]["text"]), letters(transcripts[name].text)
    assert jiwer.cer(wanted, found) < MAX_CER, transcripts[name].text


@pytest.mark.parametrize("name", SPOKEN)
def test_an_examples_emotion_is_heard(transcripts: dict[str, Transcript], name: str):
    assert {segment.emotion for segment in transcripts[name].segments} == {TRUTH[name]["emotion"]}


def test_laughter_and_applause_are_heard_one_after_the_other(transcripts: dict[str, Transcript]):
    events = [segment.event for segment in transcripts["events.mp3"].segments]
    assert events == TRUTH["events.mp3"]["events"]
    assert transcripts["events.mp3"].text == ""


def test_example_clips_are_held_out_of_the_training_text():
    held_out = json.loads((EXAMPLES.parent / "training" / "held_out.json").read_text(encoding="utf-8"))
    sentences = {letters(text) for text in strings_in(held_out)}
    assert all(letters(TRUTH[name]["text"]) in sentences for name in SPOKEN)


def strings_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in strings_in(child)]


def test_the_starter_is_small_enough_to_be_carried_along():
    assert sum(path.stat().st_size for path in STARTER_DIRECTORY.rglob("*") if path.is_file()) <= MAX_BYTES

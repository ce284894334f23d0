"""The text stage's lines and tokenizer, as the other stages read them; tool "tokenizer" makes another one.

W/text/train.jsonl.xz and W/text/held_out.jsonl.xz hold a `Line` a row, W/text/starter.bpe.model is the tokenizer.
W/recorded/speech.jsonl has the lines of recorded speech, if there is any, each with its place in W/recorded/speech.ogg.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.speech import Line
from training.tokens import TOKENIZER, build

TEXT, RECORDED = "text", "recorded"
ORDER_SEED = 0


@dataclass(frozen=True)
class RecordedLine:
    """What is said in a recording, in both forms, and where it lies in the sound file, in samples."""

    lang: str
    text: str
    plain: str
    start: int
    length: int


def tokenizer_path(work: Path) -> Path:
    """The tokenizer that was made for the lines."""
    return work / TEXT / TOKENIZER


def training_lines(work: Path, limit: int | None = None) -> list[Line]:
    """The first so many lines, all if None, in the order that speech counts them in (`Speech.line`).

    The lines of recorded speech come last; they have no phonemes, so nobody speaks them once more.
    """
    recorded = [Line(line.lang, line.text, line.plain, "") for line in recorded_lines(work)]
    return text_lines(work)[:limit] + recorded


def text_lines(work: Path) -> list[Line]:
    """The text stage's lines for training, in an order that all stages agree on."""
    lines = _read(work, "train")
    order = np.random.default_rng(ORDER_SEED).permutation(len(lines))
    return [lines[i] for i in order]


def recorded_lines(work: Path) -> list[RecordedLine]:
    """What is said in recorded speech; none if there is none."""
    path = work / RECORDED / "speech.jsonl"
    if not path.exists():
        return []
    return [RecordedLine(**json.loads(row)) for row in path.read_text(encoding="utf-8").splitlines()]


def held_out_lines(work: Path, limit: int | None = None) -> list[Line]:
    """The first so many lines of the splits "dev" and "test", all if None, as they were written."""
    return _read(work, "held_out")[:limit]


def _read(work: Path, name: str) -> list[Line]:
    with lzma.open(work / TEXT / f"{name}.jsonl.xz", "rt", encoding="utf-8") as file:
        return [Line(**json.loads(row)) for row in file]


def write_tokenizer(work: Path, english_pieces: int) -> None:
    """Make the tokenizer anew for the lines that there are, which may have been made with another."""
    lines = [*_read(work, "train"), *_read(work, "held_out")]
    texts = [text for line in lines for text in (line.text, line.plain)]
    print(build(tokenizer_path(work), texts, english_pieces), "pieces", flush=True)

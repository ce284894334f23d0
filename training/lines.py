"""The text stage's lines and tokenizer, as the other stages read them; tool "tokenizer" makes another one.

W/text/train.jsonl.xz and W/text/held_out.jsonl.xz hold a `Line` a row, W/text/starter.bpe.model is the tokenizer.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np

from training.speech import Line
from training.tokens import TOKENIZER, build

TEXT = "text"
ORDER_SEED = 0  # stages must agree on the order of the lines


def tokenizer_path(work: Path) -> Path:
    """The tokenizer that was made for the lines."""
    return work / TEXT / TOKENIZER


def training_lines(work: Path, limit: int | None = None) -> list[Line]:
    """The first so many lines, all if None, in the order that speech counts them in (`Speech.line`)."""
    lines = _read(work, "train")
    order = np.random.default_rng(ORDER_SEED).permutation(len(lines))
    return [lines[i] for i in order][:limit]


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

"""How wide a text is on screen, and where its script wants spaces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# CJK punctuation, kana, bopomofo, Han, full-width forms: scripts written without spaces (Hangul is not one)
UNSPACED = (
    r"\u2E80-\u312F\u31A0-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF\uFE30-\uFE4F\uFF00-\uFF9F\U00020000-\U0003FFFF"
)
# a full-width mark's glyph holds its own gap; the full-width letters and digits are no marks
_FULL_WIDTH_MARK = re.compile(
    r"[\u3000-\u3004\u3008-\u301F\uFE30-\uFE4F\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65]"
)
_UNSPACED = re.compile(f"[{UNSPACED}]")


def display_width(text: str) -> int:
    """Columns that `text` takes in a fixed-width font: 2 for a wide character, 0 for a combining one.

    The widths are those of Unicode Standard Annex 11, East Asian Width.
    """
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def join_texts(texts: Iterable[str]) -> str:
    """Join texts to one, with a space where the scripts that meet are written with spaces."""
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        joined += (" " if joined and _space_between(joined[-1], text[0]) else "") + text
    return joined


def _space_between(left: str, right: str) -> bool:
    if _FULL_WIDTH_MARK.match(left) or _FULL_WIDTH_MARK.match(right):
        return False
    return not (_UNSPACED.match(left) and _UNSPACED.match(right))

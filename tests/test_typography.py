from __future__ import annotations

import pytest

from sensevoice.typography import display_width, join_texts


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("你好", 4),
        ("カナ", 4),
        ("ｶﾅ", 2),
        ("한글", 4),
        ("Ａ，", 4),
        ("e\u0301", 1),
        ("a\u200bb", 2),
    ],
)
def test_a_wide_character_takes_two_columns_and_a_combining_one_none(text: str, columns: int) -> None:
    assert display_width(text) == columns


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["Hello.", "World."], "Hello. World."),
        (["你好。", "再见。"], "你好。再见。"),
        (["你好", "再见"], "你好再见"),
        (["こんにちは", "世界"], "こんにちは世界"),
        (["안녕하세요.", "반갑습니다."], "안녕하세요. 반갑습니다."),
        (["你好", "Hello"], "你好 Hello"),
        (["你好。", "Hello"], "你好。Hello"),
        (["Hello.", "你好"], "Hello. 你好"),
        (["안녕", "世界"], "안녕 世界"),
        ([" a ", "", "  ", "b"], "a b"),
    ],
)
def test_texts_are_joined_with_a_space_only_where_a_script_has_them(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined

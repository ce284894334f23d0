"""FunASR's JSON lines: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sensevoice.errors import DatasetError
from sensevoice.finetune.dataset import Example, check_examples, count_words, read_examples, write_examples

# a line of SenseVoice's own data/train_example.jsonl
OFFICIAL = {
    "key": "YOU0000008470_S0000238_punc_itn",
    "text_language": "<|en|>",
    "emo_target": "<|NEUTRAL|>",
    "event_target": "<|Speech|>",
    "with_or_wo_itn": "<|withitn|>",
    "target": "Including legal due diligence, subscription agreement, negotiation.",
    "source": "clip.wav",
    "target_len": 7,
    "source_len": 140,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clip.wav").write_bytes(b"not read here")
    return tmp_path


def written(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "train.jsonl"
    rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_line_of_funasrs_format_is_read(folder: Path) -> None:
    (example,) = read_examples(written(folder, OFFICIAL))
    assert example == Example(
        key="YOU0000008470_S0000238_punc_itn",
        source=folder / "clip.wav",
        target="Including legal due diligence, subscription agreement, negotiation.",
        language="en",
        emotion="NEUTRAL",
        event="Speech",
        normalisation="withitn",
        source_len=140,
        target_len=7,
    )


def test_only_sound_and_words_are_needed(folder: Path) -> None:
    (example,) = read_examples(written(folder, {"source": "clip.wav", "target": "你好"}))
    assert example == Example(key="clip", source=folder / "clip.wav", target="你好")


def test_what_is_written_is_read_back(folder: Path) -> None:
    examples = [
        Example("a", folder / "clip.wav", "早晨", "yue", "HAPPY", "Speech", "woitn", 120, 2),
        Example("b", folder / "clip.wav", "", "nospeech", "", "Laughter", "", 90, 0),
    ]
    write_examples(folder / "out.jsonl", examples)
    assert read_examples(folder / "out.jsonl") == examples
    assert json.loads((folder / "out.jsonl").read_text("utf-8").splitlines()[0])["source"] == "clip.wav"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"source": None}, "source must be a text, not null"),
        ({"source": "gone.wav"}, "there is no file"),
        ({"target": ""}, "target is empty: write what is said"),
        ({"target": "<|en|>Hello"}, "target holds a tag"),
        ({"text_language": "en"}, "text_language must be written like \"<|zh|>\", not 'en'"),
        ({"text_language": "<|fr|>"}, "text_language is <|fr|>, which is no language tag"),
        ({"emo_target": "<|Speech|>"}, "emo_target is <|Speech|>, which is no emotion tag"),
        ({"source_len": 1.5}, "source_len must be a whole number, not 1.5"),
        ({"target_len": -1}, "target_len must be a whole number, not -1"),
    ],
)
def test_a_line_at_fault_is_named_with_the_reason(folder: Path, change: dict[str, Any], reason: str) -> None:
    path = written(folder, OFFICIAL, {**OFFICIAL, "key": "second", **change})
    with pytest.raises(DatasetError) as caught:
        read_examples(path)
    assert f"{path} cannot be used as training data: line 2: {reason}" in str(caught.value)


@pytest.mark.parametrize("name", ["source", "target"])
def test_a_missing_field_is_named(folder: Path, name: str) -> None:
    line = {key: value for key, value in OFFICIAL.items() if key != name}
    with pytest.raises(DatasetError, match=f"line 1: {name} is missing"):
        read_examples(written(folder, line))


@pytest.mark.parametrize(("row", "reason"), [("{'key': 1}", "no JSON"), ("[1, 2]", "no JSON object")])
def test_what_is_no_json_object_is_named(folder: Path, row: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=f"line 2: it is {reason}"):
        read_examples(written(folder, OFFICIAL, row))


def test_two_lines_with_one_key_are_both_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2: its key 'YOU\w+' is that of line 1, too"):
        read_examples(written(folder, OFFICIAL, OFFICIAL))


def test_every_problem_is_kept_and_the_first_ten_are_told(folder: Path) -> None:
    path = written(folder, *["{"] * 12)
    with pytest.raises(DatasetError, match=r"line 10: .*; and 2 more lines") as caught:
        read_examples(path)
    problems = caught.value.facts["problems"]
    assert isinstance(problems, tuple)
    assert [problem.partition(":")[0] for problem in problems] == [f"line {n}" for n in range(1, 13)]


def test_the_good_lines_can_be_had_without_the_bad_ones(folder: Path) -> None:
    examples, problems = check_examples(written(folder, "{", OFFICIAL, "", {**OFFICIAL, "target": 3}))
    assert [example.key for example in examples] == [OFFICIAL["key"]]
    assert [problem.line for problem in problems] == [1, 4]


def test_an_empty_file_is_no_data_set(folder: Path) -> None:
    with pytest.raises(DatasetError, match="it holds no line"):
        read_examples(written(folder, ""))


def test_what_is_no_text_file_is_said_to_be_none(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes(b"{}\n\xff\xfe")
    with pytest.raises(DatasetError, match=r"no UTF-8 text \(byte 3\)"):
        read_examples(folder / "train.jsonl")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_examples(folder / "gone.jsonl")


def test_a_sound_too_short_for_its_text_is_found(folder: Path) -> None:
    path = written(folder, {**OFFICIAL, "target": "aab", "source_len": 18})
    letters = [ord(letter) for letter in "aab"]
    with pytest.raises(DatasetError, match=r"its 0.18 s are too short for its text, which needs 0.3 s"):
        read_examples(path, encode=lambda text: [*letters, 0])  # a blank between the two a
    assert read_examples(path, encode=lambda text: letters)


def test_a_free_token_may_stand_as_a_tag(folder: Path) -> None:
    (example,) = read_examples(written(folder, {**OFFICIAL, "event_target": "<|SPECIAL_TOKEN_3|>"}))
    assert example.event == "SPECIAL_TOKEN_3"


@pytest.mark.parametrize(
    ("text", "count"), [("It is nine.", 3), ("你好 world", 3), ("今日は晴れ", 5), ("안녕하세요", 5), ("", 0)]
)
def test_words_and_characters_are_counted(text: str, count: int) -> None:
    assert count_words(text) == count

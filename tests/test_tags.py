from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path

import pytest

from sensevoice.errors import ModelFileError, OptionError
from sensevoice.tags import (
    TAGS,
    Tag,
    TagKind,
    UnknownTagWarning,
    find_tag,
    label,
    load_custom_tags,
    marker,
    rich_transcription_postprocess,
)

PREFIX = "<|en|><|NEUTRAL|><|Speech|><|withitn|>"
DOORBELL = {
    "name": "Doorbell",
    "kind": "event",
    "zh": "门铃",
    "en": "Doorbell",
    "emoji": "🔔",
    "aliases": ["RING"],
}


def _tokens_of_kind(kind: TagKind) -> set[str]:
    return {tag.token for tag in TAGS if tag.kind is kind}


# The table ----------------------------------------------------------------------------------------


def test_the_table_holds_every_tag_that_the_model_emits_and_silence() -> None:
    assert _tokens_of_kind(TagKind.LANGUAGE) == {"zh", "en", "yue", "ja", "ko", "nospeech"}
    assert _tokens_of_kind(TagKind.EMOTION) == {
        "HAPPY",
        "SAD",
        "ANGRY",
        "NEUTRAL",
        "FEARFUL",
        "DISGUSTED",
        "SURPRISED",
        "OTHER",
        "EMO_UNKNOWN",
    }
    assert _tokens_of_kind(TagKind.EVENT) == {
        "Speech",
        "BGM",
        "Laughter",
        "Applause",
        "Cry",
        "Sneeze",
        "Breath",
        "Cough",
        "Sing",
        "Speech_Noise",
        "GBG",
        "Event_UNK",
        "SILENCE",
    }
    assert _tokens_of_kind(TagKind.NORMALISATION) == {"withitn", "woitn"}


@pytest.mark.parametrize(
    ("name", "zh"),
    [
        *zip(
            ["HAPPY", "ANGRY", "SAD", "FEARFUL", "DISGUSTED", "SURPRISED", "NEUTRAL"],
            ["开心", "愤怒", "悲伤", "恐惧", "厌恶", "惊讶", "中性"],
            strict=True,
        ),
        *zip(
            ["APPLAUSE", "LAUGHTER", "CRY", "BGM", "NOISE", "SILENCE", "COUGH", "SNEEZE", "BREATH", "SING"],
            ["掌声", "笑声", "哭声", "背景音乐", "环境噪音", "静音", "咳嗽", "喷嚏", "呼吸", "歌唱"],
            strict=True,
        ),
        ("FEAR", "恐惧"),
        ("DISGUST", "厌恶"),
    ],
)
def test_a_tag_is_found_in_any_case_and_has_the_label_of_the_article(name: str, zh: str) -> None:
    assert {label(spelling, "zh") for spelling in (name, name.lower(), name.title())} == {zh}


def test_no_spelling_leads_to_two_tags() -> None:
    spellings = [name.casefold() for tag in TAGS for name in (tag.token, *tag.aliases)]
    assert len(spellings) == len(set(spellings))


def test_every_tag_has_both_labels_and_no_two_of_a_kind_look_alike() -> None:
    for kind in TagKind:
        tags = [tag for tag in TAGS if tag.kind is kind]
        for lang in ("zh", "en"):
            assert all(tag.label(lang) for tag in tags)
            assert len({tag.label(lang) for tag in tags}) == len(tags)


def test_every_emotion_and_event_has_an_emoji_of_its_own() -> None:
    emojis = [tag.emoji for tag in TAGS if tag.kind in (TagKind.EMOTION, TagKind.EVENT)]
    assert all(emojis)
    assert len(set(emojis)) == len(emojis)


def test_a_name_without_a_tag_is_its_own_label() -> None:
    assert find_tag("Dog") is None
    assert label("Dog", "zh") == "Dog"


def test_an_uncertain_tag_is_marked_with_a_question_mark() -> None:
    happy = find_tag("happy")
    assert happy is not None
    assert marker(happy, uncertain=True) == "[开心?]"
    assert marker(happy, "emoji", uncertain=True) == "😊?"
    assert marker(happy, "plain", uncertain=True) == ""


# Raw text -----------------------------------------------------------------------------------------

ARTICLE = "<|HAPPY|>今天天气真好!<|APPLAUSE|><|BGM|>(轻快钢琴背景音)"


def test_the_articles_example_becomes_three_lines() -> None:
    assert (
        rich_transcription_postprocess(ARTICLE) == "[开心] 今天天气真好!\n[掌声]\n[背景音乐](轻快钢琴背景音)"
    )


def test_the_articles_example_in_english_emoji_and_plain() -> None:
    assert rich_transcription_postprocess(ARTICLE, lang="en") == (
        "[Happy] 今天天气真好!\n[Applause]\n[Background music](轻快钢琴背景音)"
    )
    assert rich_transcription_postprocess(ARTICLE, "emoji") == "😊 今天天气真好!\n👏\n🎼(轻快钢琴背景音)"
    assert rich_transcription_postprocess(ARTICLE, "plain") == "今天天气真好! (轻快钢琴背景音)"


def test_the_word_the_is_not_deleted() -> None:
    assert rich_transcription_postprocess(PREFIX + "End. The. Beginning.") == "End. The. Beginning."


def test_english_segments_are_not_glued_together() -> None:
    raw = f"{PREFIX}Hello there.{PREFIX}How are you?"
    assert rich_transcription_postprocess(raw) == "Hello there.\nHow are you?"
    assert rich_transcription_postprocess(raw, "plain") == "Hello there. How are you?"


def test_chinese_segments_are_joined_without_a_space() -> None:
    raw = "<|zh|><|NEUTRAL|><|Speech|><|withitn|>你好<|zh|><|NEUTRAL|><|Speech|><|withitn|>再见"
    assert rich_transcription_postprocess(raw, "plain") == "你好再见"


def test_cough_and_sneeze_stay_apart() -> None:
    raw = "<|Cough|><|Sneeze|>"
    assert rich_transcription_postprocess(raw) == "[咳嗽]\n[喷嚏]"
    assert len(set(rich_transcription_postprocess(raw, "emoji").split("\n"))) == 2


def test_the_token_other_does_not_leak_into_the_text() -> None:
    raw = "<|zh|><|OTHER|><|Speech|><|withitn|>你好。"
    assert rich_transcription_postprocess(raw) == "[其他情绪] 你好。"
    assert rich_transcription_postprocess(raw, "emoji") == "🎭 你好。"
    assert rich_transcription_postprocess(raw, "plain") == "你好。"


@pytest.mark.parametrize("name", ["Breath", "Sing", "Laughter", "Speech_Noise", "GBG"])
def test_a_segment_with_an_event_and_no_words_is_not_lost(name: str) -> None:
    for emotion in ("NEUTRAL", "EMO_UNKNOWN"):
        raw = f"<|nospeech|><|{emotion}|><|{name}|><|woitn|>"
        assert rich_transcription_postprocess(raw) == f"[{label(name, 'zh')}]"


def test_an_emotion_or_event_that_repeats_is_shown_each_time() -> None:
    raw = "<|zh|><|HAPPY|><|BGM|><|withitn|>一。<|zh|><|HAPPY|><|BGM|><|withitn|>二。"
    assert rich_transcription_postprocess(raw) == "[开心] 一。\n[背景音乐]\n[开心] 二。\n[背景音乐]"


def test_spaces_around_the_speakers_own_emoji_are_kept() -> None:
    assert rich_transcription_postprocess(PREFIX + "I am 😊 today 👏 really") == "I am 😊 today 👏 really"


def test_the_text_between_two_tags_is_not_deleted() -> None:
    raw = "<|HAPPY|>one<|SAD|>two<|Speech|>three"
    assert rich_transcription_postprocess(raw) == "[开心] one\n[悲伤] two\nthree"


def test_language_itn_neutral_speech_and_unknown_are_not_shown() -> None:
    for emotion, event in product(("NEUTRAL", "EMO_UNKNOWN"), ("Speech", "Event_UNK")):
        raw = f"<|yue|><|{emotion}|><|{event}|><|woitn|>你好"
        assert rich_transcription_postprocess(raw) == "你好"


def test_a_bracket_that_is_speech_stays_with_the_words() -> None:
    raw = "<|en|><|HAPPY|><|BGM|><|withitn|>(laughing) hello"
    assert rich_transcription_postprocess(raw, lang="en") == "[Happy] (laughing) hello\n[Background music]"


def test_words_after_an_events_bracket_have_a_line_of_their_own() -> None:
    raw = "<|BGM|>（钢琴）大家好<|APPLAUSE|>谢谢"
    assert rich_transcription_postprocess(raw) == "[背景音乐]（钢琴）\n大家好\n[掌声]\n谢谢"


def test_an_emotion_without_words_is_kept() -> None:
    assert rich_transcription_postprocess("<|SAD|>") == "[悲伤]"


def test_text_without_tags_is_left_as_it_is() -> None:
    text = "a < b | c > d <| e"
    assert rich_transcription_postprocess(text) == text
    assert rich_transcription_postprocess("") == ""


def test_an_unknown_tag_is_dropped_with_a_warning_that_points_at_the_caller() -> None:
    with pytest.warns(UnknownTagWarning, match=r"<\|FOO\|>") as caught:
        assert rich_transcription_postprocess("<|zh|>你<|FOO|>好 <|FOO|> 吗") == "你好 吗"
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_a_closing_tag_is_no_unknown_tag() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rich_transcription_postprocess("<|BGM|>歌<|/BGM|>") == "[背景音乐]\n歌"


def test_an_unknown_style_or_language_is_refused() -> None:
    with pytest.raises(OptionError, match="label, emoji, plain"):
        rich_transcription_postprocess("x", style="loud")
    with pytest.raises(OptionError, match="zh, en"):
        rich_transcription_postprocess("x", lang="fr")


# Custom tags --------------------------------------------------------------------------------------


def _written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "custom_tags.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_custom_token_has_the_name_and_labels_that_the_checkpoint_gives(tmp_path: Path) -> None:
    tags = load_custom_tags(_written(tmp_path, {"SPECIAL_TOKEN_3": DOORBELL}))
    assert tags == (
        Tag("SPECIAL_TOKEN_3", TagKind.EVENT, "门铃", "Doorbell", "🔔", ("RING",), given_name="Doorbell"),
    )
    assert tags[0].name == "Doorbell"
    for spelling in ("doorbell", "ring", "special_token_3"):
        assert find_tag(spelling, TAGS + tags) == tags[0]
    raw = "<|zh|>来了<|SPECIAL_TOKEN_3|>"
    assert rich_transcription_postprocess(raw, tags=TAGS + tags) == "来了\n[门铃]"
    assert rich_transcription_postprocess(raw, "emoji", tags=TAGS + tags) == "来了\n🔔"


def test_labels_default_to_the_name_and_a_tag_without_emoji_shows_its_label(tmp_path: Path) -> None:
    path = _written(tmp_path, {"SPECIAL_TOKEN_35": {"name": "Calm", "kind": "emotion"}})
    (calm,) = load_custom_tags(path)
    assert (calm.zh, calm.en, calm.kind) == ("Calm", "Calm", TagKind.EMOTION)
    assert marker(calm, "emoji") == "[Calm]"


def test_a_custom_token_without_a_name_is_unknown() -> None:
    with pytest.warns(UnknownTagWarning, match="SPECIAL_TOKEN_3"):
        assert rich_transcription_postprocess("<|zh|>来了<|SPECIAL_TOKEN_3|>") == "来了"


def test_a_checkpoint_without_custom_tags_has_none(tmp_path: Path) -> None:
    assert load_custom_tags(tmp_path / "custom_tags.json") == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "line 1"),
        ("[]", "must be an object of"),
        ({"SPECIAL_TOKEN_36": DOORBELL}, "'SPECIAL_TOKEN_36' is not one of SPECIAL_TOKEN_1 to"),
        ({"HAPPY": DOORBELL}, "'HAPPY' is not one of"),
        ({"SPECIAL_TOKEN_1": "Doorbell"}, "SPECIAL_TOKEN_1: it must be an object"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "colour": "red"}}, "unknown key 'colour'"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "kind": "language"}}, "kind must be event or emotion"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "kind": ["event"]}}, "kind must be event or emotion"),
        ({"SPECIAL_TOKEN_1": {"kind": "event"}}, "name must be a short text"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "zh": 3}}, "zh must be a short text"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "en": "a|>b"}}, "en must be a short text"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "emoji": " "}}, "emoji must be a short text"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "aliases": "RING"}}, "aliases must be a list"),
        ({"SPECIAL_TOKEN_1": {**DOORBELL, "name": "fear"}}, "the name 'fear' is taken"),
        ({"SPECIAL_TOKEN_1": DOORBELL, "SPECIAL_TOKEN_2": DOORBELL}, "SPECIAL_TOKEN_2: the name 'Doorbell'"),
    ],
)
def test_a_damaged_custom_tag_file_is_named_with_the_entry_at_fault(
    tmp_path: Path, content: object, reason: str
) -> None:
    path = _written(tmp_path, content)
    with pytest.raises(ModelFileError) as caught:
        load_custom_tags(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)

from __future__ import annotations

import dataclasses

import pytest

from sensevoice.ctc import Reading, TagScore, Token
from sensevoice.errors import OptionError
from sensevoice.options import TranscribeOptions
from sensevoice.spans import Span
from sensevoice.tags import TAGS, Tag, TagKind
from sensevoice.transcript import (
    Gap,
    Segment,
    Transcript,
    dominant_language,
    labelled_text,
    make_segment,
    make_transcript,
)

OPTIONS = TranscribeOptions()


def make_reading(**changes: object) -> Reading:
    reading = Reading(
        text="你好",
        tokens=(Token("你", 1.26, 1.32, 0.5), Token("好", 1.38, 1.5, 0.75)),
        language=TagScore("zh", 0.9, "yue", 0.08),
        emotion=TagScore("HAPPY", 0.7, "NEUTRAL", 0.2),
        event=TagScore("Speech", 0.95, "BGM", 0.03),
        itn=True,
    )
    return reading._replace(**changes)


def segment(start_ms: int = 0, end_ms: int = 1000, **changes: object) -> Segment:
    made = make_segment(Span(start_ms, end_ms), make_reading(tokens=()), OPTIONS)
    return dataclasses.replace(made, **changes)


# Segments -----------------------------------------------------------------------------------------


def test_a_segment_stands_where_its_span_stands() -> None:
    made = make_segment(Span(1230, 1500), make_reading(), OPTIONS)
    assert made == Segment(
        start_s=1.23,
        end_s=1.5,
        text="你好",
        language="zh",
        language_probability=0.9,
        language_runner_up="yue",
        emotion="HAPPY",
        emotion_probability=0.7,
        emotion_runner_up="NEUTRAL",
        emotion_uncertain=False,
        event="Speech",
        event_probability=0.95,
        event_runner_up="BGM",
        tokens=make_reading().tokens,
    )


@pytest.mark.parametrize(("probability", "uncertain"), [(0.49, True), (0.5, False), (0.9, False)])
def test_an_emotion_below_the_threshold_is_uncertain(probability: float, uncertain: bool) -> None:
    reading = make_reading(emotion=TagScore("SAD", probability))
    assert make_segment(Span(0, 300), reading, OPTIONS).emotion_uncertain is uncertain


def test_a_span_cannot_end_before_it_starts() -> None:
    assert Span(5, 8).duration_ms == 3
    for start_ms, end_ms in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"from {start_ms} ms to {end_ms} ms"):
            Span(start_ms, end_ms)


# Transcripts --------------------------------------------------------------------------------------


def test_a_transcript_keeps_order_gaps_options_and_model() -> None:
    first, second = segment(0, 1000, text="一"), segment(1500, 2000, text="二")
    transcript = make_transcript(
        [second, first],
        duration_s=2.00049,
        skipped=[Span(1000, 1500)],
        options=OPTIONS,
        model="starter",
    )
    assert transcript == Transcript((first, second), 2.0, "zh", (Gap(1.0, 1.5),), OPTIONS, "starter")
    assert transcript.text == "一二"


def test_the_text_has_spaces_only_where_the_scripts_have_them() -> None:
    texts = ["Hello there.", "", "How are you?", "你好。", "再见。", "안녕하세요.", "잘 가요."]
    transcript = make_transcript([segment(i, i + 1, text=text) for i, text in enumerate(texts)], duration_s=1)
    assert transcript.text == "Hello there. How are you? 你好。再见。안녕하세요. 잘 가요."


def test_the_language_is_the_one_of_most_speech_by_duration() -> None:
    short = [segment(i * 1000, i * 1000 + 900, language="en") for i in range(3)]
    assert dominant_language([*short, segment(5000, 9000, language="ko")]) == "ko"


def test_music_and_silence_speak_no_language() -> None:
    music = segment(0, 60_000, text="", language="en", event="BGM")
    nobody = segment(60_000, 90_000, text="嗯", language="nospeech")
    assert dominant_language([music, nobody]) == ""
    assert dominant_language([music, nobody, segment(90_000, 91_000, language="ja")]) == "ja"
    assert dominant_language([]) == ""


def test_of_languages_equally_long_the_first_wins() -> None:
    assert dominant_language([segment(0, 1000, language="ja"), segment(1000, 2000, language="zh")]) == "ja"


def test_an_empty_transcript_has_no_text_and_no_language() -> None:
    transcript = make_transcript([], duration_s=3, skipped=[Span(0, 3000)])
    assert (transcript.text, transcript.language, labelled_text(transcript)) == ("", "", "")


# Labelled text ------------------------------------------------------------------------------------


def test_an_emotion_leads_its_line_and_an_event_has_its_own() -> None:
    segments = [
        segment(text="今天天气真好！", event="BGM"),
        segment(text="", emotion="EMO_UNKNOWN", event="Applause"),
        segment(text="谢谢。", emotion="SAD", event="Speech"),
    ]
    assert labelled_text(segments) == "[开心] 今天天气真好！\n[背景音乐]\n[掌声]\n[悲伤] 谢谢。"
    assert (
        labelled_text(segments, "en")
        == "[Happy] 今天天气真好！\n[Background music]\n[Applause]\n[Sad] 谢谢。"
    )
    assert labelled_text(segments, style="emoji") == "😊 今天天气真好！\n🎼\n👏\n😔 谢谢。"
    assert labelled_text(segments, style="plain") == "今天天气真好！\n谢谢。"


def test_a_repeated_event_is_shown_each_time() -> None:
    laughs = [segment(text="", event="Laughter"), segment(text="", event="Laughter")]
    assert labelled_text(laughs) == "[笑声]\n[笑声]"


def test_an_uncertain_emotion_is_shown_with_a_question_mark() -> None:
    assert labelled_text([segment(emotion_uncertain=True)]) == "[开心?] 你好"


def test_neutral_and_speech_are_shown_only_if_asked() -> None:
    calm = [segment(emotion="NEUTRAL", event="Speech")]
    assert labelled_text(calm) == "你好"
    assert labelled_text(calm, options=TranscribeOptions(show_neutral=True)) == "[中性] 你好"
    assert labelled_text(calm, options=TranscribeOptions(show_speech=True)) == "你好\n[说话声]"


def test_a_transcript_is_shown_by_its_own_options() -> None:
    options = TranscribeOptions(show_neutral=True)
    transcript = make_transcript([segment(emotion="NEUTRAL")], duration_s=1, options=options)
    assert labelled_text(transcript) == "[中性] 你好"
    assert labelled_text(transcript, options=OPTIONS) == "你好"


def test_what_the_model_does_not_know_is_never_shown() -> None:
    everything = TranscribeOptions(show_neutral=True, show_speech=True)
    unknown = [segment(emotion="EMO_UNKNOWN", event="Event_UNK"), segment(text="", emotion="", event="")]
    assert labelled_text(unknown, options=everything) == "你好"


def test_an_emotion_without_words_is_not_shown() -> None:
    assert labelled_text([segment(text="", emotion="SAD", event="Applause")]) == "[掌声]"


def test_a_custom_tag_is_shown_by_the_transcripts_own_table() -> None:
    doorbell = Tag("SPECIAL_TOKEN_1", TagKind.EVENT, "门铃", "Doorbell", given_name="Doorbell")
    rung = segment(event="Doorbell", emotion="NEUTRAL")
    assert labelled_text(make_transcript([rung], duration_s=1, tags=(*TAGS, doorbell))) == "你好\n[门铃]"
    assert labelled_text([rung]) == "你好"


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(OptionError):
        labelled_text([segment()], style="loud")

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensevoice.ctc import Token
from sensevoice.options import TranscribeOptions
from sensevoice.subtitles import MAX_LINE_COLUMNS, MIN_CUE_MS, Cue, make_cues
from sensevoice.transcript import Segment, Transcript, make_transcript
from sensevoice.typography import display_width

SPELLED = re.compile(r" ?[A-Za-z0-9$.,'-]+|\s?.")


def segment(text: str, start_ms: int = 0, step_ms: int = 180, **changes: object) -> Segment:
    """A segment whose tokens begin every `step_ms`, each 60 ms long, as CTC's spikes are."""
    pieces = SPELLED.findall(text)
    tokens = tuple(
        Token(piece, (start_ms + i * step_ms) / 1000, (start_ms + i * step_ms + 60) / 1000, 0.9)
        for i, piece in enumerate(pieces)
    )
    made = Segment(
        start_s=start_ms / 1000,
        end_s=(start_ms + max(len(pieces), 1) * step_ms) / 1000,
        text=text,
        language="zh",
        language_probability=0.9,
        language_runner_up="en",
        emotion="HAPPY",
        emotion_probability=0.9,
        emotion_runner_up="SAD",
        emotion_uncertain=False,
        event="Speech",
        event_probability=0.9,
        event_runner_up="BGM",
        tokens=tokens,
    )
    return dataclasses.replace(made, **changes)


def transcript_of(*segments: Segment, duration_s: float = 600.0) -> Transcript:
    return make_transcript(segments, duration_s=duration_s)


def lines_of(text: str) -> list[tuple[str, ...]]:
    return [cue.lines for cue in make_cues(transcript_of(segment(text)))]


# Breaks -------------------------------------------------------------------------------------------


def test_a_short_sentence_is_one_line() -> None:
    assert lines_of("今天天气真好！") == [("今天天气真好！",)]


def test_chinese_breaks_at_its_punctuation() -> None:
    text = "今天天气真好，我们一起去公园散步吧。公园里有很多花，红的、黄的、白的，非常漂亮！"
    assert lines_of(text) == [
        ("今天天气真好，我们一起去公园散步吧。",),
        ("公园里有很多花，红的、", "黄的、白的，非常漂亮！"),
    ]


def test_english_breaks_at_its_punctuation_and_between_words() -> None:
    text = "The tribal chieftain called for the boy, and presented him with fifty pieces of gold."
    assert lines_of(text) == [
        ("The tribal chieftain called for the boy,",),
        ("and presented him with", "fifty pieces of gold."),
    ]


def test_korean_breaks_between_its_words() -> None:
    for lines in lines_of("오늘은날씨가 정말좋아서 공원에나가서 산책을하려고 생각하고 있습니다만 괜찮을까요"):
        assert all(line == line.strip() for line in lines)
    assert "".join(sum(lines_of("가나다 라마바"), ())) == "가나다 라마바"


@pytest.mark.parametrize(
    "number", ["3,280,150.75", "１２３．４５", "一百二十三万四千五百六十七", "10:30:55", "$99.90"]
)
def test_a_number_is_never_broken(number: str) -> None:
    for filler in range(30):
        lines = sum(lines_of("价" * filler + number + "元" * 40), ())
        assert any(number in line for line in lines)


def test_an_english_word_is_never_broken_even_when_it_is_wider_than_a_line() -> None:
    word = "Donaudampfschifffahrtsgesellschaftskapitaenswitwe"
    assert display_width(word) > MAX_LINE_COLUMNS
    assert any(word in line for line in sum(lines_of(f"我们今天在这里看到了{word}先生，你好吗？"), ()))


def test_no_line_begins_with_closing_punctuation_or_ends_with_opening() -> None:
    text = "他说「今天、天気が、いい」。（笑）そして「公園へ、行きましょう」と、言いました。" * 4
    for line in sum(lines_of(text), ()):
        assert line[0] not in "、。」）"
        assert line[-1] not in "「（"


def test_a_long_pause_begins_a_new_cue() -> None:
    text = "今天天气真好我们去公园"
    made = segment(text)
    tokens = [
        token if i < 6 else token._replace(start_s=token.start_s + 3, end_s=token.end_s + 3)
        for i, token in enumerate(made.tokens)
    ]
    cues = make_cues(transcript_of(dataclasses.replace(made, tokens=tuple(tokens), end_s=9.0)))
    assert [cue.lines for cue in cues] == [("今天天气真好",), ("我们去公园",)]


# Times --------------------------------------------------------------------------------------------


def test_a_cue_has_the_times_of_its_first_and_last_token() -> None:
    (cue,) = make_cues(transcript_of(segment("今天天气真好！", 10_000)))
    assert cue == Cue(10_000, 10_000 + 6 * 180 + 60, ("今天天气真好！",))


def test_a_short_cue_lasts_half_a_second_where_there_is_room_after_it() -> None:
    cues = make_cues(transcript_of(segment("好", 1000), segment("是的", 5000)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(1000, 1500), (5000, 5500)]


def test_a_short_cue_takes_the_room_before_it_if_there_is_none_after() -> None:
    cues = make_cues(transcript_of(segment("好", 1000), segment("今天天气真好", 1200)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(700, 1200), (1200, 2160)]
    (last,) = make_cues(transcript_of(segment("好", 1000), duration_s=1.1))
    assert (last.start_ms, last.end_ms) == (600, 1100)


def test_a_short_cue_without_room_on_either_side_stays_short() -> None:
    cues = make_cues(transcript_of(segment("今天天气真好", 0), segment("好", 960), segment("今天天气", 1200)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 960), (960, 1200), (1200, 1800)]


def test_overlapping_segments_make_cues_that_do_not_overlap() -> None:
    cues = make_cues(transcript_of(segment("今天天气真好", 0), segment("明天也好", 300)))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 960), (960, 1460)]


def test_a_text_that_its_tokens_do_not_spell_is_spread_over_its_segment() -> None:
    edited = dataclasses.replace(segment("x"), start_s=2.0, end_s=12.0, text="好" * 50)
    cues = make_cues(transcript_of(edited))
    assert (cues[0].start_ms, cues[-1].end_ms) == (2000, 12_000)
    assert all(cue.end_ms == after.start_ms for cue, after in pairwise(cues))


# Events -------------------------------------------------------------------------------------------


def test_a_segment_with_an_event_and_no_words_is_a_cue_of_its_own() -> None:
    laugh = segment("", 1000, step_ms=2000, event="Laughter")
    assert make_cues(transcript_of(laugh)) == [Cue(1000, 3000, ("[笑声]",))]
    assert make_cues(transcript_of(laugh), "en") == [Cue(1000, 3000, ("[Laughter]",))]


def test_a_segment_with_nothing_to_show_makes_no_cue() -> None:
    assert make_cues(transcript_of(segment("", event="Speech"), segment("", event="Event_UNK"))) == []
    asked = make_transcript([segment("")], duration_s=5, options=TranscribeOptions(show_speech=True))
    assert [cue.lines for cue in make_cues(asked)] == [("[说话声]",)]


# Whatever is said ---------------------------------------------------------------------------------

# a busy machine is no fault of the code
thorough = settings(
    deadline=None, database=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
WESTERN = ["Hello", " world,", " it's", " 3,280.50", "!", " ", "(", "...", "😀"]
EASTERN = [
    "今天",
    "天气，",
    "真好。",
    "「花」",
    "一百二十",
    " 그래서",
    " 나는",
    "コンピューター",
    "、",
    "１２．５％",
]
words = st.sampled_from([*WESTERN, *EASTERN])
texts = st.lists(words, max_size=60).map("".join).map(str.strip)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    segments, start = [], 0
    for text in draw(st.lists(texts, max_size=5)):
        start += draw(st.integers(0, 1500))
        made = segment(
            text, start, draw(st.integers(60, 400)), event=draw(st.sampled_from(["Speech", "Cough"]))
        )
        start = round(made.end_s * 1000)
        segments.append(made)
    return transcript_of(*segments, duration_s=start / 1000)


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(transcripts())
@thorough
def test_cues_hold_all_the_text_in_order_without_overlap(transcript: Transcript) -> None:
    cues = make_cues(transcript)
    expected = [segment.text or "[咳嗽]" * (segment.event == "Cough") for segment in transcript.segments]
    assert _squeezed("".join(line for cue in cues for line in cue.lines)) == _squeezed("".join(expected))
    assert all(cue.start_ms < cue.end_ms for cue in cues)
    assert all(cue.end_ms <= after.start_ms for cue, after in pairwise(cues))


@given(transcripts())
@thorough
def test_cues_have_at_most_two_lines_that_fit_unless_one_word_does_not(transcript: Transcript) -> None:
    for cue in make_cues(transcript):
        assert 1 <= len(cue.lines) <= 2
        for line in cue.lines:
            assert line == line.strip() != ""
            assert display_width(line) <= MAX_LINE_COLUMNS or not re.search(r"[\s\u4e00-\u9fff]", line)


@given(transcripts())
@thorough
def test_a_cue_is_short_only_if_both_neighbours_touch_it(transcript: Transcript) -> None:
    cues = make_cues(transcript)
    before = [0, *(cue.end_ms for cue in cues)]
    after = [*(cue.start_ms for cue in cues[1:]), round(transcript.duration_s * 1000)]
    for cue, free_from, free_until in zip(cues, before, after, strict=False):
        if cue.end_ms - cue.start_ms < MIN_CUE_MS:
            assert cue.start_ms == free_from
            assert cue.end_ms >= free_until

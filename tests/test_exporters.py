from __future__ import annotations

import dataclasses
import html
import json
import math
import re

import pysubs2
import pytest
import webvtt

from sensevoice.ctc import Token
from sensevoice.errors import OptionError, UnknownFormatError
from sensevoice.exporters import EXPORTERS, export, to_dict
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.spans import Span
from sensevoice.subtitles import make_cues
from sensevoice.transcript import Segment, Transcript, make_transcript

GREETING = Segment(
    start_s=0.5,
    end_s=2.0,
    text="你好 A&B!",
    language="zh",
    language_probability=0.912345,
    language_runner_up="yue",
    emotion="HAPPY",
    emotion_probability=0.75,
    emotion_runner_up="NEUTRAL",
    emotion_uncertain=False,
    event="Speech",
    event_probability=0.99,
    event_runner_up=None,
    tokens=(Token("你", 0.53, 0.59, 0.5), Token("好", 0.71, 0.77, 1 / 3), Token(" A&B!", 1.01, 1.13, 0.875)),
)
LAUGHTER = dataclasses.replace(
    GREETING, start_s=3.0, end_s=4.25, text="", emotion="EMO_UNKNOWN", event="Laughter", tokens=()
)
GOODBYE = dataclasses.replace(
    GREETING,
    start_s=3725.0,
    end_s=3727.5,
    text="Good <bye> --> now.",
    language="en",
    emotion="SAD",
    emotion_uncertain=True,
    tokens=(
        Token(" Good", 3725.04, 3725.1, 0.9),
        Token(" <bye>", 3725.4, 3725.52, 0.9),
        Token(" -->", 3725.7, 3725.76, 0.9),
        Token(" now.", 3726.0, 3726.12, 0.9),
    ),
)
OPTIONS = TranscribeOptions(allowed_languages=("zh", "en"), vad=VadOptions(merge_up_to_ms=9))
TRANSCRIPT = make_transcript(
    [GREETING, LAUGHTER, GOODBYE],
    duration_s=3730.0,
    skipped=[Span(0, 500), Span(2000, 3000)],
    options=OPTIONS,
    model="starter",
)
EMPTY = make_transcript([], duration_s=1.0, skipped=[Span(0, 1000)], model="starter")


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_the_registry_has_the_five_formats_under_their_own_names_and_suffixes() -> None:
    assert list(EXPORTERS) == ["txt", "json", "srt", "vtt", "tsv"]
    assert [exporter.suffix for exporter in EXPORTERS.values()] == [".txt", ".json", ".srt", ".vtt", ".tsv"]
    assert all(name == exporter.name for name, exporter in EXPORTERS.items())
    assert EXPORTERS["json"].media_type == "application/json"


def test_an_unknown_format_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownFormatError, match="'doc': choose one of txt, json, srt, vtt, tsv"):
        export(TRANSCRIPT, "doc")


@pytest.mark.parametrize("name", ["txt", "srt", "vtt"])
def test_labels_in_an_unknown_language_are_refused(name: str) -> None:
    with pytest.raises(OptionError):
        export(TRANSCRIPT, name, "fr")


# txt ----------------------------------------------------------------------------------------------


def test_txt_is_the_labelled_text() -> None:
    assert export(TRANSCRIPT, "txt") == "[开心] 你好 A&B!\n[笑声]\n[悲伤?] Good <bye> --> now.\n"
    assert export(TRANSCRIPT, "txt", "en") == "[Happy] 你好 A&B!\n[Laughter]\n[Sad?] Good <bye> --> now.\n"


# json ---------------------------------------------------------------------------------------------


def test_json_has_the_shape_of_the_services_reply() -> None:
    reply = json.loads(export(TRANSCRIPT, "json"))
    assert list(reply) == ["text", "language", "duration_s", "model", "options", "segments", "skipped"]
    assert reply["text"] == "你好 A&B! Good <bye> --> now."
    assert (reply["language"], reply["duration_s"], reply["model"]) == ("en", 3730.0, "starter")
    assert reply["skipped"] == [{"start_s": 0.0, "end_s": 0.5}, {"start_s": 2.0, "end_s": 3.0}]
    assert reply["segments"][0] == {
        "start_s": 0.5,
        "end_s": 2.0,
        "text": "你好 A&B!",
        "language": "zh",
        "language_probability": 0.9123,
        "language_runner_up": "yue",
        "emotion": "HAPPY",
        "emotion_probability": 0.75,
        "emotion_runner_up": "NEUTRAL",
        "event": "Speech",
        "event_probability": 0.99,
        "event_runner_up": None,
        "tokens": [
            {"text": "你", "start_s": 0.53, "end_s": 0.59, "probability": 0.5},
            {"text": "好", "start_s": 0.71, "end_s": 0.77, "probability": 0.3333},
            {"text": " A&B!", "start_s": 1.01, "end_s": 1.13, "probability": 0.875},
        ],
    }
    assert [segment["event"] for segment in reply["segments"]] == ["Speech", "Laughter", "Speech"]


def test_json_names_every_option_that_was_asked() -> None:
    options = json.loads(export(TRANSCRIPT, "json"))["options"]
    assert set(options) == {field.name for field in dataclasses.fields(TranscribeOptions)}
    assert set(options["vad"]) == {field.name for field in dataclasses.fields(VadOptions)}
    assert options["allowed_languages"] == ["zh", "en"]
    assert options["vad"]["merge_up_to_ms"] == 9


def test_json_writes_no_limit_as_null_since_it_knows_no_infinity() -> None:
    boundless = dataclasses.replace(TRANSCRIPT, options=TranscribeOptions(max_duration_s=math.inf))
    assert json.loads(export(boundless, "json"))["options"]["max_duration_s"] is None


def test_json_is_the_dictionary_and_keeps_chinese_readable() -> None:
    assert json.loads(export(TRANSCRIPT, "json")) == to_dict(TRANSCRIPT)
    assert "你好" in export(TRANSCRIPT, "json")


# srt and vtt --------------------------------------------------------------------------------------


def test_srt_exactly() -> None:
    assert export(TRANSCRIPT, "srt") == (
        "1\n00:00:00,530 --> 00:00:01,130\n你好 A&B!\n\n"
        "2\n00:00:03,000 --> 00:00:04,250\n[笑声]\n\n"
        "3\n01:02:05,040 --> 01:02:06,120\nGood <bye> --> now.\n\n"
    )


def test_vtt_exactly() -> None:
    assert export(TRANSCRIPT, "vtt", "en") == (
        "WEBVTT\n\n"
        "00:00:00.530 --> 00:00:01.130\n你好 A&amp;B!\n\n"
        "00:00:03.000 --> 00:00:04.250\n[Laughter]\n\n"
        "01:02:05.040 --> 01:02:06.120\nGood &lt;bye&gt; --&gt; now.\n\n"
    )


def _long_transcript() -> Transcript:
    text = (
        "今天天气真好，我们一起去公园散步吧。"
        "The price was $3,280.50, and nobody was surprised at all! 公园里有很多花。"
    )
    pieces = re.findall(r" ?[A-Za-z0-9$.,!]+|.", text)
    segments = []
    for start_s in range(0, 200, 20):
        tokens = tuple(
            Token(piece, start_s + i * 0.24, start_s + i * 0.24 + 0.06, 0.9) for i, piece in enumerate(pieces)
        )
        segments.append(
            dataclasses.replace(GREETING, start_s=start_s, end_s=start_s + 19.0, text=text, tokens=tokens)
        )
    return make_transcript(segments, duration_s=200.0)


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_pysubs2_reads_back_the_times_and_the_text(name: str) -> None:
    transcript = _long_transcript()
    read = pysubs2.SSAFile.from_string(export(transcript, name), format_=name)
    cues = make_cues(transcript)
    assert len(cues) > 20
    assert [(event.start, event.end) for event in read] == [(cue.start_ms, cue.end_ms) for cue in cues]
    assert [tuple(event.plaintext.split("\n")) for event in read] == [cue.lines for cue in cues]
    assert _squeezed("".join(event.plaintext for event in read)) == _squeezed(transcript.text)


def test_webvtt_py_reads_back_the_times_and_the_text() -> None:
    for transcript in (TRANSCRIPT, _long_transcript()):
        captions = webvtt.from_string(export(transcript, "vtt")).captions
        cues = make_cues(transcript)
        times = [(_milliseconds(caption.start), _milliseconds(caption.end)) for caption in captions]
        assert times == [(cue.start_ms, cue.end_ms) for cue in cues]
        assert [tuple(map(html.unescape, caption.lines)) for caption in captions] == [
            cue.lines for cue in cues
        ]


def _milliseconds(clock: str) -> int:
    hours, minutes, seconds, milliseconds = map(int, re.split("[:.]", clock))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + milliseconds


# tsv ----------------------------------------------------------------------------------------------


def test_tsv_has_a_row_for_each_segment_in_milliseconds() -> None:
    assert export(TRANSCRIPT, "tsv") == (
        "start_ms\tend_ms\tlanguage\temotion\tevent\ttext\n"
        "500\t2000\tzh\tHAPPY\tSpeech\t你好 A&B!\n"
        "3000\t4250\tzh\tEMO_UNKNOWN\tLaughter\t\n"
        "3725000\t3727500\ten\tSAD\tSpeech\tGood <bye> --> now.\n"
    )


def test_tsv_escapes_tabs_line_breaks_and_backslashes() -> None:
    edited = dataclasses.replace(GREETING, text="a\tb\nc\r\\d", tokens=())
    rows = export(make_transcript([edited], duration_s=5), "tsv").splitlines()
    assert rows[1].split("\t")[5] == r"a\tb\nc\r\\d"


# Nothing said -------------------------------------------------------------------------------------


def test_a_transcript_without_segments_makes_valid_files() -> None:
    assert export(EMPTY, "txt") == ""
    assert export(EMPTY, "srt") == ""
    assert export(EMPTY, "vtt") == "WEBVTT\n\n"
    assert export(EMPTY, "tsv") == "start_ms\tend_ms\tlanguage\temotion\tevent\ttext\n"
    reply = json.loads(export(EMPTY, "json"))
    assert (reply["text"], reply["segments"], reply["language"]) == ("", [], "")
    assert webvtt.from_string(export(EMPTY, "vtt")).captions == []
    assert list(pysubs2.SSAFile.from_string(export(EMPTY, "vtt"), format_="vtt")) == []
    assert list(pysubs2.SSAFile.from_string(export(EMPTY, "srt"), format_="srt")) == []

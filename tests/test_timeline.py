from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from fakes import DURATION_S, SEGMENTS, SKIPPED, segment

from sensevoice.options import TranscribeOptions
from sensevoice.timeline import clock, tag_counts, timeline_html
from sensevoice.transcript import Segment, Transcript, make_transcript


def transcript_of(*segments: Segment, **options: bool) -> Transcript:
    return make_transcript(
        segments, duration_s=DURATION_S, skipped=SKIPPED, options=TranscribeOptions(**options)
    )


def counts(transcript: Transcript) -> list[tuple[str, str, int]]:
    return [(count.kind, count.tag.token, count.count) for count in tag_counts(transcript)]


def test_each_emotion_and_event_is_counted_once_for_each_segment_that_shows_it() -> None:
    again = replace(SEGMENTS[0], start_s=12.0, end_s=12.4)
    assert counts(transcript_of(*SEGMENTS, again)) == [
        ("emotion", "HAPPY", 2),
        ("emotion", "SAD", 1),
        ("event", "Laughter", 1),
        ("event", "Applause", 1),
    ]


def test_neutral_and_speech_are_counted_only_if_they_are_shown() -> None:
    calm = segment(0.0, 1.0, "好")
    assert counts(transcript_of(calm)) == []
    shown = transcript_of(calm, show_neutral=True, show_speech=True)
    assert counts(shown) == [("emotion", "NEUTRAL", 1), ("event", "Speech", 1)]


@pytest.mark.parametrize(
    ("seconds", "tenths", "whole"),
    [
        (0.0, "0:00.0", "0:00"),
        (4.24, "0:04.2", "0:04"),
        (59.96, "1:00.0", "0:59"),
        (3723.46, "1:02:03.5", "1:02:03"),
        (36_000, "10:00:00.0", "10:00:00"),
    ],
)
def test_a_time_is_shown_as_a_clock(seconds: float, tenths: str, whole: str) -> None:
    assert (clock(seconds), clock(seconds, tenths=False)) == (tenths, whole)


def test_lines_are_in_order_and_each_carries_its_stretch_of_sound() -> None:
    html = timeline_html(transcript_of(*SEGMENTS), "/a.wav", "zh")
    lines = re.findall(r'class="sv-line[^>]*data-start="([\d.]+)" data-end="([\d.]+)"', html)
    spans = [(float(start), float(end)) for start, end in lines]
    assert spans == sorted([(s.start_s, s.end_s) for s in SEGMENTS] + [(11.8, 12.5)])


def test_the_marks_stay_within_the_strip() -> None:
    html = timeline_html(transcript_of(*SEGMENTS), "/a.wav", "en")
    marks = re.findall(r"left:([\d.]+)%;width:([\d.]+)%", html)
    assert len(marks) == len(SEGMENTS)
    assert all(float(left) + float(width) <= 100 for left, width in marks)


def test_an_uncertain_emotion_gives_no_colour() -> None:
    html = timeline_html(transcript_of(SEGMENTS[2]), "/a.wav", "en")
    assert "data-emotion" not in html
    assert "41 % · uncertain" in html
    assert "Sad 41 %, then Neutral" in html


def test_nothing_of_a_recording_is_taken_for_markup() -> None:
    trap = '"><script>alert(1)</script>'
    html = timeline_html(transcript_of(segment(0.0, 1.0, trap)), f"/tmp/{trap}.wav", "zh")
    assert "<script" not in html
    assert unescape(html).count(trap) == 2


def test_without_segments_there_is_no_timeline() -> None:
    assert timeline_html(transcript_of(), "/a.wav", "zh") == ""

"""Streaming against the offline pipeline: the same segments, whatever the cuts, in bounded memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from checkpoints import speech_like
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensevoice.audio import decode
from sensevoice.engine import TorchEngine
from sensevoice.errors import AudioTooLongError
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.pipeline import Transcriber
from sensevoice.sample_buffer import SampleBuffer
from sensevoice.spans import Span
from sensevoice.streaming import StreamingTranscriber
from sensevoice.transcript import Segment
from sensevoice.vad import VoiceActivityDetector, frame_decibels
from sensevoice.vad_scoring import Block, Scored
from sensevoice.vad_stream import FixedCuts, LiveDetector, LiveScorer

Samples = npt.NDArray[np.float32]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SECOND = 16_000


@pytest.fixture(scope="module")
def small(small_engine: TorchEngine, small_vad: Path) -> Transcriber:
    return Transcriber(small_engine, VoiceActivityDetector.load(small_vad))


@pytest.fixture(scope="module")
def starter() -> Transcriber:
    return Transcriber.load(str(STARTER_DIRECTORY), device="cpu", offline=True)


def pieces(samples: Samples, cuts: Sequence[int]) -> list[Samples]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(samples)), len(samples)]
    return [samples[start:end] for start, end in itertools.pairwise(edges)]


def even(samples: Samples, size: int) -> list[Samples]:
    return pieces(samples, range(size, len(samples), size))


def streamed(
    transcriber: Transcriber, blocks: Sequence[Samples], options: TranscribeOptions, **more: Any
) -> list[Segment]:
    stream = StreamingTranscriber(transcriber, options)
    found = [segment for block in blocks for segment in stream.add(block, **more).finalised]
    return found + list(stream.finish())


def facts(segments: Sequence[Segment]) -> list[tuple[object, ...]]:
    """All but the probabilities, whose last digits depend on what else is in the engine's batch."""
    return [
        (
            *(s.start_s, s.end_s, s.text, s.language, s.emotion, s.event, s.emotion_uncertain),
            *((token.text, token.start_s, token.end_s) for token in s.tokens),
        )
        for s in segments
    ]


def assert_same(live: Sequence[Segment], offline: Sequence[Segment]) -> None:
    assert facts(live) == facts(offline)
    for ours, theirs in zip(live, offline, strict=True):
        assert ours.language_probability == pytest.approx(theirs.language_probability, abs=1e-4)
        assert ours.emotion_probability == pytest.approx(theirs.emotion_probability, abs=1e-4)
        assert ours.event_probability == pytest.approx(theirs.event_probability, abs=1e-4)


# --- the invariant --------------------------------------------------------------------------------------

RECORDING = speech_like(20.3, pauses=True, seed=4)

cut_patterns = st.one_of(
    st.lists(st.integers(0, len(RECORDING)), max_size=60),  # anywhere, empty blocks too
    st.integers(40, 30_000).map(lambda size: list(range(size, len(RECORDING), size))),
    st.integers(0, len(RECORDING) - 60).map(lambda at: list(range(at, at + 50))),  # single samples
)
vad_options = st.builds(
    VadOptions,
    max_single_segment_time_ms=st.sampled_from([200, 700, 3_000, 30_000]),
    max_end_silence_time_ms=st.sampled_from([None, 0, 100, 800, 3_000]),
    lookback_time_start_point_ms=st.sampled_from([0, 200, 1_000]),
    sil_to_speech_time_thres_ms=st.sampled_from([20, 150]),
    decibel_thres=st.sampled_from([-100.0, -20.0]),
    snr_thres=st.sampled_from([-100.0, 10.0]),
    merge_up_to_ms=st.sampled_from([0, 0, 6_000, 60_000]),
    merge_gap_ms=st.sampled_from([0, 500, 1_500]),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(cuts=cut_patterns, length=st.integers(0, len(RECORDING)), options=vad_options)
def test_spans_are_those_of_the_whole_recording_however_it_is_cut(
    vad: VoiceActivityDetector, cuts: list[int], length: int, options: VadOptions
) -> None:
    recording = RECORDING[:length]
    live = LiveDetector(vad, options)
    spans = [span for block in pieces(recording, cuts) for span in live.add(block)]
    assert spans + live.finish() == vad.speech_spans(recording, options)


@pytest.fixture(scope="module")
def vad(small_vad: Path) -> VoiceActivityDetector:
    return VoiceActivityDetector.load(small_vad)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cuts=cut_patterns, drafts=st.booleans(), data=st.data())
def test_segments_are_those_of_the_whole_recording_however_it_is_cut(
    small: Transcriber, cuts: list[int], drafts: bool, data: st.DataObject
) -> None:
    options = data.draw(
        st.sampled_from(
            [
                TranscribeOptions(),
                TranscribeOptions(allowed_languages=("ja", "ko"), ban_emo_unk=True),
                TranscribeOptions(language="en", use_itn=False),
                TranscribeOptions(vad=VadOptions(max_single_segment_time_ms=900)),
                TranscribeOptions(use_vad=False, vad=VadOptions(max_single_segment_time_ms=7_000)),
            ]
        )
    )
    offline = offline_segments(small, options)
    assert_same(streamed(small, pieces(RECORDING, cuts), options, draft=drafts), offline)
    assert len(offline) >= 3


@lru_cache
def offline_segments(transcriber: Transcriber, options: TranscribeOptions) -> tuple[Segment, ...]:
    return transcriber.transcribe(RECORDING, options).segments


@pytest.mark.parametrize("name", ["zh.mp3", "en.mp3", "yue.mp3", "ja.mp3", "ko.mp3", "events.mp3"])
def test_the_starter_says_the_same_live_as_of_the_file(starter: Transcriber, name: str) -> None:
    samples = decode(EXAMPLES / name)
    options = TranscribeOptions(vad=VadOptions(max_end_silence_time_ms=300))
    offline = starter.transcribe(samples, options).segments
    assert_same(streamed(starter, even(samples, 1_600), options, draft=False), offline)
    assert offline


@pytest.mark.parametrize("size", [320, 1_024, 4_097, 10**9])
def test_the_starter_hears_the_same_in_blocks_of_any_size(starter: Transcriber, size: int) -> None:
    samples = np.concatenate([decode(EXAMPLES / f"{name}.mp3") for name in ("zh", "en")])
    offline = starter.transcribe(samples).segments
    assert_same(streamed(starter, even(samples, size), TranscribeOptions(), draft=False), offline)


@pytest.mark.parametrize(
    "n", [60 * SECOND - 1, 60 * SECOND, 60 * SECOND + 79, 60 * SECOND + 80, 130 * SECOND]
)
def test_the_adaptive_patience_is_the_same_at_each_minute(vad: VoiceActivityDetector, n: int) -> None:
    recording = np.tile(RECORDING, 7)[:n]
    options = VadOptions(max_end_silence_time_ms=None, max_single_segment_time_ms=150_000)
    live = LiveDetector(vad, options)
    spans = [span for block in even(recording, 7_919) for span in live.add(block)]
    assert spans + live.finish() == vad.speech_spans(recording, options)


@pytest.mark.parametrize("model", ["small", "starter"])
def test_scores_are_bit_for_bit_those_of_the_whole_recording(
    model: str, request: pytest.FixtureRequest
) -> None:
    detector = request.getfixturevalue(model).vad
    recording = RECORDING[: 20 * SECOND + 77]
    for size in (1, 7, 160, 1_600, 5_001, 10**9):
        some = recording if size > 7 else recording[:SECOND]
        scorer, scores = LiveScorer(detector), []
        for block in even(some, size):
            scorer.add(block)
            if scorer.complete_frames - scorer.scored >= 10:
                scores.append(scorer.score(scorer.complete_frames))
        scores.append(scorer.score(scorer.frames))
        np.testing.assert_array_equal(np.concatenate(scores), detector.silence_probabilities(some))


def test_levels_are_bit_for_bit_those_of_the_whole_recording(vad: VoiceActivityDetector) -> None:
    scorer, levels = LiveScorer(vad), []
    for block in even(RECORDING, 3_001):
        scorer.add(block)
        levels.append(scorer.decibels(scorer.scored, scorer.frames))
        scorer.score(scorer.frames)
    np.testing.assert_array_equal(np.concatenate(levels), frame_decibels(RECORDING))


@pytest.mark.parametrize("n", [1, 15, 16, 16_000, 16_001, 31_999, 40_007])
def test_without_vad_everything_is_cut_in_pieces_of_one_length(n: int) -> None:
    live = FixedCuts(1_000)
    spans = [span for block in even(RECORDING[:n], 777) for span in live.add(block)]
    edges = [*range(0, -(-n // 16), 1_000), -(-n // 16)]
    assert spans + live.finish() == [Span(start, end) for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("n", [0, 1, 399, 400, 700, 5 * 16])
def test_a_recording_too_short_for_speech_has_no_segments(small: Transcriber, n: int) -> None:
    assert streamed(small, [np.zeros(n, np.float32)], TranscribeOptions()) == []


# --- drafts ---------------------------------------------------------------------------------------------


def fixed_clock(cost_s: float) -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * cost_s


def drafts_of(
    stream: StreamingTranscriber, samples: Samples, size: int = 1_600
) -> list[tuple[float, Segment]]:
    """(when, draft), by the recording's time."""
    updates = [(stream.add(block), stream.duration_s) for block in even(samples, size)]
    return [(when, update.draft) for update, when in updates if update.draft]


def test_drafts_come_with_every_400_ms_of_speech(small: Transcriber) -> None:
    stream = StreamingTranscriber(small, clock=fixed_clock(0.0))
    times = [when for when, _ in drafts_of(stream, speech_like(6))]
    assert len(times) == pytest.approx(6 / 0.4, abs=2)
    assert times[0] < 0.8
    assert np.diff(times) == pytest.approx(0.4, abs=0.11)


def test_drafts_come_no_more_often_than_the_engine_keeps_up(small: Transcriber) -> None:
    stream = StreamingTranscriber(small, clock=fixed_clock(0.5))  # half of the time: every second
    times = [when for when, _ in drafts_of(stream, speech_like(6))]
    assert np.diff(times) == pytest.approx(1.0, abs=0.11)


def test_nothing_is_drafted_in_silence_nor_in_a_pause(small: Transcriber) -> None:
    samples = np.concatenate(
        [np.zeros(2 * SECOND, np.float32), speech_like(2), np.zeros(2 * SECOND, np.float32)]
    )
    times = [when for when, _ in drafts_of(StreamingTranscriber(small, clock=fixed_clock(0.0)), samples)]
    assert min(times) > 2.0
    assert max(times) < 4.5


def test_each_draft_is_the_beginning_of_the_final_segment_that_follows(small: Transcriber) -> None:
    stream = StreamingTranscriber(small, clock=fixed_clock(0.0))
    drafts: list[Segment] = []
    replaced = 0
    for block in even(RECORDING, 1_000):
        finalised, draft = stream.add(block)
        for segment in finalised:
            assert {one.start_s for one in drafts} == {segment.start_s}
            drafts, replaced = [], replaced + 1
        drafts += [draft] if draft else []
    assert replaced >= 5


def test_a_draft_is_what_would_be_said_if_the_speaker_stopped_now(small: Transcriber) -> None:
    stream = StreamingTranscriber(small, clock=fixed_clock(0.0))
    when, draft = drafts_of(stream, speech_like(5))[-1]
    (alone,) = small.read(
        [speech_like(5)[round(draft.start_s * SECOND) : round(when * SECOND)]], TranscribeOptions()
    )
    assert draft.text == alone.text != ""


def test_no_drafts_are_made_of_a_backlog(small: Transcriber) -> None:
    stream = StreamingTranscriber(small)
    assert all(stream.add(block, draft=False).draft is None for block in even(speech_like(3), 1_600))


# --- limits ---------------------------------------------------------------------------------------------


def test_an_hour_is_held_in_the_memory_of_half_a_minute(small: Transcriber) -> None:
    """Silence, short turns and endless talk; the model is not asked, so that the hour passes quickly."""
    asked: list[int] = []
    mute = replace(small, engine=_Mute(small.engine, asked), vad=_LoudnessVad())  # type: ignore[arg-type]
    stream = StreamingTranscriber(mute)
    turns, talk = speech_like(60, pauses=True), speech_like(60)
    silence = np.zeros(60 * SECOND, np.float32)
    most = segments = 0
    for minute in itertools.chain.from_iterable([[silence, turns, turns, talk, talk, talk]] * 10):
        for block in even(minute, 5 * SECOND):
            segments += len(stream.add(block, draft=False).finalised)
            most = max(most, stream.held_samples)
        if minute is silence:
            assert stream.held_samples <= 0.55 * SECOND  # the VAD's look-back
    assert stream.duration_s == 3600
    assert most <= (30 + 1.5) * SECOND
    assert bytes_in(stream._cutter._buffer) <= 4 * 33 * SECOND
    assert bytes_in(stream._cutter._finder._scorer._buffer) <= 4 * 2 * SECOND  # type: ignore[attr-defined]
    assert segments == pytest.approx(10 * (20 + 20 + 6), abs=20)
    assert max(asked) <= 30.1 * SECOND


def bytes_in(buffer: SampleBuffer) -> int:
    return sum(block.nbytes if block.base is None else block.base.nbytes for block in buffer._blocks)


class _LoudnessVad:
    """Calls speech what is loud, without a network."""

    noise_frames, lfr_m, block_frames = 100, 5, 500

    @property
    def frontend(self) -> Any:
        return self

    @property
    def scorer(self) -> Any:
        return self

    def score(self, block: Block) -> Scored:
        windows = torch.from_numpy(np.concatenate(block.parts)).unfold(-1, 400, 160)[..., ::40]
        loudness = windows.square().mean(-1)[block.first : block.stop]
        return Scored((loudness < 1e-5).double().numpy(), None)


class _Mute:
    """An engine that notes how long the utterances are, and recognises one frame of each."""

    def __init__(self, engine: Any, asked: list[int]) -> None:
        self._engine, self._asked = engine, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def recognise(self, utterances: Sequence[Samples], *rest: Any) -> Any:
        self._asked += map(len, utterances)
        return self._engine.recognise([utterance[:400] for utterance in utterances], *rest)


def test_long_segments_are_cut(small: Transcriber) -> None:
    options = TranscribeOptions(vad=VadOptions(max_single_segment_time_ms=2_000))
    segments = streamed(small, even(speech_like(7), 999), options, draft=False)
    assert [round(segment.duration_s, 2) for segment in segments] == [
        2.01,
        2.01,
        2.01,
        pytest.approx(0.94, abs=0.05),
    ]


def test_a_recording_beyond_the_limit_is_refused_and_what_came_before_is_not_lost(small: Transcriber) -> None:
    stream = StreamingTranscriber(small, TranscribeOptions(max_duration_s=2.0))
    stream.add(speech_like(2))
    with pytest.raises(AudioTooLongError, match="2 s"):
        stream.add(np.zeros(1, np.float32))
    assert [segment.end_s for segment in stream.finish()] == [pytest.approx(1.98, abs=0.02)]


# --- the buffer -----------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 100_000)), max_size=30))
def test_the_buffer_gives_back_what_it_was_given(steps: list[tuple[int, int]]) -> None:
    buffer, everything = SampleBuffer(), np.empty(0, np.float32)
    for size, kept in steps:
        block = np.arange(len(everything), len(everything) + size, dtype=np.float32)
        everything = np.concatenate([everything, block])
        buffer.append(block)
        buffer.drop_before(len(everything) - kept)
        assert buffer.end == len(everything)
        assert buffer.end - buffer.start <= sum(size for size, _ in steps)
        np.testing.assert_array_equal(buffer.cut(buffer.start, buffer.end + 5), everything[buffer.start :])


def test_what_lies_in_one_block_is_cut_without_a_copy() -> None:
    buffer, blocks = SampleBuffer(), [np.arange(100, dtype=np.float32) + 100 * i for i in range(3)]
    buffer.append(*blocks)
    assert buffer.cut(110, 190).base is blocks[1]
    assert np.array_equal(buffer.cut(90, 210), np.arange(90, 210))
    assert [len(part) for part in buffer.parts(90, 210)] == [10, 100, 10]


def test_what_the_caller_writes_into_his_array_afterwards_is_not_heard(small: Transcriber) -> None:
    options, block = TranscribeOptions(), np.empty(1_600, np.float32)
    stream, found = StreamingTranscriber(small, options), []
    for samples in even(RECORDING, 1_600):
        block[: len(samples)] = samples
        found += stream.add(block[: len(samples)], draft=False).finalised
        block[:] = 0
    assert_same([*found, *stream.finish()], offline_segments(small, options))


def test_what_was_dropped_cannot_be_had() -> None:
    buffer = SampleBuffer()
    buffer.append(np.zeros(100, np.float32))
    buffer.drop_before(50)
    with pytest.raises(IndexError, match="49"):
        buffer.cut(49, 60)
    assert math.prod(buffer.cut(50, 60).shape) == 10

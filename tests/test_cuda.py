"""What only a GPU can show; skipped, with the reason, where there is none.

python -m pytest tests/test_cuda.py -rs
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import speech_like

from sensevoice.checkpoint import Checkpoint, load_checkpoint
from sensevoice.engine import TorchEngine
from sensevoice.features import SAMPLE_RATE
from sensevoice.options import VadOptions
from sensevoice.runners import PackedRunner, Utterance
from sensevoice.scheduler import BatchingEngine
from sensevoice.scores import FrameScores, Query
from sensevoice.vad import VoiceActivityDetector
from sensevoice.vad_stream import LiveDetector

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [speech_like(0.3 + 0.7 * (seed % 9), seed=seed) for seed in range(24)]


@pytest.fixture(scope="module")
def queries(utterances: list[Utterance]) -> list[Query]:
    languages = ("auto", "zh", "en", "yue", "ja", "ko")
    return [Query(languages[i % 6], i % 2 == 0) for i in range(len(utterances))]


def gpu_engine(checkpoint: Path, precision: str) -> TorchEngine:
    return TorchEngine(load_checkpoint(checkpoint), "cuda:0", precision=precision)


def assert_alike(found: Sequence[FrameScores], wanted: Sequence[FrameScores], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=tolerance)
        np.testing.assert_allclose(a.tag_log_probs, b.tag_log_probs, atol=10 * tolerance)


def test_float32_gives_the_tokens_of_the_processor(
    small_model: Checkpoint, small_checkpoint: Path, utterances: list[Utterance], queries: list[Query]
) -> None:
    wanted = TorchEngine(small_model, "cpu").recognise(utterances, queries)
    engine = gpu_engine(small_checkpoint, "fp32")
    assert_alike(engine.recognise(utterances, queries), wanted, 1e-3)
    alone = [engine.recognise([u], q)[0] for u, q in zip(utterances, queries, strict=True)]
    assert_alike(alone, wanted, 1e-3)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_captured_graph_computes_what_its_first_run_did(
    small_checkpoint: Path, utterances: list[Utterance], queries: list[Query], precision: str
) -> None:
    engine = gpu_engine(small_checkpoint, precision)
    first = engine.recognise(utterances, queries)
    engine.recognise([speech_like(3.0, seed=99)])  # something else in between
    again = engine.recognise(utterances, queries)
    assert_alike(again, first, 1e-5)
    runner = engine.runner
    assert isinstance(runner, PackedRunner)
    assert runner.pads or (runner._graphs is not None and runner._graphs.count > 0)


def test_thirty_two_threads_get_what_one_gets(small_checkpoint: Path, utterances: list[Utterance]) -> None:
    engine = gpu_engine(small_checkpoint, "fp32")
    wanted = [engine.recognise([utterance])[0] for utterance in utterances]
    batching = BatchingEngine([engine])
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda u: batching.recognise([u])[0], utterances * 4))
    assert_alike(found, wanted * 4, 1e-3)


@pytest.mark.parametrize("options", [VadOptions(), VadOptions(max_end_silence_time_ms=None)])
def test_speech_is_found_where_the_processor_finds_it(small_vad: Path, options: VadOptions) -> None:
    samples = speech_like(200.0, seed=3, pauses=True)
    host, gpu = VoiceActivityDetector.load(small_vad), VoiceActivityDetector.load(small_vad, "cuda:0")
    spans = host.speech_spans(samples, options)
    assert len(spans) > 3
    assert gpu.speech_spans(samples, options) == spans


def test_callers_clips_are_cut_where_the_processor_cuts_them(small_vad: Path) -> None:
    clips = [speech_like(2.0 + 3 * (seed % 5), seed=seed, pauses=True) for seed in range(48)]
    host, gpu = VoiceActivityDetector.load(small_vad), VoiceActivityDetector.load(small_vad, "cuda:0")
    wanted = [LiveDetector(host, VadOptions()).finish(clip) for clip in clips]
    with ThreadPoolExecutor(len(clips)) as pool:
        found = list(pool.map(lambda clip: LiveDetector(gpu, VadOptions()).finish(clip), clips * 3))
    assert found == wanted * 3
    assert sum(map(len, wanted)) > len(clips)


def test_a_recording_in_growing_stretches_is_cut_where_the_processor_cuts_it(small_vad: Path) -> None:
    samples = speech_like(400.0, seed=5, pauses=True)
    host, gpu = VoiceActivityDetector.load(small_vad), VoiceActivityDetector.load(small_vad, "cuda:0")
    live = LiveDetector(gpu, VadOptions())
    found = live.add(samples[: 60 * SAMPLE_RATE])
    found += live.add(*np.array_split(samples[60 * SAMPLE_RATE : 330 * SAMPLE_RATE], 7))
    assert found + live.finish(samples[330 * SAMPLE_RATE :]) == host.speech_spans(samples)

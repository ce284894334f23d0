from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import speech_like

from sensevoice import runtime
from sensevoice.checkpoint import Checkpoint
from sensevoice.engine import Engine, TorchEngine, choose_device
from sensevoice.errors import DeviceError, UnknownLanguageError
from sensevoice.network import query_ids
from sensevoice.scores import FrameScores, Query

DURATIONS_S = (2.0, 0.3, 4.1, 1.0, 4.1, 0.7)


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    return [speech_like(seconds, seed=seed) for seed, seconds in enumerate(DURATIONS_S)]


def same(a: FrameScores, b: FrameScores) -> bool:
    return (
        np.array_equal(a.ids, b.ids)
        and np.array_equal(a.probabilities, b.probabilities)
        and np.array_equal(a.tag_log_probs, b.tag_log_probs)
    )


def close(a: FrameScores, b: FrameScores) -> bool:
    """Equal but for rounding, which padding and batch size change."""
    return (
        np.array_equal(a.ids, b.ids)
        and np.allclose(a.probabilities, b.probabilities, atol=1e-4)
        and np.allclose(a.tag_log_probs, b.tag_log_probs, atol=1e-3)
    )


def test_scores_are_the_softmax_of_the_network(small_model: Checkpoint, small_engine: TorchEngine):
    samples = speech_like(2.0, seed=9)
    (scores,) = small_engine.recognise([samples], Query("en", use_itn=False))
    with torch.inference_mode():
        features = small_model.frontend(samples)
        logits = small_model.network(features[None], torch.tensor([query_ids("en", use_itn=False)]))[0]
        expected = logits.double().log_softmax(-1)
    log_probability, ids = expected.max(-1)
    assert scores.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(scores.probabilities, log_probability.exp(), rtol=1e-4)
    assert set(scores.tag_ids.tolist()) == small_engine.vocabulary.special_ids
    np.testing.assert_allclose(scores.tag_log_probs, expected[:4, scores.tag_ids], rtol=1e-5, atol=1e-4)


def test_one_result_per_utterance_in_order_with_one_frame_per_60_ms(
    small_engine: TorchEngine, utterances: list[np.ndarray]
):
    results = small_engine.recognise(utterances)
    for seconds, result in zip(DURATIONS_S, results, strict=True):
        windows = 1 + (round(seconds * 16_000) - 400) // 160
        frames = 4 + -(-windows // 6)
        assert result.ids.shape == result.probabilities.shape == (frames,)
        assert result.ids.dtype == np.int32
        assert result.probabilities.dtype == result.tag_log_probs.dtype == np.float32
        assert result.tag_log_probs.shape == (4, len(result.tag_ids))
        assert ((result.probabilities > 0) & (result.probabilities <= 1)).all()
        assert (result.tag_log_probs.max(-1) <= np.log(result.probabilities[:4]) + 1e-5).all()


@pytest.mark.parametrize("budget", [1, 80, 150, 10_000])
def test_batching_changes_nothing_but_rounding(
    small_model: Checkpoint, utterances: list[np.ndarray], budget: int
):
    alone = [TorchEngine(small_model, "cpu").recognise([utterance])[0] for utterance in utterances]
    together = TorchEngine(small_model, "cpu", max_batch_frames=budget).recognise(utterances)
    assert all(close(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("pads", [True, False])
def test_batches_hold_everything_once_and_keep_to_the_frame_budget(small_model: Checkpoint, pads: bool):
    engine = TorchEngine(small_model, "cpu", max_batch_frames=500)
    engine.runner.pads = pads
    frames = [10, 400, 20, 600, 20, 90, 90, 90, 90, 90, 90]
    batches = list(engine._batches(frames))
    assert sorted(index for batch in batches for index in batch) == list(range(len(frames)))
    for batch in batches:
        rows = [max(frames[j] for j in batch) if pads else frames[i] for i in batch]
        assert len(batch) == 1 or sum(rows) <= 500
    padded, packed = [[3], [1], [5, 6, 7, 8, 9], [10, 2, 4, 0]], [[3], [1, 5], [6, 7, 8, 9, 10, 2, 4, 0]]
    assert batches == (padded if pads else packed)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_an_utterance_shorter_than_a_window_has_tags_but_no_speech_frames(
    small_engine: TorchEngine, samples: int
):
    short = np.zeros(samples, np.float32)
    for group in ([short], [speech_like(1.0), short], [short, short]):
        scores = small_engine.recognise(group)[-1]
        assert scores.ids.shape == scores.probabilities.shape == (4,)
        assert np.isfinite(scores.tag_log_probs).all()


def test_one_window_is_one_frame(small_engine: TorchEngine):
    (scores,) = small_engine.recognise([speech_like(0.025)])
    assert scores.ids.shape == (5,)


def test_no_utterances_give_no_results(small_engine: TorchEngine):
    assert small_engine.recognise([]) == []


def test_the_queries_change_the_answer_and_unknown_languages_are_refused(small_engine: TorchEngine):
    samples = speech_like(1.0)
    answers = {
        (language, use_itn): small_engine.recognise([samples], Query(language, use_itn))[0]
        for language in ("auto", "zh", "ko")
        for use_itn in (True, False)
    }
    distinct = {scores.tag_log_probs.tobytes() for scores in answers.values()}
    assert len(distinct) == len(answers)
    with pytest.raises(UnknownLanguageError, match="xx"):
        small_engine.recognise([samples], Query("xx"))


def test_thirty_two_threads_get_what_one_gets(small_engine: TorchEngine, utterances: list[np.ndarray]):
    queries = [
        Query(language, use_itn) for language in ("auto", "zh", "en", "ko") for use_itn in (True, False)
    ]
    expected = {query: small_engine.recognise(utterances, query) for query in queries}
    requests = queries * 8
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda query: small_engine.recognise(utterances, query), requests))
    for query, answer in zip(requests, answers, strict=True):
        assert all(same(a, b) for a, b in zip(answer, expected[query], strict=True))


def test_recognising_changes_neither_input_nor_network(small_model: Checkpoint, small_engine: TorchEngine):
    samples = speech_like(1.0)
    before = samples.copy(), {k: v.clone() for k, v in small_model.network.state_dict().items()}
    small_engine.recognise([samples, samples[::2]])  # a view that is not contiguous, too
    np.testing.assert_array_equal(samples, before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in small_model.network.state_dict().items())


def test_a_read_only_recording_is_recognised_without_a_warning(small_engine: TorchEngine):
    samples = speech_like(1.0)
    samples.setflags(write=False)
    assert len(small_engine.recognise([samples])) == 1


def test_the_engine_says_what_it_is(small_engine: TorchEngine, small_model: Checkpoint):
    engine: Engine = small_engine
    assert engine.device == "cpu"
    assert engine.info is small_model.info
    assert engine.vocabulary is small_model.vocabulary
    assert {tag.token for tag in engine.tags} >= {"HAPPY", "BGM", "zh"}


def test_auto_is_the_first_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="choose one of auto, cpu, cuda, cuda:0, cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:x", "tpu", ""])
def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch, device: str):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"choose one of auto, cpu\.$"):
        choose_device(device)


# The libraries around it --------------------------------------------------------------------------

BROKEN = {
    "a RuntimeError, as of another CUDA version": "raise RuntimeError('Detected that PyTorch ...\\nmore')",
    "an OSError, as of a CPU build": "raise OSError('undefined symbol: _ZN3c10')",
    "a missing part": "import torchaudio._no_such_extension",
}


def start_with_torchaudio(folder: Path, source: str | None) -> str:
    """What a fresh process logs that checks its libraries, and then tries to import torchaudio."""
    if source is not None:
        (folder / "torchaudio").mkdir()
        (folder / "torchaudio" / "__init__.py").write_text(source)
    script = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s")
from sensevoice.runtime import check_libraries
check_libraries()
check_libraries()
try:
    import torchaudio
    print("importable", file=sys.stderr)
except ImportError:
    print("absent", file=sys.stderr)
"""
    root = Path(runtime.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(folder), str(root)]}\n{script}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stderr


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_a_broken_torchaudio_is_one_clear_warning_and_is_hidden_from_others(tmp_path: Path, source: str):
    warning, rest = start_with_torchaudio(tmp_path, source).splitlines()
    assert warning.startswith("WARNING torchaudio ")
    assert "is ignored; nothing here needs it" in warning
    assert rest == "absent"


def test_a_working_torchaudio_and_none_at_all_are_both_silent(tmp_path: Path):
    assert start_with_torchaudio(tmp_path, None) == "absent\n"
    assert start_with_torchaudio(tmp_path, "version = '0'") == "importable\n"


def test_versions_name_what_is_installed_and_nothing_else():
    versions = runtime.installed_versions(("torch", "no-such-package"))
    assert versions.keys() == {"python", "torch"}
    assert versions["torch"] == torch.__version__

"""FunASR as oracle: the same checkpoint directory must give the same features, frames, tokens and times.

FunASR is slow to import and noisy; it is kept behind the fixture `funasr`, and skipped where it is absent.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import EMOTION_TAGS, EVENT_TAGS, LANGUAGE_TAGS, OTHER_TAGS, make_checkpoint, speech_like
from padded import padded_encoding

from sensevoice import ctc
from sensevoice.audio import decode
from sensevoice.checkpoint import Checkpoint, load_checkpoint
from sensevoice.engine import TorchEngine
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions, VadOptions
from sensevoice.pipeline import Transcriber
from sensevoice.scores import N_QUERY_FRAMES, Query
from sensevoice.vad import VoiceActivityDetector

Samples = np.ndarray
ROUNDING = 2e-3  # of a log-probability, after the random models' head has scaled it eightfold
MODELS = ("random", "random, wide", "half precision", "starter")
ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = Path(os.environ.get("SENSEVOICE_AUDIO", ROOT.parent / "shared" / "audio"))


@pytest.fixture(scope="module")
def funasr() -> Iterator[ModuleType]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("funasr")


@dataclass
class Pair:
    """One checkpoint directory, and the two programs that read it."""

    directory: Path
    funasr: ModuleType

    @cached_property
    def model(self) -> Checkpoint:
        return load_checkpoint(self.directory)

    @cached_property
    def engine(self) -> TorchEngine:
        return TorchEngine(self.model, "cpu")

    @cached_property
    def oracle(self) -> Any:
        return self.automodel()

    def automodel(self, **options: Any) -> Any:
        quiet = {"disable_update": True, "disable_pbar": True, "log_level": "ERROR"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.funasr.AutoModel(model=str(self.directory), device="cpu", ncpu=1, **quiet, **options)

    def expected(self, clips: list[Samples], query: Query, **options: Any) -> list[dict[str, Any]]:
        """FunASR's results, without its warnings."""
        asked = {"language": query.language, "use_itn": query.use_itn, **options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(self.oracle.generate(input=list(clips), cache={}, **asked))

    @torch.inference_mode()
    def smallest_margin(self, samples: Samples, query: Query) -> float:
        """By how much the best token of a frame beats the next, where that is closest: log-probability."""
        encoded, _ = padded_encoding(self.model, [samples], [query])
        logits = self.model.network.ctc(encoded)
        best, next_best = logits.topk(2).values.unbind(-1)
        return float((best - next_best).min())

    def raw_texts(self, clips: list[Samples], query: Query) -> list[str]:
        return [
            ctc.raw_text(scores, self.engine.vocabulary) for scores in self.engine.recognise(clips, query)
        ]


@pytest.fixture(scope="module")
def make_pair(funasr: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name == "starter" and not (STARTER_DIRECTORY / "model.pt").is_file():
            pytest.skip("there is no starter yet")
        if name not in made:
            folder = STARTER_DIRECTORY if name == "starter" else tmp_path_factory.mktemp("oracle")
            if name == "random":
                make_checkpoint(folder, seed=1)
            elif name == "random, wide":
                make_checkpoint(folder, seed=2, hidden=128, heads=2, blocks=4, tp_blocks=1, merges=80)
            elif name == "half precision":
                make_checkpoint(folder, seed=3, tp_blocks=0, dtype=torch.float16)
            made[name] = Pair(folder, funasr)
        return made[name]

    return make


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


@pytest.fixture(scope="module")
def clips() -> list[Samples]:
    """Sounds of many lengths; recordings of people too, where there are some."""
    made = [speech_like(seconds, seed=seed) for seed, seconds in enumerate((3.0, 0.4, 5.2, 1.1, 2.6, 0.03))]
    noise = np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float32)
    names = ("en.mp3", "ja.mp3", "sv_sample.wav", "zh.mp3")
    paths = [RECORDINGS / name for name in names if (RECORDINGS / name).is_file()]
    paths += sorted((ROOT / "examples").glob("*.mp3"))
    recorded = [decode(path)[: 16_000 * 6] for path in paths]
    return [*made, noise, np.zeros(16_000, np.float32), *recorded]


def speech_ids(pair: Pair, clips: list[Samples]) -> list[int]:
    return [int(id) for scores in pair.engine.recognise(clips) for id in scores.ids[N_QUERY_FRAMES:] if id]


# Features and frames ------------------------------------------------------------------------------


def test_features_equal_those_of_funasrs_frontend(pair: Pair, clips: list[Samples]):
    frontend = pair.oracle.kwargs["frontend"]
    for samples in clips:
        expected, length = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        ours = pair.model.frontend(samples)
        assert ours.shape == expected[0, : length[0]].shape
        differences = np.abs(ours.numpy() - expected[0, : length[0]].numpy())
        # where a filter passes almost nothing, the two FFTs' rounding is what is compared
        assert np.quantile(differences, 0.9999) < 1e-3
        assert differences.max(initial=0) < 1e-2


def test_log_mels_equal_those_of_kaldi_native_fbank(make_pair: Callable[[str], Pair], clips: list[Samples]):
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hamming"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = 80
    options.energy_floor = 0
    differences = []
    for samples in clips:
        fbank = knf.OnlineFbank(options)
        fbank.accept_waveform(16_000, (samples * 32_768).tolist())
        fbank.input_finished()
        expected = [fbank.get_frame(index) for index in range(fbank.num_frames_ready)]
        ours = make_pair("random").model.frontend.log_mel(torch.from_numpy(samples))
        differences.append(np.abs(ours.numpy() - np.reshape(expected, ours.shape)).ravel())
    # a bin that is next to nothing beside its neighbours is left to the rounding of the Fourier transform
    largest, usual = np.max(np.concatenate(differences)), np.quantile(np.concatenate(differences), 0.9999)
    assert usual < 1e-3
    assert largest < 1e-2


@pytest.mark.parametrize("together", [1, 4], ids=["alone", "in a padded batch"])
def test_encoder_outputs_equal_funasrs(pair: Pair, clips: list[Samples], together: int):
    chosen, query = clips[:together], Query("yue", use_itn=True)
    seen: list[torch.Tensor] = []
    encoder = pair.oracle.model.encoder
    hook = encoder.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    pair.expected(chosen, query, batch_size=together)
    hook.remove()
    ours, lengths = padded_encoding(pair.model, chosen, [query] * together)
    (expected,) = seen
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(ours[row, :length], expected[row, :length], atol=2e-3)


# Tokens -------------------------------------------------------------------------------------------


def assert_same_texts(pair: Pair, utterances: list[Samples], query: Query, expected: list[str]) -> None:
    """Equal token for token, unless two tokens are so nearly as likely that rounding decides."""
    ours = pair.raw_texts(utterances, query)
    assert len(ours) == len(expected)
    different = [u for u, mine, theirs in zip(utterances, ours, expected, strict=True) if mine != theirs]
    assert len(different) <= len(utterances) // 10
    for utterance in different:
        assert pair.smallest_margin(utterance, query) < ROUNDING


@pytest.mark.parametrize(
    ("language", "use_itn", "batch_size"),
    [
        *(("auto", True, 1), ("auto", True, 5), ("auto", False, 3), ("zh", True, 5), ("en", True, 1)),
        *(("yue", True, 5), ("ja", True, 1), ("ko", True, 5), ("ko", False, 1)),
    ],
)
def test_raw_texts_equal_funasrs_token_for_token(
    pair: Pair, clips: list[Samples], language: str, use_itn: bool, batch_size: int
):
    query = Query(language, use_itn)
    results = pair.expected(clips, query, batch_size=batch_size)
    assert_same_texts(pair, clips, query, [result["text"] for result in results])


@pytest.mark.parametrize("name", [name for name in MODELS if name != "starter"])
def test_the_comparison_means_something(make_pair: Callable[[str], Pair], clips: list[Samples], name: str):
    pair = make_pair(name)
    texts = pair.raw_texts(clips, Query())
    assert len(set(texts)) > len(texts) / 2
    ids = speech_ids(pair, clips)
    assert len(set(ids)) >= 10
    assert len(ids) >= 50


@pytest.fixture(scope="module")
def spelling_pair(funasr: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model that spells in single letters, and so survives FunASR's way from ids to text and back."""
    tags = (*LANGUAGE_TAGS, *EMOTION_TAGS, *EVENT_TAGS, *OTHER_TAGS)
    folder = make_checkpoint(
        tmp_path_factory.mktemp("spelling"),
        seed=5,
        merges=0,
        dummy_prefix=False,
        banned_pieces=["▁", *(f"<|{tag}|>" for tag in tags)],
    )
    return Pair(folder, funasr)


def test_token_times_equal_those_of_funasrs_forced_alignment(spelling_pair: Pair):
    clips = [speech_like(2.0, seed=seed) for seed in range(20)]
    vocabulary, model = spelling_pair.engine.vocabulary, spelling_pair.oracle.model
    compared = 0
    for query in (Query("auto"), Query("zh"), Query("ja", use_itn=False)):
        results = spelling_pair.expected(clips, query, output_timestamp=True)
        for scores, result in zip(spelling_pair.engine.recognise(clips, query), results, strict=True):
            tokens = ctc.greedy_tokens(scores, vocabulary)
            spelled = [vocabulary.piece(id) for id in vocabulary.encode(result["text"])[N_QUERY_FRAMES:]]
            if not tokens or spelled != [token.text for token in tokens]:
                continue  # FunASR takes the first four tokens for the tags; here there may be fewer
            times, words = model.post([[token.text, token.start_s, token.end_s] for token in tokens])
            assert (result["timestamp"], result["words"]) == (times, words)
            compared += 1
    assert compared >= 10


# With voice activity detection --------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip(clips: list[Samples]) -> Samples:
    """Sounds with silences between, recordings too; never near silence, on which FunASR takes log(0)."""
    pause = np.zeros(24_000, np.float32)
    sounds = np.concatenate([part for samples in clips for part in (samples, pause)])
    return sounds + np.random.default_rng(1).normal(0, 1e-3, len(sounds)).astype(np.float32)


def vad_directory(pair: Pair, small_vad: Path) -> Path:
    beside = pair.directory / "vad"
    return beside if beside.is_dir() else small_vad


def test_segments_and_their_texts_equal_funasrs(
    pair: Pair, small_vad: Path, long_clip: Samples, monkeypatch: pytest.MonkeyPatch
):
    folder = vad_directory(pair, small_vad)
    options = VadOptions(max_single_segment_time_ms=4_000)
    settings = {"max_single_segment_time": 4_000, "max_end_silence_time": options.max_end_silence_time_ms}
    both = pair.automodel(vad_model=str(folder), vad_kwargs=settings)
    recognise, heard = both.model.inference, {}

    def record(data_in: list[Samples], **kwargs: Any) -> Any:
        results, meta = recognise(data_in, **kwargs)
        for samples, result in zip(data_in, results, strict=True):
            heard[np.asarray(samples, np.float32).tobytes()] = result["text"]
        return results, meta

    monkeypatch.setattr(both.model, "inference", record)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both.generate(input=[long_clip], cache={}, language="en", use_itn=True)
    spans = VoiceActivityDetector.load(folder).speech_spans(long_clip, options)
    assert len(spans) > 3
    utterances = [long_clip[span.start_ms * 16 : span.end_ms * 16] for span in spans]
    assert heard.keys() == {utterance.tobytes() for utterance in utterances}
    expected = [heard[utterance.tobytes()] for utterance in utterances]
    assert_same_texts(pair, utterances, Query("en", use_itn=True), expected)


def test_the_pipeline_hands_exactly_those_segments_on(pair: Pair, small_vad: Path, long_clip: Samples):
    vad = VoiceActivityDetector.load(vad_directory(pair, small_vad))
    options = TranscribeOptions(language="zh", vad=VadOptions(max_single_segment_time_ms=5_000))
    transcript = Transcriber(pair.engine, vad).transcribe(long_clip, options)
    spans = vad.speech_spans(long_clip, options.vad)
    assert [(round(s.start_s * 1000), round(s.end_s * 1000)) for s in transcript.segments] == [
        (span.start_ms, span.end_ms) for span in spans
    ]
    utterances = [long_clip[span.start_ms * 16 : span.end_ms * 16] for span in spans]
    for segment, scores in zip(
        transcript.segments, pair.engine.recognise(utterances, Query("zh")), strict=True
    ):
        reading = ctc.read_scores(scores, pair.engine.vocabulary)
        assert "".join(segment.text.split()) == "".join(reading.text.split())
        assert [token.text for token in segment.tokens] == [token.text for token in reading.tokens]


def test_funasr_is_not_needed_at_run_time():
    """It is an oracle and nothing else: no module of the package imports it."""
    package = Path(importlib.import_module("sensevoice").__file__ or "").parent
    for path in package.rglob("*.py"):
        assert "import funasr" not in path.read_text(encoding="utf-8"), path
        assert "from funasr" not in path.read_text(encoding="utf-8"), path

"""FSMN-VAD against FunASR's own, and the arithmetic of spans.

Options reach FunASR through its constructor: `generate(max_single_segment_time=...)` is silently
ignored, and only `max_end_silence_time` and `speech_noise_thres` are read per call. To pass a
`max_end_silence_time` either way also switches off its adaptive patience, which is otherwise on,
whatever config.yaml says.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from checkpoints import make_vad, speech_like

from sensevoice.audio import decode
from sensevoice.errors import ModelFileError, OptionError
from sensevoice.features import frame_count
from sensevoice.options import VadOptions
from sensevoice.spans import Span
from sensevoice.vad import BLOCK_FRAMES, VoiceActivityDetector, frame_decibels, gaps_between, merge_spans
from sensevoice.vad_decision import VadState, needs_decibels, scheduled_silence_ms
from sensevoice.vad_network import FsmnEncoder
from sensevoice.vad_scoring import GPU_BATCH_FRAMES, Block, FrameScorer, together

Samples = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

MINUTE = 960_000  # samples
ADAPTIVE: Any = None  # max_end_silence_time_ms: FunASR's default, a patience that falls as speech goes on
SHARED = Path(__file__).resolve().parents[2] / "shared"


# --- the oracle -----------------------------------------------------------------------------------------


def funasr_settings(options: VadOptions) -> dict[str, float]:
    """Our options under FunASR's names."""
    ours = {name.removesuffix("_ms"): value for name, value in vars(options).items() if value is not None}
    ours["window_size_ms"] = ours.pop("window_size")
    return {name: value for name, value in ours.items() if not name.startswith("merge")}


def funasr_generate(directory: Path, samples: Samples, options: VadOptions) -> list[Span]:
    """What AutoModel(...).generate finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from funasr import AutoModel

        quiet = {"disable_update": True, "disable_pbar": True, "log_level": "ERROR"}
        model = AutoModel(model=str(directory), device="cpu", ncpu=1, **quiet, **funasr_settings(options))
        return as_spans(model.generate(input=samples)[0]["value"])


def funasr_decide(scores: Scores, sound: Samples, options: VadOptions, cuts: list[int]) -> list[Span]:
    """What FunASR's state machine makes of these scores, fed in blocks that end at `cuts`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

        sizes = {"input_dim": 1, "input_affine_dim": 1, "fsmn_layers": 1, "linear_dim": 1, "proj_dim": 1}
        sizes |= {"lorder": 1, "rorder": 0, "lstride": 1, "rstride": 0}
        sizes |= {"output_affine_dim": 1, "output_dim": 1}
        model = FsmnVADStreaming(encoder="FSMN", encoder_conf=sizes, **funasr_settings(options))
    del model.encoder
    model.encoder = lambda features, cache: features  # the features are the scores
    cache, found = model.init_cache({}), []
    for first, stop in itertools.pairwise([0, *cuts, len(scores)]):
        block = torch.from_numpy(scores[None, first:stop, None])
        waveform = torch.from_numpy(sound[None, first * 160 : (stop - 1) * 160 + 400])
        is_final = stop == len(scores)
        for spans in model.forward(block, waveform, cache, is_final=is_final, is_streaming_input=False):
            found += spans
    return as_spans(found)


def as_spans(pairs: list[list[int]]) -> list[Span]:
    return [Span(start, end) for start, end in pairs]


# --- made-up recordings ---------------------------------------------------------------------------------


def random_scores(random: np.random.Generator, frames: int) -> tuple[Scores, Samples]:
    """Probabilities of silence that stay low or high for a while, [frames], and a sound to match."""
    talk_s, rest_s = random.choice([0.05, 0.2, 0.5, 1, 3, 20]), random.choice([0.05, 0.2, 0.5, 1, 3])
    lengths = 1 + random.exponential(100, (frames // 2 + 1, 2)) * (talk_s, rest_s)
    talks = np.repeat(np.tile([True, False], len(lengths)), lengths.astype(int).ravel())[:frames]
    doubt = random.choice([0.2, 0.4, 1.3])
    scores = np.where(talks, random.beta(doubt, 3, frames), random.beta(3, doubt, frames))
    loudness = np.repeat(10 ** random.uniform(-4, 0, frames // 50 + 2), 50)[: frames + 2]
    loudness *= np.where(np.append(talks, [False, False]), 1, 0.1)
    sound = np.repeat(loudness, 160) * random.standard_normal(160 * (frames + 2))
    return np.clip(scores, 1e-6, 1 - 1e-6), (0.3 * sound[: frames * 160 + 240]).astype(np.float32)


def random_options(random: np.random.Generator) -> VadOptions:
    """Each option at its default, or anywhere in its range."""
    wild: dict[str, Any] = {
        **{"max_single_segment_time_ms": random.integers(200, 20_000)},
        **{"max_start_silence_time_ms": random.integers(0, 5_000)},
        **{"max_end_silence_time_ms": random.integers(0, 3_000)},
        **{"sil_to_speech_time_thres_ms": random.integers(20, 260)},
        **{"speech_to_sil_time_thres_ms": random.integers(0, 250)},
        **{"window_size_ms": random.integers(20, 600)},
        **{"lookback_time_start_point_ms": random.integers(0, 1_000)},
        **{"lookahead_time_end_point_ms": random.integers(0, 1_500)},
        **{"speech_noise_thres": random.uniform(-1, 1), "speech_2_noise_ratio": random.uniform(0.3, 3)},
        **{"decibel_thres": random.uniform(-60, 0), "snr_thres": random.uniform(-20, 30)},
        **{"fe_prior_thres": random.choice([1e-4, 0.5, 1.0], p=[0.8, 0.1, 0.1])},
    }
    chosen = {name: np.asarray(value).item() for name, value in wild.items() if random.random() < 0.4}
    return replace(VadOptions(), **chosen)


def decide(scores: Scores, sound: Samples, options: VadOptions, cuts: list[int] | None = None) -> list[Span]:
    """What our decision logic finds, fed in blocks that end at `cuts`."""
    decibels, state = frame_decibels(sound), VadState(options)
    spans = []
    for first, stop in itertools.pairwise([0, *(cuts or []), len(scores)]):
        spans += state.feed(scores[first:stop], decibels[first:stop])
    return spans + state.finish()


def random_recording(random: np.random.Generator, samples: int, clips: list[Samples]) -> Samples:
    """Clips, silences and noises at many levels, one after the other, over a noise floor."""
    pieces: list[Samples] = []
    while sum(map(len, pieces)) < samples:
        length = int(16_000 * random.uniform(0.05, 4))
        noise = random.standard_normal(length) * 10 ** random.uniform(-4, -1)
        clip = clips[random.integers(len(clips))] * 10 ** random.uniform(-1.5, 0)
        pieces.append([clip, clip, np.zeros(length), noise][random.integers(4)])
    floor = random.standard_normal(samples) * 10 ** random.uniform(-5, -2.5)
    return (np.concatenate(pieces)[:samples] + floor).astype(np.float32)


def unsure_vad(small_vad: Path, directory: Path) -> Path:
    """An energy detector that listens back 0.2 s, and is never certain: FunASR fails on a score of 1."""
    shutil.copytree(small_vad, directory)
    state = torch.load(directory / "model.pt", weights_only=True)
    state["encoder.fsmn.0.fsmn_block.conv_left.weight"][0] = 1 / 20
    state["encoder.out_linear2.linear.weight"][0, 0] = -1
    state["encoder.out_linear2.linear.bias"][0] = 8 + math.log(247)
    torch.save(state, directory / "model.pt")
    return directory


@pytest.fixture(scope="module")
def clips() -> list[Samples]:
    """Real speech if there is some beside the repository, else made-up sounds."""
    folder = SHARED / "audio"
    names = ["zh.mp3", "en.mp3", "maj_mandarin.wav", "omni_Laughter.wav"]
    if folder.is_dir():
        return [decode(folder / name) for name in names]
    return [speech_like(seconds, seed=seconds) for seconds in (2, 5, 9, 14)]


@pytest.fixture(scope="module", params=["energy detector", "published"])
def vad_directory(
    request: pytest.FixtureRequest, small_vad: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """FSMN-VAD of the official shape; the published weights if they are here."""
    if request.param == "energy detector":
        return unsure_vad(small_vad, tmp_path_factory.mktemp("models") / "vad")
    folder = Path(os.environ.get("SENSEVOICE_REFERENCE", SHARED / "reference")) / "fsmn-vad"
    if not (folder / "model.pt").is_file():
        pytest.skip(f"no published FSMN-VAD at {folder}")
    return folder


@pytest.fixture(scope="module")
def detector(small_vad: Path) -> VoiceActivityDetector:
    return VoiceActivityDetector.load(small_vad)


# --- equal to FunASR ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        pytest.param(400, VadOptions(), id="one frame"),
        pytest.param(20 * 16_000 + 77, VadOptions(), id="20 s"),
        pytest.param(2 * MINUTE + 16_001, VadOptions(), id="over two minutes"),
        pytest.param(MINUTE, VadOptions(max_single_segment_time_ms=60_000), id="one minute sharp"),
        pytest.param(
            MINUTE - 40, VadOptions(max_end_silence_time_ms=ADAPTIVE), id="adaptive, almost a minute"
        ),
        pytest.param(
            2 * MINUTE + 100, VadOptions(max_end_silence_time_ms=ADAPTIVE), id="adaptive, two minutes"
        ),
        pytest.param(
            3 * MINUTE - 7777,
            VadOptions(max_single_segment_time_ms=150_000, max_end_silence_time_ms=ADAPTIVE),
            id="adaptive, long segments",
        ),
    ],
)
def test_spans_equal_those_of_funasr_generate(
    vad_directory: Path, clips: list[Samples], samples: int, options: VadOptions
) -> None:
    recording = random_recording(np.random.default_rng(samples), samples, clips)
    found = VoiceActivityDetector.load(vad_directory).speech_spans(recording, options)
    assert found == funasr_generate(vad_directory, recording, options)
    has_real_speech = (SHARED / "audio").is_dir()
    assert found or samples <= 400 or not has_real_speech


@pytest.mark.parametrize("seed", range(4))
def test_spans_equal_those_of_funasr_generate_under_any_options(
    vad_directory: Path, clips: list[Samples], seed: int
) -> None:
    random = np.random.default_rng(seed)
    recording = random_recording(random, int(random.integers(16_000, 30 * 16_000)), clips)
    options = random_options(random)
    found = VoiceActivityDetector.load(vad_directory).speech_spans(recording, options)
    assert found == funasr_generate(vad_directory, recording, options)


def test_decisions_equal_those_of_funasr_under_any_options_and_cuts() -> None:
    found = 0
    for seed in range(80):
        random = np.random.default_rng(seed)
        frames = int(random.choice([1, 2, 5, 30, 300, 3000]))
        scores, sound = random_scores(random, frames)
        options = random_options(random)
        cuts = sorted({int(cut) for cut in random.integers(1, frames + 1, 2)} - {frames})
        expected = funasr_decide(scores, sound, options, cuts)
        assert decide(scores, sound, options) == expected, (seed, options)
        found += len(expected)
    assert found > 60


def test_decisions_about_a_long_recording_equal_those_of_funasr() -> None:
    random = np.random.default_rng(1)
    parts = [random_scores(random, 12_000) for _ in range(5)]
    scores = np.concatenate([scores for scores, _ in parts])
    sound = np.concatenate([*(sound[:-240] for _, sound in parts), parts[-1][1][-240:]])
    expected = funasr_decide(scores, sound, VadOptions(), list(range(5996, len(scores), 6000)))
    assert decide(scores, sound, VadOptions()) == expected
    assert len(expected) > 50


@pytest.mark.parametrize("stride", [1, 2])
def test_the_network_equals_funasr_s(stride: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from funasr.models.fsmn_vad_streaming.encoder import FSMN
    sizes = {"input_dim": 20, "input_affine_dim": 9, "fsmn_layers": 3, "linear_dim": 12, "proj_dim": 7}
    sizes |= {"lorder": 6, "lstride": stride, "output_affine_dim": 8, "output_dim": 5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = FSMN(**sizes, rorder=0, rstride=0)
        frames = 3 * torch.randn(1, 50, 20)
    ours = FsmnEncoder.from_config({**sizes, "rorder": 0, "rstride": 0})
    ours.load_state_dict(theirs.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours(frames)[0].softmax(-1), theirs(frames, cache={}), atol=1e-6, rtol=0)


# --- invariants -----------------------------------------------------------------------------------------


def test_any_cut_into_blocks_gives_the_same_spans() -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        scores, sound = random_scores(random, 1000)
        options = random_options(random)
        whole = decide(scores, sound, options)
        some = sorted({int(cut) for cut in random.integers(1, 1000, 20)})
        assert decide(scores, sound, options, some) == whole
        assert decide(scores, sound, options, list(range(1, 1000))) == whole


def test_adapting_is_the_same_however_a_chunk_is_cut() -> None:
    scores, _ = random_scores(np.random.default_rng(5), 30_000)
    options = VadOptions(max_single_segment_time_ms=300_000)

    def run(block: int) -> list[Span]:
        state, spans = VadState(options), []
        for first in range(0, 30_000, block):
            if first % 1000 == 0:
                state.adapt(10_000)
            spans += state.feed(scores[first : first + block])
        return spans + state.finish()

    assert run(10) == run(500) == run(1000)
    assert len(run(10)) > 5


def test_spans_come_in_order_and_no_longer_than_allowed(detector: VoiceActivityDetector) -> None:
    options = VadOptions(max_single_segment_time_ms=5_000)
    recording = random_recording(np.random.default_rng(3), 60 * 16_000, [speech_like(12)])
    spans = detector.speech_spans(recording, options)
    edges = [edge for span in spans for edge in (span.start_ms, span.end_ms)]
    assert len(spans) > 5
    assert edges == sorted(edges)
    assert max(span.duration_ms for span in spans) == 5_010  # FunASR counts the frame that is too many in
    assert edges[-1] <= len(recording) // 16


@pytest.mark.parametrize("block_frames", [7, 50, 333, 10**9])
def test_scores_do_not_depend_on_the_block_size(detector: VoiceActivityDetector, block_frames: int) -> None:
    recording = speech_like(20, pauses=True)
    whole = detector.silence_probabilities(recording)
    np.testing.assert_array_equal(detector.silence_probabilities(recording, block_frames), whole)


def test_no_block_of_a_long_recording_is_larger_than_the_limit(detector: VoiceActivityDetector) -> None:
    sizes = [len(block) for block in detector._feature_blocks(np.zeros(MINUTE, np.float32), BLOCK_FRAMES)]
    assert max(sizes) <= BLOCK_FRAMES
    assert sum(sizes) == 5998


LENGTHS = (400, 1_599, 16_000, 16_001, 37_777, 160_000, 160_000, 79_999)


def clip_blocks(lengths: Sequence[int]) -> list[Block]:
    recording = random_recording(np.random.default_rng(1), max(lengths), [speech_like(3)])
    cuts = [recording[:length] for length in lengths]
    return [Block(np.array_split(clip, 3), 0, frame_count(len(clip))) for clip in cuts]


def test_clips_side_by_side_are_scored_as_each_alone(vad_directory: Path) -> None:
    scorer, blocks = VoiceActivityDetector.load(vad_directory).scorer, clip_blocks(LENGTHS)
    assert len(list(together(blocks))) == 1
    for found, block in zip(scorer.score_all(blocks), blocks, strict=True):
        alone = scorer.score_all([block])[0].silence
        np.testing.assert_allclose(found.silence, alone, rtol=0, atol=1e-6)
        assert len(alone) == block.stop


def test_a_recording_that_goes_on_is_scored_alone_beside_clips(detector: VoiceActivityDetector) -> None:
    scorer, clips = detector.scorer, clip_blocks([16_000, 20_000])
    recording = speech_like(4)
    beginning = Block([recording[:32_000]], 0, 150)
    first = scorer.score_all([clips[0], beginning, clips[1]])[1]
    rest = Block([recording[137 * 160 :]], 13, frame_count(len(recording)) - 137, first.memories)
    _, second = scorer.score_all([clips[0], rest])
    found = np.concatenate([first.silence, second.silence])
    np.testing.assert_array_equal(found, detector.silence_probabilities(recording))


def test_a_batch_of_clips_holds_no_more_than_it_may_with_its_padding() -> None:
    blocks = [
        Block([np.zeros(seconds * 16_000, np.float32)], 0, 100 * seconds - 2) for seconds in (59, 1) * 9
    ]
    groups = list(together(blocks))
    assert sorted(index for group in groups for index in group) == list(range(18))
    assert [len(group) for group in groups] == [5, 5, 8]
    assert all(len(group) * blocks[group[0]].frames <= GPU_BATCH_FRAMES for group in groups)


def test_callers_at_the_same_time_get_what_each_gets_alone(detector: VoiceActivityDetector) -> None:
    """Through the queue that a GPU has."""
    scorer = FrameScorer(detector.encoder, detector.frontend, detector.silence_ids)
    batcher, blocks = scorer.batcher(), clip_blocks(LENGTHS * 4)
    with ThreadPoolExecutor(len(blocks)) as pool:
        found = list(pool.map(lambda block: batcher.run([block])[0].silence, blocks))
    for silence, block in zip(found, blocks, strict=True):
        np.testing.assert_allclose(silence, scorer.score(block).silence, rtol=0, atol=1e-6)


def test_threads_with_different_options_do_not_disturb_one_another(detector: VoiceActivityDetector) -> None:
    random = np.random.default_rng(0)
    jobs = [
        (random_recording(random, 16_000 * 15, [speech_like(3)]), VadOptions(max_end_silence_time_ms=100 * i))
        for i in range(2, 10)
    ]
    alone = [detector.speech_spans(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: detector.speech_spans(*job), jobs * 3))
    assert together == alone * 3


def test_two_seconds_of_speech_between_silences_are_found_with_their_margins() -> None:
    scores = np.ones(1000)
    scores[300:500] = 0.0
    # 15 speech frames open the span, 20 + 20 before the 15th; 5 frames of silence still leave 15 in the
    # window, so the pause begins with frame 504, and 10 more are counted in with the one that decides
    assert VadState(VadOptions()).feed(scores) == [Span((314 - 40) * 10, (504 + 10 + 1 + 1) * 10)]


def test_an_open_span_ends_with_the_recording() -> None:
    state = VadState(VadOptions())
    assert state.feed(np.zeros(100)) == []
    assert state.finish() == [Span(0, 1000)]
    assert state.finish() == []


def test_patience_falls_as_a_segment_grows() -> None:
    lengths = (0, 10_000, 10_001, 30_000, 60_000, 60_001)
    assert [scheduled_silence_ms(length) for length in lengths] == [2000, 2000, 1000, 800, 200, 100]


def test_levels_are_measured_only_where_an_option_asks_for_them() -> None:
    assert not needs_decibels(VadOptions())
    assert needs_decibels(VadOptions(decibel_thres=-60.0))
    assert needs_decibels(VadOptions(snr_thres=0.0))
    full_scale, silence = frame_decibels(np.ones(400, np.float32)), frame_decibels(np.zeros(400, np.float32))
    np.testing.assert_allclose([full_scale[0], silence[0]], [10 * np.log10(400), -60], atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_a_window_of_sound_holds_no_speech(detector: VoiceActivityDetector, samples: int) -> None:
    assert detector.speech_spans(np.ones(samples, np.float32)) == []
    assert detector.speech_spans(np.ones(samples, np.float32), VadOptions(decibel_thres=-50)) == []


def test_samples_that_cannot_be_written_to_are_read_without_a_warning(
    detector: VoiceActivityDetector,
) -> None:
    recording = speech_like(3)
    expected = detector.speech_spans(recording)
    recording.flags.writeable = False
    assert detector.speech_spans(recording) == expected


def test_a_window_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(OptionError, match="window_size_ms"):
        VadState(VadOptions(window_size_ms=9))


# --- spans ----------------------------------------------------------------------------------------------


def test_neighbours_are_merged_up_to_a_length_and_across_short_gaps_only() -> None:
    spans = [Span(500, 1500), Span(1800, 2500), Span(3500, 4000), Span(4100, 9000), Span(9001, 9500)]
    merged = merge_spans(spans, up_to_ms=5000, gap_ms=500)
    assert merged == [Span(500, 2500), Span(3500, 4000), Span(4100, 9000), Span(9001, 9500)]
    assert merge_spans(spans, up_to_ms=0, gap_ms=500) == spans
    assert merge_spans([], up_to_ms=5000, gap_ms=500) == []


def test_speech_spans_are_merged_when_the_options_say_so(detector: VoiceActivityDetector) -> None:
    recording = random_recording(np.random.default_rng(2), 30 * 16_000, [speech_like(2)])
    apart = detector.speech_spans(recording)
    merged = detector.speech_spans(recording, VadOptions(merge_up_to_ms=15_000, merge_gap_ms=1_000))
    assert merged == merge_spans(apart, up_to_ms=15_000, gap_ms=1_000)
    assert len(merged) < len(apart)


def test_merging_loses_no_speech_and_swallows_no_long_silence() -> None:
    for seed in range(200):
        random = np.random.default_rng(seed)
        edges = np.cumsum(random.integers(0, 1500, 40)).tolist()
        spans = [Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
        up_to_ms, gap_ms = int(random.integers(0, 6000)), int(random.integers(0, 1200))
        merged = merge_spans(spans, up_to_ms=up_to_ms, gap_ms=gap_ms)
        assert merge_spans(merged, up_to_ms=up_to_ms, gap_ms=gap_ms) == merged
        assert all(span in spans or span.duration_ms <= up_to_ms for span in merged)
        gaps = {gap for gap in gaps_between(spans, edges[-1]) if gap.duration_ms > gap_ms}
        assert gaps <= set(gaps_between(merged, edges[-1]))
        assert {span.start_ms for span in merged} <= {span.start_ms for span in spans}
        assert merged[-1].end_ms == spans[-1].end_ms


def test_gaps_are_exactly_what_no_span_covers() -> None:
    spans = [Span(0, 100), Span(300, 400), Span(400, 900)]
    assert gaps_between(spans, 1000) == [Span(100, 300), Span(900, 1000)]
    assert gaps_between(spans, 900) == [Span(100, 300)]
    assert gaps_between([], 900) == [Span(0, 900)]
    assert gaps_between([], 0) == []


# --- files ----------------------------------------------------------------------------------------------


def test_half_precision_weights_are_loaded_as_single_precision(tmp_path: Path) -> None:
    half = VoiceActivityDetector.load(make_vad(tmp_path, dtype=torch.float16))
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({name: value.float() for name, value in state.items()}, tmp_path / "model.pt")
    single = VoiceActivityDetector.load(tmp_path)
    recording = speech_like(5)
    assert next(half.encoder.parameters()).dtype == torch.float32
    np.testing.assert_array_equal(
        half.silence_probabilities(recording), single.silence_probabilities(recording)
    )


@pytest.mark.parametrize("name", ["config.yaml", "am.mvn", "model.pt"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_a_missing_or_damaged_file_is_named(small_vad: Path, tmp_path: Path, name: str, damage: str) -> None:
    shutil.copytree(small_vad, tmp_path, dirs_exist_ok=True)
    file = tmp_path / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut short":
        file.write_bytes(content[:10])
    with pytest.raises(ModelFileError) as caught:
        VoiceActivityDetector.load(tmp_path)
    assert caught.value.facts["path"] == str(file)


@pytest.mark.parametrize(
    ("section", "setting", "value", "file"),
    [
        ("model_conf", "detect_mode", 0, "config.yaml"),
        ("model_conf", "frame_in_ms", 20, "config.yaml"),
        ("frontend_conf", "lfr_n", 6, "config.yaml"),
        ("encoder_conf", "rorder", 2, "config.yaml"),
        ("encoder_conf", "heads", 4, "config.yaml"),
        ("encoder_conf", "linear_dim", 99, "model.pt"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    small_vad: Path, tmp_path: Path, section: str, setting: str, value: int, file: str
) -> None:
    shutil.copytree(small_vad, tmp_path, dirs_exist_ok=True)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config[section][setting] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ModelFileError) as caught:
        VoiceActivityDetector.load(tmp_path)
    assert caught.value.facts["path"] == str(tmp_path / file)


def test_a_checkpoint_that_holds_more_than_weights_is_never_unpickled(
    small_vad: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_vad, tmp_path, dirs_exist_ok=True)
    torch.save({"encoder": Path("anything")}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match="more than weights"):
        VoiceActivityDetector.load(tmp_path)

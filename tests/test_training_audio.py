"""The stages that speak and mix: everything but the synthesiser's network, which is not in the repository."""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("scipy")
from sensevoice.features import mel_range, to_hz, to_mel
from sensevoice.network import NetworkShape
from training import audio, speech
from training.augment import (
    BABBLE,
    FASTEST,
    KNEE_HZ,
    NOISE,
    SLOWEST,
    UNEVENNESS,
    WIDEST_WARP,
    RowShape,
    SoundBank,
    drawn_rhythms,
    filtered,
    in_rhythm,
    labels_in_rhythm,
    level,
    mixed,
    of_tracts,
    quick_size,
    recorded,
    warped,
    with_noise,
)
from training.batches import (
    EDGE_SAMPLES,
    Batch,
    Catalogue,
    Plan,
    Planner,
    Recipe,
    Texts,
    laid_out,
    row_shapes,
)
from training.codecs import CODECS, aligned, decoded, encode, through_codec
from training.kokoro import Prosody, Request, Spoken, Synthesiser
from training.materials import TAGS, identity_frontend
from training.network import TrainingNetwork
from training.speech import (
    ALL_TRAINING_VOICES,
    HELD_OUT_VOICES,
    PACE_OF_PEOPLE,
    TRAINING_VOICES,
    Cast,
    Casting,
    Line,
    Speech,
    draw_stretch,
    requests_for,
    requests_of_part,
)
from training.train import heard
from training.vocoder import quicken

TOKENS = 60
TEXTS = Texts(np.zeros(1, int), [[5]], [[5]], [[5]], [[5]])
ROOT = Path(__file__).resolve().parents[1]


def all_voices() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    held_out = {name for split in HELD_OUT_VOICES.values() for name in split.values()}
    return {
        name: rng.normal(size=(TOKENS, 256)).astype(np.float32) for name in {*ALL_TRAINING_VOICES, *held_out}
    }


class Humming:
    """A synthesiser that hums each request for a tenth of a second per phoneme."""

    def __init__(self, model: object, device: str) -> None:
        pass

    def speak(self, requests: Sequence[Request], *, batch_frames: int = 0) -> Iterator[Spoken]:
        for request in requests:
            count = len(request.ids) + 2
            tone = torch.sin(torch.arange(count * 1600) * 0.1)[None]
            yield Spoken([request], tone, torch.full((1, count), 4))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("text", "kokoro"):
        (tmp_path / name).mkdir()
    line = {"text": "ab", "plain": "ab", "kind": "short", "example": False}
    lines = [{**line, "lang": "en", "phonemes": "ab" * (2 + n), "split": "train"} for n in range(20)]
    held_out = [{**line, "lang": "zh", "phonemes": "ba", "split": split} for split in ("dev", "test")]
    for name, rows in (("train", lines), ("held_out", held_out)):
        with lzma.open(tmp_path / "text" / f"{name}.jsonl.xz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "kokoro" / "vocab.json").write_text(json.dumps({"vocab": {"a": 1, "b": 2}}))
    np.savez(tmp_path / "kokoro" / "voices.npz", **all_voices())
    monkeypatch.setattr(audio, "load_kokoro", lambda *_: None)
    monkeypatch.setattr(audio, "Synthesiser", Humming)
    return tmp_path


def arguments(**changed: Any) -> argparse.Namespace:
    known = {
        "part": (0, 1),
        "began": 0.0,
        "takes": 1,
        "seed": 0,
        "limit": None,
        "workers": 1,
        "robot_share": 0.0,
    }
    return argparse.Namespace(
        **{**known, "codec_share": 0.0, "seconds": 1e9, "hours": None, "batch_frames": 100, **changed}
    )


def test_the_parts_of_the_audio_stage_make_up_all_lines_in_every_take(work: Path) -> None:
    for part in range(3):
        audio.make_audio(work, arguments(part=(part, 3), takes=2))
    parts = [Speech.load(path) for path in sorted((work / "audio").glob("train.*.pt"))]
    speech = Speech.joined(parts)
    assert sorted(speech.line.tolist()) == sorted([*range(20), *range(20)])
    assert len(Speech.load(work / "audio" / "held_out.pt").line) == 2
    assert speech.start.tolist() == (speech.length.cumsum(0) - speech.length).tolist()
    assert len(speech.audio) == speech.length.sum()
    assert len(speech.units) == speech.unit_count.sum()
    last = len(speech.line) - 1
    first_unit = speech.unit_start[last]
    assert speech.unit_frames[first_unit:].sum() * 400 == speech.length[last]


def test_a_share_of_the_speech_goes_through_codecs_and_keeps_its_place(work: Path) -> None:
    audio.make_audio(work, arguments())
    clean = Speech.load(work / "audio" / "train.0.pt").audio.numpy().copy()
    audio.make_audio(work, arguments(codec_share=0.5))
    speech = Speech.load(work / "audio" / "train.0.pt")
    changed = 0
    for start, length in zip(speech.start.tolist(), speech.length.tolist(), strict=True):
        before, after = clean[start : start + length], speech.audio.numpy()[start : start + length]
        changed += bool((before != after).any())
        assert np.corrcoef(before, after)[0, 1] > 0.5
    assert changed == 10


@pytest.mark.parametrize("number", range(len(CODECS)))
def test_a_codec_leaves_length_and_alignment(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.codecs.CODECS", CODECS[number : number + 1])
    rng = np.random.default_rng(number)
    envelope = np.repeat(rng.uniform(0, 9_000, 40), 400)
    clip = (envelope * np.sin(np.arange(16_000) * 0.2)).astype(np.int16)
    heard = through_codec(clip, rng)
    assert heard.shape == clip.shape and heard.dtype == np.int16
    assert np.corrcoef(clip, heard)[0, 1] > 0.8


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda codec: str(codec[1]))
def test_a_long_clip_is_encoded_frame_by_frame_without_a_seam(
    codec: tuple[str, str, int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    container, name, rate, (bit_rate, *_) = codec
    clip = np.random.default_rng(0).integers(-9_000, 9_000, 16_000).astype(np.int16)
    at_once, in_frames = io.BytesIO(), io.BytesIO()
    encode(at_once, clip, container, name, rate, bit_rate)
    monkeypatch.setattr("training.codecs.LONGEST_FRAME", 3_333)
    encode(in_frames, clip, container, name, rate, bit_rate)
    for file in (at_once, in_frames):
        file.seek(0)
    assert np.array_equal(decoded(at_once), decoded(in_frames))


def test_a_delay_is_taken_back_and_an_early_start_padded() -> None:
    clip = np.random.default_rng(0).integers(-9_000, 9_000, 8_000).astype(np.int16)
    assert (aligned(np.concatenate([np.zeros(312, np.int16), clip]), clip) == clip).all()
    assert (aligned(clip[200:], clip)[200:] == clip[200:]).all()


def test_no_held_out_voice_is_heard_in_training() -> None:
    voices = all_voices()
    held_out = {name for split in HELD_OUT_VOICES.values() for name in split.values()}
    known = {name: table for name, table in voices.items() if name not in held_out}
    for seed in range(20):
        for language in TRAINING_VOICES:
            ours = Cast(voices).draw(np.random.default_rng(seed), language, 10)
            assert (ours == Cast(known).draw(np.random.default_rng(seed), language, 10)).all()


def test_drawn_timbres_are_spread_like_the_voices_and_prosody_is_a_speakers_own() -> None:
    cast, rng = Cast(all_voices()), np.random.default_rng(0)
    styles = np.stack([cast.draw(rng, "zh", 10) for _ in range(400)])
    assert len({style[:128].tobytes() for style in styles}) > 280
    natives = np.stack([cast.voices[name][9, 128:] for name in TRAINING_VOICES["zh"]])
    assert (styles[:, 128:] <= natives.max(0) + 1e-6).all() and (
        styles[:, 128:] >= natives.min(0) - 1e-6
    ).all()


@pytest.mark.parametrize("wanted", [1, 480, 100_001, 77_777])
def test_a_quick_size_is_no_smaller_and_has_small_factors(wanted: int) -> None:
    size = quick_size(wanted, 480)
    assert wanted <= size < wanted * 1.15 + 480 and size % 480 == 0
    rest = size // 480
    for factor in (2, 3, 5, 7):
        while rest % factor == 0:
            rest //= factor
    assert rest == 1


def filters_of(hz: Tensor) -> Tensor:
    """The filters, in fractions, that are centred on these frequencies."""
    low, high = mel_range()
    return (to_mel(hz) - low) / (high - low) * 81 - 1


def test_a_tract_of_the_same_length_changes_nothing_and_what_is_even_stays_even() -> None:
    torch.manual_seed(0)
    mel = torch.randn(4, 5, 80)
    torch.testing.assert_close(of_tracts(mel, torch.ones(4)), mel, atol=1e-4, rtol=0)
    torch.testing.assert_close(warped(mel, 0.0), mel, atol=1e-4, rtol=0)
    even = torch.full((4, 5, 80), -15.5)
    torch.testing.assert_close(warped(even, 1.0), even)


@pytest.mark.parametrize("factor", [1 - WIDEST_WARP, 1 + WIDEST_WARP])
def test_a_longer_tract_moves_formants_down_and_the_highest_frequency_stays(factor: float) -> None:
    mel = torch.arange(80.0).expand(1, 1, 80)  # each filter says which it is
    read = of_tracts(mel, torch.tensor([factor]))[0, 0]
    low, high = mel_range()
    hz = to_hz(low + (high - low) * torch.arange(1, 81) / 81)
    lower = (hz * max(1.0, factor) < KNEE_HZ) & (filters_of(hz * factor) >= 0)
    torch.testing.assert_close(read[lower], filters_of(hz * factor)[lower], atol=1e-3, rtol=0)
    assert (read.diff() > 0).sum() >= 78  # a shorter tract has nothing below the lowest filter
    assert read[-1] == pytest.approx(79, abs=0.4)


@pytest.mark.parametrize("factor", [0.86, 1.14])
@pytest.mark.parametrize("hz", [500.0, 1_500.0, 3_000.0])
def test_a_warped_tone_is_a_tone_elsewhere_as_long_as_before(hz: float, factor: float) -> None:
    seconds = torch.arange(16_000) / 16_000
    frontend = identity_frontend(7, 6)
    heard, wanted = (
        frontend.log_mel(0.1 * torch.sin(2 * torch.pi * tone * seconds)) for tone in (hz, hz / factor)
    )
    found = of_tracts(heard[None], torch.tensor([factor]))[0]
    assert found.shape == wanted.shape
    assert (found.argmax(-1) - wanted.argmax(-1)).abs().max() <= 1


def test_each_row_has_a_tract_of_its_own_that_the_seed_says() -> None:
    mel = torch.zeros(64, 3, 80)
    mel[:, :, 40] = 1
    torch.manual_seed(0)
    found = warped(mel, 1.0)
    torch.manual_seed(0)
    assert torch.equal(warped(mel, 1.0), found)
    peaks = set(found[:, 0].argmax(-1).tolist())
    assert min(peaks) < 38 and max(peaks) > 42
    assert torch.equal(found[:, 0], found[:, 2])


CPU = torch.device("cpu")


def test_a_rhythm_begins_and_ends_with_the_row_and_never_goes_back() -> None:
    torch.manual_seed(0)
    times = drawn_rhythms(32, 216, 1.0, CPU)
    assert times.shape == (32, 216)
    assert (times[:, 0] == 0).all() and torch.allclose(times[:, -1], torch.tensor(215.0))
    paces = times.diff(dim=1)
    assert (paces > 0).all()
    spreads = paces.log().std(1)  # each row has its own
    assert spreads.min() < 0.2 * UNEVENNESS and 0.7 * UNEVENNESS < spreads.max() < 1.7 * UNEVENNESS
    torch.manual_seed(0)
    assert torch.equal(drawn_rhythms(32, 216, 1.0, CPU), times)


def test_without_distortions_the_rhythm_is_even() -> None:
    times = drawn_rhythms(2, 36, 0.0, CPU)
    torch.testing.assert_close(times, torch.arange(36.0).expand(2, 36))
    mel = torch.randn(2, 36, 80)
    torch.testing.assert_close(in_rhythm(mel, times), mel, atol=1e-4, rtol=0)
    labels = torch.arange(18).view(1, 6, 3).expand(2, 6, 3)
    assert torch.equal(labels_in_rhythm(labels, times), labels)


def test_sound_and_labels_keep_together_in_any_rhythm() -> None:
    torch.manual_seed(1)
    times = drawn_rhythms(8, 216, 1.0, CPU)
    mel = torch.arange(216.0)[None, :, None].expand(8, 216, 80)  # each frame says when it was
    heard = in_rhythm(mel, times)
    torch.testing.assert_close(heard[:, :, 7], times)
    labels = labels_in_rhythm(torch.arange(108).view(1, 36, 3).expand(8, 36, 3), times)
    assert labels.shape == (8, 36, 3)
    assert ((2 * labels.flatten(1) - heard[:, ::2, 0]).abs() <= 1).all()  # of 20 ms


def test_each_training_line_has_a_rhythm_of_its_own_and_test_lines_have_none() -> None:
    lines = [Line("en", "", "", "ab" * 9, split=split) for split in ("train", "test", "train")]
    first, held_out, second = requests_for(lines, Casting({"a": 1, "b": 2}, all_voices()), 0)
    assert held_out.stretch is None
    assert first.stretch is not None and second.stretch is not None
    assert len(first.stretch) == len(first.ids) + 2
    assert not np.array_equal(first.stretch, second.stretch)


def test_a_line_is_said_alike_however_the_lines_are_shared_out() -> None:
    casting = Casting({"a": 1, "b": 2}, all_voices())
    lines = [Line("en", "", "", "ab" * count) for count in (2, 3, 0, 5, 6)]  # the third cannot be said
    whole = {one.line: one for one in requests_of_part(lines, casting, 7, (0, 1))}
    halves = [one for part in (0, 1) for one in requests_of_part(lines, casting, 7, (part, 2))]
    assert [one.line for one in halves] == [0, 4, 1, 3]
    for one in halves:
        assert one.prosody == whole[one.line].prosody and one.emotion == whole[one.line].emotion
        assert np.array_equal(one.style, whole[one.line].style)
        assert np.array_equal(one.stretch, whole[one.line].stretch)
    (other, *_) = requests_of_part(lines, casting, 8, (0, 1))
    assert not np.array_equal(other.style, whole[0].style)


def test_training_waits_until_all_parts_have_been_spoken(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        audio.make_audio(work, arguments(part=(len(waits) - 1, 2)))

    monkeypatch.setattr(audio.time, "sleep", wait)
    parts = audio.spoken_parts(work, 2)
    assert len(waits) == 2 and len(parts) == 2
    assert sorted(line for part in parts for line in part.line.tolist()) == list(range(20))
    assert len(audio.spoken_parts(work)) == 2 and len(waits) == 2


def test_people_are_quicker_than_the_synthesiser_and_less_even() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_stretch(rng, 60) for _ in range(500)])
    paces = -np.log(drawn.mean(1))
    assert paces.mean() == pytest.approx(PACE_OF_PEOPLE[0], abs=0.02)
    assert paces.std() == pytest.approx(PACE_OF_PEOPLE[1], abs=0.02)
    spreads = np.log(drawn).std(1)
    assert spreads.min() < 0.1 * speech.UNEVENNESS
    assert 0.9 * speech.UNEVENNESS < spreads.max() < 1.5 * speech.UNEVENNESS


def test_tokens_last_as_long_as_the_request_says() -> None:
    stretch = np.array([1.0, 0.5, 2.0, 1.0], np.float32)
    style = np.zeros(256, np.float32)
    even = Request([1, 2], style, Prosody(pace=2.0), 0, 0)
    uneven = Request([1, 2], style, Prosody(pace=2.0), 0, 0, stretch=stretch)
    found = Synthesiser(nn.Identity(), "cpu").lengthening([even, uneven])
    torch.testing.assert_close(found, torch.tensor([[0.5] * 4, [0.5, 0.25, 1.0, 0.5]]))


def test_a_bank_may_hold_more_noises_than_a_batch_has_rows() -> None:
    noises = torch.arange(40.0)[:, None].expand(40, 5)
    rows = torch.tensor([[39, 0], [1, 0]])
    kind, start, gain = (
        torch.tensor([NOISE, BABBLE]),
        torch.zeros(2, dtype=torch.long),
        torch.tensor([1.0, 2.0]),
    )
    heard = mixed(torch.tensor([[1.0], [10.0]]), noises, noises, kind, rows, start, gain)
    assert heard.tolist() == [[40.0], [10.0 + 2 * (10 + 1)]]


def test_pieces_are_laid_where_they_belong() -> None:
    audio = torch.arange(1_000, dtype=torch.int16)
    out = laid_out(
        audio,
        torch.tensor([[100, 500], [200, 0]]),
        torch.tensor([[2, 306], [0, 0]]),
        torch.tensor([[300, 200], [EDGE_SAMPLES, 0]]),
        510,
    )
    sound = (out * 32_768).round().int()
    inner = slice(EDGE_SAMPLES, -EDGE_SAMPLES)
    assert sound[0, 2:302][inner].tolist() == audio[100:400][inner].tolist()
    assert sound[0, 306:506][inner].tolist() == audio[500:700][inner].tolist()
    assert not sound[0, :2].any() and not sound[0, 302:306].any() and not sound[0, 506:].any()
    assert not sound[1, EDGE_SAMPLES:].any()


def test_a_piece_fades_in_and_out() -> None:
    audio = torch.full((1_000,), 8_000, dtype=torch.int16)
    out = laid_out(audio, torch.tensor([[0]]), torch.tensor([[0]]), torch.tensor([[400]]), 400)[0]
    ramp = torch.arange(1, EDGE_SAMPLES + 1) / EDGE_SAMPLES * 8_000 / 32_768
    torch.testing.assert_close(out[:EDGE_SAMPLES], ramp)
    torch.testing.assert_close(out, out.flip(0))
    assert (out[EDGE_SAMPLES:-EDGE_SAMPLES] == 8_000 / 32_768).all()


def planner(**recipe: float) -> Planner:
    """Of short batches, over utterances of 1 to 6 s."""
    tags = dict.fromkeys(TAGS, 1)
    catalogue = Catalogue(
        np.linspace(16_000, 96_000, 400).astype(int),
        *np.zeros((3, 400), int),
        TEXTS,
        tags,
        {"Cough": 3, "BGM": 2},
    )
    return Planner(catalogue, Recipe(**{"batch_s": 60.0, "nothing_share": 0.0, **recipe}), seed=0)


def room_of(plan: Plan) -> int:
    return plan.shape.samples * plan.points // plan.shape.points


def test_a_lone_event_lies_within_its_row_and_some_are_short() -> None:
    drawn = planner(event_share=1.0)
    placed = [(event, room_of(plan)) for plan in (drawn.draw() for _ in range(40)) for event in plan.events]
    assert all(event.first >= 0 and event.first + event.count <= room for event, room in placed)
    assert all(event.count == room for event, room in placed if event.name == "BGM")
    short = [event.count < room for event, room in placed if event.name == "Cough"]
    assert 0.3 < np.mean(short) < 0.7


def test_the_shortest_rows_have_speech_and_no_event_after_it() -> None:
    drawn = planner(event_share=0.0, mixed_share=1.0, views=1)
    shortest = min(shape.frames for shape in row_shapes(60.0))
    plans = [drawn.draw() for _ in range(200)]
    for plan in plans:
        assert (plan.utterance >= 0).any(axis=1).all()  # also where it is to be filled a little only
        assert all(event.count >= 0.8 * 16_000 for event in plan.events)
    assert not any(plan.events for plan in plans if plan.shape.frames == shortest)
    assert any(plan.events for plan in plans)


def test_batches_have_a_few_shapes_and_many_speeds() -> None:
    drawn = planner()
    plans = [drawn.draw() for _ in range(300)]
    assert {plan.shape for plan in plans} == set(row_shapes(60.0, views=2))
    assert all(len(plan.utterance) == plan.shape.items for plan in plans)
    speeds = np.array([plan.speed for plan in plans])
    assert SLOWEST <= speeds.min() < 0.89 and 1.17 < speeds.max() <= FASTEST
    assert abs(speeds.mean() - (SLOWEST + FASTEST) / 2) < 0.02


def test_every_row_is_in_its_batch_as_often_as_there_are_views() -> None:
    for views in (1, 2):
        drawn = planner(event_share=0.3, mixed_share=0.3, views=views)
        for plan in (drawn.draw() for _ in range(20)):
            assert plan.views == views and plan.shape.items % views == 0
            for values in (plan.begin, plan.length, plan.utterance, plan.silent, plan.tags, plan.targets):
                first, *others = np.split(values, views)
                assert all(np.array_equal(first, other) for other in others)
            rows = [(event.row, event.name, event.sound, event.first, event.gain_db) for event in plan.events]
            half = plan.shape.items // views
            assert sorted(rows) == sorted(
                (row + view * half, *event) for row, *event in rows if row < half for view in range(views)
            )


def test_both_views_of_a_row_are_heard_in_one_rhythm_and_with_distortions_of_their_own() -> None:
    shape = NetworkShape(output_size=8, attention_heads=2, linear_units=8, num_blocks=1, tp_blocks=1)
    frames, rows = 40, 3
    torch.manual_seed(0)
    samples = torch.randn(rows, RowShape(rows, frames).samples).repeat(2, 1) * 0.1
    numbers = torch.arange(frames)[None, :, None].expand(2 * rows, frames, 3)
    empty = torch.zeros(2 * rows, 4, dtype=torch.long)
    batch = Batch(samples, empty, empty, empty, empty[:, 0], numbers, views=2)
    features, phonemes = heard(TrainingNetwork(shape, identity_frontend(7, 6)), batch, 1.0)
    assert torch.equal(phonemes[:rows], phonemes[rows:])
    assert not torch.equal(phonemes[0], phonemes[1]) and not torch.equal(phonemes[0], numbers[0])
    assert not torch.equal(features[:rows], features[rows:])


def test_utterances_lie_one_after_the_other_within_the_row_and_many_end_with_it() -> None:
    drawn = planner(event_share=0.0, mixed_share=0.3)
    after_s = []
    for plan in (drawn.draw() for _ in range(60)):
        spoken = plan.utterance >= 0
        ends = plan.begin + plan.length
        assert (ends[spoken] <= room_of(plan)).all() and (plan.begin >= 0).all()
        both = spoken[:, 1:]
        assert (plan.begin[:, 1:][both] >= ends[:, :-1][both]).all()
        with_event = {event.row for event in plan.events if event.name == "Cough"}
        alone = [row for row in range(len(spoken)) if spoken[row].any() and row not in with_event]
        after_s += ((room_of(plan) - ends.max(axis=1))[alone] / 16_000).tolist()
    assert 0.3 < np.mean(np.array(after_s) < 0.15) < 0.9
    assert np.mean(np.array(after_s) > 0.5) > 0.1


def test_languages_are_heard_by_their_weights_and_half_of_the_time_neutral() -> None:
    tags = dict.fromkeys(TAGS, 1)
    lang, emotion = (
        kind.ravel() for kind in np.divmod(np.arange(400) % 12, 4)
    )  # three languages, four emotions
    catalogue = Catalogue(np.full(400, 16_000), np.zeros(400, int), emotion, lang, TEXTS, tags, {})
    recipe = Recipe(batch_s=60.0, nothing_share=0.0, language_weights=(1.0, 3.0, 1.0, 9.0, 9.0))
    drawn = Planner(catalogue, recipe, seed=0)
    heard = [drawn._kind_of_speech() for _ in range(4_000)]
    assert np.bincount([language for language, _ in heard]) / 4_000 == pytest.approx(
        [0.2, 0.6, 0.2], abs=0.03
    )
    assert np.bincount([mood for _, mood in heard]) / 4_000 == pytest.approx([0.625, *[0.125] * 3], abs=0.03)


class AdaptiveNorm(nn.Module):
    """Kokoro's `AdaIN1d`."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(channels, affine=True)
        self.fc = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.fc(style)[..., None].chunk(2, dim=1)
        result: Tensor = (1 + gamma) * self.norm(x) + beta
        return result


class Residual(nn.Module):
    """Kokoro's `AdaINResBlock1` without its weight norm."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        for name in ("1", "2"):
            convolutions = [nn.Conv1d(channels, channels, 3, dilation=d, padding=d) for d in (1, 3)]
            setattr(self, f"convs{name}", nn.ModuleList(convolutions))
            setattr(self, f"adain{name}", nn.ModuleList(AdaptiveNorm(style, channels) for _ in range(2)))
            alphas = [nn.Parameter(torch.rand(1, channels, 1) + 0.5) for _ in range(2)]
            setattr(self, f"alpha{name}", nn.ParameterList(alphas))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        def snake(x: Tensor, alpha: Tensor) -> Tensor:
            return x + (1 / alpha) * torch.sin(alpha * x) ** 2

        for c1, c2, n1, n2, a1, a2 in zip(
            *(self.convs1, self.convs2, self.adain1, self.adain2, self.alpha1, self.alpha2), strict=True
        ):
            x = x + c2(snake(n2(c1(snake(n1(x, style), a1)), style), a2))
        return x


@pytest.mark.parametrize(("dtype", "least_db"), [(torch.float32, 100), (torch.bfloat16, 30)])
def test_the_vocoders_blocks_sound_the_same_done_quickly(dtype: torch.dtype, least_db: float) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList(Residual(4, 6) for _ in range(2))
    for norm in (module for module in blocks.modules() if isinstance(module, nn.InstanceNorm1d)):
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
    decoder = nn.Module()
    decoder.generator = nn.Module()
    decoder.generator.resblocks, decoder.generator.noise_res = blocks[:1], blocks[1:]
    x, style = torch.randn(2, 6, 50) * 3 + 1, torch.randn(2, 4)
    with torch.no_grad():
        wanted = [block(x, style) for block in blocks]
        quicken(decoder, dtype)
        found = [block(x, style) for block in blocks]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert 10 * torch.log10((theirs**2).mean() / ((mine - theirs) ** 2).mean()) > least_db


# --- distortions -----------------------------------------------------------------------------------

SHAPE = RowShape(items=64, frames=36)


@pytest.fixture
def bank() -> SoundBank:
    torch.manual_seed(0)
    rooms = torch.zeros(3, 12_000)
    rooms[:, 0] = 1.0
    rooms[:, 4_000] = 0.5
    music = torch.sin(torch.arange(32_000) * 0.3)[None] * 2**0.5
    return SoundBank(torch.randn(4, 32_000), music, rooms)


def sources(hz: float, points: int) -> torch.Tensor:
    """Rows of a tone at 16 kHz, silent at their end."""
    tone = 0.1 * torch.sin(2 * torch.pi * hz * torch.arange(points) / 16_000)
    tone[SHAPE.samples * points // SHAPE.points :] = 0
    return tone.repeat(SHAPE.items, 1)


@pytest.mark.parametrize("number", [0, 5, 12])
def test_a_change_of_speed_moves_the_pitch_and_keeps_the_level(bank: SoundBank, number: int) -> None:
    points = SHAPE.sources()[number]
    wet = filtered(sources(1_000, points), SHAPE, bank, 0.0)
    assert wet.shape == (SHAPE.items, SHAPE.samples)
    spectrum = torch.fft.rfft(wet[0]).abs()
    found_hz = spectrum.argmax() * 16_000 / SHAPE.samples
    assert found_hz == pytest.approx(1_000 * points / SHAPE.points, abs=1)
    assert level(wet).mean() == pytest.approx(0.1 / 2**0.5, rel=0.02)


def test_undistorted_sound_passes_unchanged(bank: SoundBank) -> None:
    given = sources(1_000, SHAPE.points)
    torch.testing.assert_close(
        filtered(given, SHAPE, bank, 0.0), given[:, : SHAPE.samples], atol=1e-3, rtol=0
    )


def test_rooms_and_telephone_bands_are_heard_in_their_shares(bank: SoundBank) -> None:
    clicks = torch.zeros(1_000, SHAPE.points)
    clicks[:, 2_000] = 1.0
    wet = filtered(clicks, RowShape(1_000, SHAPE.frames), bank, 1.0)
    echoes = wet[:, 5_950:6_050].abs().amax(1) > 0.2 * wet[:, 1_950:2_050].abs().amax(1)
    assert echoes.float().mean() == pytest.approx(0.35, abs=0.06)
    power = torch.fft.rfft(wet[:, 1_900:2_156]).abs().square()  # 62.5 Hz a bin
    dull = power[:, 70:120].mean(1) < 1e-3 * power[:, 10:50].mean(1)  # 4.4 to 7.5 kHz against 0.6 to 3.1 kHz
    assert 0.1 < dull.float().mean() < 0.3


@pytest.mark.parametrize(("strength", "loudest_db"), [(0.0, 30), (1.0, 2)])
def test_noise_is_as_loud_as_stated_and_a_quarter_has_none(
    bank: SoundBank, strength: float, loudest_db: float
) -> None:
    clean = 0.1 * torch.randn(2_000, 8_000)
    added = with_noise(clean, bank, strength) - clean
    snr_db = 20 * torch.log10(level(clean) / level(added))[:, 0]
    there = added.abs().amax(1) > 0
    assert there.float().mean() == pytest.approx(0.75, abs=0.04)
    assert loudest_db - 0.6 < snr_db[there].min() < loudest_db + 2 and 34 < snr_db[there].max() < 36.6


def test_recordings_have_the_stated_levels_and_hiss() -> None:
    torch.manual_seed(0)
    peaks = recorded(torch.randn(500, 4_000), 1.0).abs().amax(1)
    peaks_db = 20 * torch.log10(peaks)
    assert -26.2 < peaks_db.min() < -25 and -1.6 < peaks_db.max() <= 0
    hiss_db = 20 * torch.log10(level(recorded(torch.zeros(500, 4_000), 1.0)))
    assert -90.5 < hiss_db.min() < -88 and -62 < hiss_db.max() < -59.5


FUSED = """
import torch
from torch import Tensor, nn
from training import augment, batches, fused, memory, spelling, vocoder

def both(plain, *given):
    results = []
    for usable in (False, True):
        fused.usable = lambda tensor: usable
        results.append(plain(*given))
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-5)

torch.manual_seed(0)
for width, frames in ((24, 9), (64, 300)):
    qkv = torch.randn(3, frames, 3 * width)
    values, slope, taps = qkv[..., -width:], torch.randn(3, frames, width), torch.randn(11, width)
    both(memory.convolved, values, taps)
    both(memory.tap_slopes, slope, values, 11)
audio = torch.randint(-9_000, 9_000, (20_000,), dtype=torch.int16)
begin, length = torch.tensor([[0, 3_000], [100, 0]]), torch.tensor([[2_500, 2_000], [4_900, 0]])
both(batches.laid_out, audio, torch.tensor([[0, 7_000], [15_000, 0]]), begin, length, 5_000)
rows = torch.tensor([[1, 0, 0, 0], [0, 2, 1, 1], [2, 0, 1, 0]])
both(augment.mixed, torch.randn(3, 5_000), torch.randn(2, 3_000), torch.randn(2, 1_700),
     torch.tensor([0, 1, 2]), rows, torch.tensor([2_990, 5, 0]), torch.rand(3))
for size in (30, 2_048, 5_001):
    logits = 4 * torch.randn(2, 3, size)
    both(spelling.log_sums, logits)
    both(spelling.softmax_slopes, logits, logits.logsumexp(-1), torch.rand(2, 3))
    slope, weight = torch.randn(2, 3, size), torch.tensor(0.3)
    both(spelling.drawn_together, logits, logits.logsumexp(-1), slope, weight)
    both(vocoder.styled, 3 * torch.randn(2, 3, size) + 1, *torch.randn(2, 2, 3), torch.rand(3) + 0.5, torch.float32)
"""


def test_the_fused_kernels_compute_what_the_plain_ones_do() -> None:
    """In Triton's interpreter, since there may be no GPU."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds only")
    settings = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", FUSED], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""The stages that speak and mix: everything but the synthesiser's network, which is not in the repository."""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
from training import __main__ as stages
from training.augment import quick_size, warped
from training.batches import Catalogue, Planner, Recipe, laid_out
from training.codecs import CODECS, aligned, through_codec
from training.kokoro import Request, Spoken
from training.speech import ALL_TRAINING_VOICES, HELD_OUT_VOICES, TRAINING_VOICES, Cast, Speech

TOKENS = 60


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
    monkeypatch.setattr(stages, "load_kokoro", lambda *_: None)
    monkeypatch.setattr(stages, "Synthesiser", Humming)
    return tmp_path


def arguments(**changed: Any) -> argparse.Namespace:
    known = {"part": (0, 1), "takes": 1, "seed": 0, "limit": None, "workers": 1, "robot_share": 0.0}
    return argparse.Namespace(
        **{**known, "codec_share": 0.0, "seconds": 1e9, "hours": None, "batch_frames": 100, **changed}
    )


def test_the_parts_of_the_audio_stage_make_up_all_lines_in_every_take(work: Path) -> None:
    for part in range(3):
        stages.make_audio(work, arguments(part=(part, 3), takes=2))
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
    stages.make_audio(work, arguments())
    clean = Speech.load(work / "audio" / "train.0.pt").audio.numpy().copy()
    stages.make_audio(work, arguments(codec_share=0.5))
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


def test_a_warp_of_nothing_changes_nothing_and_a_warp_moves_a_peak_up_or_down() -> None:
    torch.manual_seed(0)
    mel = torch.zeros(64, 3, 80)
    mel[:, :, 40] = 1
    torch.testing.assert_close(warped(mel, 0.0), mel, atol=1e-4, rtol=0)
    peaks = set(warped(mel, 1.0)[:, 0].argmax(-1).tolist())
    assert min(peaks) < 38 and max(peaks) > 42


def test_pieces_are_laid_where_they_belong() -> None:
    audio = torch.arange(100, dtype=torch.int16)
    out = laid_out(
        audio,
        torch.tensor([[10, 50], [20, 0]]),
        torch.tensor([[2, 6], [0, 0]]),
        torch.tensor([[3, 2], [1, 0]]),
        9,
    )
    wanted = [[0, 0, 10, 11, 12, 0, 50, 51, 0], [20, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert (out * 32_768).round().int().tolist() == wanted


def test_a_lone_event_lies_within_its_row_and_some_are_short() -> None:
    tags = dict.fromkeys(stages.TAGS, 1)
    catalogue = Catalogue(
        np.full(40, 30_000), np.zeros(40, int), np.zeros(40, int), np.zeros(40, int), [[5]], [[5]], [[5]], [[5]],
        tags, {"Cough": 3, "BGM": 2},
    )  # fmt: skip
    planner = Planner(catalogue, Recipe(batch_s=60.0, event_share=1.0, nothing_share=0.0), seed=0)
    plans = [planner.draw() for _ in range(40)]
    placed = [(event, plan.total[event.row]) for plan in plans for event in plan.events]
    assert all(event.first >= 0 and event.first + event.count <= total for event, total in placed)
    assert all(event.count == total for event, total in placed if event.name == "BGM")
    short = [event.count < total for event, total in placed if event.name == "Cough"]
    assert 0.3 < np.mean(short) < 0.7

"""The training stages on a processor, from speech to a packed model, with tones for phonemes."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sensevoice.checkpoint import find_tokenizer, load_checkpoint
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.options import TranscribeOptions
from sensevoice.pipeline import Transcriber
from training.__main__ import main
from training.materials import spelled
from training.results import evaluate_model
from training.speech import Line, Speech
from training.testsets import held_out_clips, write_set

TEXTS = {"en": "good morning", "zh": "早上好", "yue": "早晨", "ja": "おはよう", "ko": "안녕하세요"}
ROOT = Path(__file__).resolve().parents[1]
SAID = dict.fromkeys(TEXTS, "abc") | {"en": "ɡˈʊd mˈɔɹ"}  # as many symbols as have tones
SYMBOLS = {symbol: number for number, symbol in enumerate("abc dmɔɡɹʊˈ", 1)}
UNITS, UNIT_FRAMES, SAMPLES = 12, 4, 12 * 4 * 400
SMALL = ("--width", "32", "--hidden", "64", "--blocks", "3", "--tp-blocks", "1", "--dropout", "0")
QUICK = ("--batch-s", "24", "--per-kind", "1", "--workers", "0")


def lines(split: str) -> list[Line]:
    return [Line(name, text, text, SAID[name], split=split) for name, text in TEXTS.items()]


def tones(units: np.ndarray) -> np.ndarray:
    """A second or so of tones, one for each phoneme, [SAMPLES] int16."""
    seconds = np.arange(UNIT_FRAMES * 400) / 16_000
    return np.concatenate([8_000 * np.sin(2 * np.pi * (200 + 40 * u) * seconds) for u in units]).astype(
        np.int16
    )


def speech(count: int) -> Speech:
    """One utterance a line, its phonemes drawn once and for all."""
    units = np.random.default_rng(0).integers(1, 90, (count, UNITS))
    return Speech(
        audio=torch.from_numpy(np.concatenate([tones(row) for row in units])),
        start=torch.arange(count) * SAMPLES,
        length=torch.full((count,), SAMPLES),
        line=torch.arange(count),
        emotion=torch.arange(count) % 4,
        unit_start=torch.arange(count) * UNITS,
        unit_count=torch.full((count,), UNITS),
        units=torch.from_numpy(units.astype(np.uint8).ravel()),
        unit_frames=torch.full((count * UNITS,), UNIT_FRAMES, dtype=torch.uint8),
    )


def run(stage: str, work: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["training", stage, "--work", str(work), *options])
        main()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after the stages train and vad, which had a few steps and seconds."""
    work = tmp_path_factory.mktemp("work")
    (work / "text").mkdir()
    (work / "audio").mkdir()
    shutil.copy(find_tokenizer(STARTER_DIRECTORY), work / "text" / "starter.bpe.model")
    for name, rows in (("train", lines("train")), ("held_out", [*lines("dev"), *lines("test")])):
        with lzma.open(work / "text" / f"{name}.jsonl.xz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    (work / "kokoro").mkdir()
    (work / "kokoro" / "vocab.json").write_text(json.dumps({"vocab": SYMBOLS}))
    speech(5).save(work / "audio" / "train.0.pt")
    speech(10).save(work / "audio" / "held_out.pt")
    run("train", work, "--steps", "5", "--rate", "1", *SMALL, *QUICK)
    run("vad", work, "--seconds", "1", *QUICK)
    return work


def test_the_packed_model_is_one_that_the_program_runs(work: Path) -> None:
    transcriber = Transcriber.load(str(work / "model"), device="cpu", offline=True)
    assert transcriber.info.parameters < 500_000
    transcript = transcriber.transcribe(
        (16_000, np.zeros(16_000, np.float32)), TranscribeOptions(use_vad=False)
    )
    (segment,) = transcript.segments
    assert segment.language in {*TEXTS, "nospeech"}


def test_training_moves_the_weights_and_keeps_them_finite(work: Path) -> None:
    network = load_checkpoint(work / "model").network
    weights = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    norms = [tensor for name, tensor in weights.items() if name.endswith("norm1.weight")]
    assert norms
    assert not any(torch.equal(tensor, torch.ones_like(tensor)) for tensor in norms)  # as they began


def test_training_goes_on_in_two_processes_from_the_packed_model(work: Path) -> None:
    before = load_checkpoint(work / "model")
    stage = [
        sys.executable,
        "-m",
        "training",
        "train",
        "--work",
        str(work),
        "--start-from",
        str(work / "model"),
    ]
    options = ("--name", "further", "--steps", "3", "--gpus", "2", *SMALL, *QUICK, "--workers", "1")
    done = subprocess.run([*stage, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters") == 1  # one speaks for all
    after = load_checkpoint(work / "further")
    assert torch.equal(after.frontend.shift, before.frontend.shift)
    old, new = before.network.state_dict(), after.network.state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert all((old[name] - new[name]).abs().max() < 0.05 for name in old)


def test_the_profile_names_each_part_of_a_step(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("profile", work, "--seconds", "6", *SMALL, *QUICK)
    printed = capsys.readouterr().out
    for part in ("realise", "features", "forward", "ctc", "backward", "optimiser"):
        assert part in printed
    assert re.search(r"\d steps/s, without CUDA graphs", printed)


def test_the_tokenizer_can_be_made_anew_for_the_lines_that_there_are(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "text", tmp_path / "text")
    run("tokenizer", tmp_path, "--english-pieces", "60")
    tokenizer = SentencePieceProcessor(model_file=str(tmp_path / "text" / "starter.bpe.model"))
    for text in TEXTS.values():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_english_word_is_spelled_alike_wherever_it_stands() -> None:
    tokenizer = SentencePieceProcessor(model_file=str(find_tokenizer(STARTER_DIRECTORY)))
    said = [Line("en", "Star.", "star", ""), Line("zh", "早", "早", ""), Line("ko", "안녕", "안녕", "")]
    known = spelled(tokenizer, said)
    assert [tokenizer.id_to_piece(i) for i in known.without_itn[0]] == ["▁star"]
    assert known.space_without_itn[0] == known.without_itn[0]
    assert known.with_itn[0] == known.space_with_itn[0] == tokenizer.encode(" Star.")
    assert known.without_itn[1:] == tokenizer.encode(["早", "안녕"])
    assert known.space_without_itn[1:] == tokenizer.encode(["早", " 안녕"])


def test_the_normalisation_was_measured_on_the_sound(work: Path) -> None:
    frontend = load_checkpoint(work / "model").frontend
    assert frontend.shift.abs().max() > 1
    assert torch.equal(frontend.shift[:80], frontend.shift[80:160])


def test_held_out_clips_are_those_of_their_split(work: Path) -> None:
    dev, test = held_out_clips(work, "dev"), held_out_clips(work, "test")
    assert [clip.language for clip in test] == sorted(TEXTS)
    assert {clip.text for clip in dev} == {clip.text for clip in test} == set(TEXTS.values())
    assert not {clip.key for clip in dev} & {clip.key for clip in test}
    assert max(np.abs(test[0].samples)) == pytest.approx(0.4 * 8_000 / 32_768, rel=0.01)


def test_the_packed_model_can_be_evaluated_and_described(work: Path) -> None:
    clips = [clip for clip in held_out_clips(work, "test") if clip.language in ("ja", "ko")]
    write_set(work / "testsets", "clean", clips)
    report = evaluate_model(work, work / "model")
    assert "| clean | ja | 1 |" in report
    run("card", work)
    assert report in (work / "model" / "MODEL_CARD.md").read_text(encoding="utf-8")

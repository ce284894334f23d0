"""Batches of like length, and what is in them."""

from __future__ import annotations

import copy
import warnings
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sensevoice.checkpoint import Checkpoint, find_tokenizer, load_checkpoint
from sensevoice.finetune.batches import Batch, collate, length_batches
from sensevoice.finetune.dataset import Example, write_examples
from sensevoice.finetune.losses import NOT_GIVEN, tag_losses, text_loss
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.network import query_ids
from sensevoice.tags import TagKind


@given(st.lists(st.integers(1, 300), max_size=80), st.integers(1, 2_000), st.integers(0, 5))
def test_every_utterance_is_in_one_batch_and_none_is_too_large(
    lengths: list[int], batch_frames: int, seed: int
) -> None:
    batches = list(length_batches(lengths, batch_frames, seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= batch_frames


def test_batches_of_like_length_hold_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 1_000).tolist()
    batches = list(length_batches(lengths, 4_000, seed=0))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.9


def test_a_seed_gives_the_same_batches_and_another_one_others() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 200).tolist()
    first, again, other = (list(length_batches(lengths, 4_000, seed)) for seed in (1, 1, 2))
    assert first == again
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in other}


@pytest.fixture(scope="module")
def starter() -> Checkpoint:
    return load_checkpoint(STARTER_DIRECTORY)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    for name, samples in (("long", 32_000), ("short", 16_000)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(0).integers(-99, 99, samples, np.int16).tobytes())
    return [
        Example("a", tmp_path / "long.wav", "good morning", "en", "HAPPY", "Speech", "withitn"),
        Example("b", tmp_path / "short.wav", "", "nospeech", "", "Laughter"),
    ]


def collated(examples: list[Example], starter: Checkpoint, told_language: float) -> Batch:
    rng = np.random.default_rng(0)
    return collate(examples, starter.frontend, starter.vocabulary, rng, told_language=told_language)


def test_a_batch_holds_the_features_texts_and_tags_of_its_examples(
    starter: Checkpoint, examples: list[Example]
) -> None:
    batch = collated(examples, starter, told_language=1.0)
    assert batch.frames.tolist() == [33, 17]
    assert batch.features.shape == (2, 33, 560)
    assert not batch.features[1, 17:].any()
    assert starter.vocabulary.decode(batch.targets[0, : batch.target_lengths[0]].tolist()) == "good morning"
    assert batch.target_lengths[1] == 0
    assert batch.queries.tolist() == [query_ids("en", True), query_ids("nospeech", False)]
    ids = {name: id for kind in TagKind for name, id in starter.vocabulary.tag_ids(kind).items()}
    assert batch.tags.tolist() == [
        [ids["en"], ids["HAPPY"], ids["Speech"], ids["withitn"]],
        [ids["nospeech"], NOT_GIVEN, ids["Laughter"], NOT_GIVEN],
    ]


def test_a_batch_is_what_funasr_trains_on(
    starter: Checkpoint, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        funasr = pytest.importorskip("funasr.datasets.sense_voice_datasets.datasets")
        from funasr.frontends.wav_frontend import WavFrontend
        from funasr.tokenizer.sentencepiece_tokenizer import SentencepiecesTokenizer
    spoken = examples[:1]
    (tmp_path / "lists").mkdir()  # beside the sound, so that the path is written in full, which FunASR needs
    write_examples(tmp_path / "lists" / "train.jsonl", spoken)
    frontend = starter.config["frontend_conf"] | {"cmvn_file": str(STARTER_DIRECTORY / "am.mvn")}
    monkeypatch.chdir(tmp_path)
    (sample,) = funasr.SenseVoiceCTCDataset(
        str(tmp_path / "lists" / "train.jsonl"),
        index_ds="IndexDSJsonl",
        frontend=WavFrontend(**frontend),
        tokenizer=SentencepiecesTokenizer(bpemodel=str(find_tokenizer(STARTER_DIRECTORY))),
        batch_size=10_000,
    )
    batch = collated(spoken, starter, told_language=1.0)
    assert [*batch.tags[0].tolist(), *batch.targets[0].tolist()] == sample["text"].tolist()
    assert batch.frames.tolist() == sample["speech_lengths"].tolist()
    torch.testing.assert_close(batch.features[0], sample["speech"], atol=2e-3, rtol=0)


def test_a_batch_in_which_nobody_speaks_has_a_loss(starter: Checkpoint, examples: list[Example]) -> None:
    batch = collated(examples[1:], starter, told_language=1.0)
    logits = starter.network(batch.features, batch.queries, batch.frames)
    assert batch.target_lengths.tolist() == [0]
    assert torch.isfinite(text_loss(logits, batch.frames, batch.targets, batch.target_lengths))


def test_the_network_is_told_the_language_as_often_as_is_asked(
    starter: Checkpoint, examples: list[Example]
) -> None:
    assert collated(examples, starter, told_language=0.0).queries[:, 0].tolist() == [0, 0]


def test_a_batch_can_be_learned_from(starter: Checkpoint, examples: list[Example]) -> None:
    batch = collated(examples, starter, told_language=0.8)
    torch.manual_seed(0)
    network = copy.deepcopy(starter.network).requires_grad_(True)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-4)
    totals = []
    for _ in range(3):
        logits = network(batch.features, batch.queries, batch.frames)
        text = text_loss(logits, batch.frames, batch.targets, batch.target_lengths)
        total = text + tag_losses(logits, batch.tags).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[2] < totals[1] < totals[0]

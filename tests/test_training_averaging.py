"""Models between others: the tool "average"."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sensevoice.checkpoint import find_tokenizer, load_checkpoint
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.network import NetworkShape, SenseVoiceNetwork
from training.averaging import average_models
from training.materials import identity_frontend
from training.pack import pack_recogniser
from training.resume import StartError

TOKENIZER = find_tokenizer(STARTER_DIRECTORY)
SHAPE = NetworkShape(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    tp_blocks=1,
    vocab_size=load_checkpoint(STARTER_DIRECTORY).network.shape.vocab_size,
)


def packed(out: Path, seed: int, shape: NetworkShape = SHAPE, shift: float = 0.0) -> dict[str, Tensor]:
    """Pack a random model; its weights as they were kept."""
    torch.manual_seed(seed)
    network, frontend = SenseVoiceNetwork(shape), identity_frontend(7, 6)
    frontend.shift += shift
    pack_recogniser(out, network, shape, frontend, TOKENIZER)
    return {name: weight.half().double() for name, weight in network.state_dict().items()}


def average(work: Path, models: list[Path], shares: list[float] | None = None) -> dict[str, Tensor]:
    average_models(work, argparse.Namespace(models=models, shares=shares, name="mean"))
    return load_checkpoint(work / "mean").network.state_dict()


@pytest.mark.parametrize(("shares", "first"), [(None, 0.5), ([3.0, 7.0], 0.3)])
def test_each_weight_is_the_mean_by_share(tmp_path: Path, shares: list[float] | None, first: float) -> None:
    a, b = packed(tmp_path / "a", 1), packed(tmp_path / "b", 2)
    found = average(tmp_path, [tmp_path / "a", tmp_path / "b"], shares)
    wanted = {name: (first * a[name] + (1 - first) * b[name]).half().float() for name in a}
    torch.testing.assert_close(dict(found), wanted, atol=1e-6, rtol=1e-3)


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    packed(tmp_path / "a", 1)
    packed(tmp_path / "wider", 1, replace(SHAPE, linear_units=16))
    packed(tmp_path / "other", 1, shift=1.0)
    with pytest.raises(StartError, match="linear_units 16, not 12"):
        average(tmp_path, [tmp_path / "a", tmp_path / "wider"])
    with pytest.raises(ValueError, match="not of one training"):
        average(tmp_path, [tmp_path / "a", tmp_path / "other"])
    with pytest.raises(ValueError, match="2 models, but 1 shares"):
        average(tmp_path, [tmp_path / "a", tmp_path / "a"], [1.0])
    assert not (tmp_path / "mean").exists()

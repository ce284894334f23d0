"""Tool "average": one model whose weights lie between those of several, which hears new voices better than either.

What a training packs on its way and at its end lie in one valley; weights between them forget some of what was learnt
by heart (https://arxiv.org/abs/2203.05482).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from sensevoice.checkpoint import Checkpoint, find_tokenizer, load_checkpoint
from training.pack import pack_recogniser
from training.resume import load_start


def average_models(work: Path, args: argparse.Namespace) -> None:
    """Pack the mean of `args.models`, weighted by `args.shares` (alike if there are none), as W/NAME.

    Raises StartError if they differ in shape or tokenizer, and ValueError if they are not of one training, or if there
    is not a share for each.
    """
    first, *others = args.models
    tokenizer, checkpoint = find_tokenizer(first), load_checkpoint(first)
    rest = [load_start(model, checkpoint.network.shape, tokenizer) for model in others]
    merge([checkpoint, *rest], args.shares or [1.0] * len(args.models))
    pack_recogniser(
        work / args.name, checkpoint.network, checkpoint.network.shape, checkpoint.frontend, tokenizer
    )


@torch.no_grad()
def merge(checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> None:
    """Put the weighted mean of all networks into the first. Raises ValueError; see `average_models`."""
    if len(shares) != len(checkpoints):
        raise ValueError(f"{len(checkpoints)} models, but {len(shares)} shares")
    first = checkpoints[0]
    if not all(torch.equal(one.frontend.shift, first.frontend.shift) for one in checkpoints):
        raise ValueError("the models normalise features differently: they are not of one training")
    states = [one.network.state_dict() for one in checkpoints]
    for name, weight in states[0].items():
        mean = sum(share * state[name].double() for share, state in zip(shares, states, strict=True)) / sum(
            shares
        )
        weight.copy_(mean)

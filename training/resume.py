"""Going on from a trained model: what several short runs need to add up to a long one.

Beside the packed folder NAME, which holds the averaged weights in fp16, training leaves NAME.state.pt: the same
average in fp32, and the phoneme reader. The optimiser's moments would be twice as much again, and a
warm-up of 200 steps makes up for them.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from sensevoice.checkpoint import Checkpoint, find_tokenizer, load_checkpoint
from sensevoice.network import NetworkShape
from training.network import TrainingNetwork

READER = ("phoneme_norm.", "phoneme_head.")


class StartError(ValueError):
    """Training cannot go on from a model; the message says why."""

    def __init__(self, model: Path, reason: str) -> None:
        super().__init__(f"training cannot start from {model}: {reason}")


def state_path(model: Path) -> Path:
    """Where the fp32 state of a packed model is kept."""
    return model.parent / f"{model.name}.state.pt"


def save_state(out: Path, model: TrainingNetwork) -> None:
    """Write the weights as they are now, the phoneme reader's among them."""
    weights = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
    torch.save(weights, state_path(out))


def load_start(model: Path, shape: NetworkShape, tokenizer: Path) -> Checkpoint:
    """The packed model, if it is of the wanted shape and vocabulary; StartError says what differs."""
    if find_tokenizer(model).read_bytes() != tokenizer.read_bytes():
        raise StartError(
            model, f"its tokenizer is another than {tokenizer}, so that its tokens mean other texts"
        )
    checkpoint = load_checkpoint(model)
    found, wanted = asdict(checkpoint.network.shape), asdict(shape)
    differing = [
        f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]
    ]
    if differing:
        raise StartError(model, f"it has {', '.join(differing)}")
    return checkpoint


@torch.no_grad()
def restore(network: TrainingNetwork, checkpoint: Checkpoint) -> None:
    """Take a model's weights: the fp32 ones if its state is beside it, else the packed ones.

    Without a state the phoneme reader is trained anew. Raises StartError if the state is another model's.
    """
    model = checkpoint.info.path
    packed = {f"network.{name}": weight for name, weight in checkpoint.network.state_dict().items()}
    weights = _state_of(model, packed) if state_path(model).is_file() else packed
    for name, weight in network.named_parameters():
        if name in weights or not name.startswith(READER):
            weight.copy_(weights[name])


def _state_of(model: Path, packed: dict[str, Tensor]) -> dict[str, Tensor]:
    state = torch.load(state_path(model), weights_only=True)
    if not all(
        name in state and torch.equal(state[name].half(), weight.half()) for name, weight in packed.items()
    ):
        reason = (
            f"{state_path(model).name} is the state of another model; without it the packed weights are used"
        )
        raise StartError(model, reason)
    weights: dict[str, Tensor] = state
    return weights

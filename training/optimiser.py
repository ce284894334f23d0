"""The optimiser: Muon for the matrices of the blocks, AdamW for everything else.

Muon takes the momentum of a matrix and makes all its singular values alike, so that rare directions are learnt as fast
as frequent ones. After Keller Jordan (https://kellerjordan.github.io/posts/muon/), with the step's size and the decay
of "Muon is scalable for LLM training" (https://arxiv.org/abs/2502.16982), which lets both parts share a rate.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from training.flat import FlatWeights

MOMENTUM = 0.95
ROUNDS = 5
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # Keller Jordan's: singular values end between 0.7 and 1.2
ADAM_RMS = 0.2  # what an entry of AdamW's step is like, in rates
MATRIX_DECAY, OTHER_DECAY = 0.05, 0.02


def orthogonalised(matrices: Tensor) -> Tensor:
    """The matrices with their singular values near one, [count, rows, columns], in bfloat16 on a GPU."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    x = x.bfloat16() if x.is_cuda else x
    first, third, fifth = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


class Optimiser:
    """Takes steps with the slopes that the weights have."""

    def __init__(self, weights: FlatWeights, *, muon: bool) -> None:
        """`muon`: else AdamW has the matrices, too."""
        count = weights.matrix_count if muon else 0
        self._values, self._slopes = weights.values[:count], weights.slopes[:count]
        self._momentum, self._ahead, self._step = (torch.zeros_like(self._values) for _ in range(3))
        self._groups = self._alike(weights) if muon else []
        rest = torch.nn.Parameter(weights.values[count:])
        rest.grad = weights.slopes[count:]
        self._adam = torch.optim.AdamW([rest], betas=(0.9, 0.98), weight_decay=OTHER_DECAY, fused=True)

    def _alike(self, weights: FlatWeights) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Where the matrices of each shape have their slopes looked ahead, and their steps."""
        groups: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        places = weights.matrices_of(self._ahead), weights.matrices_of(self._step)
        for ahead, step in zip(*places, strict=True):
            groups[ahead.shape][0].append(ahead)
            groups[ahead.shape][1].append(step)
        return list(groups.values())

    @torch.no_grad()
    def step(self, rate: float, bad: Tensor) -> None:
        """Take a step, or none if `bad` [] is 1, which it is if the slopes are not finite, else 0."""
        self._adam.found_inf = bad  # type: ignore[attr-defined]
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        if self._groups:
            self._step_matrices(rate, bad)

    def _step_matrices(self, rate: float, bad: Tensor) -> None:
        good = 1 - bad
        slopes = torch.where(bad > 0, 0.0, self._slopes)
        self._momentum.lerp_(slopes, (1 - MOMENTUM) * good)
        torch.lerp(slopes, self._momentum, MOMENTUM, out=self._ahead)  # Nesterov's
        for ahead, steps in self._groups:
            whole = orthogonalised(torch.stack(ahead))
            whole *= ADAM_RMS * max(whole.shape[1:]) ** 0.5
            torch._foreach_copy_(steps, list(whole.unbind()))
        self._values.mul_(1 - rate * MATRIX_DECAY * good).addcmul_(self._step, good, value=-rate)

"""All weights of a model in one tensor, so that a step of the optimiser is a handful of launches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensevoice.network import FeedForward, SanmAttention

ALIGNMENT = 64  # numbers: no weight begins off a cache line
Q_K_V = 3  # matrices in one


class FlatWeights:
    """The model's parameters become views of `values`; their gradients are put into `slopes`.

    The matrices of its blocks come first, in the first `matrix_count` numbers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = block_matrices(model)  # and of how many matrices each is made
        matrices = list(self._parts)
        known = {id(p) for p in matrices}
        self.parameters = [*matrices, *(p for p in model.parameters() if id(p) not in known)]
        self._sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in self.parameters]
        self.matrix_count = sum(self._sizes[: len(matrices)])
        first = self.parameters[0]
        self.values = torch.zeros(sum(self._sizes), device=first.device)
        self.slopes = torch.zeros_like(self.values)
        self._slope_views = self._views(self.slopes)
        with torch.no_grad():
            for parameter, view in zip(self.parameters, self._views(self.values), strict=True):
                view.copy_(parameter)
                parameter.data = view

    def put_slopes(self, slopes: tuple[Tensor, ...]) -> None:
        """Take the parameters' gradients."""
        torch._foreach_copy_(self._slope_views, list(slopes))

    def clip(self, longest: float) -> Tensor:
        """Shorten the gradient to a norm; returns the norm that it had."""
        norm = torch.linalg.vector_norm(self.slopes)
        self.slopes.mul_((longest / (norm + 1e-6)).clamp_max(1.0))
        return norm

    def matrices_of(self, flat: Tensor) -> list[Tensor]:
        """The blocks' matrices as views of their numbers, [matrix_count]; queries, keys and values apart."""
        views = zip(self._views(flat), self._parts.values(), strict=False)
        return [matrix for view, parts in views for matrix in view.chunk(parts)]

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Of all parameters, or of as many as there are numbers for."""
        views, first = [], 0
        for parameter, size in zip(self.parameters, self._sizes, strict=True):
            if first < len(flat):
                views.append(flat[first : first + parameter.numel()].view(parameter.shape))
            first += size
        return views


def block_matrices(model: nn.Module) -> dict[nn.Parameter, int]:
    """The weights of the linear layers in the blocks, and of how many matrices each is made."""
    found = {}
    for module in model.modules():
        if isinstance(module, SanmAttention):
            found |= {module.linear_q_k_v.weight: Q_K_V, module.linear_out.weight: 1}
        elif isinstance(module, FeedForward):
            found |= {module.w_1.weight: 1, module.w_2.weight: 1}
    return found


class Average:
    """Exponential moving average of the weights."""

    def __init__(self, weights: FlatWeights, decay: float) -> None:
        self.decay = decay
        self.live = weights.values
        self.kept = self.live.clone()

    def update(self, step: int) -> None:
        """Take in the newest weights; early on the average follows faster."""
        self.kept.lerp_(self.live, 1 - min(self.decay, (1 + step) / (10 + step)))

    def swap(self) -> None:
        """Exchange the average and the live weights."""
        held = self.live.clone()
        self.live.copy_(self.kept)
        self.kept.copy_(held)

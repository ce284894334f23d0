"""All weights of a model in one tensor, so that a step of the optimiser is a handful of launches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # numbers: no weight begins off a cache line


class FlatWeights:
    """The model's parameters become views of `values`; their gradients are put into `slopes`."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in self.parameters]
        first = self.parameters[0]
        self.values = nn.Parameter(torch.zeros(sum(sizes), device=first.device))
        self.slopes = torch.zeros_like(self.values)
        self.values.grad = self.slopes
        self._slope_views = self._views(self.slopes, sizes)
        with torch.no_grad():
            for parameter, view in zip(self.parameters, self._views(self.values.data, sizes), strict=True):
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

    def _views(self, flat: Tensor, sizes: list[int]) -> list[Tensor]:
        pieces = flat.split(sizes)
        return [piece[: p.numel()].view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]


class Average:
    """Exponential moving average of the weights."""

    def __init__(self, weights: FlatWeights, decay: float) -> None:
        self.decay = decay
        self.live = weights.values.data
        self.kept = self.live.clone()

    def update(self, step: int) -> None:
        """Take in the newest weights; early on the average follows faster."""
        self.kept.lerp_(self.live, 1 - min(self.decay, (1 + step) / (10 + step)))

    def swap(self) -> None:
        """Exchange the average and the live weights."""
        held = self.live.clone()
        self.live.copy_(self.kept)
        self.kept.copy_(held)

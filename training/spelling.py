"""The CTC loss of whole rows and its gradient, with two passes over the logits: `text_loss` makes a dozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.checkpoint import Vocabulary
from sensevoice.finetune.losses import posteriors
from sensevoice.scores import N_QUERY_FRAMES
from training import fused


def text_slope(
    logits: Tensor, targets: Tensor, target_lengths: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of the CTC losses over `tokens` [], and its gradient for the logits, in their precision.

    logits: [batch, 4 + frames, vocabulary]; targets: [batch, tokens]; target_lengths: [batch], on the host.
    A text that has no room in its frames counts as 0.
    """
    totals = log_sums(logits)  # [batch, 4 + frames]
    labels = F.pad(targets, (1, 0), value=Vocabulary.blank_id)  # [batch, 1 + tokens]
    columns = labels[:, None].expand(-1, logits.shape[1] - N_QUERY_FRAMES, -1)
    scores = logits[:, N_QUERY_FRAMES:].gather(2, columns).float() - totals[:, N_QUERY_FRAMES:, None]
    frames = torch.full((len(logits),), scores.shape[1])
    sums, posterior, counted = posteriors(scores, targets, frames, target_lengths)
    each = 1 / tokens.clamp_min(1)
    slope = softmax_slopes(logits, totals, F.pad(counted * each, (N_QUERY_FRAMES, 0)))
    slope[:, N_QUERY_FRAMES:].scatter_add_(2, columns, (-each * posterior).to(slope.dtype))
    return sums.sum() * each, slope


def log_sums(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exp of each frame's logits, [batch, frames] float32."""
    return fused.log_sums(logits) if fused.usable(logits) else logits.float().logsumexp(-1)


def softmax_slopes(logits: Tensor, totals: Tensor, weights: Tensor) -> Tensor:
    """Each frame's softmax times its weight, [batch, frames, vocabulary]; totals and weights: [batch, frames]."""
    if fused.usable(logits):
        return fused.softmax_slopes(logits, totals, weights)
    return ((logits.float() - totals[..., None]).exp() * weights[..., None]).to(logits.dtype)

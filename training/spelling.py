"""The CTC loss of whole rows and its gradient, with two passes over the logits: `text_loss` makes a dozen.

Where a batch has two views of each row, they are to be read alike, whatever noise, room and masks each has: consistency
regularisation (CR-CTC, https://arxiv.org/abs/2410.05101).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.checkpoint import Vocabulary
from sensevoice.finetune.losses import posteriors
from sensevoice.scores import N_QUERY_FRAMES
from training import fused

AGREEMENT = 0.2  # what the difference between views weighs beside the text; CR-CTC's
PAIR = 2


def text_slope(
    logits: Tensor, targets: Tensor, target_lengths: Tensor, tokens: Tensor, *, views: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the CTC losses and of the views' differences over `tokens` [], and their gradient for the logits.

    logits: [batch, 4 + frames, vocabulary], whose precision the gradient has; targets: [batch, tokens];
    target_lengths: [batch], on the host; `views` of each row, 1 or 2, stand one behind the other.
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
    if views != PAIR:
        return sums.sum() * each, torch.zeros_like(each), slope
    slope, apart = drawn_together(logits, totals, slope, AGREEMENT * each)
    return sums.sum() * each, apart * each, slope


def drawn_together(logits: Tensor, totals: Tensor, slope: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The slope with what makes either half's probabilities more like the other's, which stand still meanwhile.

    logits, slope: [batch, frames, vocabulary]; totals: [batch, frames]; weight: [] of what is added.
    Returns the sum over frames of both Kullback-Leibler divergences between the halves, too.
    """
    if fused.usable(logits):
        return fused.drawn_together(logits, totals, slope, weight)
    one, other = (logits.float() - totals[..., None]).chunk(PAIR)
    further = one.exp() - other.exp()  # the gradient of a divergence for what is to follow
    step = weight * further
    return slope + torch.cat([step, -step]).to(slope.dtype), (further * (one - other)).sum()


def log_sums(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exp of each frame's logits, [batch, frames] float32."""
    return fused.log_sums(logits) if fused.usable(logits) else logits.float().logsumexp(-1)


def softmax_slopes(logits: Tensor, totals: Tensor, weights: Tensor) -> Tensor:
    """Each frame's softmax times its weight, [batch, frames, vocabulary]; totals and weights: [batch, frames]."""
    if fused.usable(logits):
        return fused.softmax_slopes(logits, totals, weights)
    return ((logits.float() - totals[..., None]).exp() * weights[..., None]).to(logits.dtype)

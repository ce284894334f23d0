"""SenseVoice's two losses: CTC over the text, cross-entropy over the tags of the four query frames."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.checkpoint import Vocabulary
from sensevoice.scores import N_QUERY_FRAMES

NOT_GIVEN = -100


def text_loss(logits: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Mean CTC loss per token; a text that has no room in its frames counts as 0.

    logits: [batch, 4 + frames, vocabulary]; frames: [batch], query frames left out;
    targets: [batch, tokens], one at least, padded with any id; target_lengths: [batch]. On a GPU the two lengths may
    stay on the host, which saves waiting for it.
    """
    tokens: Tensor = target_lengths.sum().clamp_min(1)
    return _Ctc.apply(logits[:, N_QUERY_FRAMES:], frames, targets, target_lengths) / tokens  # type: ignore[no-any-return, no-untyped-call]


class _Ctc(torch.autograd.Function):
    """CTC that reads an utterance's own tokens alone out of the vocabulary.

    torch's runs over all tokens of every frame, forth and back, which takes longer than the network.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """Sum of the losses of logits [batch, frames, vocabulary]."""
        normaliser = torch.logsumexp(logits.float(), dim=-1, keepdim=True)  # [batch, frames, 1]
        labels = F.pad(targets, (1, 0), value=Vocabulary.blank_id)  # [batch, 1 + tokens]
        columns = labels[:, None].expand(-1, logits.shape[1], -1)
        scores = logits.gather(2, columns).float() - normaliser  # [batch, frames, 1 + tokens]
        sums, posterior, counted = posteriors(scores, targets, frames, target_lengths)
        ctx.save_for_backward(logits, normaliser, columns, posterior, counted)
        return sums.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax less posterior: [batch, frames, vocabulary]."""
        logits, normaliser, columns, posterior, counted = ctx.saved_tensors
        wanted = torch.where(counted[..., None], (logits.float() - normaliser).exp(), 0.0).to(logits.dtype)
        wanted.scatter_add_(2, columns, -posterior.to(logits.dtype))
        return wanted * grads[0], None, None, None


def posteriors(
    scores: Tensor, targets: Tensor, frames: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """CTC losses [batch], how probable each label is in each frame given the text, and which frames count.

    scores: [batch, frames, 1 + tokens], log probabilities of blank and of each token of the text; the posterior's
    shape is the same. A token that comes twice is one label: that of its first place.
    """
    places = 1 + (targets[:, :, None] == targets[:, None]).int().argmax(-1)
    with torch.enable_grad():
        probe = scores.detach().requires_grad_()
        sums = F.ctc_loss(
            probe.transpose(0, 1),
            places,
            frames,
            target_lengths,
            blank=0,
            reduction="none",
            zero_infinity=True,
        )
        (gradient,) = torch.autograd.grad(sums.sum(), probe)
    sums = sums.detach()
    steps = torch.arange(scores.shape[1], device=scores.device)
    counted = (steps < frames.to(scores.device)[:, None]) & (sums > 0)[:, None]
    # torch's gradient is that of softmax(logits) where all labels are in sight: probability - posterior
    return sums, torch.where(counted[..., None], scores.exp() - gradient, 0.0), counted


def tag_losses(logits: Tensor, tags: Tensor) -> Tensor:
    """Mean cross-entropy of language, emotion, event and text normalisation: [4].

    logits: [batch, 4 + frames, vocabulary]; tags: [batch, 4] token ids, NOT_GIVEN where there is no truth.
    """
    answers = logits[:, :N_QUERY_FRAMES].float().flatten(0, 1)
    losses = F.cross_entropy(answers, tags.flatten(), reduction="none", ignore_index=NOT_GIVEN)
    return losses.view(-1, N_QUERY_FRAMES).sum(0) / (tags != NOT_GIVEN).sum(0).clamp_min(1)

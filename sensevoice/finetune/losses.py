"""SenseVoice's two losses: CTC over the text, cross-entropy over the tags of the four query frames."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.checkpoint import Vocabulary
from sensevoice.scores import N_QUERY_FRAMES

NOT_GIVEN = -100


def text_loss(logits: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Mean CTC loss per token; a text that has no room in its frames counts as 0.

    logits: [batch, 4 + frames, vocabulary]; frames: [batch], query frames left out;
    targets: [batch, tokens] or [sum of tokens]; target_lengths: [batch].
    """
    speech = logits[:, N_QUERY_FRAMES:].float().log_softmax(-1).transpose(0, 1)  # [frames, batch, vocabulary]
    blank = Vocabulary.blank_id
    sums = F.ctc_loss(speech, targets, frames, target_lengths, blank, reduction="none", zero_infinity=True)
    return sums.sum() / target_lengths.sum().clamp_min(1)


def tag_losses(logits: Tensor, tags: Tensor) -> Tensor:
    """Mean cross-entropy of language, emotion, event and text normalisation: [4].

    logits: [batch, 4 + frames, vocabulary]; tags: [batch, 4] token ids, NOT_GIVEN where there is no truth.
    """
    answers = logits[:, :N_QUERY_FRAMES].float().flatten(0, 1)
    losses = F.cross_entropy(answers, tags.flatten(), reduction="none", ignore_index=NOT_GIVEN)
    return losses.view(-1, N_QUERY_FRAMES).sum(0) / (tags != NOT_GIVEN).sum(0).clamp_min(1)

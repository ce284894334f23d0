"""Masking and losses: exact values, and what must not change."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sensevoice.finetune.losses import tag_losses, text_loss
from sensevoice.finetune.masking import LONGEST_STRETCH, N_MASKS, WIDEST_BAND, mask_features

WORDS = 5


def even_logits(frames: int, batch: int = 1) -> Tensor:
    """Logits of a network that has no opinion: every token has probability 1 / 5."""
    return torch.zeros(batch, 4 + frames, WORDS)


def test_the_text_loss_of_one_token_is_the_mean_over_its_paths() -> None:
    loss = text_loss(even_logits(2), torch.tensor([2]), torch.tensor([[3]]), torch.tensor([1]))
    paths = 3  # "3 3", "blank 3" and "3 blank" out of 25
    assert math.isclose(loss.item(), -math.log(paths / WORDS**2), rel_tol=1e-6)


def test_the_text_loss_counts_tokens_not_utterances() -> None:
    targets = torch.tensor([[3, 4], [2, 0]])
    both = text_loss(even_logits(6, batch=2), torch.tensor([6, 6]), targets, torch.tensor([2, 1]))
    first = text_loss(even_logits(6), torch.tensor([6]), targets[:1], torch.tensor([2]))
    second = text_loss(even_logits(6), torch.tensor([6]), targets[1:], torch.tensor([1]))
    assert math.isclose(both.item(), (2 * first.item() + second.item()) / 3, rel_tol=1e-6)


def test_a_text_that_does_not_fit_into_its_frames_costs_nothing_and_breaks_nothing() -> None:
    logits = even_logits(1).requires_grad_()
    loss = text_loss(logits, torch.tensor([1]), torch.tensor([[3, 4]]), torch.tensor([2]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_padding_does_not_change_the_text_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4 + 9, WORDS)
    frames, targets, lengths = torch.tensor([5]), torch.tensor([[1, 2]]), torch.tensor([2])
    cut = text_loss(logits[:, : 4 + 5], frames, targets, lengths)
    assert torch.allclose(text_loss(logits, frames, targets, lengths), cut)


def test_each_query_frame_has_its_own_loss() -> None:
    logits = even_logits(3, batch=2)
    logits[:, 1, 2] = 100.0  # certain of token 2 as the emotion
    losses = tag_losses(logits, torch.tensor([[1, 2, 3, 4], [4, 2, 2, 1]]))
    even = math.log(WORDS)
    assert torch.allclose(losses, torch.tensor([even, 0.0, even, even]))


def test_nothing_is_masked_without_strength() -> None:
    features = torch.randn(3, 50, 560)
    assert torch.equal(mask_features(features, torch.tensor([50, 30, 7]), 0.0), features)


def test_masking_hides_whole_frames_and_the_same_mels_of_every_stacked_frame() -> None:
    torch.manual_seed(0)
    hidden = mask_features(torch.ones(64, 200, 560), torch.full((64,), 200), 1.0) == 0
    frames = hidden.all(dim=2)  # [batch, frames]
    stacked = hidden.view(64, 200, 7, 80)
    mels = stacked.all(dim=(1, 2))  # [batch, mels]
    assert torch.equal(hidden, (frames[:, :, None, None] | mels[:, None, None]).expand_as(stacked).flatten(2))
    assert frames.any(dim=1).all()
    assert frames.sum(dim=1).max() <= N_MASKS * (LONGEST_STRETCH + 1)
    assert mels.sum(dim=1).max() <= N_MASKS * (WIDEST_BAND + 1)


def test_short_utterances_lose_a_like_share_and_padding_is_not_what_is_masked() -> None:
    torch.manual_seed(0)
    lengths = torch.full((256,), 25)
    masked = mask_features(torch.ones(256, 100, 80), lengths, 1.0)
    frames = (masked == 0).all(dim=2)
    assert frames[:, :25].any()
    assert frames.sum(dim=1).max() <= N_MASKS * (math.ceil(25 * 0.08) + 1)
    assert not frames[:, 26:].any()


def test_the_text_loss_and_its_gradient_are_those_of_torch_over_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 4 + 20, 50, requires_grad=True)
    targets = torch.randint(1, 8, (5, 7))  # few labels, so that many come twice
    target_lengths, frames = torch.tensor([7, 3, 1, 0, 7]), torch.tensor([20, 15, 9, 12, 4])
    text_loss(logits, frames, targets, target_lengths).backward()
    ours, logits.grad = logits.grad, None
    scores = logits[:, 4:].log_softmax(-1).transpose(0, 1)
    sums = torch.nn.functional.ctc_loss(
        scores, targets, frames, target_lengths, reduction="none", zero_infinity=True
    )
    (sums.sum() / target_lengths.sum()).backward()
    assert ours is not None and logits.grad is not None
    torch.testing.assert_close(ours, logits.grad, atol=1e-6, rtol=1e-5)

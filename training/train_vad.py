"""Stage "vad": an FSMN-VAD of the official shape, taught by the exact truth that synthesis knows."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.vad_network import FsmnEncoder
from training.batches import Batch, Mixer, Plan, Recipe
from training.materials import materials, normalised_frontend
from training.pack import pack_vad
from training.speech import LANGUAGES

SILENCE_CLASS = 0
LAG_FRAMES = 2  # the network may look this far past the frame it judges: half of its five stacked frames
NONE_RECORDED = (0.0,) * len(LANGUAGES)  # its pauses are not silent, so its truth is not known


def train_detector(work: Path, args: argparse.Namespace) -> None:
    """Train and pack the voice activity detector: W/NAME/vad."""
    torch.manual_seed(args.seed)
    # recorded speech is not silent in its pauses, which are read off its energy
    recipe = Recipe(
        batch_s=args.batch_s / 3,
        views=1,
        event_share=0.15,
        nothing_share=0.06,
        recorded_shares=NONE_RECORDED,
        excerpts=False,  # nobody's speech begins within a word
    )
    stock = materials(work, args, recipe, args.seed + 1)
    frontend = normalised_frontend(5, 1, stock.mixer, stock.drawn)
    model = train_vad(frontend, stock.mixer, stock.drawn, seconds=args.seconds)
    pack_vad(work / args.name / "vad", model.encoder, frontend)


class VadModel(nn.Module):
    """Frontend and FSMN; the truth is binary, the output official: silence is class 0, speech the rest."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self.frontend = frontend
        self.encoder = FsmnEncoder()

    def forward(self, samples: Tensor) -> Tensor:
        """[batch, samples] -> log-odds of speech, [batch, frames]."""
        with torch.no_grad():
            features = self.frontend(samples)
        logits, _ = self.encoder(features)
        silence, rest = logits[..., SILENCE_CLASS], logits[..., SILENCE_CLASS + 1 :]
        return rest.logsumexp(-1) - silence  # type: ignore[no-any-return]


def vad_loss(model: VadModel, batch: Batch, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and share of frames judged right."""
    odds = model(batch.samples)
    truth = truth[:, : odds.shape[1]]
    loss = F.binary_cross_entropy_with_logits(odds, truth.float())
    return loss, ((odds > 0) == truth).float().mean()


def train_vad(
    frontend: Frontend, mixer: Mixer, plans: Iterator[Plan], *, seconds: float, peak_rate: float = 2e-3
) -> VadModel:
    """Train until the time is up; a step that is not finite is left out."""
    model = VadModel(frontend).to(mixer.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.01)
    began, step, right = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - began) / seconds) < 1:
        plan = next(plans)
        batch = mixer.realise(plan, min(1.0, 0.3 + progress))
        truth = mixer.activity(plan, batch.samples.shape[1] // 160)
        loss, share = vad_loss(model, batch, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        warm = min(1.0, (step + 1) / 200)
        for group in optimiser.param_groups:
            group["lr"] = peak_rate * warm * (0.01 + 0.495 * (1 + math.cos(math.pi * progress)))
        if torch.isfinite(norm):
            optimiser.step()
        right += float(share)
        step += 1
        if step % 200 == 0:
            print(
                f"vad step {step} ({progress:.0%}) loss {loss.item():.4f} frames right {right / 200:.4f}",
                flush=True,
            )
            right = 0.0
    return model.eval()

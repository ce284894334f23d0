"""Stage "train": CTC over the text, cross-entropy over the four tags, and exact phonemes half-way up.

Plain CTC from random weights sits on a plateau of blanks for thousands of steps. The synthesiser
knows which phoneme sounds in each frame, so the lower half of the encoder is taught that directly,
and the upper half then learns spelling from phonemes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.features import HOP, WINDOW, Frontend, frame_count
from sensevoice.finetune.losses import tag_losses, text_loss
from sensevoice.finetune.masking import mask_features
from sensevoice.network import NetworkShape, SenseVoiceNetwork, positions
from sensevoice.scores import N_QUERY_FRAMES
from training.augment import warped
from training.batches import IGNORED, Batch, Mixer, Plan

PHONEMES = 178


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, how hard."""

    seconds: float
    peak_rate: float = 1.0e-3
    warmup_steps: int = 600
    # distortions, by share of the time: growing to full strength, and easing off towards the end
    full_strength_at: float = 0.35
    easing_from: float = 0.75
    last_strength: float = 0.5
    ema_decay: float = 0.9993
    max_norm: float = 2.0
    log_every: int = 100
    max_steps: int | None = None


class TrainingNetwork(nn.Module):
    """The network to be shipped, with a phoneme reader half-way up that is left behind."""

    def __init__(self, shape: NetworkShape, frontend: Frontend, dropout: float = 0.1) -> None:
        super().__init__()
        self.network = SenseVoiceNetwork(shape, dropout=dropout)
        self.frontend = frontend
        self.middle = (shape.num_blocks + 1) // 2
        self.phoneme_norm = nn.LayerNorm(shape.output_size)
        self.phoneme_head = nn.Linear(shape.output_size, PHONEMES)

    @torch.no_grad()
    def features(self, samples: Tensor, lengths: Tensor, warp: float) -> tuple[Tensor, Tensor]:
        """[batch, samples] -> stacked, normalised frames [batch, frames, 560] and their count [batch].

        `lengths` and the count are on the host; `warp` is how far voices are shifted, 0 to 1.
        """
        mel = warped(self.frontend.log_mel(samples), warp)
        mel_frames = ((lengths - WINDOW) // HOP + 1).clamp_min(1)
        stacked = self.frontend.normalise(self.frontend.stack(mel, mel_frames.to(mel.device)))
        return stacked, (mel_frames + self.frontend.lfr_n - 1) // self.frontend.lfr_n

    def forward(self, features: Tensor, queries: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Token logits [batch, 4 + frames, vocabulary] and phoneme logits [batch, frames, 178]."""
        encoder = self.network.encoder
        x, valid = self.network.with_queries(features, queries, frames)
        x = x * encoder.scale + positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        blocks = [*encoder.encoders0, *encoder.encoders]
        for block in blocks[: self.middle]:
            x = block(x, valid)
        phonemes = self.phoneme_head(self.phoneme_norm(x[:, N_QUERY_FRAMES:]))
        for block in blocks[self.middle :]:
            x = block(x, valid)
        x = encoder.after_norm(x)
        for block in encoder.tp_encoders:
            x = block(x, valid)
        return self.network.ctc(encoder.tp_norm(x)), phonemes


def losses(model: TrainingNetwork, batch: Batch, strength: float, *, amp: bool) -> dict[str, Tensor]:
    """Mean CTC loss per token, tag and phoneme cross-entropies."""
    features, frames = model.features(batch.samples, batch.lengths, strength)
    frames_there = frames.to(features.device, non_blocking=True)
    features = mask_features(features, frames_there, strength)
    with torch.autocast(features.device.type, dtype=torch.bfloat16, enabled=amp):
        logits, phonemes = model(features, batch.queries, frames_there)
    read = F.cross_entropy(
        phonemes.float()[:, :, None].expand(-1, -1, batch.phonemes.shape[2], -1).flatten(0, 2),
        batch.phonemes[:, : phonemes.shape[1]].flatten(),
        ignore_index=IGNORED,
    )
    return {
        "ctc": text_loss(logits, frames, batch.targets, batch.target_lengths),
        "tags": tag_losses(logits, batch.tags),
        "phonemes": read,
    }


def rate_at(step: int, progress: float, schedule: Schedule) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps)
    return schedule.peak_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def strength_at(progress: float, schedule: Schedule) -> float:
    """Distortions grow while the model learns to read, and ease off when it refines."""
    grown = 0.15 + 0.85 * min(1.0, progress / schedule.full_strength_at)
    easing = max(0.0, (progress - schedule.easing_from) / (1 - schedule.easing_from))
    return grown - (1 - schedule.last_strength) * min(1.0, easing)


class Average:
    """Exponential moving average of the weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = list(model.parameters())
        self.kept = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the newest weights; early on the average follows faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the live weights."""
        for kept, live in zip(self.kept, self.live, strict=True):
            held = live.detach().clone()
            live.copy_(kept)
            kept.copy_(held)


@dataclass
class Step:
    """What the caller may look at after each step."""

    number: int
    progress: float


def optimise(
    model: TrainingNetwork, mixer: Mixer, plans: Iterator[Plan], schedule: Schedule, *, amp: bool
) -> Iterator[tuple[Step, Average]]:
    """Train until the time is up; yields after every step.

    A step whose gradient is not finite is skipped inside the fused optimiser and counted.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=schedule.peak_rate, betas=(0.9, 0.98), weight_decay=0.02, fused=True
    )
    average = Average(model, schedule.ema_decay)
    began = time.monotonic()
    sums: dict[str, Tensor] = {}
    step = 0
    model.train()
    while schedule.max_steps is None or step < schedule.max_steps:
        progress = (time.monotonic() - began) / schedule.seconds
        if schedule.max_steps is not None:
            progress = step / schedule.max_steps
        if progress >= 1:
            break
        strength = strength_at(progress, schedule)
        found = losses(model, mixer.realise(next(plans), strength), strength, amp=amp)
        phoneme_weight = 1.0 - 0.8 * min(1.0, progress / 0.5)
        total = found["ctc"] + 0.5 * found["tags"].sum() + 2.0 * phoneme_weight * found["phonemes"]
        total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.max_norm, foreach=True)
        bad = (~torch.isfinite(norm)).float()
        optimiser.found_inf = bad if amp else None
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, progress, schedule)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(step)
        for name, value in (*found.items(), ("skipped", bad), ("norm", norm.nan_to_num())):
            sums[name] = sums.get(name, 0) + value.detach()
        step += 1
        if step % schedule.log_every == 0:
            _log(step, progress, time.monotonic() - began, sums, schedule)
            sums = {}
        yield Step(step, progress), average


def _log(step: int, progress: float, elapsed_s: float, sums: dict[str, Tensor], schedule: Schedule) -> None:
    n = schedule.log_every
    tags = " ".join(f"{v:.3f}" for v in (sums["tags"] / n).tolist())
    print(
        f"step {step} ({progress:.0%}, {step / elapsed_s:.1f}/s) ctc {sums['ctc'].item() / n:.3f} "
        f"phonemes {sums['phonemes'].item() / n:.3f} tags {tags} norm {sums['norm'].item() / n:.2f} "
        f"skipped {sums['skipped'].item():.0f}",
        flush=True,
    )


@torch.no_grad()
def measure_cmvn(frontend: Frontend, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Shift and scale of the stacked log-mel frames, padding left out: ([560], [560])."""
    rows = []
    for batch in batches:
        mel = frontend.log_mel(batch.samples)
        for i, count in enumerate(batch.lengths.tolist()):
            rows.append(mel[i, : frame_count(count)])
    mel = torch.cat(rows)
    shift, scale = -mel.mean(0), 1 / mel.std(0)
    return shift.repeat(frontend.lfr_m), scale.repeat(frontend.lfr_m)

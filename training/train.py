"""Stage "train": CTC over the text, cross-entropy over the four tags, and exact phonemes half-way up.

Plain CTC from random weights sits on a plateau of blanks for thousands of steps. The synthesiser
knows which phoneme sounds in each frame, so the lower half of the encoder is taught that directly,
and the upper half then learns spelling from phonemes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sensevoice.features import Frontend, frame_count
from sensevoice.scores import N_QUERY_FRAMES
from training.augment import drawn_rhythms, labels_in_rhythm
from training.batches import Batch, Mixer, Plan
from training.flat import Average, FlatWeights
from training.network import TrainingNetwork
from training.optimiser import Optimiser
from training.ranks import Ranks
from training.spelling import text_slope
from training.steps import Inputs, Steps, truth_counts


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, how hard."""

    seconds: float
    peak_rate: float = 1.0e-3
    warmup_steps: int = 600
    # distortions, by share of the time: growing to full strength, and easing off towards the end
    full_strength_at: float = 0.35
    easing_from: float = 0.6
    last_strength: float = 0.5
    first_strength: float = 0.15
    # the phoneme reader's weight, falling until half of the time has gone
    phoneme_weight: float = 2.0
    last_phoneme_weight: float = 0.4
    ema_decay: float = 0.9993
    max_norm: float = 2.0
    log_every: int = 100
    max_steps: int | None = None
    decays: bool = True  # else the rate and the distortions stay: another leg is to follow

    def continued(self) -> Schedule:
        """The same for a model that can read: full distortion at once, and a short warm-up of the optimiser."""
        return replace(self, warmup_steps=200, first_strength=1.0, phoneme_weight=self.last_phoneme_weight)


def rate_at(step: int, progress: float, schedule: Schedule) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps)
    fallen = min(1.0, progress) if schedule.decays else 0.0
    return schedule.peak_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fallen)))


def strength_at(progress: float, schedule: Schedule) -> float:
    """Distortions grow while the model learns to read, and ease off when it refines."""
    first = schedule.first_strength
    grown = first + (1 - first) * min(1.0, progress / schedule.full_strength_at)
    easing = max(0.0, (progress - schedule.easing_from) / (1 - schedule.easing_from)) * schedule.decays
    return grown - (1 - schedule.last_strength) * min(1.0, easing)


def phoneme_weight_at(progress: float, schedule: Schedule) -> float:
    """Phonemes come first, spelling later."""
    fallen = min(1.0, progress / 0.5)
    return schedule.phoneme_weight + fallen * (schedule.last_phoneme_weight - schedule.phoneme_weight)


@dataclass
class Lesson:
    """A batch as the network takes it, and its text."""

    inputs: Inputs
    targets: Tensor  # [batch, tokens]
    target_lengths: Tensor  # [batch], on the host
    tokens: Tensor  # [] how many of them
    views: int = 1  # of each row; see `Plan`


def heard(model: TrainingNetwork, batch: Batch, strength: float) -> tuple[Tensor, Tensor]:
    """The features of a batch, [batch, frames, 560], and its phonemes, [batch, frames, probes], in uneven rhythms."""
    rows, frames = len(batch.samples) // batch.views, frame_count(batch.samples.shape[1])
    # all views of a row in one rhythm: their frames are compared
    times = drawn_rhythms(rows, frames, strength, batch.samples.device).repeat(batch.views, 1)
    return model.features(batch.samples, strength, times), labels_in_rhythm(batch.phonemes, times)


def lesson_on(batch: Batch, features: Tensor, phonemes: Tensor, phoneme_weight: float) -> Lesson:
    """What is to be learnt of a batch from what is heard of it; see `heard`."""
    weight = torch.full((), phoneme_weight, device=features.device)
    counts = truth_counts(batch.tags, phonemes)
    inputs = Inputs(features, batch.queries, batch.tags, phonemes, counts, weight)
    tokens = torch.full((), float(batch.target_lengths.sum()), device=features.device)
    return Lesson(inputs, batch.targets, batch.target_lengths, tokens, batch.views)


class Lessons:
    """Lessons made one step ahead, on a stream of their own where there is a GPU."""

    def __init__(self, model: TrainingNetwork, mixer: Mixer, plans: Iterator[Plan]) -> None:
        self._model, self._mixer, self._plans = model, mixer, plans
        self._stream = torch.cuda.Stream(mixer.device) if mixer.device.type == "cuda" else None
        self._next: Lesson | None = None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    def draw(self, strength: float, phoneme_weight: float) -> Lesson:
        """The next one; `strength` and weight are those of the one after it."""
        if self._stream is None:
            return self._make(strength, phoneme_weight)
        ready = self._next or self._make_aside(strength, phoneme_weight)
        torch.cuda.current_stream().wait_stream(self._stream)
        for tensor in (*vars(ready.inputs).values(), ready.targets, ready.tokens):
            tensor.record_stream(torch.cuda.current_stream())
        self._next = None
        return ready

    def prepare(self, strength: float, phoneme_weight: float) -> None:
        """Begin to make the next one, beside whatever the GPU was told to do before."""
        if self._stream is not None:
            self._next = self._make_aside(strength, phoneme_weight)

    def _make_aside(self, strength: float, phoneme_weight: float) -> Lesson:
        with torch.cuda.stream(self._stream):
            return self._make(strength, phoneme_weight)

    def _make(self, strength: float, phoneme_weight: float) -> Lesson:
        batch = self._mixer.realise(next(self._plans), strength)
        return lesson_on(batch, *heard(self._model, batch, strength), phoneme_weight)


class Trainer:
    """The weights, their optimiser and average, and what a step does to them."""

    def __init__(
        self,
        model: TrainingNetwork,
        schedule: Schedule,
        ranks: Ranks,
        *,
        amp: bool,
        capture: bool,
        muon: bool = True,
    ) -> None:
        self.model, self.schedule, self.ranks, self.amp = model, schedule, ranks, amp
        self.weights = FlatWeights(model)
        ranks.share(self.weights.values)
        self.average = Average(self.weights, schedule.ema_decay)
        self.steps = Steps(model, self.weights, amp=amp, capture=capture)
        self.optimiser = Optimiser(self.weights, muon=muon)

    def learn(self, lesson: Lesson) -> dict[str, Tensor]:
        """Put the gradient of all ranks' lessons into the weights' slopes; returns the losses."""
        self.ranks.average(lesson.inputs.counts)
        tokens = lesson.tokens.clone()
        self.ranks.average(tokens)
        step = self.steps.step_for(lesson.inputs)
        given = step.forward(lesson.inputs)
        text = lesson.targets, lesson.target_lengths, tokens
        ctc, agreement, slope = text_slope(given.logits, *text, views=lesson.views)
        step.backward(slope)
        self.ranks.average(self.weights.slopes)
        tags, phonemes = given.parts.split([N_QUERY_FRAMES, 1])
        return {"ctc": ctc, "agreement": agreement, "tags": tags, "phonemes": phonemes[0]}

    def update(self, number: int, rate: float) -> dict[str, Tensor]:
        """Take a step; one whose gradient is not finite is left out by the optimiser, and counted."""
        norm = self.weights.clip(self.schedule.max_norm)
        bad = (~torch.isfinite(norm)).float()
        self.optimiser.step(rate, bad)
        self.average.update(number)
        return {"skipped": bad, "norm": norm.nan_to_num()}


class Clock:
    """How much of the training is done: the same for all ranks."""

    def __init__(self, schedule: Schedule, ranks: Ranks) -> None:
        self._schedule, self._ranks = schedule, ranks
        self._began = time.monotonic()
        self.steps = 0

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def share(self) -> float:
        """0 to 1, and above when the time is up."""
        if self._schedule.max_steps is not None:
            return self.steps / self._schedule.max_steps
        return self._ranks.agree(self.elapsed_s / self._schedule.seconds)


def optimise(trainer: Trainer, mixer: Mixer, plans: Iterator[Plan], clock: Clock) -> Iterator[int]:
    """Train until the time is up; yields the number of each step after it."""
    schedule, lessons = trainer.schedule, Lessons(trainer.model, mixer, plans)
    sums: dict[str, Tensor] = {}
    trainer.model.train()
    while (share := clock.share()) < 1:
        hardness = strength_at(share, schedule), phoneme_weight_at(share, schedule)
        found = trainer.learn(lessons.draw(*hardness))
        lessons.prepare(*hardness)
        found |= trainer.update(clock.steps, rate_at(clock.steps, share, schedule))
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value
        clock.steps += 1
        if clock.steps % schedule.log_every == 0:
            if trainer.ranks.first:
                _log(clock.steps, share, clock.elapsed_s, sums, schedule)
            sums = {}
        yield clock.steps


def _log(step: int, progress: float, elapsed_s: float, sums: dict[str, Tensor], schedule: Schedule) -> None:
    n = schedule.log_every
    tags = " ".join(f"{v:.3f}" for v in (sums["tags"] / n).tolist())
    ctc, agreement, phonemes, norm = (sums[k].item() / n for k in ("ctc", "agreement", "phonemes", "norm"))
    print(
        f"step {step} ({progress:.0%}, {step / elapsed_s:.1f}/s) ctc {ctc:.3f} agreement {agreement:.3f} "
        f"phonemes {phonemes:.3f} tags {tags} norm {norm:.2f} skipped {sums['skipped'].item():.0f}",
        flush=True,
    )


@torch.no_grad()
def measure_cmvn(frontend: Frontend, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Shift and scale of the stacked log-mel frames: ([560], [560])."""
    mel = torch.cat([frontend.log_mel(batch.samples).flatten(0, 1) for batch in batches])
    shift, scale = -mel.mean(0), 1 / mel.std(0)
    return shift.repeat(frontend.lfr_m), scale.repeat(frontend.lfr_m)

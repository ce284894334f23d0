"""Tool "profile": where the time of a training step goes, for each shape of batch, with CUDA graphs and without."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from training.batches import Mixer, Plan, Recipe
from training.materials import materials
from training.ranks import Ranks
from training.recogniser import new_trainer
from training.spelling import text_slope
from training.steps import EagerStep, Step
from training.train import Lesson, Lessons, Trainer, heard, lesson_on

STRENGTH, PHONEME_WEIGHT, RATE = 1.0, 1.0, 1e-5
REPEATS = 5
KERNELS = 25
Result = TypeVar("Result")


class Stopwatch:
    """Milliseconds by name, each with the work of the GPU done."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ms: dict[str, list[float]] = defaultdict(list)

    def run(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work, and note its time."""
        self._wait()
        began = time.perf_counter()
        result = work()
        self._wait()
        self.ms[name].append(1000 * (time.perf_counter() - began))
        return result

    def row(self) -> str:
        """The shortest time of each, which is that without a first call's compiling and planning."""
        return " ".join(f"{name} {min(times):6.2f}" for name, times in self.ms.items())

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def profile_step(work: Path, args: argparse.Namespace) -> None:
    """Print where a training step's time goes, on one GPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    stock = materials(work, args, Recipe(batch_s=args.batch_s), args.seed)
    profile(new_trainer(args, work, stock, Ranks()), stock.mixer, stock.drawn, args.seconds)


def profile(trainer: Trainer, mixer: Mixer, drawn: Iterator[Plan], seconds: float) -> None:
    """Print milliseconds of each part by shape, steps a second, and the kernels that take longest."""
    until = time.monotonic() + seconds
    trainer.model.train()
    plans: dict[tuple[int, int], Plan] = {}
    for plan in drawn:
        plans.setdefault((plan.shape.items, plan.shape.frames), plan)
        if len(plans) == 8 or time.monotonic() > until - 0.8 * seconds:
            break
    print("items frames | ms of each part, one after the other", flush=True)
    for (items, frames), plan in sorted(plans.items(), key=lambda entry: entry[0][1]):
        if time.monotonic() < until - 0.4 * seconds:
            print(f"{items:5} {frames:6} | {split(trainer, mixer, plan)}", flush=True)
    for capture in (False, True) if trainer.steps.capturing else (False,):
        rate = steps_per_second(trainer, mixer, drawn, 0.12 * seconds, capture=capture)
        print(f"{rate:.1f} steps/s, {'with' if capture else 'without'} CUDA graphs", flush=True)
    print(kernels(trainer, mixer, drawn), flush=True)


def split(trainer: Trainer, mixer: Mixer, plan: Plan) -> str:
    """The parts of one step, each waited for, and how well the captured gradient agrees with the eager one."""
    watch, model = Stopwatch(mixer.device), trainer.model
    eager = EagerStep(model, trainer.weights, amp=trainer.amp)
    for _ in range(REPEATS):
        batch = watch.run("realise", lambda: mixer.realise(plan, STRENGTH))
        found = watch.run("features", lambda: heard(model, batch, STRENGTH))  # noqa: B023
        lesson = lesson_on(batch, *found, PHONEME_WEIGHT)
        _time_step(watch, "", eager, lesson)
        watch.run("optimiser", lambda: trainer.update(10**6, RATE))
    step = trainer.steps.step_for(lesson.inputs)
    if isinstance(step, EagerStep):
        return watch.row()
    for _ in range(REPEATS):
        _time_step(watch, "graph-", step, lesson)
    captured = trainer.weights.slopes.clone()
    _time_step(watch, "", eager, lesson)
    cosine = torch.cosine_similarity(captured, trainer.weights.slopes, dim=0).item()
    return f"{watch.row()} | cosine of the gradients {cosine:.5f}"


def _time_step(watch: Stopwatch, prefix: str, step: Step, lesson: Lesson) -> None:
    given = watch.run(f"{prefix}forward", lambda: step.forward(lesson.inputs))
    text = lesson.targets, lesson.target_lengths, lesson.tokens
    *_, slope = watch.run(f"{prefix}ctc", lambda: text_slope(given.logits, *text, views=lesson.views))
    watch.run(f"{prefix}backward", lambda: step.backward(slope))


def steps_per_second(
    trainer: Trainer, mixer: Mixer, drawn: Iterator[Plan], seconds: float, *, capture: bool
) -> float:
    """Whole steps as training takes them, over all shapes."""
    trainer.steps.capturing = capture
    lessons = Lessons(trainer.model, mixer, drawn)
    watch, count, until = Stopwatch(mixer.device), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        watch.run("steps", lambda: [_train(trainer, lessons) for _ in range(REPEATS)])
        count += REPEATS
    return 1000 * count / sum(watch.ms["steps"])


def _train(trainer: Trainer, lessons: Lessons) -> None:
    trainer.learn(lessons.draw(STRENGTH, PHONEME_WEIGHT))
    lessons.prepare(STRENGTH, PHONEME_WEIGHT)
    trainer.update(10**6, RATE)


def kernels(trainer: Trainer, mixer: Mixer, drawn: Iterator[Plan]) -> str:
    """A table of what takes longest in some steps."""
    on_gpu = mixer.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    lessons = Lessons(trainer.model, mixer, drawn)
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(REPEATS):
            _train(trainer, lessons)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=order, row_limit=KERNELS, max_name_column_width=70)
    return table

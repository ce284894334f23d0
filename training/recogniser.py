"""Stage "train": a recogniser is trained on all GPUs that are wanted, evaluated now and then, and packed.

W/NAME is the packed average of its weights and W/NAME.state.pt what a later run goes on from (`resume.py`); what
is learnt, and how, is `train.py`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from sensevoice.network import NetworkShape
from training.batches import Recipe
from training.evaluate import evaluate
from training.lines import tokenizer_path
from training.materials import RANK_SEEDS, Materials, materials, normalised_frontend
from training.network import TrainingNetwork
from training.pack import pack_recogniser
from training.ranks import Meeting, Ranks, device, on_all_gpus
from training.resume import load_start, restore, save_state
from training.testsets import held_out_clips
from training.train import Clock, Schedule, Trainer, optimise

DEV_CLIPS = 150  # heard now and then; all of them at the end


def train_recogniser(work: Path, args: argparse.Namespace) -> None:
    """Train on all GPUs that are wanted, evaluate on the development clips now and then, pack the average.

    Raises StartError if training cannot go on from the model to start from.
    """
    on_all_gpus(train_rank, work, args, args.gpus)


def train_rank(work: Path, args: argparse.Namespace, meeting: Meeting) -> None:
    """One GPU's part of the stage; the first one evaluates and packs."""
    torch.backends.cuda.matmul.allow_tf32 = True
    recipe = Recipe(batch_s=args.batch_s / meeting.count)
    stock = materials(work, args, recipe, args.seed, meeting.number)
    with meeting.joined() as ranks:
        trainer = new_trainer(args, work, stock, ranks)
        clock, last = Clock(trainer.schedule, ranks), time.monotonic()
        for step in optimise(trainer, stock.mixer, stock.drawn, clock):
            if ranks.first and time.monotonic() - last > args.evaluate_every_s:
                print(f"after {step} steps", flush=True)
                report(work, work / f"{args.name}-{step}", trainer, stock, {"dev": DEV_CLIPS})
                last = time.monotonic()
        if ranks.first:
            report(work, work / args.name, trainer, stock, {"dev": None, "test": None}, examples=3)


def new_trainer(args: argparse.Namespace, work: Path, stock: Materials, ranks: Ranks) -> Trainer:
    """A model with random weights, or with those to start from; the same in all ranks.

    Raises StartError if the model to start from has another shape or tokenizer.
    """
    shape = _shape(args, stock.tokenizer.vocab_size())
    left = args.began + args.seconds - time.monotonic()  # what loading and waiting took is gone
    schedule = Schedule(seconds=left, peak_rate=args.rate, max_steps=args.steps, decays=args.decay)
    checkpoint = None
    if args.start_from:
        checkpoint = load_start(args.start_from, shape, tokenizer_path(work))
        schedule = schedule.continued()
    torch.manual_seed(args.seed)
    frontend = checkpoint.frontend if checkpoint else normalised_frontend(7, 6, stock.mixer, stock.drawn)
    model = TrainingNetwork(shape, frontend, dropout=args.dropout).to(stock.mixer.device)
    if checkpoint:
        restore(model, checkpoint)
    for measured in (model.frontend.shift, model.frontend.scale):
        ranks.share(measured)
    if ranks.first:
        print(f"{sum(p.numel() for p in model.network.parameters()):,} parameters", flush=True)
    torch.manual_seed(args.seed + RANK_SEEDS * ranks.number)
    on_gpu = device() == "cuda"
    capture = on_gpu and args.graphs
    return Trainer(model, schedule, ranks, amp=on_gpu, capture=capture, muon=args.muon)


def _shape(args: argparse.Namespace, vocabulary: int) -> NetworkShape:
    return NetworkShape(
        output_size=args.width,
        attention_heads=args.heads,
        linear_units=args.hidden,
        num_blocks=args.blocks,
        tp_blocks=args.tp_blocks,
        vocab_size=vocabulary,
    )


def report(
    work: Path,
    out: Path,
    trainer: Trainer,
    stock: Materials,
    splits: dict[str, int | None],
    examples: int = 0,
) -> None:
    """Pack the averaged weights, keep their state, and print how well they read the splits' first clips.

    splits: how many clips of each, all if None; `examples` of each language are printed.
    """
    trainer.average.swap()
    network, frontend = trainer.model.eval().network, trainer.model.frontend
    pack_recogniser(out, network, network.shape, frontend, tokenizer_path(work))
    save_state(out, trainer.model)
    for split, limit in splits.items():
        scores = evaluate(network, frontend, stock.tokenizer, held_out_clips(work, split)[:limit])
        print(f"{split}: {scores.summary()}", flush=True)
        for language, pairs in scores.examples.items():
            for found, wanted in pairs[:examples]:
                print(f"  {language}: {found} | {wanted}", flush=True)
    trainer.model.train()
    trainer.average.swap()

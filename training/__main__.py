"""`python -m training STAGE --work DIR`: from text to a packed checkpoint, in stages that can be rerun.

Stages: fetch, laughs, text and recorded (CPU), audio, train, vad (GPU), testsets, evaluate, card (CPU), or all. Each
reads what the stages before it left in DIR: text/ (lines, tokenizer), kokoro/ (weights, modules, voices), events/
(recorded sounds, laughs), recorded/ (speech), audio/, model/, testsets/, evaluation.md.
Tools: tokenizer makes another one for the lines that there are; profile prints where a training step's time goes;
average packs a model between several of one training.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

from training.audio import make_audio
from training.averaging import average_models
from training.fetch import fetch
from training.laughs import make_laughs
from training.lines import TEXT, write_tokenizer
from training.profiling import profile_step
from training.recogniser import train_recogniser
from training.recorded_speech import make_recorded
from training.results import evaluate_model, write_card
from training.testsets import make_testsets
from training.text import LINES, make_text
from training.tokens import ENGLISH_PIECES
from training.train_vad import train_detector

Stage = Callable[[Path, argparse.Namespace], object]
STAGES: dict[str, Stage] = {
    "fetch": lambda work, args: fetch(work),
    "laughs": make_laughs,
    "text": lambda work, args: make_text(
        work / TEXT,
        seed=args.seed,
        lines=args.lines,
        english_pieces=args.english_pieces,
        tokenizer=args.tokenizer,
    ),
    "recorded": lambda work, args: make_recorded(work),
    "audio": make_audio,
    "train": train_recogniser,
    "vad": train_detector,
    "testsets": lambda work, args: make_testsets(work, seed=args.seed),
    "evaluate": lambda work, args: print(
        evaluate_model(work, args.model or work / args.name, args.vad_reference)
    ),
    "card": lambda work, args: write_card(work, args.name),
}
TOOLS: dict[str, Stage] = {  # no part of "all"
    "tokenizer": lambda work, args: write_tokenizer(work, args.english_pieces),
    "profile": profile_step,
    "average": average_models,
}
SECONDS = {"audio": 600.0, "train": 3_600.0, "vad": 150.0, "profile": 50.0}


def main() -> None:
    """Run one stage, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, *TOOLS, "all"))
    add_options(parser)
    add_training_options(parser)
    add_evaluation_options(parser)
    args = parser.parse_args()
    for stage in STAGES if args.stage == "all" else (args.stage,):
        changed = {"seconds": seconds_of(stage, args), "began": time.monotonic()}
        {**STAGES, **TOOLS}[stage](args.work, argparse.Namespace(**{**vars(args), **changed}))


def seconds_of(stage: str, args: argparse.Namespace) -> float:
    """The time that a stage has."""
    if args.seconds is None and stage == "audio" and args.hours is not None:
        return math.inf
    return SECONDS.get(stage, 0.0) if args.seconds is None else args.seconds


def add_options(parser: argparse.ArgumentParser) -> None:
    """What most stages have, and how much is spoken and mixed."""
    parser.add_argument("--work", "--out", type=Path, required=True, help="the folder of all stages")
    parser.add_argument("--seconds", type=float, help="time for the stage")
    parser.add_argument("--hours", type=float, help="of speech to be made, instead of by the clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="model", help="the folder of the packed model, in DIR")
    parser.add_argument(
        "--part", type=_part, default=(0, 1), metavar="I/N", help="speak a part of the lines, one GPU each"
    )
    parser.add_argument("--takes", type=int, default=1, help="how often each line is spoken, time allowing")
    parser.add_argument("--codec-share", type=float, default=0.05, help="of the speech, lossily encoded")
    parser.add_argument("--limit", type=int, help="only so many lines")
    parser.add_argument("--steps", type=int, help="train so many steps instead of by the clock")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--per-kind", type=int, default=300, help="sound events of each kind")
    parser.add_argument("--batch-s", type=float, default=1_200.0)
    parser.add_argument("--batch-frames", type=int, default=8_000, help="of the vocoder, 25 ms each")
    parser.add_argument(
        "--robot-share", type=float, default=0.06, help="of the lines, spoken by espeak-ng too"
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The recogniser's size, and how it is trained."""
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--tp-blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--start-from", type=Path, metavar="MODEL", help="train a packed model further, of the same shape"
    )
    parser.add_argument(
        "--decay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the rate and the distortions fall to the end; not in a leg that another follows",
    )
    parser.add_argument(
        "--parts",
        type=int,
        default=0,
        help="wait for so many parts of stage audio, which may be running beside",
    )
    parser.add_argument("--gpus", type=int, default=1, help="train on so many, a share of the batch each")
    parser.add_argument(
        "--muon",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the optimiser of the blocks' matrices; AdamW else",
    )
    parser.add_argument(
        "--graphs", action=argparse.BooleanOptionalAction, default=True, help="capture CUDA graphs"
    )


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """The tokenizer's size, and what is measured."""
    parser.add_argument("--lines", type=int, default=LINES, help="of text, for each language")
    parser.add_argument("--tokenizer", type=Path, help="a SentencePiece model that the text keeps to")
    parser.add_argument(
        "--english-pieces",
        type=int,
        default=ENGLISH_PIECES,
        help="of the tokenizer, single characters included",
    )
    parser.add_argument("--evaluate-every-s", type=float, default=120.0)
    parser.add_argument("--model", type=Path, help="another packed model to evaluate")
    parser.add_argument("--models", type=Path, nargs="+", help="to be averaged")
    parser.add_argument("--shares", type=float, nargs="+", help="of the models; alike unless given")
    parser.add_argument("--vad-reference", type=Path, help="a folder with the official fsmn-vad")


def _part(text: str) -> tuple[int, int]:
    index, count = text.split("/")
    return int(index), int(count)


if __name__ == "__main__":
    main()

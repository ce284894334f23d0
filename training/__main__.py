"""`python -m training STAGE --work DIR`: from text to a packed checkpoint, in stages that can be rerun.

Stages: fetch and text (CPU), audio, train, vad (GPU), testsets, evaluate, card (CPU), or all. Each reads what the
stages before it left in DIR: text/ (lines, tokenizer), kokoro/ (weights, modules, voices), events/ (recorded loops),
audio/, model/, testsets/, evaluation.md.
Tools: tokenizer makes another one for the lines that there are; profile prints where a training step's time goes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
import torch
from torch import Tensor

from sensevoice.features import Frontend
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.network import NetworkShape
from sensevoice.spans import SAMPLE_RATE
from training.augment import SoundBank
from training.batches import Catalogue, Mixer, Plan, Recipe, plans
from training.codecs import encoder_pool, through_codecs
from training.espeak import VOICES, speak_all
from training.evaluate import evaluate
from training.events import EVENTS, coloured_noise, event_bank, room_response
from training.fetch import fetch
from training.kokoro import Request, Synthesiser, load_kokoro, load_symbols
from training.network import TrainingNetwork
from training.pack import pack_recogniser, pack_vad
from training.profiling import profile
from training.ranks import Meeting, Ranks, on_all_gpus
from training.results import evaluate_model, put_into_card
from training.resume import load_start, restore, save_state
from training.speech import LANGUAGES, Line, Speech, requests_for, synthesise
from training.testsets import held_out_clips, make_testsets
from training.tokens import ENGLISH_PIECES, build
from training.train import Clock, Schedule, Trainer, measure_cmvn, optimise
from training.train_vad import train_vad

TAGS = (
    *("zh", "en", "yue", "ja", "ko", "nospeech"),
    *("HAPPY", "SAD", "ANGRY", "NEUTRAL", "EMO_UNKNOWN"),
    *("Speech", "BGM", "Laughter", "Applause", "Cry", "Cough", "Sneeze", "Breath", "Event_UNK"),
    *("withitn", "woitn"),
)


ORDER_SEED = 0  # stages must agree on the order of the lines
UNSPACED = ("zh", "yue", "ja")
SECONDS = {"audio": 600.0, "train": 3_600.0, "vad": 150.0, "profile": 50.0}
TEXT, TOKENIZER = "text", "starter.bpe.model"
RANK_SEEDS = 100  # apart
CARD = "MODEL_CARD.md"


def read_lines(path: Path) -> list[Line]:
    """The text stage's lines."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [Line(**json.loads(row)) for row in file]


def device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def write_text(work: Path, args: argparse.Namespace) -> None:
    """Run the text stage, whose libraries a machine that only trains need not have."""
    from training.text import make_text

    make_text(work / TEXT, seed=args.seed, english_pieces=args.english_pieces)


def write_tokenizer(work: Path, args: argparse.Namespace) -> None:
    """Make the tokenizer anew for the lines that there are, which may have been made with another."""
    lines = [*read_lines(work / TEXT / "train.jsonl.xz"), *read_lines(work / TEXT / "held_out.jsonl.xz")]
    texts = [text for line in lines for text in (line.text, line.plain)]
    print(build(work / TEXT / TOKENIZER, texts, args.english_pieces), "pieces", flush=True)


# --- audio -----------------------------------------------------------------------------------------


def robot_clips(work: Path, *, seed: int, limit: int | None, share: float) -> list[tuple[int, Any]]:
    """A share of the training lines in espeak-ng's voices, where it speaks the language well."""
    folder = work / "espeak"
    if not folder.exists() or share <= 0:
        return []
    lines = shuffled(read_lines(work / TEXT / "train.jsonl.xz"), ORDER_SEED)[:limit]
    known = [i for i, line in enumerate(lines) if line.lang in VOICES]
    chosen = np.random.default_rng(seed).permutation(known)[: int(share * len(lines))]
    texts = [(int(i), lines[i].lang, lines[i].plain) for i in chosen]
    clips = speak_all(folder, texts, seed=seed, workers=12)
    print(
        f"espeak: {len(clips)} clips, {sum(len(c) for _, c in clips) / SAMPLE_RATE / 3600:.2f} h", flush=True
    )
    return clips


def make_audio(work: Path, args: argparse.Namespace) -> None:
    """Speak as many training lines as the time allows; the first part speaks the held-out lines too."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    part, _ = args.part
    torch.manual_seed(args.seed + part)
    began = time.monotonic()
    (work / "audio").mkdir(exist_ok=True)
    with encoder_pool(args.workers) as pool:
        robots = [] if part else robot_clips(work, seed=args.seed, limit=args.limit, share=args.robot_share)
        speech = speak(work, args, began)
        speech = encoded(speech, args.codec_share, args.seed + part, pool).with_clips(robots)
    speech.save(work / "audio" / f"train.{part}.pt")
    hours = speech.length.sum().item() / SAMPLE_RATE / 3600
    print(f"part {part}: {len(speech.length)} utterances, {hours:.2f} h", flush=True)


@torch.inference_mode()
def speak(work: Path, args: argparse.Namespace, began: float) -> Speech:
    """A part of the training lines; the first part also writes the held-out ones."""
    model = load_kokoro(work / "kokoro" / "kokoro.onnx", work / "kokoro" / "pkg")
    synthesiser = Synthesiser(model, device())
    print(f"synthesiser ready after {time.monotonic() - began:.0f} s", flush=True)
    if args.part[0] == 0:
        held_out = synthesise(synthesiser, held_out_requests(work, args), until=float("inf"))
        held_out.to("cpu").save(work / "audio" / "held_out.pt")
    hours = math.inf if args.hours is None else args.hours / args.part[1]
    requests, until = training_requests(work, args), began + args.seconds
    speech = synthesise(synthesiser, requests, until=until, hours=hours, batch_frames=args.batch_frames)
    return speech.to("cpu")


def held_out_requests(work: Path, args: argparse.Namespace) -> list[Request]:
    """The held-out lines, each in its split's voice."""
    return requests_for(
        read_lines(work / TEXT / "held_out.jsonl.xz")[: args.limit], *_voices(work), args.seed
    )


def training_requests(work: Path, args: argparse.Namespace) -> list[Request]:
    """A part's share of the lines, take after take, each take in voices of its own."""
    part, parts = args.part
    lines = shuffled(read_lines(work / TEXT / "train.jsonl.xz"), ORDER_SEED)[: args.limit]
    takes = [requests_for(lines, *_voices(work), args.seed + take) for take in range(args.takes)]
    return [request for take in takes for request in take if request.line % parts == part]


def _voices(work: Path) -> tuple[dict[str, int], dict[str, Any]]:
    return load_symbols(work / "kokoro" / "vocab.json"), dict(np.load(work / "kokoro" / "voices.npz"))


def encoded(speech: Speech, share: float, seed: int, pool: Pool) -> Speech:
    """The same speech, a share of it heard through lossy codecs."""
    count = int(share * len(speech.length))
    if not count:
        return speech
    chosen = np.random.default_rng(seed).permutation(len(speech.length))[:count]
    audio = speech.audio.numpy()
    spans = [
        slice(start, start + length)
        for start, length in zip(speech.start[chosen].tolist(), speech.length[chosen].tolist(), strict=True)
    ]
    began = time.monotonic()
    clips = through_codecs((audio[span] for span in spans), seed, pool)
    for span, clip in zip(spans, clips, strict=True):
        audio[span] = clip
    print(f"codecs: {count} utterances in {time.monotonic() - began:.0f} s", flush=True)
    return speech


def shuffled(lines: list[Line], seed: int) -> list[Line]:
    """The same order for every stage."""
    order = np.random.default_rng(seed).permutation(len(lines))
    return [lines[i] for i in order]


# --- material for batches --------------------------------------------------------------------------


def load_bank(sounds: dict[str, list[Any]], seed: int, per_kind: int) -> tuple[dict[str, Tensor], SoundBank]:
    """Sound events by name, and what distorts speech, on the device."""
    events = {name: torch.from_numpy(_same_width(clips)).to(device()) for name, clips in sounds.items()}
    rng = np.random.default_rng(seed)
    noises = np.stack([coloured_noise(rng, 160_000, rng.uniform(-2.2, 0.6)) for _ in range(per_kind)])
    rooms = _same_width(
        [room_response(rng, rng.uniform(0.12, 0.7)) for _ in range(per_kind)], 12_000, tile=False
    )
    music = events["BGM"] / events["BGM"].square().mean(1, keepdim=True).sqrt().clamp_min(1e-4)
    bank = SoundBank(torch.from_numpy(noises).to(device()), music, torch.from_numpy(rooms).to(device()))
    even = {
        name: clips / clips.square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
        for name, clips in events.items()
    }
    return even, bank


def _same_width(clips: list[Any], width: int = 96_000, *, tile: bool = True) -> Any:
    rows = np.zeros((len(clips), width), np.float32)
    for row, clip in zip(rows, clips, strict=True):
        if tile:
            row[:] = np.resize(clip, width)
        else:
            row[: len(clip)] = clip[:width]
    return rows


def catalogue_of(
    parts: list[Speech], lines: list[Line], tokenizer: spm.SentencePieceProcessor, per_kind: int
) -> Catalogue:
    """What the planners need to know."""
    space = ["" if one.lang in UNSPACED else " " for one in lines]
    length, line, emotion = (
        np.concatenate([getattr(part, name).numpy() for part in parts])
        for name in ("length", "line", "emotion")
    )
    lang = np.array([LANGUAGES.index(one.lang) for one in lines])
    return Catalogue(
        length=length,
        line=line,
        emotion=emotion,
        lang=lang[line],
        with_itn=tokenizer.encode([one.text for one in lines]),
        without_itn=tokenizer.encode([one.plain for one in lines]),
        space_with_itn=tokenizer.encode([gap + one.text for gap, one in zip(space, lines, strict=True)]),
        space_without_itn=tokenizer.encode([gap + one.plain for gap, one in zip(space, lines, strict=True)]),
        tag_ids={name: tokenizer.piece_to_id(f"<|{name}|>") for name in TAGS},
        events=dict.fromkeys(EVENTS, per_kind),
    )


# --- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Materials:
    """Everything a training stage draws batches from."""

    mixer: Mixer
    drawn: Iterator[Plan]
    tokenizer: spm.SentencePieceProcessor


def materials(work: Path, args: argparse.Namespace, recipe: Recipe, seed: int, rank: int = 0) -> Materials:
    """Load them; each rank has plans and sounds of its own, and the GPU of its number."""
    lines = shuffled(read_lines(work / TEXT / "train.jsonl.xz"), ORDER_SEED)[: args.limit]
    tokenizer = spm.SentencePieceProcessor(model_file=str(work / "text" / TOKENIZER))
    parts = [Speech.load(path) for path in sorted((work / "audio").glob("train.*.pt"))]
    catalogue = catalogue_of(parts, lines, tokenizer, args.per_kind)
    unknown = [name for name, number in catalogue.tag_ids.items() if number == tokenizer.unk_id()]
    if unknown:
        raise KeyError(f"tags without a token: {unknown}")
    seed += RANK_SEEDS * rank
    drawn = plans(catalogue, recipe, seed=seed, workers=args.workers)
    loops = work / "events" / "music.npz"
    sounds = event_bank(args.per_kind, seed, args.workers, loops if loops.exists() else None)
    if device() == "cuda":
        torch.cuda.set_device(rank)  # not earlier: the planners were forked
    events, bank = load_bank(sounds, seed, args.per_kind)
    mixer = Mixer(Speech.joined([part.to(device()) for part in parts]), events, bank)
    return Materials(mixer, drawn, tokenizer)


def identity_frontend(lfr_m: int, lfr_n: int) -> Frontend:
    """A frontend that does not normalise yet."""
    width = 80 * lfr_m
    return Frontend(np.zeros(width, np.float32), np.ones(width, np.float32), lfr_m=lfr_m, lfr_n=lfr_n)


def normalised_frontend(lfr_m: int, lfr_n: int, mixer: Mixer, drawn: Iterator[Plan]) -> Frontend:
    """A frontend whose CMVN was measured on distorted batches."""
    frontend = identity_frontend(lfr_m, lfr_n).to(mixer.device)
    batches = [mixer.realise(plan, 0.7) for plan in islice(drawn, 6)]
    frontend.shift, frontend.scale = measure_cmvn(frontend, batches)
    return frontend


def train_recogniser(work: Path, args: argparse.Namespace) -> None:
    """Train on all GPUs that are wanted, evaluate on the development clips now and then, pack the average."""
    torch.backends.cuda.matmul.allow_tf32 = True
    from training import __main__ as stages  # a new process finds nothing in what runs as "__main__"

    on_all_gpus(stages.train_rank, work, args, args.gpus)


def _shape(args: argparse.Namespace, vocabulary: int) -> NetworkShape:
    return NetworkShape(
        output_size=args.width,
        attention_heads=args.heads,
        linear_units=args.hidden,
        num_blocks=args.blocks,
        tp_blocks=args.tp_blocks,
        vocab_size=vocabulary,
    )


def new_trainer(args: argparse.Namespace, work: Path, stock: Materials, ranks: Ranks) -> Trainer:
    """A model with random weights, or with those to start from; the same in all ranks."""
    shape = _shape(args, stock.tokenizer.vocab_size())
    schedule = Schedule(seconds=args.seconds, peak_rate=args.rate, max_steps=args.steps, decays=args.decay)
    checkpoint = None
    if args.start_from:
        checkpoint, schedule = (
            load_start(args.start_from, shape, work / TEXT / TOKENIZER),
            schedule.continued(),
        )
    frontend = checkpoint.frontend if checkpoint else normalised_frontend(7, 6, stock.mixer, stock.drawn)
    torch.manual_seed(args.seed)
    model = TrainingNetwork(shape, frontend, dropout=args.dropout).to(stock.mixer.device)
    if checkpoint:
        restore(model, checkpoint)
    for measured in (model.frontend.shift, model.frontend.scale):
        ranks.share(measured)
    if ranks.first:
        print(f"{sum(p.numel() for p in model.network.parameters()):,} parameters", flush=True)
    torch.manual_seed(args.seed + RANK_SEEDS * ranks.number)
    on_gpu = device() == "cuda"
    return Trainer(model, schedule, ranks, amp=on_gpu, capture=on_gpu and args.graphs)


def report(
    work: Path,
    out: Path,
    trainer: Trainer,
    stock: Materials,
    splits: dict[str, int | None],
    examples: int = 0,
) -> None:
    """Pack the averaged weights, keep their state, and print how well they read the splits' first clips."""
    trainer.average.swap()
    network, frontend = trainer.model.eval().network, trainer.model.frontend
    pack_recogniser(out, network, network.shape, frontend, work / TEXT / TOKENIZER)
    save_state(out, trainer.model)
    for split, limit in splits.items():
        scores = evaluate(network, frontend, stock.tokenizer, held_out_clips(work, split)[:limit])
        print(f"{split}: {scores.summary()}", flush=True)
        for language, pairs in scores.examples.items():
            for found, wanted in pairs[:examples]:
                print(f"  {language}: {found} | {wanted}", flush=True)
    trainer.model.train()
    trainer.average.swap()


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
                report(work, work / args.name, trainer, stock, {"dev": 150})
                last = time.monotonic()
        if ranks.first:
            report(work, work / args.name, trainer, stock, {"dev": None, "test": None}, examples=3)


def profile_step(work: Path, args: argparse.Namespace) -> None:
    """Print where a training step's time goes, on one GPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    stock = materials(work, args, Recipe(batch_s=args.batch_s), args.seed)
    profile(new_trainer(args, work, stock, Ranks()), stock.mixer, stock.drawn, args.seconds)


def train_detector(work: Path, args: argparse.Namespace) -> None:
    """Train and pack the voice activity detector."""
    torch.manual_seed(args.seed)
    recipe = Recipe(batch_s=args.batch_s / 3, event_share=0.15, nothing_share=0.06)
    stock = materials(work, args, recipe, args.seed + 1)
    frontend = normalised_frontend(5, 1, stock.mixer, stock.drawn)
    model = train_vad(frontend, stock.mixer, stock.drawn, seconds=args.seconds)
    pack_vad(work / args.name / "vad", model.encoder, frontend)


def evaluate_packed(work: Path, args: argparse.Namespace) -> None:
    """Measure the packed model on the test sets, and print the tables."""
    print(evaluate_model(work, args.model or work / args.name, args.vad_reference))


def write_card(work: Path, args: argparse.Namespace) -> None:
    """Put the newest tables into the starter's card, as the packed model's own."""
    report = (work / "evaluation.md").read_text(encoding="utf-8")
    put_into_card(STARTER_DIRECTORY / CARD, report, work / args.name / CARD)


def _part(text: str) -> tuple[int, int]:
    index, count = text.split("/")
    return int(index), int(count)


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, *TOOLS, "all"))
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
    parser.add_argument("--gpus", type=int, default=1, help="train on so many, a share of the batch each")
    parser.add_argument(
        "--graphs", action=argparse.BooleanOptionalAction, default=True, help="capture CUDA graphs"
    )
    parser.add_argument(
        "--english-pieces",
        type=int,
        default=ENGLISH_PIECES,
        help="of the tokenizer, single characters included",
    )
    parser.add_argument("--evaluate-every-s", type=float, default=120.0)
    parser.add_argument("--model", type=Path, help="another packed model to evaluate")
    parser.add_argument("--vad-reference", type=Path, help="a folder with the official fsmn-vad")
    args = parser.parse_args()
    for stage in STAGES if args.stage == "all" else (args.stage,):
        {**STAGES, **TOOLS}[stage](
            args.work, argparse.Namespace(**{**vars(args), "seconds": seconds_of(stage, args)})
        )


def seconds_of(stage: str, args: argparse.Namespace) -> float:
    """The time that a stage has."""
    if args.seconds is None and stage == "audio" and args.hours is not None:
        return math.inf
    return SECONDS.get(stage, 0.0) if args.seconds is None else args.seconds


STAGES = {
    "fetch": lambda work, args: fetch(work),
    "text": write_text,
    "audio": make_audio,
    "train": train_recogniser,
    "vad": train_detector,
    "testsets": lambda work, args: make_testsets(work, seed=args.seed),
    "evaluate": evaluate_packed,
    "card": write_card,
}
TOOLS = {"tokenizer": write_tokenizer, "profile": profile_step}  # no part of "all"


if __name__ == "__main__":
    main()

"""Stage "audio": a part of the training lines is spoken until the time is up, a share of it through lossy codecs.

W/audio/train.I.pt for each part I; the first one also speaks the held-out lines (W/audio/held_out.pt), and adds
clips of espeak-ng where W/espeak is there, and recorded speech where W/recorded is.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch

from sensevoice.spans import SAMPLE_RATE
from training.codecs import decoded, encoder_pool, levelled, through_codecs
from training.espeak import VOICES, Samples, speak_all
from training.kokoro import Request, Synthesiser, load_kokoro, load_symbols
from training.lines import RECORDED, held_out_lines, recorded_lines, tokenizer_path, training_lines
from training.ranks import device
from training.speech import (
    UNKNOWN_EMOTION,
    Casting,
    Line,
    Speech,
    requests_for,
    requests_of_part,
    synthesise,
)
from training.tokens import round_trips

POLL_S = 0.2


def part_path(work: Path, part: int | str) -> Path:
    """Where a part of the speech is kept; of all parts, with "*", the pattern."""
    return work / "audio" / f"train.{part}.pt"


def spoken_parts(work: Path, count: int = 0) -> list[Speech]:
    """All parts that there are, once there are so many: the stage may still be speaking."""
    while len(paths := sorted((work / "audio").glob(part_path(work, "*").name))) < count:
        time.sleep(POLL_S)
    return [Speech.load(path) for path in paths]


def make_audio(work: Path, args: argparse.Namespace) -> None:
    """Speak as many training lines as the time allows; the first part speaks the held-out lines too."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    part, _ = args.part
    torch.manual_seed(args.seed + part)
    (work / "audio").mkdir(exist_ok=True)
    out = part_path(work, part)
    out.unlink(missing_ok=True)  # nobody is to wait for this part and find an old one
    lines = training_lines(work, args.limit)
    with encoder_pool(args.workers) as pool:
        # both are made while the GPU speaks, by processes that were forked before
        people = list if part else pool.apply_async(recorded_clips, (work, len(lines))).get
        robots = list if part else robot_clips(work, lines, args.robot_share, args.seed, pool)
        speech = encoded(speak(work, lines, args), args.codec_share, args.seed + part, pool)
        speech = speech.with_clips(robots()).with_clips(people(), UNKNOWN_EMOTION)
    speech.save(out)
    hours = speech.length.sum().item() / SAMPLE_RATE / 3600
    print(f"part {part}: {len(speech.length)} utterances, {hours:.2f} h", flush=True)


def robot_clips(
    work: Path, lines: Sequence[Line], share: float, seed: int, pool: Pool
) -> Callable[[], list[tuple[int, Samples]]]:
    """Begin to speak a share of the training lines in espeak-ng's voices, where it speaks the language well.

    What is returned waits for (line, [samples] int16 at 16 kHz) of each; there are none if espeak-ng was not fetched.
    """
    folder = work / "espeak"
    if not folder.exists() or share <= 0:
        return list
    known = [i for i, line in enumerate(lines) if line.lang in VOICES]
    chosen = np.random.default_rng(seed).permutation(known)[: int(share * len(lines))]
    texts = [(int(i), lines[i].lang, lines[i].plain) for i in chosen]
    spoken = speak_all(folder, texts, seed=seed, pool=pool)

    def wait() -> list[tuple[int, Samples]]:
        clips = spoken()
        hours = sum(len(samples) for _, samples in clips) / SAMPLE_RATE / 3600
        print(f"espeak: {len(clips)} clips, {hours:.2f} h", flush=True)
        return clips

    return wait


def recorded_clips(work: Path, lines: int) -> list[tuple[int, Samples]]:
    """Recorded speech, evenly loud, as (line, [samples] int16 at 16 kHz); none if none was fetched.

    It is what the last of so many training lines say. Clips whose text the tokenizer does not know are left out.
    """
    recorded = recorded_lines(work)
    if not recorded:
        return []
    sound, known = decoded(str(work / RECORDED / "speech.ogg")), round_trips(tokenizer_path(work))
    first = lines - len(recorded)
    clips = [
        (number, levelled(sound[line.start : line.start + line.length]))
        for number, line in enumerate(recorded, first)
        if known(line.text) and known(line.plain)
    ]
    hours = sum(len(samples) for _, samples in clips) / SAMPLE_RATE / 3600
    print(f"recorded: {len(clips)} of {len(recorded)} clips, {hours:.2f} h", flush=True)
    return clips


@torch.inference_mode()
def speak(work: Path, lines: Sequence[Line], args: argparse.Namespace) -> Speech:
    """A part of the training lines, on the host; the first part also writes the held-out ones.

    The stage's seconds are counted from `args.began` (`time.monotonic`).
    """
    synthesiser = synthesiser_of(work)
    print(f"synthesiser ready after {time.monotonic() - args.began:.0f} s", flush=True)
    if args.part[0] == 0:
        held_out = synthesise(synthesiser, held_out_requests(work, args), until=float("inf"))
        held_out.to("cpu").save(work / "audio" / "held_out.pt")
    hours = math.inf if args.hours is None else args.hours / args.part[1]
    requests, until = training_requests(work, lines, args), args.began + args.seconds
    speech = synthesise(synthesiser, requests, until=until, hours=hours, batch_frames=args.batch_frames)
    return speech.to("cpu")


def held_out_requests(work: Path, args: argparse.Namespace) -> list[Request]:
    """The held-out lines, each in its split's voice."""
    return requests_for(held_out_lines(work, args.limit), casting_of(work), args.seed)


def training_requests(work: Path, lines: Sequence[Line], args: argparse.Namespace) -> Iterator[Request]:
    """A part's share of the lines, take after take, each take in voices of its own."""
    casting = casting_of(work)
    for take in range(args.takes):
        yield from requests_of_part(lines, casting, args.seed + take, args.part)


def synthesiser_of(work: Path) -> Synthesiser:
    """Kokoro as stage "fetch" laid it out, on the accelerator if there is one."""
    folder = work / "kokoro"
    return Synthesiser(load_kokoro(folder / "kokoro.onnx", folder / "pkg"), device())


def casting_of(work: Path) -> Casting:
    """Whoever speaks, with Kokoro's symbols and style vectors."""
    folder = work / "kokoro"
    return Casting(load_symbols(folder / "vocab.json"), dict(np.load(folder / "voices.npz")))


def encoded(speech: Speech, share: float, seed: int, pool: Pool) -> Speech:
    """The same speech, which is on the host, a share of its utterances heard through lossy codecs, in place."""
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

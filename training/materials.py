"""What the stages "train" and "vad" draw batches from: speech, sounds and plans, out of what other stages left in W."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece as spm
import torch
from torch import Tensor

from sensevoice.features import Frontend
from training.augment import ROOM_SAMPLES, SoundBank
from training.batches import Catalogue, Mixer, Plan, Recipe, plans
from training.events import EVENTS, coloured_noise, event_bank, room_response
from training.lines import tokenizer_path, training_lines
from training.ranks import device
from training.speech import LANGUAGES, Line, Speech
from training.train import measure_cmvn

Array = npt.NDArray[Any]
TAGS = (
    *("zh", "en", "yue", "ja", "ko", "nospeech"),
    *("HAPPY", "SAD", "ANGRY", "NEUTRAL", "EMO_UNKNOWN"),
    *("Speech", "BGM", "Laughter", "Applause", "Cry", "Cough", "Sneeze", "Breath", "Event_UNK"),
    *("withitn", "woitn"),
)
UNSPACED = ("zh", "yue", "ja")
EVENT_SAMPLES, NOISE_SAMPLES = 96_000, 160_000  # 6 s, 10 s
RANK_SEEDS = 100  # apart
MELS = 80
CMVN_BATCHES, CMVN_STRENGTH = 6, 0.7


@dataclass(frozen=True)
class Materials:
    """Everything a training stage draws batches from."""

    mixer: Mixer
    drawn: Iterator[Plan]
    tokenizer: spm.SentencePieceProcessor


def materials(work: Path, args: argparse.Namespace, recipe: Recipe, seed: int, rank: int = 0) -> Materials:
    """Load them; each rank has plans and sounds of its own, and the GPU of its number.

    Raises KeyError if the tokenizer lacks a tag. Planners are forked: call this before anything touches the GPU.
    """
    lines = training_lines(work, args.limit)
    tokenizer = spm.SentencePieceProcessor(model_file=str(tokenizer_path(work)))
    parts = [Speech.load(path) for path in sorted((work / "audio").glob("train.*.pt"))]
    catalogue = catalogue_of(parts, lines, tokenizer, args.per_kind)
    seed += RANK_SEEDS * rank
    drawn = plans(catalogue, recipe, seed=seed, workers=args.workers)
    loops = work / "events" / "music.npz"
    sounds = event_bank(args.per_kind, seed, args.workers, loops if loops.exists() else None)
    if device() == "cuda":
        torch.cuda.set_device(rank)  # not earlier: the planners were forked
    events, bank = load_bank(sounds, seed, args.per_kind)
    mixer = Mixer(Speech.joined(parts, device()), events, bank)
    return Materials(mixer, drawn, tokenizer)


def catalogue_of(
    parts: list[Speech], lines: list[Line], tokenizer: spm.SentencePieceProcessor, per_kind: int
) -> Catalogue:
    """What the planners need to know of the parts' utterances, one part after the other.

    Raises KeyError if the tokenizer lacks a tag.
    """
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
        tag_ids=_tag_ids(tokenizer),
        events=dict.fromkeys(EVENTS, per_kind),
    )


def _tag_ids(tokenizer: spm.SentencePieceProcessor) -> dict[str, int]:
    ids = {name: tokenizer.piece_to_id(f"<|{name}|>") for name in TAGS}
    unknown = [name for name, number in ids.items() if number == tokenizer.unk_id()]
    if unknown:
        raise KeyError(f"tags without a token: {unknown}")
    return ids


def load_bank(
    sounds: dict[str, list[Array]], seed: int, per_kind: int
) -> tuple[dict[str, Tensor], SoundBank]:
    """Sound events by name, [count, EVENT_SAMPLES] of even loudness, and what distorts speech, on the device."""
    events = {
        name: torch.from_numpy(_repeated(clips, EVENT_SAMPLES)).to(device()) for name, clips in sounds.items()
    }
    rng = np.random.default_rng(seed)
    noises = np.stack([coloured_noise(rng, NOISE_SAMPLES, rng.uniform(-2.2, 0.6)) for _ in range(per_kind)])
    rooms = _cut([room_response(rng, rng.uniform(0.12, 0.7)) for _ in range(per_kind)], ROOM_SAMPLES)
    music = _even(events["BGM"], 1e-4)
    bank = SoundBank(torch.from_numpy(noises).to(device()), music, torch.from_numpy(rooms).to(device()))
    return {name: _even(clips, 1e-3) for name, clips in events.items()}, bank


def _even(clips: Tensor, faintest: float) -> Tensor:
    """[count, samples] with a root mean square of one; what is fainter than `faintest` stays below."""
    return clips / clips.square().mean(1, keepdim=True).sqrt().clamp_min(faintest)


def _repeated(clips: list[Array], width: int) -> Array:
    """[count, width], each clip again and again."""
    return np.stack([np.resize(clip, width) for clip in clips]).astype(np.float32, copy=False)


def _cut(clips: list[Array], width: int) -> Array:
    """[count, width], each clip once, cut off or followed by silence."""
    rows = np.zeros((len(clips), width), np.float32)
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip[:width]
    return rows


def identity_frontend(lfr_m: int, lfr_n: int) -> Frontend:
    """A frontend that does not normalise yet."""
    width = MELS * lfr_m
    return Frontend(np.zeros(width, np.float32), np.ones(width, np.float32), lfr_m=lfr_m, lfr_n=lfr_n)


def normalised_frontend(lfr_m: int, lfr_n: int, mixer: Mixer, drawn: Iterator[Plan]) -> Frontend:
    """A frontend, on the mixer's device, whose CMVN was measured on distorted batches."""
    frontend = identity_frontend(lfr_m, lfr_n).to(mixer.device)
    batches = [mixer.realise(plan, CMVN_STRENGTH) for plan in islice(drawn, CMVN_BATCHES)]
    frontend.shift, frontend.scale = measure_cmvn(frontend, batches)
    return frontend

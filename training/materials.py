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
from training.audio import spoken_parts
from training.augment import ROOM_SAMPLES, SoundBank
from training.batches import Catalogue, Mixer, Plan, Recipe, Texts, plans
from training.excerpts import Excerpts, drawn_excerpts, with_excerpts
from training.kokoro import load_symbols
from training.lines import tokenizer_path, training_lines
from training.ranks import device
from training.sound_bank import Recordings, event_bank, noise_bank, room_bank
from training.speech import LANGUAGES, Line, Speech
from training.train import measure_cmvn

Array = npt.NDArray[Any]
TAGS = (
    *("zh", "en", "yue", "ja", "ko", "nospeech"),
    *("HAPPY", "SAD", "ANGRY", "NEUTRAL", "EMO_UNKNOWN"),
    *("Speech", "BGM", "Laughter", "Applause", "Cry", "Cough", "Sneeze", "Breath", "Event_UNK"),
    *("withitn", "woitn"),
)
# What leads a text after another one, and the first: English pieces begin with their space, and without it "star" is
# spelled "st" and "ar", as it is nowhere within a sentence. Readers strip it.
LATER_GAPS = {"zh": "", "yue": "", "ja": ""}  # a space elsewhere
FIRST_GAPS = {"en": " "}  # nothing elsewhere
EVENT_SAMPLES = 96_000  # 6 s
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
    tag_ids = _tag_ids(tokenizer)
    recordings = Recordings.of(work / "events")
    seed += RANK_SEEDS * rank
    sounds = made_sounds(args.per_kind, seed, args.workers, recordings)
    excerpts = Excerpts.none(len(lines))
    if recipe.excerpts:
        excerpts = drawn_excerpts(lines, load_symbols(work / "kokoro" / "vocab.json"))
    texts = spelled(tokenizer, [*lines, *excerpts.lines])
    spoken = spoken_parts(work, args.parts)  # waited for when everything else is ready
    parts = [with_excerpts(part, excerpts, len(lines)) for part in spoken]
    catalogue = catalogue_of(parts, texts, tag_ids, dict.fromkeys(recordings.kinds(), args.per_kind))
    drawn = plans(catalogue, recipe, seed=seed, workers=args.workers)
    if device() == "cuda":
        torch.cuda.set_device(rank)  # not earlier: the planners and the sounds' makers were forked
    events, bank = load_bank(sounds)
    mixer = Mixer(Speech.joined(parts, device()), events, bank)
    return Materials(mixer, drawn, tokenizer)


def catalogue_of(
    parts: list[Speech], texts: Texts, tag_ids: dict[str, int], events: dict[str, int]
) -> Catalogue:
    """What the planners need to know of the parts' utterances, one part after the other, and of the events' counts."""
    length, line, emotion = (
        np.concatenate([getattr(part, name).numpy() for part in parts])
        for name in ("length", "line", "emotion")
    )
    return Catalogue(length, line, emotion, texts.lang[line], texts, tag_ids, events)


def spelled(tokenizer: spm.SentencePieceProcessor, lines: list[Line]) -> Texts:
    """The tokens of all lines in both forms, as an utterance's first text and behind another one."""
    first = [FIRST_GAPS.get(one.lang, "") for one in lines]
    later = [LATER_GAPS.get(one.lang, " ") for one in lines]
    written, plain = [one.text for one in lines], [one.plain for one in lines]
    return Texts(
        lang=np.array([LANGUAGES.index(one.lang) for one in lines]),
        with_itn=_tokens(tokenizer, first, written),
        without_itn=_tokens(tokenizer, first, plain),
        space_with_itn=_tokens(tokenizer, later, written),
        space_without_itn=_tokens(tokenizer, later, plain),
    )


def _tokens(tokenizer: spm.SentencePieceProcessor, gaps: list[str], texts: list[str]) -> list[list[int]]:
    """The tokens of each text behind its gap."""
    tokens: list[list[int]] = tokenizer.encode([gap + text for gap, text in zip(gaps, texts, strict=True)])
    return tokens


def _tag_ids(tokenizer: spm.SentencePieceProcessor) -> dict[str, int]:
    ids = {name: tokenizer.piece_to_id(f"<|{name}|>") for name in TAGS}
    unknown = [name for name, number in ids.items() if number == tokenizer.unk_id()]
    if unknown:
        raise KeyError(f"tags without a token: {unknown}")
    return ids


@dataclass(frozen=True)
class Sounds:
    """Sounds as they were made, on the host."""

    events: dict[str, list[Array]]
    noises: Array  # [count, samples]
    rooms: list[Array]


def made_sounds(per_kind: int, seed: int, workers: int, recordings: Recordings) -> Sounds:
    """`per_kind` events of each kind, noises and rooms; the same for every number of workers.

    The workers are forked: call this before anything touches the GPU.
    """
    return Sounds(
        event_bank(per_kind, seed, workers, recordings),
        noise_bank(per_kind, seed, workers, recordings),
        room_bank(per_kind, seed, workers),
    )


def load_bank(sounds: Sounds) -> tuple[dict[str, Tensor], SoundBank]:
    """Sound events by name, [count, EVENT_SAMPLES] of even loudness, and what distorts speech, on the device."""
    events = {
        name: torch.from_numpy(_repeated(clips, EVENT_SAMPLES)).to(device())
        for name, clips in sounds.events.items()
    }
    noises = torch.from_numpy(sounds.noises).to(device())
    rooms = torch.from_numpy(_cut(sounds.rooms, ROOM_SAMPLES)).to(device())
    bank = SoundBank(noises, _even(events["BGM"], 1e-4), rooms)
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

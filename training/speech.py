"""Synthetic speech: text lines with phonemes -> utterances with exact phoneme times, kept flat in memory.

Voices and emotions are drawn here. Test and development voices are never heard in training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensevoice.spans import SAMPLE_RATE
from training.kokoro import Prosody, Request, Spoken, Synthesiser, pulled_apart
from training.tones import tones_of
from training.words import APART

Array = npt.NDArray[Any]
LANGUAGES = ("zh", "en", "yue", "ja", "ko")
UNKNOWN_UNIT = 255
EMOTIONS = ("NEUTRAL", "HAPPY", "SAD", "ANGRY")
UNKNOWN_EMOTION = len(EMOTIONS)  # of recorded speech: the loss leaves its tag out
EMOTION_SHARES = (0.52, 0.16, 0.16, 0.16)
# energy is in the synthesiser's own logarithmic units
PROSODIES = {
    "NEUTRAL": Prosody(),
    "HAPPY": Prosody(pitch=1.30, pitch_range=1.7, pace=1.10, energy=0.4),
    "SAD": Prosody(pitch=0.88, pitch_range=0.30, pace=0.76, energy=-0.8),
    "ANGRY": Prosody(pitch=1.12, pitch_range=1.25, pace=1.22, energy=1.0),
}

_ENGLISH = [
    *(
        "af_alloy",
        "af_aoede",
        "af_bella",
        "af_heart",
        "af_jessica",
        "af_kore",
        "af_nicole",
        "af_nova",
        "af_river",
    ),
    *("af_sarah", "af_sky", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_michael", "am_onyx", "am_puck"),
    *("am_santa", "bf_alice", "bf_isabella", "bf_lily", "bm_daniel", "bm_fable", "bm_george", "bm_lewis"),
]
_CHINESE = ["zf_xiaoxiao", "zf_xiaoyi", "zm_yunjian", "zm_yunxi", "zm_yunxia", "hf_alpha"]
# those who pronounce the language well: their prosody is used, and often their timbre
TRAINING_VOICES = {
    "en": _ENGLISH,
    "zh": _CHINESE,
    "yue": [*_CHINESE, "hf_beta", "jf_alpha"],
    "ja": ["jf_alpha", "jf_nezumi", "jm_kumo"],
    "ko": ["hf_beta", "hf_alpha", "em_santa", "jf_alpha", "jf_nezumi"],
}
# those who lend their timbre to any language
_TIMBRES = [
    "ef_dora",
    "em_alex",
    "ff_siwis",
    "if_sara",
    "im_nicola",
    "pf_dora",
    "pm_alex",
    "pm_santa",
    "zf_xiaoni",
]
HELD_OUT_VOICES = {
    "dev": {"en": "am_liam", "zh": "zf_xiaobei", "yue": "zf_xiaobei", "ja": "jf_tebukuro", "ko": "hm_omega"},
    "test": {"en": "bf_emma", "zh": "zm_yunyang", "yue": "zm_yunyang", "ja": "jf_gongitsune", "ko": "hm_psi"},
}
ALL_TRAINING_VOICES = sorted({*_TIMBRES, *(name for names in TRAINING_VOICES.values() for name in names)})
# Kokoro gives each phoneme its mean length, and says 2.3 English words a second, where a reader says 3
PACE_OF_PEOPLE = (0.18, 0.18)  # mean and deviation of the logarithm of how much faster they are
UNEVENNESS = 0.35  # at most, a deviation of the logarithm of a phoneme's length
WORDS_APART = 12  # tokens between changes of pace within a sentence
WORDS_SHARE = 0.6  # of the unevenness, in these
PACE_APART = (0.6, 1.5)  # of what is usual
PAUSE_FRAMES = (4, 25)  # of 25 ms, the longest pause of an utterance
TIMBRE_WIDTH = 128  # of a style; the rest is prosody


@dataclass
class Line:
    """One text line, as the text stage writes it."""

    lang: str
    text: str
    plain: str
    phonemes: str
    kind: str = ""
    split: str = "train"
    example: bool = False


@dataclass
class Speech:
    """Many utterances laid end to end; every field but `audio`, `units` and `unit_frames` is [utterances]."""

    audio: Tensor  # int16, 16 kHz
    start: Tensor  # first sample of each utterance
    length: Tensor  # samples
    line: Tensor  # index into the text lines
    emotion: Tensor  # index into EMOTIONS, or UNKNOWN_EMOTION
    unit_start: Tensor  # first entry in `units`
    unit_count: Tensor
    units: Tensor  # phoneme symbols, uint8
    unit_frames: Tensor  # their durations in 25 ms frames, uint8

    def to(self, device: str) -> Speech:
        """The same, on a device."""
        return Speech(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def save(self, path: Path) -> None:
        """Write to disk; whoever waits for the file finds all of it."""
        unfinished = path.with_name(path.name + ".unfinished")
        torch.save({f.name: getattr(self, f.name).cpu() for f in fields(self)}, unfinished)
        unfinished.rename(path)

    def with_clips(self, clips: Sequence[tuple[int, Array]], emotion: int = 0) -> Speech:
        """Append (line, int16 samples) from elsewhere, of one emotion, whose phoneme times are unknown."""
        if not clips:
            return self
        lengths = torch.tensor([len(samples) for _, samples in clips])
        ones = torch.ones(len(clips), dtype=torch.long)
        return self.extended(
            audio=torch.from_numpy(np.concatenate([samples for _, samples in clips])),
            start=len(self.audio) + lengths.cumsum(0) - lengths,
            length=lengths,
            line=torch.tensor([line for line, _ in clips]),
            emotion=emotion * ones,
            unit_start=len(self.units) + torch.arange(len(clips)),
            unit_count=ones,
            units=(UNKNOWN_UNIT * ones).to(torch.uint8),
            unit_frames=(255 * ones).to(torch.uint8),
        )

    def extended(self, **added: Tensor) -> Speech:
        """The same with more behind each of these fields; all are on the host."""
        return replace(self, **{name: torch.cat([getattr(self, name), more]) for name, more in added.items()})

    @classmethod
    def joined(cls, parts: Sequence[Speech], device: str = "cpu") -> Speech:
        """One after another, on a device, which never holds any of it twice."""
        flat = {f.name: _end_to_end([getattr(part, f.name) for part in parts], device) for f in fields(cls)}
        for name, counted in (("start", "audio"), ("unit_start", "units")):
            before = np.cumsum([0, *(len(getattr(part, counted)) for part in parts[:-1])]).tolist()
            shares = flat[name].split([len(part.start) for part in parts])
            for share, offset in zip(shares, before, strict=True):
                share.add_(offset)
        return cls(**flat)

    @classmethod
    def load(cls, path: Path) -> Speech:
        """Read back what `save` wrote."""
        return cls(**torch.load(path, weights_only=True, mmap=True))


def _end_to_end(tensors: Sequence[Tensor], device: str) -> Tensor:
    joined = torch.empty(sum(map(len, tensors)), dtype=tensors[0].dtype, device=device)
    for target, tensor in zip(joined.split([len(tensor) for tensor in tensors]), tensors, strict=True):
        target.copy_(tensor)
    return joined


def draw_prosody(rng: np.random.Generator, emotion: str) -> Prosody:
    """The emotion's prosody with a speaker's own variation."""
    base = PROSODIES[emotion]
    jitter = rng.normal(1.0, (0.10, 0.12, 0.10)).clip(0.7, 1.4)
    return Prosody(
        base.pitch * jitter[0],
        base.pitch_range * jitter[1],
        base.pace * jitter[2],
        base.energy + rng.normal(0, 0.15),
    )


class Cast:
    """The voices that training may hear, and endless others between and around them."""

    def __init__(self, voices: dict[str, Array]) -> None:
        """`voices`: style tables by name, [tokens, 256] each; held-out ones are not looked at."""
        self.voices = voices
        table = np.stack([voices[name].astype(np.float32) for name in ALL_TRAINING_VOICES])
        self.mean = table.mean(axis=0)  # [tokens, 256]
        self.offsets = (table - self.mean) / np.sqrt(len(table) - 1)  # [voices, tokens, 256]

    def draw(self, rng: np.random.Generator, language: str, tokens: int) -> Array:
        """A style: [256], the timbre of anybody with the prosody of one who speaks the language."""
        style = self._prosody(rng, language, tokens)
        style[:TIMBRE_WIDTH] = self._timbre(rng, language, tokens)[:TIMBRE_WIDTH]
        return style

    def _prosody(self, rng: np.random.Generator, language: str, tokens: int) -> Array:
        style = self._one_of(rng, TRAINING_VOICES[language], tokens)
        if rng.random() < 0.65:
            other = self._one_of(rng, TRAINING_VOICES[language], tokens)
            weight = rng.uniform(0.5, 1.0)
            style = weight * style + (1 - weight) * other
        return style.copy()

    def _timbre(self, rng: np.random.Generator, language: str, tokens: int) -> Array:
        """A native's, a mixture of two people's, or one drawn from the spread of all of them."""
        dice = rng.random()
        if dice < 0.25:
            return self._one_of(rng, TRAINING_VOICES[language], tokens)
        if dice < 0.6:
            native = self._one_of(rng, TRAINING_VOICES[language], tokens)
            weight = rng.uniform(0.0, 1.0)
            return weight * native + (1 - weight) * self._one_of(rng, ALL_TRAINING_VOICES, tokens)
        steps = rng.normal(0, rng.uniform(0.6, 1.0), size=len(self.offsets)).astype(np.float32)
        drawn: Array = self.mean[tokens - 1] + steps @ self.offsets[:, tokens - 1]
        return drawn

    def _one_of(self, rng: np.random.Generator, names: Sequence[str], tokens: int) -> Array:
        return self.voices[names[rng.integers(len(names))]][tokens - 1].astype(np.float32)


class Casting:
    """Draws how a line is said: in which voice and mood, at which pace."""

    def __init__(self, symbols: dict[str, int], voices: dict[str, Array]) -> None:
        self.symbols, self.voices, self.cast = symbols, voices, Cast(voices)

    def request(self, index: int, line: Line, rng: np.random.Generator) -> Request | None:
        """The request of line number `index`; None if it is too short or too long."""
        ids = [self.symbols[symbol] for symbol in line.phonemes if symbol in self.symbols]
        emotion = int(rng.choice(len(EMOTIONS), p=EMOTION_SHARES))
        if not 2 <= len(ids) <= 250:
            return None
        style = self._style(line, len(ids), rng)
        tones = tones_of(line.phonemes, self.symbols)
        prosody = draw_prosody(rng, EMOTIONS[emotion])
        stretch = draw_stretch(rng, len(ids) + 2) if line.split == "train" else None
        pauses: tuple[tuple[int, int], ...] = ()
        if line.kind == APART:
            prosody = replace(prosody, pace=prosody.pace * rng.uniform(*PACE_APART))
            pauses = draw_pauses(rng, ids, self.symbols["."])
        return Request(ids, style, prosody, index, emotion, tones, pauses, stretch)

    def _style(self, line: Line, tokens: int, rng: np.random.Generator) -> Array:
        if line.split == "train":
            return self.cast.draw(rng, line.lang, tokens)
        style: Array = self.voices[HELD_OUT_VOICES[line.split][line.lang]][tokens - 1].astype(np.float32)
        return style


def requests_for(lines: Sequence[Line], casting: Casting, seed: int) -> list[Request]:
    """One request per line that is neither too short nor too long, drawn one after the other.

    Of held-out lines, whose clips stay what they were in every run; see `requests_of_part`.
    """
    rng = np.random.default_rng(seed)
    drawn = (casting.request(index, line, rng) for index, line in enumerate(lines))
    return [request for request in drawn if request]


def requests_of_part(
    lines: Sequence[Line], casting: Casting, seed: int, part: tuple[int, int]
) -> Iterator[Request]:
    """Every so-manyth line's request, made when it is asked for; the same however the lines are shared out."""
    first, step = part
    for index in range(first, len(lines), step):
        if request := casting.request(index, lines[index], np.random.default_rng((seed, index))):
            yield request


def draw_stretch(rng: np.random.Generator, tokens: int) -> Array:
    """[tokens]: how many times as long as usual each is, in somebody's own pace and rhythm."""
    knots = np.arange(0, tokens + WORDS_APART, WORDS_APART)
    words = np.interp(np.arange(tokens), knots, rng.normal(size=len(knots)))
    uneven = np.exp(rng.uniform(0, UNEVENNESS) * (rng.normal(size=tokens) + WORDS_SHARE * words))
    stretch: Array = (uneven / uneven.mean() / np.exp(rng.normal(*PACE_OF_PEOPLE))).astype(np.float32)
    return stretch


def draw_pauses(rng: np.random.Generator, ids: Sequence[int], stop: int) -> tuple[tuple[int, int], ...]:
    """(token, frames) of pauses at all full stops but the last, about as long as each other."""
    longest = int(rng.integers(*PAUSE_FRAMES))
    stops = [token for token, known in enumerate(ids[:-1]) if known == stop]
    return tuple((token, int(rng.integers(longest // 2, longest + 1))) for token in stops)


def synthesise(
    synthesiser: Synthesiser,
    requests: Iterable[Request],
    *,
    until: float,
    hours: float = math.inf,
    chunk: int = 6_000,
    batch_frames: int = 8_000,
) -> Speech:
    """Speak chunk after chunk of requests until the clock (time.monotonic) says stop, or so many hours are spoken."""
    parts: list[_Part] = []
    seconds, count, began, left = 0.0, 0, time.monotonic(), iter(requests)
    while some := list(islice(left, chunk)):
        count += len(some)
        for spoken in synthesiser.speak(some, batch_frames=batch_frames):
            parts += map(_Part.of, pulled_apart(spoken))
            seconds += spoken.samples.numel() / SAMPLE_RATE
            if time.monotonic() > until or seconds > hours * 3600:
                break
        speed = seconds / (time.monotonic() - began)
        print(f"synthesis: {seconds / 3600:.2f} h of {count} lines, {speed:.0f}x real time", flush=True)
        if time.monotonic() > until or seconds > hours * 3600:
            break
    return _laid_end_to_end(parts)


@dataclass
class _Part:
    audio: Tensor
    lines: list[int]
    emotions: list[int]
    units: list[list[int]]
    unit_frames: Tensor

    @classmethod
    def of(cls, spoken: Spoken) -> _Part:
        emotions = [request.emotion for request in spoken.requests]
        angry = torch.tensor([EMOTIONS[emotion] == "ANGRY" for emotion in emotions])
        samples = _hardened(spoken.samples, angry.to(spoken.samples.device))
        peak = samples.abs().amax(dim=1, keepdim=True).clamp_min(1e-4)
        audio = (samples * (0.9 / peak) * 32_767).round().to(torch.int16)
        units = [[0, *request.ids, 0] for request in spoken.requests]
        lines = [request.line for request in spoken.requests]
        return cls(audio, lines, emotions, units, spoken.durations.clamp_max(255).to(torch.uint8))


def _hardened(samples: Tensor, angry: Tensor) -> Tensor:
    """A pressed voice has a flatter spectrum and overdriven peaks."""
    tilted = samples - 0.5 * torch.roll(samples, 1, dims=1)
    driven = torch.tanh(2.5 * tilted / tilted.abs().amax(dim=1, keepdim=True).clamp_min(1e-4))
    return torch.where(angry[:, None], driven, samples)


def _laid_end_to_end(parts: Iterable[_Part]) -> Speech:
    parts = list(parts)
    lengths = [part.audio.shape[1] for part in parts for _ in part.lines]
    counts = [len(units) for part in parts for units in part.units]
    length, count = torch.tensor(lengths), torch.tensor(counts)
    frames = [
        row[: len(units)]
        for part in parts
        for row, units in zip(part.unit_frames.cpu(), part.units, strict=True)
    ]
    return Speech(
        audio=torch.cat([part.audio.flatten() for part in parts]),
        start=length.cumsum(0) - length,
        length=length,
        line=torch.tensor([line for part in parts for line in part.lines]),
        emotion=torch.tensor([emotion for part in parts for emotion in part.emotions]),
        unit_start=count.cumsum(0) - count,
        unit_count=count,
        units=torch.tensor([u for part in parts for units in part.units for u in units], dtype=torch.uint8),
        unit_frames=torch.cat(frames),
    )

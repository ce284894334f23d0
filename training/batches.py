"""Stage "targets": batches of joined utterances with text, tags and frame-exact phonemes.

A batch is planned in worker processes (`Planner`: which utterances, when, with which event and
which queries; plain arrays) and made into sound on the GPU (`Mixer`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.network import query_ids
from sensevoice.spans import SAMPLE_RATE
from training.augment import SoundBank, augment, level, quick_size, stretched
from training.speech import EMOTIONS, LANGUAGES, UNKNOWN_UNIT, Speech

Array = npt.NDArray[Any]
FRAME_SAMPLES = 960  # one output frame is 60 ms
UNIT_SAMPLES = 400  # one duration unit is 25 ms
IGNORED = -100
MAX_PIECES = 5
SLOWEST, FASTEST = 0.86, 1.2
PROBES_MS = (-20, 0, 20)  # where within a frame the phoneme is read
LENGTHS_S = (2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 22.0)
LENGTH_SHARES = (0.14, 0.2, 0.2, 0.16, 0.12, 0.09, 0.06, 0.03)
MAX_UNITS = 256  # phonemes of one utterance, end marks included
NEVER = 2**40
UNVOICED_EVENTS = ("BGM", "Breath")  # a voice activity detector is to pass these over
# what a detector is to call speech: set so that clean development clips are read as the official one reads them
FAINTEST = 1e-5  # of the loudest frame's energy
LONGEST_PAUSE_FRAMES, GROWN_FRAMES = 31, 6
GRID = 9_600  # samples: batch widths are multiples of this, so that spectra have quick sizes
STRETCHED_GRID = 480


@dataclass(frozen=True)
class Recipe:
    """Shares and sizes of what is mixed."""

    batch_s: float = 900.0
    event_share: float = 0.10  # of items: a sound event and no speech
    nothing_share: float = 0.03  # of items: noise or silence alone
    mixed_share: float = 0.08  # of items: speech with an event beside or under it
    auto_share: float = 0.7  # of items: the language query says auto


@dataclass(frozen=True)
class Catalogue:
    """What a planner must know of the speech, [utterances] each; token lists by line."""

    length: Array
    line: Array
    emotion: Array
    lang: Array
    with_itn: list[list[int]]
    without_itn: list[list[int]]
    space_with_itn: list[
        list[int]
    ]  # the same after another sentence: led by a space where the script has them
    space_without_itn: list[list[int]]
    tag_ids: dict[str, int]
    events: dict[str, int]  # sounds in the bank, by name


@dataclass
class Item:
    """One planned row of a batch."""

    pieces: list[int] = field(default_factory=list)
    lang: int = 0
    emotion: int = 0
    event: str | None = None
    wanted_s: float = 2.0

    def tags(self, use_itn: bool) -> tuple[str, str, str, str]:
        """Language, emotion, event, normalisation."""
        language = LANGUAGES[self.lang] if self.pieces else "nospeech"
        emotion = EMOTIONS[self.emotion] if self.pieces else "EMO_UNKNOWN"
        event = self.event or ("Speech" if self.pieces else "Event_UNK")
        return language, emotion, event, "withitn" if use_itn else "woitn"


@dataclass
class Plan:
    """A batch on paper. Times in samples; [items, pieces] or [items]."""

    begin: Array
    length: Array
    utterance: Array  # -1 where there is no piece
    total: Array
    events: list[PlacedEvent]
    silent: Array
    queries: Array
    tags: Array
    targets: Array  # [items, tokens], padded with 0
    target_lengths: Array
    stretch: float

    @property
    def width(self) -> int:
        """Samples of a row before it is stretched."""
        longest = int(self.total.max())
        return longest + -longest % GRID

    @property
    def stretched_width(self) -> int:
        """Samples of a row afterwards."""
        return quick_size(int(self.width / self.stretch), STRETCHED_GRID)


@dataclass(frozen=True)
class PlacedEvent:
    """A sound event in a row of a batch; times in samples."""

    row: int
    name: str
    sound: int
    first: int
    count: int
    gain_db: float


class Planner:
    """Draws plans; one to a worker process."""

    def __init__(self, catalogue: Catalogue, recipe: Recipe, seed: int) -> None:
        self.catalogue, self.recipe = catalogue, recipe
        self.rng = np.random.default_rng(seed)
        self.pools = self._pools()
        self.keys = list(self.pools)
        self.neutral = [key for key in self.keys if key[1] == 0] or self.keys
        self.event_names = list(catalogue.events)

    def _pools(self) -> dict[tuple[int, int], Array]:
        """Utterances by (language, emotion), shortest first."""
        known = self.catalogue
        pools = {}
        for language in range(len(LANGUAGES)):
            for emotion in range(len(EMOTIONS)):
                mine = np.flatnonzero((known.lang == language) & (known.emotion == emotion))
                pools[language, emotion] = mine[np.argsort(known.length[mine], kind="stable")]
        return {key: pool for key, pool in pools.items() if len(pool)}

    def draw(self) -> Plan:
        """A batch of about `recipe.batch_s` seconds, its items of similar length."""
        wanted_s = float(self.rng.choice(LENGTHS_S, p=LENGTH_SHARES))
        size = max(8, int(self.recipe.batch_s / (wanted_s + 1.2)))
        return self._lay_out([self._item(wanted_s) for _ in range(size)])

    def _item(self, wanted_s: float) -> Item:
        dice, recipe = self.rng.random(), self.recipe
        if dice < recipe.nothing_share:
            return Item(wanted_s=wanted_s)
        if dice < recipe.nothing_share + recipe.event_share and self.event_names:
            return Item(event=self._event(), wanted_s=wanted_s)
        keys = self.keys if self.rng.random() < 0.5 else self.neutral
        language, emotion = keys[self.rng.integers(len(keys))]
        event = self._event() if self.event_names and self.rng.random() < recipe.mixed_share else None
        return Item(self._pieces(self.pools[language, emotion], wanted_s), language, emotion, event, wanted_s)

    def _event(self) -> str:
        return self.event_names[self.rng.integers(len(self.event_names))]

    def _pieces(self, pool: Array, wanted_s: float) -> list[int]:
        """Utterances that together last about as long as wanted."""
        count = 1 if wanted_s <= 4 else int(self.rng.integers(1, MAX_PIECES + 1))
        middle = int(np.searchsorted(self.catalogue.length[pool], wanted_s * SAMPLE_RATE / count))
        spread = max(8, len(pool) // 12)
        high = min(len(pool), middle + spread)
        low = min(max(0, middle - spread), high - 1)
        return [int(pool[i]) for i in self.rng.integers(low, high, size=count)]

    def _lay_out(self, items: Sequence[Item]) -> Plan:
        shape = (len(items), max(1, max(len(item.pieces) for item in items)))
        begin, length, utterance = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
        total = np.zeros(len(items), np.int64)
        events = []
        for row, item in enumerate(items):
            at = self._samples(0, 0.6)
            for column, piece in enumerate(item.pieces):
                begin[row, column], utterance[row, column] = at, piece
                length[row, column] = self.catalogue.length[piece]
                at += int(length[row, column]) + self._samples(0.0, 0.5)
            if not item.pieces:
                at = int(item.wanted_s * SAMPLE_RATE)
            if item.event:
                at, event = self._place_event(row, item, at)
                events.append(event)
            total[row] = at
        silent = np.array([not item.pieces and item.event is None for item in items])
        return Plan(begin, length, utterance, total, events, silent, **self._text(items))

    def _samples(self, low_s: float, high_s: float) -> int:
        return int(self.rng.uniform(low_s, high_s) * SAMPLE_RATE)

    def _place_event(self, row: int, item: Item, at: int) -> tuple[int, PlacedEvent]:
        """After the speech, under it (music), or alone; returns the item's new end and the event."""
        assert item.event is not None
        sound = int(self.rng.integers(self.catalogue.events[item.event]))
        if item.pieces and item.event != "BGM":
            count = self._samples(0.8, 2.5)
            return at + count, PlacedEvent(row, item.event, sound, at, count, self.rng.uniform(-5, 5))
        gain_db = self.rng.uniform(-9, 2) if item.pieces else self.rng.uniform(-6, 6)
        count = at
        if not item.pieces and item.event != "BGM" and self.rng.random() < 0.5:
            count = self._samples(0.4, min(3.0, at / SAMPLE_RATE))  # one cough, and silence around it
        first = int(self.rng.integers(at - count + 1))
        return at, PlacedEvent(row, item.event, sound, first, count, gain_db)

    def _text(self, items: Sequence[Item]) -> dict[str, Any]:
        known = self.catalogue
        queries, tags, targets = [], [], []
        for item in items:
            use_itn = bool(self.rng.random() < 0.5)
            named = item.lang if item.pieces else self.rng.integers(len(LANGUAGES))
            asked = "auto" if self.rng.random() < self.recipe.auto_share else LANGUAGES[named]
            queries.append(query_ids(asked, use_itn))
            tags.append([known.tag_ids[name] for name in item.tags(use_itn)])
            first = known.with_itn if use_itn else known.without_itn
            later = known.space_with_itn if use_itn else known.space_without_itn
            tokens = [
                token
                for place, piece in enumerate(item.pieces)
                for token in (later if place else first)[known.line[piece]]
            ]
            targets.append(tokens)
        return {
            "queries": np.array(queries),
            "tags": np.array(tags),
            "targets": _padded(targets),
            "target_lengths": np.array([len(tokens) for tokens in targets]),
            "stretch": float(self.rng.uniform(SLOWEST, FASTEST)),
        }


def _padded(rows: Sequence[Sequence[int]]) -> Array:
    out = np.zeros((len(rows), max(1, max(len(row) for row in rows))), np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


def _work(catalogue: Catalogue, recipe: Recipe, seed: int, out: Any) -> None:
    planner = Planner(catalogue, recipe, seed)
    while True:
        out.put(planner.draw())


def plans(catalogue: Catalogue, recipe: Recipe, *, seed: int, workers: int) -> Iterator[Plan]:
    """Endless plans; from worker processes if there are any, in no fixed order then.

    The workers are forked: call this before anything touches the GPU.
    """
    if not workers:
        return _endless(Planner(catalogue, recipe, seed))
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue(maxsize=4 * workers)
    for worker in range(workers):
        arguments = (catalogue, recipe, seed * 1_000 + worker, queue)
        context.Process(target=_work, args=arguments, daemon=True).start()
    return iter(queue.get, None)


def _endless(planner: Planner) -> Iterator[Plan]:
    while True:
        yield planner.draw()


@dataclass
class Batch:
    """What a training step needs."""

    samples: Tensor  # [batch, samples]
    lengths: Tensor  # [batch] samples, on the host
    queries: Tensor  # [batch, 4]
    tags: Tensor  # [batch, 4] token ids: language, emotion, event, normalisation
    targets: Tensor  # [batch, tokens]
    target_lengths: Tensor  # [batch], on the host
    phonemes: Tensor  # [batch, frames, probes], IGNORED where unknown


def laid_out(audio: Tensor, source: Tensor, begin: Tensor, length: Tensor, width: int) -> Tensor:
    """Stretches of [samples] int16 audio, laid out in time: [items, width] float32.

    source, begin, length: [items, pieces], where a stretch comes from, where it goes, and how long it is.
    """
    columns = torch.arange(width, device=audio.device)[None]
    out = torch.zeros(len(begin), width, device=audio.device)
    for piece in range(begin.shape[1]):
        within = columns - begin[:, piece : piece + 1]
        last = length[:, piece : piece + 1]
        taken = audio[source[:, piece : piece + 1] + within.clamp_min(0).minimum((last - 1).clamp_min(0))]
        out += torch.where((within >= 0) & (within < last), taken.float() / 32_768, 0.0)
    return out


def _widest(rows: Tensor, reach: int) -> Tensor:
    """The maximum over `reach` frames to either side, [items, 1, frames]."""
    return F.max_pool1d(rows, 2 * reach + 1, 1, reach)


class Mixer:
    """Makes planned batches into sound."""

    def __init__(self, speech: Speech, events: dict[str, Tensor], bank: SoundBank) -> None:
        self.speech, self.bank = speech, bank
        self.event_names = list(events)
        self.event_sounds = torch.stack(list(events.values()))  # [names, sounds, samples]
        self.device = speech.audio.device
        frames = speech.unit_frames.long()
        running = frames.cumsum(0)
        before = running[speech.unit_start] - frames[speech.unit_start]
        # where each phoneme ends, in samples from its utterance's start
        self.unit_ends = (running - before.repeat_interleave(speech.unit_count)) * UNIT_SAMPLES

    def realise(self, plan: Plan, strength: float) -> Batch:
        """`strength` of the distortions: 0 almost clean, 1 full."""
        width, target = plan.width, plan.stretched_width
        factor = width / target
        utterance, begin, length = (self._tensor(v) for v in (plan.utterance, plan.begin, plan.length))
        sounds = self._lay_out(utterance, begin, length, width, plan.events)
        if target != width:
            sounds = stretched(sounds, target)
        silent = self._tensor(plan.silent)[:, None]
        sounds = torch.where(silent, torch.randn_like(sounds) * 1e-3, sounds)
        lengths = torch.from_numpy((plan.total / factor).astype(np.int64)).clamp(800, target)
        inside = torch.arange(target, device=self.device) < lengths.to(self.device)[:, None]
        frames = -(-(1 + (target - 400) // 160) // 6)
        return Batch(
            augment(sounds, self.bank, strength) * inside,
            lengths,
            *(self._tensor(v) for v in (plan.queries, plan.tags, plan.targets)),
            torch.from_numpy(plan.target_lengths),
            self._phonemes(utterance, begin, length, frames, factor),
        )

    def activity(self, plan: Plan, frames: int) -> Tensor:
        """Whether a voice (or applause) sounds in each 10 ms frame of the plan's batch, [items, frames].

        Read off the clean signals: no pauses under 300 ms, and 60 ms around what sounds.
        """
        width, target = plan.width, plan.stretched_width
        utterance, begin, length = (self._tensor(v) for v in (plan.utterance, plan.begin, plan.length))
        heard = [event for event in plan.events if event.name not in UNVOICED_EVENTS]
        sounds = self._lay_out(utterance, begin, length, width, heard)
        energy = F.avg_pool1d(sounds.square()[:, None], 400, 160)[:, 0]
        loudest = energy.amax(dim=1, keepdim=True)
        active = ((energy > loudest * FAINTEST) & (energy > 1e-7)).float()[:, None]
        closed = -_widest(-_widest(active, LONGEST_PAUSE_FRAMES // 2), LONGEST_PAUSE_FRAMES // 2)
        grown = _widest(closed, GROWN_FRAMES)
        at = (torch.arange(frames, device=self.device) * (width / target)).long()
        return grown[:, 0, at.clamp_max(grown.shape[2] - 1)] > 0.5

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def _lay_out(
        self, utterance: Tensor, begin: Tensor, length: Tensor, width: int, events: Sequence[PlacedEvent]
    ) -> Tensor:
        """The pieces in their places, and the events: [items, width]."""
        source = self.speech.start[utterance.clamp_min(0)]
        sounds = laid_out(self.speech.audio, source, begin, length, width)
        return self._add_events(sounds, events) if events else sounds

    def _add_events(self, sounds: Tensor, events: Sequence[PlacedEvent]) -> Tensor:
        rows, sound, first, count = (
            self._tensor(np.array([getattr(event, name) for event in events]))
            for name in ("row", "sound", "first", "count")
        )
        kinds = self._tensor(np.array([self.event_names.index(event.name) for event in events]))
        gain = self._tensor(np.array([10 ** (event.gain_db / 20) for event in events], np.float32))
        within = torch.arange(sounds.shape[1], device=self.device)[None] - first[:, None]
        clips = self.event_sounds[kinds, sound].gather(1, within % self.event_sounds.shape[2])
        clips = clips * ((within >= 0) & (within < count[:, None])) * gain[:, None]
        loud = level(sounds)[rows].clamp_min(0.02)
        return sounds.index_add_(0, rows, clips * loud)

    def _phonemes(
        self, utterance: Tensor, begin: Tensor, length: Tensor, frames: int, factor: float
    ) -> Tensor:
        """The phoneme at each probe of each output frame, [items, frames, probes]."""
        centres = torch.arange(frames, device=self.device)[:, None] * FRAME_SAMPLES + 200
        probes = centres + torch.tensor(PROBES_MS, device=self.device) * 16
        at = (probes.clamp_min(0) * factor).long().flatten()[None]
        out = torch.full((len(begin), at.shape[1]), IGNORED, device=self.device)
        for piece in range(begin.shape[1]):
            mine = utterance[:, piece]
            within = at - begin[:, piece : piece + 1]
            valid = (within >= 0) & (within < length[:, piece : piece + 1]) & (mine >= 0)[:, None]
            out = torch.where(valid, self._unit_at(mine.clamp_min(0), within), out)
        return out.view(len(begin), frames, len(PROBES_MS))

    def _unit_at(self, utterance: Tensor, sample: Tensor) -> Tensor:
        """The phoneme of `utterance` [items] that sounds at `sample` [items, probes]."""
        first, count = self.speech.unit_start[utterance][:, None], self.speech.unit_count[utterance][:, None]
        column = torch.arange(MAX_UNITS, device=self.device)[None]
        ends = self.unit_ends[first + column.minimum(count - 1)]
        ends = torch.where(column < count, ends, NEVER)
        position = torch.searchsorted(ends, sample.clamp_min(0), right=True).minimum(count - 1)
        units = self.speech.units[first + position].long()
        return torch.where(units == UNKNOWN_UNIT, IGNORED, units)

"""Stage "targets": batches of joined utterances with text, tags and frame-exact phonemes.

A batch is planned in worker processes (`Planner`: which utterances, when, with which event and
which queries; plain arrays) and made into sound on the GPU (`Mixer`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.finetune.losses import NOT_GIVEN
from sensevoice.network import query_ids
from sensevoice.spans import SAMPLE_RATE
from training import fused
from training.augment import FRAME_SAMPLES, RowShape, SoundBank, augment, level, on_device
from training.sound_bank import NOISE
from training.speech import EMOTIONS, LANGUAGES, UNKNOWN_EMOTION, UNKNOWN_UNIT, Speech

Array = npt.NDArray[Any]
UNIT_SAMPLES = 400  # one duration unit is 25 ms
IGNORED = -100
MAX_PIECES = 5
PROBES_MS = (-20, 0, 20)  # where within a frame the phoneme is read
# frames of a row, 1.2 to 22 s: with the queries a multiple of eight, as matrix products like it
ROW_FRAMES = (20, 36, 52, 68, 92, 124, 180, 260, 372)
ROW_SHARES = (0.12, 0.14, 0.18, 0.17, 0.14, 0.1, 0.08, 0.05, 0.02)
FEWEST_ITEMS = 8
TIGHT_SHARE = 0.6  # of items: filled with speech as far as utterances fit
LOOSEST, LOOSEST_ALONE = 0.55, 0.2  # of the others' room, at least: for several utterances, and for one
EDGE_SAMPLES = 80  # over which an utterance fades in and out: an excerpt is cut out of the middle of speech
EVENT_AFTER_S = 0.8  # at least, of an event after speech
LEAD_S, GAP_S = 0.6, 0.5  # the longest silence before the speech, and between two utterances
MAX_UNITS = 256  # phonemes of one utterance, end marks included
NEVER = 2**40
UNVOICED_EVENTS = ("BGM", "Breath", NOISE)  # a voice activity detector is to pass these over
# what a detector is to call speech: set so that clean development clips are read as the official one reads them
FAINTEST = 1e-5  # of the loudest frame's energy
LONGEST_PAUSE_FRAMES, GROWN_FRAMES = 31, 6


@dataclass(frozen=True)
class Recipe:
    """Shares and sizes of what is mixed."""

    batch_s: float = 900.0
    # how often each row is in its batch, each time with distortions of its own; see `spelling.py`
    views: int = 2
    event_share: float = 0.10  # of items: a sound event and no speech
    nothing_share: float = 0.03  # of items: noise or silence alone
    mixed_share: float = 0.08  # of items: speech with an event beside or under it
    auto_share: float = 0.7  # of items: the language query says auto
    noise_share: float = 0.5  # of the items without speech or event: a recorded noise, where there are any
    # how often each of LANGUAGES is heard: more often what is misheard more
    language_weights: tuple[float, ...] = (1.0, 1.6, 1.2, 0.9, 0.9)
    # of each language's rows: recorded speech, where there is any; what there is in Mandarin is two men's
    recorded_shares: tuple[float, ...] = (0.15, 0.2, 0.1, 0.1, 0.1)
    excerpts: bool = True  # whether words and phrases of the sentences are utterances, too


@dataclass(frozen=True)
class Texts:
    """The tokens of all lines, in both forms: as a row's first text, and behind another one."""

    lang: Array  # [lines]
    with_itn: list[list[int]]
    without_itn: list[list[int]]
    space_with_itn: list[list[int]]  # led by a space where the script has them
    space_without_itn: list[list[int]]


@dataclass(frozen=True)
class Catalogue:
    """What a planner must know of the speech, [utterances] each, and of its text."""

    length: Array
    line: Array
    emotion: Array
    lang: Array
    texts: Texts
    tag_ids: dict[str, int]
    events: dict[str, int]  # sounds in the bank, by name


@dataclass
class Item:
    """One planned row of a batch."""

    pieces: list[int] = field(default_factory=list)
    lang: int = 0
    emotion: int = 0
    event: str | None = None
    event_samples: int = 0  # at the end of the row

    def tags(self, use_itn: bool) -> tuple[str, str, str, str]:
        """Language, emotion, event, normalisation; an emotion that nobody knows is ""."""
        language = LANGUAGES[self.lang] if self.pieces else "nospeech"
        emotion = (*EMOTIONS, "")[self.emotion] if self.pieces else "EMO_UNKNOWN"
        event = self.event or NOISE
        if self.pieces and event == NOISE:  # beside speech it is a noise like any other
            event = "Speech"
        return language, emotion, event, "withitn" if use_itn else "woitn"


@dataclass
class Plan:
    """A batch on paper. Times in samples before the change of speed; [items, pieces] or [items]."""

    shape: RowShape
    points: int  # of which spectra make `shape.points`
    views: int  # row i + k * (items / views) holds the same as row i
    begin: Array
    length: Array
    utterance: Array  # -1 where there is no piece
    events: list[PlacedEvent]
    silent: Array
    queries: Array
    tags: Array
    targets: Array  # [items, tokens], padded with 0
    target_lengths: Array

    @property
    def speed(self) -> float:
        """How much faster it will sound."""
        return self.points / self.shape.points

    def seen(self, views: int) -> Plan:
        """The same rows so many times over, one behind the other."""
        rows = len(self.begin)
        again = [
            replace(event, row=event.row + view * rows) for view in range(views) for event in self.events
        ]
        repeated = {
            name: np.concatenate([value] * views)
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)
        }
        return replace(self, views=views, events=again, **repeated)


@dataclass(frozen=True)
class PlacedEvent:
    """A sound event in a row of a batch; times in samples."""

    row: int
    name: str
    sound: int
    first: int
    count: int
    gain_db: float


def row_shapes(batch_s: float, views: int = 1) -> list[RowShape]:
    """The shapes of all batches of about so many seconds, `views` of each row among them."""
    seconds = (frames * FRAME_SAMPLES / SAMPLE_RATE for frames in ROW_FRAMES)
    counts = (max(FEWEST_ITEMS, int(batch_s / each)) // views * views for each in seconds)
    return [RowShape(items, frames) for items, frames in zip(counts, ROW_FRAMES, strict=True)]


class Planner:
    """Draws plans; one to a worker process."""

    def __init__(self, catalogue: Catalogue, recipe: Recipe, seed: int) -> None:
        self.catalogue, self.recipe = catalogue, recipe
        self.rng = np.random.default_rng(seed)
        self.pools = self._pools()
        self.lengths = {key: catalogue.length[pool] for key, pool in self.pools.items()}
        self.languages = sorted({language for language, _ in self.pools})
        weights = np.array([recipe.language_weights[language] for language in self.languages])
        self.language_shares = weights / weights.sum()
        self.event_names = list(catalogue.events)
        self.shapes = row_shapes(recipe.batch_s, recipe.views)

    def _pools(self) -> dict[tuple[int, int], Array]:
        """Utterances by (language, emotion), shortest first; recorded ones, whose emotion is unknown, if wanted."""
        known = self.catalogue
        pools = {}
        for language in range(len(LANGUAGES)):
            for emotion in range(len(EMOTIONS) + (self.recipe.recorded_shares[language] > 0)):
                mine = np.flatnonzero((known.lang == language) & (known.emotion == emotion))
                pools[language, emotion] = mine[np.argsort(known.length[mine], kind="stable")]
        return {key: pool for key, pool in pools.items() if len(pool)}

    def draw(self) -> Plan:
        """A batch of about `recipe.batch_s` seconds, in one of a few shapes."""
        shape = self.shapes[self.rng.choice(len(self.shapes), p=ROW_SHARES)]
        sources = shape.sources()
        points = sources[self.rng.integers(len(sources))]
        room = shape.samples * points // shape.points
        items = [self._item(room) for _ in range(shape.items // self.recipe.views)]
        return self._lay_out(items, shape, points).seen(self.recipe.views)

    def _item(self, room: int) -> Item:
        dice, recipe = self.rng.random(), self.recipe
        if dice < recipe.nothing_share:
            noisy = NOISE in self.event_names and self.rng.random() < recipe.noise_share
            return Item(event=NOISE if noisy else None)
        if dice < recipe.nothing_share + recipe.event_share and self.event_names:
            return Item(event=self._event())
        language, emotion = self._kind_of_speech()
        for_event_s = min(2.5, room / SAMPLE_RATE - 1)  # of which the shortest rows have too little
        mixed = self.event_names and for_event_s >= EVENT_AFTER_S and self.rng.random() < recipe.mixed_share
        event = self._event() if mixed else None
        after = self._samples(EVENT_AFTER_S, for_event_s) if event not in (None, "BGM") else 0
        pieces = self._pieces((language, emotion), room - after)
        return Item(pieces, language, emotion, event, after if pieces else 0)

    def _kind_of_speech(self) -> tuple[int, int]:
        """A language by its weight, then its recorded speech, or an emotion: half of the time the first of its own."""
        language = int(self.rng.choice(self.languages, p=self.language_shares))
        emotions = [emotion for of, emotion in self.pools if of == language and emotion != UNKNOWN_EMOTION]
        is_recorded = self.rng.random() < self.recipe.recorded_shares[language]
        if not emotions or (is_recorded and (language, UNKNOWN_EMOTION) in self.pools):
            return language, UNKNOWN_EMOTION
        return language, emotions[0 if self.rng.random() < 0.5 else int(self.rng.integers(len(emotions)))]

    def _event(self) -> str:
        return self.event_names[self.rng.integers(len(self.event_names))]

    def _pieces(self, key: tuple[int, int], room: int) -> list[int]:
        """Utterances that fit into so many samples one after the other; none if none does."""
        count = 1 if room <= 4.5 * SAMPLE_RATE else int(self.rng.integers(1, MAX_PIECES + 1))
        pool, lengths = self.pools[key], self.lengths[key]
        loosest = LOOSEST_ALONE if count == 1 else LOOSEST
        left = room if self.rng.random() < TIGHT_SHARE else int(room * self.rng.uniform(loosest, 1.0))
        left = min(room, max(left, int(lengths[0])))
        pieces: list[int] = []
        for behind in range(count - 1, -1, -1):
            at = int(np.searchsorted(lengths, left / (behind + 1), side="right"))
            spread = max(8, len(pool) // (12 if behind else 40))
            high = min(int(np.searchsorted(lengths, left, side="right")), at + spread if behind else at)
            if high == 0:
                break
            pieces.append(int(pool[self.rng.integers(max(0, min(at, high - 1) - spread), high)]))
            left -= int(self.catalogue.length[pieces[-1]])
        return pieces

    def _lay_out(self, items: Sequence[Item], shape: RowShape, points: int) -> Plan:
        size = (len(items), max(1, max(len(item.pieces) for item in items)))
        begin, length, utterance = np.zeros(size, np.int64), np.zeros(size, np.int64), np.full(size, -1)
        room = shape.samples * points // shape.points
        events = []
        for row, item in enumerate(items):
            columns = slice(len(item.pieces))
            utterance[row, columns] = item.pieces
            length[row, columns] = self.catalogue.length[item.pieces] if item.pieces else 0
            begin[row, columns], end = self._begins(length[row, columns], room - item.event_samples)
            if item.event:
                events.append(self._place_event(row, item, end, room))
        silent = np.array([not item.pieces and item.event is None for item in items])
        return Plan(shape, points, 1, begin, length, utterance, events, silent, **self._text(items))

    def _begins(self, lengths: Array, room: int) -> tuple[Array, int]:
        """Where pieces of these lengths begin within the room, and where the last one ends."""
        begins, at, slack = [], 0, room - int(lengths.sum())
        for place, length in enumerate(lengths.tolist()):
            silence = min(slack, self._samples(0.0, GAP_S if place else LEAD_S))
            begins.append(at + silence)
            at, slack = at + silence + length, slack - silence
        return np.array(begins, np.int64), at

    def _samples(self, low_s: float, high_s: float) -> int:
        return int(self.rng.uniform(low_s, high_s) * SAMPLE_RATE)

    def _place_event(self, row: int, item: Item, end: int, room: int) -> PlacedEvent:
        """After the speech, which has its `end`, under it (music), or alone."""
        assert item.event is not None
        sound = int(self.rng.integers(self.catalogue.events[item.event]))
        if item.event_samples:
            return PlacedEvent(row, item.event, sound, end, item.event_samples, self.rng.uniform(-5, 5))
        gain_db = self.rng.uniform(-9, 2) if item.pieces else self.rng.uniform(-6, 6)
        count = room
        if not item.pieces and item.event != "BGM" and self.rng.random() < 0.5:
            count = self._samples(0.4, min(3.0, room / SAMPLE_RATE))  # one cough, and silence around it
        first = int(self.rng.integers(room - count + 1))
        return PlacedEvent(row, item.event, sound, first, count, gain_db)

    def _text(self, items: Sequence[Item]) -> dict[str, Any]:
        known, texts = self.catalogue, self.catalogue.texts
        queries, tags, targets = [], [], []
        for item in items:
            use_itn = bool(self.rng.random() < 0.5)
            named = item.lang if item.pieces else self.rng.integers(len(LANGUAGES))
            asked = "auto" if self.rng.random() < self.recipe.auto_share else LANGUAGES[named]
            queries.append(query_ids(asked, use_itn))
            tags.append([known.tag_ids[name] if name else NOT_GIVEN for name in item.tags(use_itn)])
            first = texts.with_itn if use_itn else texts.without_itn
            later = texts.space_with_itn if use_itn else texts.space_without_itn
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
    queries: Tensor  # [batch, 4]
    tags: Tensor  # [batch, 4] token ids: language, emotion (or NOT_GIVEN), event, normalisation
    targets: Tensor  # [batch, tokens]
    target_lengths: Tensor  # [batch], on the host
    phonemes: Tensor  # [batch, frames, probes], IGNORED where unknown
    views: int  # of each row; see `Plan`


def laid_out(audio: Tensor, source: Tensor, begin: Tensor, length: Tensor, width: int) -> Tensor:
    """Stretches of [samples] int16 audio, laid out in time: [items, width] float32.

    source, begin, length: [items, pieces], where a stretch comes from, where it goes, and how long it is.
    Each fades in and out.
    """
    if fused.usable(audio):
        return fused.laid_out(audio, source, begin, length, width, EDGE_SAMPLES)
    columns = torch.arange(width, device=audio.device)[None]
    out = torch.zeros(len(begin), width, device=audio.device)
    for piece in range(begin.shape[1]):
        within = columns - begin[:, piece : piece + 1]
        last = length[:, piece : piece + 1]
        taken = audio[source[:, piece : piece + 1] + within.clamp_min(0).minimum((last - 1).clamp_min(0))]
        gain = ((within.minimum(last - 1 - within) + 1) / EDGE_SAMPLES).clamp(0, 1)
        out += taken.float() / 32_768 * gain
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
        self.probes = torch.tensor(PROBES_MS, device=self.device) * 16
        frames = speech.unit_frames.long()
        running = frames.cumsum(0)
        before = running[speech.unit_start] - frames[speech.unit_start]
        # where each phoneme ends, in samples from its utterance's start
        self.unit_ends = (running - before.repeat_interleave(speech.unit_count)) * UNIT_SAMPLES

    @torch.no_grad()
    def realise(self, plan: Plan, strength: float) -> Batch:
        """`strength` of the distortions: 0 almost clean, 1 full."""
        utterance, begin, length = (self._tensor(v) for v in (plan.utterance, plan.begin, plan.length))
        sounds = self._lay_out(utterance, begin, length, plan.points, plan.events)
        silent = self._tensor(np.flatnonzero(plan.silent))
        sounds[silent] = torch.randn(len(silent), plan.points, device=self.device) * 1e-3
        return Batch(
            augment(sounds, plan.shape, self.bank, strength),
            *(self._tensor(v) for v in (plan.queries, plan.tags, plan.targets)),
            torch.from_numpy(plan.target_lengths),
            self._phonemes(utterance, begin, length, plan.shape.frames, plan.speed),
            plan.views,
        )

    def activity(self, plan: Plan, frames: int) -> Tensor:
        """Whether a voice (or applause) sounds in each 10 ms frame of the plan's batch, [items, frames].

        Read off the clean signals: no pauses under 300 ms, and 60 ms around what sounds.
        """
        utterance, begin, length = (self._tensor(v) for v in (plan.utterance, plan.begin, plan.length))
        heard = [event for event in plan.events if event.name not in UNVOICED_EVENTS]
        sounds = self._lay_out(utterance, begin, length, plan.points, heard)
        energy = F.avg_pool1d(sounds.square()[:, None], 400, 160)[:, 0]
        loudest = energy.amax(dim=1, keepdim=True)
        active = ((energy > loudest * FAINTEST) & (energy > 1e-7)).float()[:, None]
        closed = -_widest(-_widest(active, LONGEST_PAUSE_FRAMES // 2), LONGEST_PAUSE_FRAMES // 2)
        grown = _widest(closed, GROWN_FRAMES)
        at = (torch.arange(frames, device=self.device) * plan.speed).long()
        return grown[:, 0, at.clamp_max(grown.shape[2] - 1)] > 0.5

    def _tensor(self, values: Array) -> Tensor:
        return on_device(torch.from_numpy(values), self.device)

    def _lay_out(
        self, utterance: Tensor, begin: Tensor, length: Tensor, width: int, events: Sequence[PlacedEvent]
    ) -> Tensor:
        """The pieces in their places, and the events: [items, width]."""
        source = self.speech.start[utterance.clamp_min(0)]
        sounds = laid_out(self.speech.audio, source, begin, length, width)
        return self._add_events(sounds, events) if events else sounds

    def _add_events(self, sounds: Tensor, events: Sequence[PlacedEvent]) -> Tensor:
        names = {name: number for number, name in enumerate(self.event_names)}
        numbers = [(event.row, names[event.name], event.sound, event.first, event.count) for event in events]
        rows, kinds, sound, first, count = self._tensor(np.array(numbers).T.copy())
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
        probes = centres + self.probes
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

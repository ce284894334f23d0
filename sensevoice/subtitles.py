"""A transcript cut into subtitle cues that can be read: by punctuation, by width, by the tokens' times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from sensevoice.tags import marker
from sensevoice.transcript import Segment, Transcript, shown_event
from sensevoice.typography import UNSPACED, display_width

MAX_LINE_COLUMNS = 42  # a CJK character takes 2
MAX_LINES = 2
MIN_CUE_MS = 500
PAUSE_MS = 1000  # a silence within a segment after which a new cue is welcome

# What a reader minds, in the units of one cue more or less
_CUE_COST = 10.0
_BREAK_COST = {"sentence": 0.0, "clause": 3.0, "": 12.0}
_INNER_COST = {"sentence": 4.0, "clause": 0.0, "": 0.0}
_PAUSE_COST = 12.0
_UNMARKED_LINE_COST = 5.0  # two lines that no punctuation parts
_FULL_CUE_COST = 6.0  # times the square of its fullness, so that cues come out alike


@dataclass(frozen=True)
class Cue:
    """What is on screen from `start_ms` to `end_ms`: one or two lines."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def make_cues(transcript: Transcript, lang: str = "zh") -> list[Cue]:
    """The cues of a transcript in order, none overlapping another.

    A cue begins with its first token and ends with its last; one shorter than 0.5 s is stretched where there
    is room before the next. A break falls at punctuation if it can, never within a number or within a word
    that is written with spaces. A segment with an event and no words is one cue, `[笑声]`, in `lang`.
    """
    cues = [cue for segment in transcript.segments for cue in _segment_cues(segment, transcript, lang)]
    return list(_with_room_to_read(cues, round(transcript.duration_s * 1000)))


def _segment_cues(segment: Segment, transcript: Transcript, lang: str) -> Iterator[Cue]:
    if segment.text.strip():
        text = _Text(tuple(_atoms(segment)))
        for first, end in text.cuts():
            yield Cue(text.atoms[first].start_ms, text.atoms[end - 1].end_ms, text.lines(first, end))
    elif event := shown_event(segment, transcript.options, transcript.tags):
        yield Cue(round(segment.start_s * 1000), round(segment.end_s * 1000), (marker(event, "label", lang),))


def _with_room_to_read(cues: list[Cue], duration_ms: int) -> Iterator[Cue]:
    """Stretch cues shorter than 0.5 s into the silence after them, then into that before them."""
    free_ms = 0
    for index, cue in enumerate(cues):
        start = max(cue.start_ms, free_ms)
        end = max(cue.end_ms, start + 1)
        room_until = cues[index + 1].start_ms if index + 1 < len(cues) else duration_ms
        end = max(end, min(start + MIN_CUE_MS, room_until))
        start = max(free_ms, min(start, end - MIN_CUE_MS))
        yield Cue(start, end, cue.lines)
        free_ms = end


# Where a line may break ---------------------------------------------------------------------------

_OPENING = r"[「『（《〈【〔“‘(\[{]"
_CLOSING = (
    r"[、。，．！？；：…‥）」』】〉》〕”’～％℃%!?.,;:)\]}"
    r"ー々〻ゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ\u3099\u309A\uFE00-\uFE0F]"  # lean on a letter
)
_NUMERAL = r"[〇零一二三四五六七八九十百千万萬亿億兆两点點]{1,20}"  # 20 of them still fit one line
_WORD = rf"(?:[^\s{UNSPACED}]|[０-９Ａ-Ｚａ-ｚ]|(?<=[０-９])[．，](?=[０-９]))+"
_ATOM = re.compile(rf"{_OPENING}*(?:{_NUMERAL}|{_WORD}|\S){_CLOSING}*")
_SENTENCE_END = re.compile(r"[。！？；…!?;.]['\"”’」』）)\]]*$")
_CLAUSE_END = re.compile(r"[，、：,:～—–-]['\"”’」』）)\]]*$")


@dataclass(frozen=True)
class _Atom:
    """What no line may break: a CJK character with its punctuation, a word, a number."""

    text: str
    spaced: bool  # a space stands before it
    start_ms: int
    end_ms: int

    @cached_property
    def ending(self) -> str:
        """What ends with it: "sentence", "clause" or nothing."""
        if _SENTENCE_END.search(self.text):
            return "sentence"
        return "clause" if _CLAUSE_END.search(self.text) else ""


def _atoms(segment: Segment) -> Iterator[_Atom]:
    text = segment.text.strip()
    times = _character_times(segment, text)
    for match in _ATOM.finditer(text):
        first, last = match.start(), match.end() - 1
        spaced = first > 0 and text[first - 1].isspace()
        yield _Atom(match[0], spaced, times[first][0], times[last][1])


def _character_times(segment: Segment, text: str) -> list[tuple[int, int]]:
    """The start and end in ms of each character: those of the token that it belongs to.

    Only a text that its tokens do not spell, as after an edit, is spread evenly over the segment.
    """
    spelled = "".join(token.text for token in segment.tokens)
    if spelled.strip() != text:
        start, length = round(segment.start_s * 1000), round(segment.duration_s * 1000)
        marks = [start + length * index // len(text) for index in range(len(text) + 1)]
        return list(pairwise(marks))
    times = [
        (round(token.start_s * 1000), round(token.end_s * 1000))
        for token in segment.tokens
        for _ in token.text
    ]
    return times[len(spelled) - len(spelled.lstrip()) :]


# Where it does break ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """The atoms of one segment; ranges of them are [first, end)."""

    atoms: tuple[_Atom, ...]

    def cuts(self) -> list[tuple[int, int]]:
        """The ranges of the cues: of all divisions into cues of two lines, the one that costs least."""
        best: list[tuple[float, int]] = [(0.0, 0)] + [(float("inf"), 0)] * len(self.atoms)
        for first in range(len(self.atoms)):
            for end in range(first + 1, self._reach(first) + 1):
                cost = best[first][0] + self._cost(first, end)
                best[end] = min(best[end], (cost, first))
        ranges, end = [], len(self.atoms)
        while end > 0:
            ranges.append((best[end][1], end))
            end = best[end][1]
        return ranges[::-1]

    def lines(self, first: int, end: int) -> tuple[str, ...]:
        """One line if it fits, else two that break at punctuation if they can and are of like width."""
        if end <= self._line_ends[first]:
            return (self._line(first, end),)
        breaks = [middle for middle in range(first + 1, end) if self._fit(first, middle, end)]
        middle = min(breaks, key=lambda middle: self._unevenness(first, middle, end))
        return self._line(first, middle), self._line(middle, end)

    def _line(self, first: int, end: int) -> str:
        return "".join(" " * atom.spaced + atom.text for atom in self.atoms[first:end]).strip()

    def _fit(self, first: int, middle: int, end: int) -> bool:
        return self._line_ends[first] >= middle and self._line_ends[middle] >= end

    def _unevenness(self, first: int, middle: int, end: int) -> float:
        difference = abs(self._width(first, middle) - self._width(middle, end))
        return _BREAK_COST[self.atoms[middle - 1].ending] + difference / 4

    def _cost(self, first: int, end: int) -> float:
        inner = self._inner_costs[end - 1] - self._inner_costs[first]
        fullness = self._width(first, end) / (MAX_LINES * MAX_LINE_COLUMNS)
        awkward = 0.0 if self._parts_well(first, end) else _UNMARKED_LINE_COST
        return _CUE_COST + self._break_costs[end - 1] + inner + awkward + _FULL_CUE_COST * fullness**2

    def _parts_well(self, first: int, end: int) -> bool:
        """Whether this fits one line, or two that part at punctuation."""
        if end <= self._line_ends[first]:
            return True
        mark = self._last_marks[self._line_ends[first]]
        return mark > first and self._line_ends[mark] >= end

    def _reach(self, first: int) -> int:
        """The furthest end of a cue that begins at `first`."""
        for _ in range(MAX_LINES):
            first = self._line_ends[first]
        return first

    def _width(self, first: int, end: int) -> int:
        return self._columns[end] - self._columns[first] - self.atoms[first].spaced

    @cached_property
    def _columns(self) -> list[int]:
        """The width of all atoms before each."""
        widths = (atom.spaced + display_width(atom.text) for atom in self.atoms)
        return list(accumulate(widths, initial=0))

    @cached_property
    def _line_ends(self) -> list[int]:
        """The furthest end of a line that begins at each atom; an atom too wide for any line has its own."""
        ends, end = [], 0
        for first in range(len(self.atoms)):
            end = max(end, first + 1)
            while end < len(self.atoms) and self._width(first, end + 1) <= MAX_LINE_COLUMNS:
                end += 1
            ends.append(end)
        return [*ends, len(self.atoms)]

    @cached_property
    def _last_marks(self) -> list[int]:
        """The last place up to each at which punctuation allows a break."""
        places = (place if atom.ending else 0 for place, atom in enumerate(self.atoms, start=1))
        return list(accumulate(places, max, initial=0))

    @cached_property
    def _pauses(self) -> list[bool]:
        """Whether the speaker pauses after each atom but the last."""
        return [after.start_ms - atom.end_ms >= PAUSE_MS for atom, after in pairwise(self.atoms)]

    @cached_property
    def _break_costs(self) -> list[float]:
        """What it costs to end a cue after each atom."""
        rests = [*self._pauses, True]
        return [
            0.0 if rest else _BREAK_COST[atom.ending] for atom, rest in zip(self.atoms, rests, strict=True)
        ]

    @cached_property
    def _inner_costs(self) -> list[float]:
        """What it costs to go on, without a new cue, after all atoms before each."""
        costs = (
            _INNER_COST[atom.ending] + _PAUSE_COST * pause
            for atom, pause in zip(self.atoms, self._pauses, strict=False)
        )
        return list(accumulate(costs, initial=0.0))

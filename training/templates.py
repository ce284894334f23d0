"""A small template language: sentence patterns with slots, alternatives and numbers.

```
== everyday                       a section: everyday, numbers, mixed or short
@place: the park | the station    a slot's fillers
(Shall|Should) we go to {place}?  one of the alternatives, one filler
It costs {#money}.                a number, written "$25" and spoken "twenty five dollars"
```
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.numbers import Pair, number_slots

DIRECTORY = Path(__file__).parent / "templates"
INNERMOST = re.compile(r"\(([^(){}]*)\)|\{([#\w]+)\}")
PARTICLES = re.compile(r"(.)(을/를|이/가|은/는|과/와|으로/로|이에요/예요|이랑/랑|이나/나|아/야)")
DIGITS = dict(zip("0123456789", "공일이삼사오육칠팔구", strict=True))
OPEN, CLOSE = "\ue000", "\ue001"  # stand for the marks of a number's two forms while a pattern is filled
NUMBER = re.compile(f"{OPEN}(.*?)\ue002(.*?){CLOSE}")


class Templates:
    """The patterns and slots of one language."""

    def __init__(self, language: str, path: Path | None = None) -> None:
        self.patterns: dict[str, list[str]] = defaultdict(list)
        self.slots: dict[tuple[str, str], list[str]] = {}  # by section and name
        self.numbers = number_slots(language)
        section = ""
        for line in (path or DIRECTORY / f"{language}.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith("=="):
                section = line.strip("= ")
            elif line.startswith("@"):
                name, fillers = line[1:].split(":", 1)
                self.slots[section, name.strip()] = [filler.strip() for filler in fillers.split("|")]
            elif line.strip() and not line.startswith("#"):
                self.patterns[section].append(line.strip())

    def sentences(self, section: str, rng: random.Random) -> Iterator[Pair]:
        """Endless sentences of a section, each as written and as spoken; patterns in turn."""
        while self.patterns[section]:
            for pattern in rng.sample(self.patterns[section], len(self.patterns[section])):
                yield self._fill(section, pattern, rng)

    def _fill(self, section: str, text: str, rng: random.Random) -> Pair:
        while (found := INNERMOST.search(text)) is not None:
            text = text[: found.start()] + self._choose(section, found, rng) + text[found.end() :]
        written, spoken = NUMBER.sub(r"\1", text), NUMBER.sub(r"\2", text)
        return _polish(written), _polish(spoken)

    def _choose(self, section: str, found: re.Match[str], rng: random.Random) -> str:
        alternatives, slot = found.groups()
        if slot is None:
            return rng.choice(alternatives.split("|"))
        if slot.startswith("#"):
            written, spoken = self.numbers[slot[1:]](rng)
            return f"{OPEN}{written}\ue002{spoken}{CLOSE}"
        return rng.choice(self.slots.get((section, slot)) or self.slots["everyday", slot])


def _polish(text: str) -> str:
    text = PARTICLES.sub(_particle, text).replace(".m..", ".m.")
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return re.sub(r"(^|(?<!\b[ap]\.m)[.?!] )([a-z])", lambda start: start[1] + start[2].upper(), text)


def _particle(found: re.Match[str]) -> str:
    """The form of a Korean particle that fits the syllable before it."""
    before, (closed, open_) = found[1], found[2].split("/")
    read = DIGITS.get(before, before)
    coda = (ord(read) - ord("가")) % 28 if "가" <= read <= "힣" else 0
    if closed == "으로" and coda == 8:  # 로 follows ㄹ
        coda = 0
    return before + (closed if coda else open_)

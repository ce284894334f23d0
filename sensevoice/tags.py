"""The one table of tags, and raw SenseVoice text turned into something to read.

>>> print(rich_transcription_postprocess("<|HAPPY|>今天天气真好!<|APPLAUSE|><|BGM|>(轻快钢琴背景音)"))
[开心] 今天天气真好!
[掌声]
[背景音乐](轻快钢琴背景音)
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from sensevoice.errors import ModelFileError, OptionError
from sensevoice.typography import join_texts

STYLES = ("label", "emoji", "plain")
LABEL_LANGUAGES = ("zh", "en")
CUSTOM_TAGS_FILE = "custom_tags.json"


class UnknownTagWarning(UserWarning):
    """A raw text held a `<|...|>` that the tag table does not know; it was dropped."""


class TagKind(str, Enum):
    """What a tag speaks about; CUSTOM are the free SPECIAL_TOKEN_n that a checkpoint may name."""

    LANGUAGE = "language"
    EMOTION = "emotion"
    EVENT = "event"
    NORMALISATION = "normalisation"
    CUSTOM = "custom"


@dataclass(frozen=True)
class Tag:
    """One row: the token as the vocabulary spells it, without `<|` and `|>`, and how people read it."""

    token: str
    kind: TagKind
    # what is shown
    zh: str
    en: str
    emoji: str = ""
    # other spellings, found in any case
    aliases: tuple[str, ...] = ()
    given_name: str = ""  # only of a custom token

    @property
    def name(self) -> str:
        """What results call it: the token, or the name that a checkpoint gave to its custom token."""
        return self.given_name or self.token

    def label(self, lang: str) -> str:
        """What a reader of `lang` ("zh" or "en") is shown."""
        _check_choice("label language", lang, LABEL_LANGUAGES)
        return self.zh if lang == "zh" else self.en


TAGS: tuple[Tag, ...] = (
    Tag("zh", TagKind.LANGUAGE, "中文", "Chinese"),
    Tag("en", TagKind.LANGUAGE, "英文", "English"),
    Tag("yue", TagKind.LANGUAGE, "粤语", "Cantonese"),
    Tag("ja", TagKind.LANGUAGE, "日语", "Japanese"),
    Tag("ko", TagKind.LANGUAGE, "韩语", "Korean"),
    Tag("nospeech", TagKind.LANGUAGE, "无人声", "No speech"),
    Tag("HAPPY", TagKind.EMOTION, "开心", "Happy", "😊", ("HAPPINESS",)),
    Tag("SAD", TagKind.EMOTION, "悲伤", "Sad", "😔", ("SADNESS",)),
    Tag("ANGRY", TagKind.EMOTION, "愤怒", "Angry", "😡", ("ANGER",)),
    Tag("NEUTRAL", TagKind.EMOTION, "中性", "Neutral", "😐"),
    Tag("FEARFUL", TagKind.EMOTION, "恐惧", "Fearful", "😰", ("FEAR",)),
    Tag("DISGUSTED", TagKind.EMOTION, "厌恶", "Disgusted", "🤢", ("DISGUST",)),
    Tag("SURPRISED", TagKind.EMOTION, "惊讶", "Surprised", "😮", ("SURPRISE",)),
    Tag("OTHER", TagKind.EMOTION, "其他情绪", "Other emotion", "🎭"),
    Tag("EMO_UNKNOWN", TagKind.EMOTION, "情绪未知", "Emotion unknown", "❔", ("EMO_UNK",)),
    Tag("Speech", TagKind.EVENT, "说话声", "Speech", "💬"),
    Tag("BGM", TagKind.EVENT, "背景音乐", "Background music", "🎼", ("MUSIC",)),
    Tag("Laughter", TagKind.EVENT, "笑声", "Laughter", "😀", ("LAUGH",)),
    Tag("Applause", TagKind.EVENT, "掌声", "Applause", "👏", ("CLAP",)),
    Tag("Cry", TagKind.EVENT, "哭声", "Crying", "😭", ("CRYING",)),
    Tag("Sneeze", TagKind.EVENT, "喷嚏", "Sneeze", "🤧", ("SNEEZING",)),
    Tag("Breath", TagKind.EVENT, "呼吸", "Breath", "💨", ("BREATHING",)),
    Tag("Cough", TagKind.EVENT, "咳嗽", "Cough", "😷", ("COUGHING",)),
    Tag("Sing", TagKind.EVENT, "歌唱", "Singing", "🎤", ("SINGING",)),
    Tag("Speech_Noise", TagKind.EVENT, "环境噪音", "Background noise", "🔊", ("NOISE",)),
    Tag("GBG", TagKind.EVENT, "杂音", "Garbled sound", "📻", ("GARBAGE",)),
    Tag("Event_UNK", TagKind.EVENT, "未知声音", "Unknown sound", "❓", ("EVENT_UNKNOWN",)),
    # no model emits it: it is what the VAD found between segments
    Tag("SILENCE", TagKind.EVENT, "静音", "Silence", "🔇"),
    Tag("withitn", TagKind.NORMALISATION, "已规整", "Normalised text"),
    Tag("woitn", TagKind.NORMALISATION, "未规整", "Text as spoken"),
)

SHOWN_IF_ASKED = frozenset({"NEUTRAL", "Speech"})
NEVER_SHOWN = frozenset({"EMO_UNKNOWN", "Event_UNK"})  # "I do not know" is neither an emotion nor an event


def find_tag(name: str, tags: tuple[Tag, ...] = TAGS) -> Tag | None:
    """The tag called `name`, in any case, by token, name or alias; None if there is none."""
    return _tags_by_name(tags).get(name.strip().casefold())


def label(name: str, lang: str, tags: tuple[Tag, ...] = TAGS) -> str:
    """The label of the tag called `name` for a reader of `lang`; the name itself if no tag has it."""
    tag = find_tag(name, tags)
    return tag.label(lang) if tag else name


def marker(tag: Tag, style: str = "label", lang: str = "zh", *, uncertain: bool = False) -> str:
    """How `tag` stands in a text: `[开心]`, `😊`, nothing in style "plain"; `[开心?]` when uncertain."""
    _check_choice("style", style, STYLES)
    doubt = "?" if uncertain else ""
    if style == "plain":
        return ""
    if style == "emoji" and tag.emoji:
        return tag.emoji + doubt
    return f"[{tag.label(lang)}{doubt}]"


@lru_cache(maxsize=32)
def _tags_by_name(tags: tuple[Tag, ...]) -> Mapping[str, Tag]:
    return {name.casefold(): tag for tag in tags for name in (*tag.aliases, tag.token, tag.name)}


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        names = ", ".join(choices)
        raise OptionError(f"Unknown {what} {value!r}: choose one of {names}.", value=value, choices=names)


# Raw text ---------------------------------------------------------------------------------------

_TAG = re.compile(r"<\|([^<>|\n]*)\|>")
_DESCRIPTION = re.compile(r"\s*(\([^()\n]*\)|（[^（）\n]*）)")


@dataclass
class _Line:
    tag: Tag | None
    text: str = ""


@dataclass
class _Lines:
    """Lines of a raw text, gathered while it is read from left to right."""

    rows: list[_Line]
    words: _Line | None = None  # the line that the next words belong to
    event: _Line | None = None  # the event that a bracket here would describe

    def add(self, tag: Tag | None) -> _Line:
        self.rows.append(_Line(tag))
        return self.rows[-1]

    def read_tag(self, tag: Tag) -> None:
        """An emotion opens a line of words, an event a line of its own, a language a new segment."""
        self.event = None
        if tag.kind is TagKind.LANGUAGE:
            self.words = None
        elif tag.kind is TagKind.EMOTION:
            self.words = self.add(tag)
        elif tag.kind is TagKind.EVENT:
            self.event = self.add(tag)
            self.words = None if self.words and self.words.text else self.words

    def read_words(self, text: str) -> None:
        """Give a bracket to the event just before it, and the rest to the open line."""
        if self.event and (described := _DESCRIPTION.match(text)):
            self.event.text, text = described[1], text[described.end() :]
        self.event = None
        if text.strip():
            self.words = self.words or self.add(None)
            self.words.text = _concatenate(self.words.text, text)


def rich_transcription_postprocess(
    raw: str, style: str = "label", lang: str = "zh", tags: tuple[Tag, ...] = TAGS
) -> str:
    """Turn a raw text with `<|...|>` tags, of one segment or of many, into one to read.

    In the styles "label" and "emoji" every segment and every event has a line of its own, in the order of
    the raw text, and an emotion leads the line of its words; text in brackets straight after an event
    describes it and stays with it. The style "plain" is the words alone, as one text. Language and ITN tags,
    NEUTRAL, Speech, EMO_UNKNOWN and Event_UNK are not shown. Each unknown tag is dropped with an
    UnknownTagWarning. Raises OptionError for a style or language that does not exist.
    """
    _check_choice("style", style, STYLES)
    _check_choice("label language", lang, LABEL_LANGUAGES)
    shown = filter(None, (_render(line, style, lang) for line in _read_lines(raw, tags)))
    return join_texts(shown) if style == "plain" else "\n".join(shown)


def _render(line: _Line, style: str, lang: str) -> str:
    text = line.text.strip()
    if line.tag is None or line.tag.token in SHOWN_IF_ASKED | NEVER_SHOWN:
        return text
    gap = "" if line.tag.kind is TagKind.EVENT else " "
    return f"{marker(line.tag, style, lang)}{gap}{text}".strip()


def _read_lines(raw: str, tags: tuple[Tag, ...]) -> list[_Line]:
    lines = _Lines([])
    for part in _parts(raw, tags):
        if isinstance(part, Tag):
            lines.read_tag(part)
        elif part:
            lines.read_words(part)
    return lines.rows


def _concatenate(left: str, right: str) -> str:
    """Join what a dropped tag parted, without doubling the space around it."""
    return left + (right.lstrip() if left[-1:].isspace() else right)


def _parts(raw: str, tags: tuple[Tag, ...]) -> Iterator[str | Tag]:
    """The words and the known tags of `raw`, in order."""
    unknown: dict[str, None] = {}
    for index, piece in enumerate(_TAG.split(raw)):
        if index % 2 == 0:
            yield piece
        elif tag := find_tag(piece, tags):
            yield tag
        elif not find_tag(piece.removeprefix("/"), tags):  # <|/BGM|> only closes what <|BGM|> opened
            unknown[piece] = None
    for name in unknown:
        warnings.warn(f"unknown tag <|{name}|> dropped", UnknownTagWarning, stacklevel=4)


# A checkpoint's own tags --------------------------------------------------------------------------

_FREE_TOKEN = re.compile(r"SPECIAL_TOKEN_([1-9]|[12]\d|3[0-5])")
_CUSTOM_KEYS = frozenset({"name", "kind", "zh", "en", "emoji", "aliases"})
_CUSTOM_KINDS = {"event": TagKind.EVENT, "emotion": TagKind.EMOTION}


def load_custom_tags(path: Path) -> tuple[Tag, ...]:
    """Read the tags that a checkpoint names for itself; a checkpoint without such a file has none.

    The file is `{"SPECIAL_TOKEN_1": {"name": "Doorbell", "kind": "event", "zh": "门铃", "en": "Doorbell",
    "emoji": "🔔", "aliases": ["RING"]}, ...}`, kind being "event" or "emotion"; zh and en default to the
    name, emoji and aliases to none. Raises ModelFileError naming the entry that is wrong.
    """
    if not path.exists():
        return ()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return _custom_tags(entries)
    except (OSError, ValueError) as error:
        raise ModelFileError(str(path), str(error)) from error


def _custom_tags(entries: object) -> tuple[Tag, ...]:
    if not isinstance(entries, dict):
        raise ValueError("it must be an object of SPECIAL_TOKEN_n entries")
    tags: tuple[Tag, ...] = ()
    for token, entry in entries.items():
        tag = _custom_tag(token, entry)
        for name in (tag.name, *tag.aliases):
            if find_tag(name, TAGS + tags):
                raise ValueError(f"{token}: the name {name!r} is taken")
        tags += (tag,)
    return tags


def _custom_tag(token: str, entry: object) -> Tag:
    if not _FREE_TOKEN.fullmatch(token):
        raise ValueError(f"{token!r} is not one of SPECIAL_TOKEN_1 to SPECIAL_TOKEN_35")
    if not isinstance(entry, dict):
        raise ValueError(f"{token}: it must be an object")
    if surplus := sorted(entry.keys() - _CUSTOM_KEYS):
        raise ValueError(f"{token}: unknown key {surplus[0]!r}")
    if entry.get("kind") not in tuple(_CUSTOM_KINDS):
        raise ValueError(f"{token}: kind must be event or emotion")
    name = _short_text(token, "name", entry.get("name"))
    zh, en = (_short_text(token, key, entry.get(key, name)) for key in ("zh", "en"))
    emoji = _short_text(token, "emoji", entry["emoji"]) if "emoji" in entry else ""
    return Tag(token, _CUSTOM_KINDS[entry["kind"]], zh, en, emoji, _aliases(token, entry), given_name=name)


def _aliases(token: str, entry: dict[str, object]) -> tuple[str, ...]:
    aliases = entry.get("aliases", [])
    if not isinstance(aliases, list):
        raise ValueError(f"{token}: aliases must be a list")
    return tuple(_short_text(token, "alias", alias) for alias in aliases)


def _short_text(token: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or re.search(r"[\n<>|\[\]]", value):
        raise ValueError(f"{token}: {key} must be a short text without line breaks or any of <>|[]")
    return value.strip()

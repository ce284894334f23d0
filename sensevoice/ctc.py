"""From the frames of one utterance to its text, its token times and its tags.

The greedy path is the best path of the CTC lattice and it collapses to the hypothesis, so the frames it
gives to a token are that token's forced alignment: no time is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sensevoice.scores import N_QUERY_FRAMES, FrameScores
from sensevoice.tags import TAGS, Tag, TagKind

FRAME_MS = 60  # ten-millisecond features, six to a frame
HALF_FRAME_MS = 30  # frame i is centred on 60 * i ms

LANGUAGE_FRAME, EMOTION_FRAME, EVENT_FRAME, NORMALISATION_FRAME = range(N_QUERY_FRAMES)
_SENTENCE_MARKS = frozenset({"<s>", "</s>"})  # they decode to nothing


class TokenTable(Protocol):
    """What is asked of a vocabulary here; `checkpoint.Vocabulary` is the real one."""

    @property
    def blank_id(self) -> int:
        """The CTC blank."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Every `<|...|>` piece."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these pieces, as SentencePiece puts it."""

    def piece(self, id: int) -> str:
        """One piece, with U+2581 for a space."""

    def tag_ids(self, kind: TagKind) -> Mapping[str, int]:
        """The tags of this kind that the vocabulary has."""


@dataclass(frozen=True)
class Token:
    """One piece of the text, led by a space where a word begins; seconds, and the mean over its frames."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True)
class TagScore:
    """The best tag of one kind and the next best; `name` is "" if the vocabulary has none of the kind."""

    name: str
    probability: float
    runner_up: str | None = None
    runner_up_probability: float | None = None


@dataclass(frozen=True)
class Reading:
    """What one utterance says; token times count from its start."""

    text: str
    tokens: tuple[Token, ...]
    # the query frames' answers
    language: TagScore
    emotion: TagScore
    event: TagScore
    itn: bool


@dataclass(frozen=True)
class _Runs:
    """The collapsed greedy path, blanks and tags left out: U tokens on frames [start, end)."""

    ids: npt.NDArray[np.int32]  # [U]
    starts: npt.NDArray[np.intp]  # [U]
    ends: npt.NDArray[np.intp]  # [U]
    probabilities: npt.NDArray[np.float64]  # [U]


def read_scores(
    scores: FrameScores,
    vocabulary: TokenTable,
    *,
    allowed_languages: Collection[str] = (),
    ban_emo_unk: bool = False,
    tags: tuple[Tag, ...] = TAGS,
) -> Reading:
    """Read one utterance.

    A tag's probability is renormalised over the tags of its kind that are allowed, so that it answers "which
    emotion" and not "an emotion rather than any of 25,000 words". `allowed_languages` (empty: all) masks the
    other languages; `nospeech` is none and always stays. `ban_emo_unk` masks EMO_UNKNOWN and nothing else.
    `tags` names a checkpoint's custom tokens.
    """
    languages = vocabulary.tag_ids(TagKind.LANGUAGE)
    if allowed_languages and "auto" not in allowed_languages:
        languages = {name: id for name, id in languages.items() if name in {*allowed_languages, "nospeech"}}
    emotions = _candidates(vocabulary, TagKind.EMOTION, tags)
    if ban_emo_unk:
        emotions.pop("EMO_UNKNOWN", None)
    events = _candidates(vocabulary, TagKind.EVENT, tags)
    runs = _collapse(scores, vocabulary)
    return Reading(
        text=vocabulary.decode(runs.ids.tolist()).strip(),
        tokens=_tokens(runs, vocabulary),
        language=_best_tag(scores, LANGUAGE_FRAME, languages),
        emotion=_best_tag(scores, EMOTION_FRAME, emotions),
        event=_best_tag(scores, EVENT_FRAME, events),
        itn=_says_itn(scores, vocabulary),
    )


def heard_language(scores: FrameScores, vocabulary: TokenTable) -> str:
    """The language that the network itself would name, whatever is allowed."""
    return _best_tag(scores, LANGUAGE_FRAME, vocabulary.tag_ids(TagKind.LANGUAGE)).name


def greedy_tokens(scores: FrameScores, vocabulary: TokenTable) -> tuple[Token, ...]:
    """The tokens of the speech frames with their times; tags among them are left out.

    Frame i after the query frames covers [60 * i - 30, 60 * i + 30] ms, clipped at 0, which is FunASR's
    convention (`SenseVoiceSmall.inference`). The texts, concatenated and stripped, are the reading's text.
    """
    return _tokens(_collapse(scores, vocabulary), vocabulary)


def raw_text(scores: FrameScores, vocabulary: TokenTable) -> str:
    """What FunASR's `generate` returns for this utterance: all frames collapsed and decoded, tags and all."""
    ids = scores.ids
    kept = ids[_run_starts(ids)]
    return vocabulary.decode(kept[kept != vocabulary.blank_id].tolist())


def _run_starts(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """The index of the first frame of each run of equal ids."""
    return np.flatnonzero(np.diff(ids, prepend=-1))


def _collapse(scores: FrameScores, vocabulary: TokenTable) -> _Runs:
    ids = scores.ids[N_QUERY_FRAMES:]
    starts = _run_starts(ids)
    ends = np.append(starts, ids.size)[1:]
    sums = np.append(0.0, np.cumsum(scores.probabilities[N_QUERY_FRAMES:], dtype=np.float64))
    probabilities = (sums[ends] - sums[starts]) / (ends - starts)
    silent = vocabulary.special_ids | {vocabulary.blank_id}
    spoken = np.array([id not in silent for id in ids[starts].tolist()], dtype=np.bool_)
    return _Runs(ids[starts][spoken], starts[spoken], ends[spoken], probabilities[spoken])


def _tokens(runs: _Runs, vocabulary: TokenTable) -> tuple[Token, ...]:
    start_ms = np.maximum(runs.starts * FRAME_MS - HALF_FRAME_MS, 0)
    end_ms = runs.ends * FRAME_MS - HALF_FRAME_MS
    tokens: list[Token] = []
    space = ""  # a lone U+2581 is no token of its own: it leads the next one
    for id, start, end, probability in zip(
        runs.ids.tolist(), start_ms.tolist(), end_ms.tolist(), runs.probabilities.tolist(), strict=True
    ):
        text = space + _piece_text(vocabulary.piece(id))
        space = text if not text.strip() else ""
        if text.strip():
            tokens.append(Token(text, start / 1000, end / 1000, min(probability, 1.0)))
    return tuple(tokens)


def _piece_text(piece: str) -> str:
    return "" if piece in _SENTENCE_MARKS else piece.replace("\u2581", " ")


def _candidates(vocabulary: TokenTable, kind: TagKind, tags: tuple[Tag, ...]) -> dict[str, int]:
    """The ids of this kind's tags by name, the custom ones that `tags` gives this kind among them."""
    free = vocabulary.tag_ids(TagKind.CUSTOM)
    names = {tag.token: tag.name for tag in tags if tag.kind is kind}
    tokens = {**{token: free[token] for token in names if token in free}, **vocabulary.tag_ids(kind)}
    return {names.get(token, token): id for token, id in tokens.items()}


def _best_tag(scores: FrameScores, query_frame: int, candidates: Mapping[str, int]) -> TagScore:
    """The softmax of one query frame over `candidates` alone, best two."""
    if not candidates:
        return TagScore("", 0.0)
    names = list(candidates)
    probabilities = _softmax(scores.log_probs_of(query_frame, list(candidates.values())))
    best, *others = np.argsort(-probabilities, kind="stable").tolist()
    if not others:
        return TagScore(names[best], float(probabilities[best]))
    return TagScore(
        names[best], float(probabilities[best]), names[others[0]], float(probabilities[others[0]])
    )


def _softmax(log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    finite = np.maximum(log_probs.astype(np.float64), -1e4)  # -inf everywhere would make nan
    weights = np.exp(finite - finite.max())
    probabilities: npt.NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _says_itn(scores: FrameScores, vocabulary: TokenTable) -> bool:
    return _best_tag(scores, NORMALISATION_FRAME, vocabulary.tag_ids(TagKind.NORMALISATION)).name == "withitn"

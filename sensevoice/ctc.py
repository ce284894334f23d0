"""From the frames of one utterance to its text, its token times and its tags.

The greedy path is the best path of the CTC lattice and it collapses to the hypothesis, so the frames it
gives to a token are that token's forced alignment: no time is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sensevoice.scores import N_QUERY_FRAMES, FrameScores
from sensevoice.spans import Span
from sensevoice.tags import TAGS, Tag, TagKind

FRAME_MS = 60  # ten-millisecond features, six to a frame
HALF_FRAME_MS = 30  # frame i is centred on 60 * i ms

LEAST_LOG_PROB = -1e4  # -inf everywhere would make nan


class TokenTable(Protocol):
    """What is asked of a vocabulary here; `checkpoint.Vocabulary` is the real one."""

    @property
    def blank_id(self) -> int:
        """The CTC blank."""

    @property
    def texts(self) -> Sequence[str]:
        """What each piece adds to the text; "" for the blank, the tags and what is never seen."""

    @property
    def is_spelled(self) -> bool:
        """Whether these texts, joined, are what `decode` makes of any pieces, but for spaces at the ends."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these pieces, as SentencePiece puts it."""

    def tag_ids(self, kind: TagKind) -> Mapping[str, int]:
        """The tags of this kind that the vocabulary has."""


class Token(NamedTuple):
    """One piece of the text, led by a space where a word begins; seconds, and the mean over its frames."""

    # an hour of speech has tens of thousands, each of which would take four times as long to make as a dataclass
    text: str
    start_s: float
    end_s: float
    probability: float


class TagScore(NamedTuple):
    """The best tag of one kind and the next best; `name` is "" if the vocabulary has none of the kind."""

    name: str
    probability: float
    runner_up: str | None = None
    runner_up_probability: float | None = None


class Reading(NamedTuple):
    """What one utterance says."""

    text: str
    tokens: tuple[Token, ...]
    # the query frames' answers
    language: TagScore
    emotion: TagScore
    event: TagScore
    itn: bool


class TagChoice(NamedTuple):
    """The tags that one query frame may be read as."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # of the vocabulary


class TagChoices(NamedTuple):
    """What the tags of a request's utterances are chosen from, in the order of the query frames."""

    language: TagChoice
    emotion: TagChoice
    event: TagChoice
    normalisation: TagChoice

    @classmethod
    def of(
        cls,
        vocabulary: TokenTable,
        *,
        allowed_languages: Collection[str] = (),
        ban_emo_unk: bool = False,
        tags: tuple[Tag, ...] = TAGS,
    ) -> TagChoices:
        """`allowed_languages` (empty: all) masks the other languages; `nospeech` is none and always stays.

        `ban_emo_unk` masks EMO_UNKNOWN and nothing else. `tags` names a checkpoint's custom tokens.
        """
        languages = vocabulary.tag_ids(TagKind.LANGUAGE)
        if allowed_languages and "auto" not in allowed_languages:
            languages = {
                name: id for name, id in languages.items() if name in {*allowed_languages, "nospeech"}
            }
        emotions = _candidates(vocabulary, TagKind.EMOTION, tags)
        if ban_emo_unk:
            emotions.pop("EMO_UNKNOWN", None)
        events = _candidates(vocabulary, TagKind.EVENT, tags)
        found = (languages, emotions, events, vocabulary.tag_ids(TagKind.NORMALISATION))
        return cls(*(TagChoice(tuple(ids), tuple(ids.values())) for ids in found))


def read_scores(
    scores: FrameScores,
    vocabulary: TokenTable,
    choices: TagChoices | None = None,
    span: Span | None = None,
) -> Reading:
    """Read one utterance; token times count from its start, or from the recording's if it is known to be `span`.

    A tag's probability is renormalised over the tags that it is chosen from (by default all of its kind), so
    that it answers "which emotion" and not "an emotion rather than any of 25,000 words".
    """
    choices = choices or TagChoices.of(vocabulary)
    tokens = greedy_tokens(scores, vocabulary, span)
    language, emotion, event, normalisation = _best_tags(scores, choices)
    return Reading(
        _text(scores, vocabulary, tokens), tokens, language, emotion, event, normalisation.name == "withitn"
    )


def heard_language(scores: FrameScores, vocabulary: TokenTable, choices: TagChoices | None = None) -> str:
    """The language that the network would name, of all or of these choices."""
    return _best_tags(scores, choices or TagChoices.of(vocabulary))[0].name


def greedy_tokens(scores: FrameScores, vocabulary: TokenTable, span: Span | None = None) -> tuple[Token, ...]:
    """The tokens of the speech frames with their times; tags among them are left out.

    Frame i after the query frames covers [60 * i - 30, 60 * i + 30] ms, clipped at 0, which is FunASR's
    convention (`SenseVoiceSmall.inference`); with `span`, they are moved there, and clipped at its end, beyond
    which the last frame can reach. The texts, concatenated and stripped, are the reading's text.
    """
    texts, tokens = vocabulary.texts, list[Token]()
    space = ""  # a lone U+2581 is no token of its own: it leads the next one
    for id, start_s, end_s, probability in _runs(scores, span):
        text = space + texts[id]
        if text.isspace():
            space = text
        elif text:
            tokens.append(Token(text, start_s, end_s, probability))
            space = ""
    return tuple(tokens)


def _runs(scores: FrameScores, span: Span | None) -> Iterator[tuple[int, float, float, float]]:
    """The collapsed greedy path of the speech frames: (id, start_s, end_s, probability), blanks and all."""
    ids = scores.ids[N_QUERY_FRAMES:]
    bounds = _run_bounds(ids)
    starts = bounds[:-1]
    sums = np.add.reduceat(scores.probabilities[N_QUERY_FRAMES:], starts, dtype=np.float64)
    probabilities = np.minimum(sums / (bounds[1:] - starts), 1.0)
    seconds = _seconds(bounds, span).tolist()
    return zip(ids[starts].tolist(), seconds, seconds[1:], probabilities.tolist(), strict=False)


def _seconds(frames: npt.NDArray[np.intp], span: Span | None) -> npt.NDArray[np.float64]:
    """Where these frames begin, in whole milliseconds."""
    milliseconds = np.maximum(frames * FRAME_MS - HALF_FRAME_MS, 0)
    if span is not None:
        milliseconds = np.minimum(milliseconds + span.start_ms, span.end_ms)
    return milliseconds / 1000


def _text(scores: FrameScores, vocabulary: TokenTable, tokens: Sequence[Token]) -> str:
    if vocabulary.is_spelled:
        return "".join([token.text for token in tokens]).strip()
    ids = scores.ids[N_QUERY_FRAMES:]
    spoken = [id for id in ids[_run_bounds(ids)[:-1]].tolist() if vocabulary.texts[id]]
    return vocabulary.decode(spoken).strip()


def raw_text(scores: FrameScores, vocabulary: TokenTable) -> str:
    """What FunASR's `generate` returns for this utterance: all frames collapsed and decoded, tags and all."""
    ids = scores.ids
    kept = ids[_run_bounds(ids)[:-1]]
    return vocabulary.decode(kept[kept != vocabulary.blank_id].tolist())


def _run_bounds(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """The index of the first frame of each run of equal ids, and the end."""
    bounds = np.ones(ids.size + 1, np.bool_)
    np.not_equal(ids[1:], ids[:-1], out=bounds[1:-1])
    return bounds.nonzero()[0]


def _candidates(vocabulary: TokenTable, kind: TagKind, tags: tuple[Tag, ...]) -> dict[str, int]:
    """The ids of this kind's tags by name, the custom ones that `tags` gives this kind among them."""
    free = vocabulary.tag_ids(TagKind.CUSTOM)
    names = {tag.token: tag.name for tag in tags if tag.kind is kind}
    tokens = {**{token: free[token] for token in names if token in free}, **vocabulary.tag_ids(kind)}
    return {names.get(token, token): id for token, id in tokens.items()}


def _best_tags(scores: FrameScores, choices: TagChoices) -> list[TagScore]:
    """The best tag of each query frame."""
    places = _places(choices, scores.tag_ids.tobytes())
    log_probs = np.maximum(scores.tag_log_probs.ravel()[places], LEAST_LOG_PROB).tolist()
    found, start = list[TagScore](), 0
    for choice in choices:
        end = start + len(choice.names)
        found.append(_best_tag(choice.names, log_probs[start:end]))
        start = end
    return found


@lru_cache(maxsize=64)
def _places(choices: TagChoices, tag_ids: bytes) -> npt.NDArray[np.intp]:
    """Where the choices are among the [4 * tags] log-probabilities of a model with these tags, int32.

    Looked up for every utterance, they would cost more than its softmax: NumPy gives up the interpreter's lock for
    a search, however short, and a hundred other callers wait to take it.
    """
    columns = np.frombuffer(tag_ids, np.int32)
    return np.concatenate(
        [
            row * len(columns) + columns.searchsorted(np.array(choice.ids, np.int32))
            for row, choice in enumerate(choices)
        ]
    )


def _best_tag(names: Sequence[str], log_probs: Sequence[float]) -> TagScore:
    """The softmax over these tags alone, best two; the earlier ones of equals."""
    if not names:
        return TagScore("", 0.0)
    best = max(log_probs)
    weights = [math.exp(one - best) for one in log_probs]
    total = sum(weights)
    first = weights.index(max(weights))
    if len(names) == 1:
        return TagScore(names[first], 1.0)
    probability, weights[first] = weights[first] / total, -1.0
    second = weights.index(max(weights))
    return TagScore(names[first], probability, names[second], weights[second] / total)

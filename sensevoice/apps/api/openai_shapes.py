"""A transcript in the shapes of OpenAI's replies."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Iterator

from sensevoice.apps.api.models import (
    LogProb,
    OpenAISegment,
    OpenAITranscription,
    OpenAIVerboseTranscription,
    Usage,
    Word,
)
from sensevoice.ctc import Token
from sensevoice.exporters import PROBABILITY_DIGITS
from sensevoice.transcript import Segment, Transcript
from sensevoice.typography import UNSPACED

# https://github.com/openai/whisper/blob/main/whisper/tokenizer.py
WHISPER_NAMES = {"zh": "chinese", "en": "english", "yue": "cantonese", "ja": "japanese", "ko": "korean"}
SMALLEST_PROBABILITY = 1e-10  # its logarithm is what OpenAI gives for "never"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_EDGE_MARKS = re.compile(r"^[\W_]+|[\W_]+$")


def transcription(transcript: Transcript, *, logprobs: bool = False) -> OpenAITranscription:
    """response_format=json."""
    return OpenAITranscription(
        text=transcript.text,
        logprobs=log_probs(transcript.segments) if logprobs else None,
        usage=Usage(seconds=transcript.duration_s),
    )


def verbose_transcription(
    transcript: Transcript, *, segments: bool = True, words: bool = False
) -> OpenAIVerboseTranscription:
    """response_format=verbose_json."""
    return OpenAIVerboseTranscription(
        language=WHISPER_NAMES.get(transcript.language, transcript.language),
        duration=transcript.duration_s,
        text=transcript.text,
        segments=[_segment(i, one) for i, one in enumerate(transcript.segments)] if segments else None,
        words=list(words_of(transcript.segments)) if words else None,
        usage=Usage(seconds=transcript.duration_s),
    )


def log_probs(segments: Iterable[Segment]) -> list[LogProb]:
    """The tokens of these segments, each with the logarithm of its probability."""
    return [_log_prob(token) for segment in segments for token in segment.tokens]


def words_of(segments: Iterable[Segment]) -> Iterator[Word]:
    """The words of these segments, without the punctuation around them.

    A word ends before a space; in scripts that are written without spaces each token is a word.
    """
    for segment in segments:
        word: list[Token] = []
        for token in segment.tokens:
            if word and _begins_word(word[-1], token):
                yield from _as_word(word)
                word = []
            word.append(token)
        yield from _as_word(word)


def _begins_word(before: Token, token: Token) -> bool:
    if token.text[:1].isspace() or before.text[-1:].isspace():
        return True
    return any(_UNSPACED.match(edge) for edge in (before.text[-1:], token.text[:1]))


def _as_word(tokens: list[Token]) -> Iterator[Word]:
    """One word or, of nothing but marks, none."""
    voiced = [token for token in tokens if _EDGE_MARKS.sub("", token.text)]
    word = _EDGE_MARKS.sub("", "".join(token.text for token in tokens))
    if word:
        yield Word(word=word, start=voiced[0].start_s, end=voiced[-1].end_s)


def _log_prob(token: Token) -> LogProb:
    return LogProb(
        token=token.text, bytes=list(token.text.encode()), logprob=_log_probability(token.probability)
    )


def _log_probability(probability: float) -> float:
    return round(math.log(max(probability, SMALLEST_PROBABILITY)), 6)


def _segment(index: int, segment: Segment) -> OpenAISegment:
    logs = [_log_probability(token.probability) for token in segment.tokens]
    silent = segment.language == "nospeech"
    return OpenAISegment(
        id=index,
        start=segment.start_s,
        end=segment.end_s,
        text=segment.text,
        avg_logprob=round(sum(logs) / len(logs), 6) if logs else 0.0,
        compression_ratio=_compression_ratio(segment.text),
        no_speech_prob=_rounded(segment.language_probability) if silent else 0.0,
        language=segment.language,
        language_probability=_rounded(segment.language_probability),
        emotion=segment.emotion,
        emotion_probability=_rounded(segment.emotion_probability),
        emotion_runner_up=segment.emotion_runner_up,
        emotion_uncertain=segment.emotion_uncertain,
        event=segment.event,
        event_probability=_rounded(segment.event_probability),
        event_runner_up=segment.event_runner_up,
    )


def _compression_ratio(text: str) -> float:
    """Whisper's: how much shorter zlib makes the text; repetitions make it large."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 4)


def _rounded(probability: float) -> float:
    return round(probability, PROBABILITY_DIGITS)

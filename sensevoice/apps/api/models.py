"""The replies as types, which OpenAPI shows with examples."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sensevoice.exporters import EXPORTERS

PROBABILITY = Field(ge=0, le=1, description="As the model sees it, from 0 to 1.")


def example_of(**fields: Any) -> ConfigDict:
    """For a reply: what `/docs` shows of it."""
    return ConfigDict(json_schema_extra={"example": fields})


class Token(BaseModel):
    """A piece of the text, led by a space where a word begins."""

    text: str
    start_s: float
    end_s: float
    probability: float = PROBABILITY


class Segment(BaseModel):
    """One utterance; times are seconds from the start of the recording."""

    start_s: float
    end_s: float
    text: str
    language: str
    language_probability: float = PROBABILITY
    language_runner_up: str | None = None
    emotion: str
    emotion_probability: float = PROBABILITY
    emotion_runner_up: str | None = None
    event: str
    event_probability: float = PROBABILITY
    event_runner_up: str | None = None
    tokens: list[Token]


class Gap(BaseModel):
    """A stretch in which nobody was heard, and which was not transcribed."""

    start_s: float
    end_s: float


class TranscriptReply(BaseModel):
    """The transcript of one recording."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "text": "今天天气真好！",
                "language": "zh",
                "duration_s": 2.4,
                "model": "SenseVoiceSmall",
                "options": {"language": "auto", "use_itn": True},
                "segments": [
                    {
                        **{"start_s": 0.4, "end_s": 2.1, "text": "今天天气真好！"},
                        **{"language": "zh", "language_probability": 0.98, "language_runner_up": "yue"},
                        **{"emotion": "HAPPY", "emotion_probability": 0.93, "emotion_runner_up": "NEUTRAL"},
                        **{"event": "Speech", "event_probability": 0.97, "event_runner_up": "BGM"},
                        "tokens": [{"text": "今天", "start_s": 0.45, "end_s": 0.69, "probability": 0.99}],
                    }
                ],
                "skipped": [{"start_s": 0.0, "end_s": 0.4}],
            }
        },
    )

    text: str
    language: str = Field(description='The language of most speech; "" if nobody speaks.')
    duration_s: float
    model: str
    options: dict[str, Any]
    segments: list[Segment]
    skipped: list[Gap]


class Fault(BaseModel):
    """What went wrong."""

    type: str = Field(examples=["NotAudioError"])
    message: str = Field(examples=["the recording has no sound track. Choose a file with sound."])


class ErrorReply(BaseModel):
    """Every failure outside /v1/."""

    error: Fault


class OpenAIFault(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str = Field(examples=["the recording has no sound track. Choose a file with sound."])
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(None, examples=["file"])
    code: str | None = Field(None, examples=["NoAudioStreamError"])


class OpenAIErrorReply(BaseModel):
    """Every failure under /v1/."""

    error: OpenAIFault


class HealthReply(BaseModel):
    """The process answers."""

    model_config = example_of(status="ok", model="SenseVoiceSmall", version="0.1.0")

    status: Literal["ok"] = "ok"
    model: str
    version: str


class ReadyReply(BaseModel):
    """The model has transcribed a probe clip."""

    model_config = example_of(status="ready", model="SenseVoiceSmall", device="cuda:0", probe_ms=12.5)

    status: Literal["ready"] = "ready"
    model: str
    device: str
    probe_ms: float = Field(description="How long the last probe took.")


# what a transcript's reply may also be: every export format but JSON, whose model is TranscriptReply
TEXT_FORMATS: dict[str, Any] = {
    exporter.media_type: {"schema": {"type": "string"}}
    for exporter in EXPORTERS.values()
    if exporter.name != "json"
}


def responses(*statuses: int, model: type[BaseModel] = ErrorReply) -> dict[int | str, dict[str, Any]]:
    """For a route: these failures have the body `model`."""
    return {status: {"model": model} for status in statuses}


# OpenAI's shapes ----------------------------------------------------------------------------------


class Usage(BaseModel):
    """What was transcribed."""

    type: Literal["duration"] = "duration"
    seconds: float


class LogProb(BaseModel):
    """How sure the model is of one token."""

    token: str
    bytes: list[int]
    logprob: float


class Word(BaseModel):
    """One word, without its punctuation; seconds."""

    word: str
    start: float
    end: float


class OpenAISegment(BaseModel):
    """OpenAI's segment, with what SenseVoice hears beside the words."""

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    tokens: list[int] = Field(
        default_factory=list, description="Always empty: the pieces are no Whisper ids."
    )
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    # not of OpenAI
    language: str
    language_probability: float = PROBABILITY
    emotion: str
    emotion_probability: float = PROBABILITY
    emotion_runner_up: str | None = None
    emotion_uncertain: bool
    event: str
    event_probability: float = PROBABILITY
    event_runner_up: str | None = None


class OpenAITranscription(BaseModel):
    """response_format=json."""

    model_config = example_of(text="今天天气真好！", usage={"type": "duration", "seconds": 2.4})

    text: str
    logprobs: list[LogProb] | None = None
    usage: Usage


class OpenAIVerboseTranscription(BaseModel):
    """response_format=verbose_json."""

    model_config = example_of(
        task="transcribe",
        language="chinese",
        duration=2.4,
        text="今天天气真好！",
        segments=[
            {
                **{"id": 0, "seek": 0, "start": 0.4, "end": 2.1, "text": "今天天气真好！", "tokens": []},
                **{
                    "temperature": 0.0,
                    "avg_logprob": -0.05,
                    "compression_ratio": 0.72,
                    "no_speech_prob": 0.0,
                },
                **{"language": "zh", "language_probability": 0.98},
                **{"emotion": "HAPPY", "emotion_probability": 0.93, "emotion_runner_up": "NEUTRAL"},
                **{"emotion_uncertain": False},
                **{"event": "Speech", "event_probability": 0.97, "event_runner_up": "BGM"},
            }
        ],
        words=[{"word": "今天", "start": 0.45, "end": 0.69}],
        usage={"type": "duration", "seconds": 2.4},
    )

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(description="In English, as Whisper says it.", examples=["chinese"])
    duration: float
    text: str
    segments: list[OpenAISegment] | None = None
    words: list[Word] | None = None
    usage: Usage


class TextDelta(BaseModel):
    """A server-sent event: what was finished since the last."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str
    logprobs: list[LogProb] | None = None


class TextDone(BaseModel):
    """The last server-sent event."""

    type: Literal["transcript.text.done"] = "transcript.text.done"
    text: str
    logprobs: list[LogProb] | None = None


MODEL_CARD = {"id": "SenseVoiceSmall", "object": "model", "created": 1767225600, "owned_by": "modelscope"}


class ModelCard(BaseModel):
    """A model, as OpenAI lists it."""

    model_config = example_of(**MODEL_CARD)

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models of this service: one."""

    model_config = example_of(object="list", data=[MODEL_CARD])

    object: Literal["list"] = "list"
    data: list[ModelCard]

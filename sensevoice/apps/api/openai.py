"""OpenAI's endpoints for transcription, as the `openai` packages call them.

https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sensevoice.apps.api.models import (
    ModelCard,
    ModelList,
    OpenAIErrorReply,
    OpenAITranscription,
    OpenAIVerboseTranscription,
    responses,
)
from sensevoice.apps.api.openai_shapes import transcription as plain
from sensevoice.apps.api.openai_shapes import verbose_transcription as verbose
from sensevoice.apps.api.openai_stream import stream_transcription
from sensevoice.apps.api.service import CurrentService, Service
from sensevoice.apps.api.transcribing import transcription
from sensevoice.apps.api.uploads import WorkRoute, upload_path
from sensevoice.errors import OptionConflictError, UnknownFormatError, UnknownModelError
from sensevoice.exporters import EXPORTERS
from sensevoice.options import LANGUAGES, TranscribeOptions
from sensevoice.transcript import Transcript

router = APIRouter(prefix="/v1", tags=["openai"], route_class=WorkRoute)
models_router = APIRouter(tags=["openai"])

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
STREAMED_FORMATS = ("json", "text")
Granularity = Literal["word", "segment"]
OTHER_FORMATS: dict[str, Any] = {
    media_type: {"schema": {"type": "string"}}
    for media_type in (
        "text/plain",
        EXPORTERS["srt"].media_type,
        EXPORTERS["vtt"].media_type,
    )
}
EVENTS = """\
data: {"type":"transcript.text.delta","delta":"今天天气真好！"}

data: {"type":"transcript.text.done","text":"今天天气真好！"}

data: [DONE]

"""
OTHER_FORMATS["text/event-stream"] = {"schema": {"type": "string"}, "example": EVENTS}
FAILURES = responses(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504, 507, model=OpenAIErrorReply)


@router.post(
    "/audio/transcriptions",
    response_model=OpenAITranscription | OpenAIVerboseTranscription,
    responses={200: {"content": OTHER_FORMATS}, **FAILURES},
)
async def create_transcription(
    request: Request,
    service: CurrentService,
    file: Annotated[UploadFile, File(description="A sound or video file.")],
    model: Annotated[str, Form(description="Any name: this service has one model.")] = "whisper-1",
    language: Annotated[
        str | None,
        Form(description="What is spoken; unset: detected.", json_schema_extra={"enum": [*LANGUAGES]}),
    ] = None,
    response_format: Annotated[
        str, Form(description="What comes back.", json_schema_extra={"enum": [*FORMATS]})
    ] = "json",
    timestamp_granularities: Annotated[
        list[Granularity] | None,
        Form(alias="timestamp_granularities[]", description="Only with verbose_json; unset: segment."),
    ] = None,
    include: Annotated[
        list[Literal["logprobs"]] | None, Form(alias="include[]", description="Only with json.")
    ] = None,
    stream: Annotated[
        bool, Form(description="Send text as segments finish; only with json or text.")
    ] = False,
    prompt: Annotated[str, Form(description="Accepted and ignored: this model takes no prompt.")] = "",
    temperature: Annotated[
        float, Form(ge=0, le=1, description="Accepted and ignored: decoding is greedy.")
    ] = 0.0,
) -> Response:
    """Transcribe one recording; verbose_json also tells each segment's emotion and sound event."""
    _check_formats(response_format, timestamp_granularities, include, stream)
    path, options = upload_path(file), _options(service, language)
    if stream:
        return await stream_transcription(request, service, path, options, logprobs=bool(include))
    ticket = service.work.submit(transcription(service, path, options))
    transcript = await service.work.result(ticket, request, service.settings.request_timeout_s)
    if response_format == "json":
        return _json(plain(transcript, logprobs=bool(include)))
    if response_format == "verbose_json":
        wanted = timestamp_granularities or ["segment"]
        return _json(verbose(transcript, segments="segment" in wanted, words="word" in wanted))
    return _text(transcript, response_format)


@models_router.get("/models", responses=responses(401, 500, model=OpenAIErrorReply))
async def list_models(service: CurrentService) -> ModelList:
    """The one model of this service."""
    return ModelList(data=[_card(service)])


@models_router.get("/models/{model:path}", responses=responses(401, 404, 422, 500, model=OpenAIErrorReply))
async def retrieve_model(model: str, service: CurrentService) -> ModelCard:
    """The one model of this service, by its name."""
    card = _card(service)
    if model != card.id:
        raise UnknownModelError(model, [card.id])
    return card


def _options(service: Service, language: str | None) -> TranscribeOptions:
    settings = service.settings
    return TranscribeOptions(language=language or settings.language, max_duration_s=settings.max_duration_s)


def _check_formats(
    response_format: str, granularities: list[Granularity] | None, include: list[Any] | None, stream: bool
) -> None:
    if response_format not in FORMATS:
        raise UnknownFormatError(response_format, FORMATS)
    if granularities and response_format != "verbose_json":
        raise OptionConflictError("timestamp_granularities[]", "response_format=verbose_json")
    if include and response_format != "json":
        raise OptionConflictError("include[]=logprobs", "response_format=json")
    if stream and response_format not in STREAMED_FORMATS:
        raise OptionConflictError("stream", "response_format=json or response_format=text")


def _json(reply: BaseModel) -> JSONResponse:
    """Without what was not asked for."""
    return JSONResponse({key: value for key, value in reply.model_dump().items() if value is not None})


def _text(transcript: Transcript, response_format: str) -> Response:
    if response_format == "text":
        return Response(f"{transcript.text}\n", media_type="text/plain")
    exporter = EXPORTERS[response_format]
    return Response(exporter.render(transcript, "en"), media_type=exporter.media_type)


def _card(service: Service) -> ModelCard:
    info = service.transcriber.info
    return ModelCard(id=info.name, created=service.started_at, owned_by=info.source)


router.include_router(models_router)

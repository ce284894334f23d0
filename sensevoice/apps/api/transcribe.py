"""`POST /transcribe`: a recording in, its transcript out, in any export format."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from sensevoice.apps.api.models import TEXT_FORMATS, TranscriptReply, responses
from sensevoice.apps.api.service import CurrentService
from sensevoice.apps.api.transcribing import transcription
from sensevoice.apps.api.uploads import WorkRoute, upload_path
from sensevoice.errors import UnknownFormatError
from sensevoice.exporters import EXPORTERS, to_dict
from sensevoice.options import LANGUAGES, TranscribeOptions

router = APIRouter(tags=["transcribe"], route_class=WorkRoute)

FAILURES = responses(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504, 507)


@router.post(
    "/transcribe",
    response_model=TranscriptReply,
    responses={200: {"content": TEXT_FORMATS}, **FAILURES},
)
async def transcribe(
    request: Request,
    service: CurrentService,
    file: Annotated[UploadFile, File(description="A sound or video file.")],
    lang: Annotated[
        str | None,
        Form(
            description=f"What is spoken: {', '.join(LANGUAGES)}. Unset: as the service is configured.",
            json_schema_extra={"enum": [*LANGUAGES]},
        ),
    ] = None,
    format: Annotated[
        str, Form(description="What comes back.", json_schema_extra={"enum": [*EXPORTERS]})
    ] = "json",
) -> Response:
    """Transcribe one recording."""
    settings = service.settings
    if format not in EXPORTERS:
        raise UnknownFormatError(format, EXPORTERS)
    options = TranscribeOptions(
        language=settings.language if lang is None else lang, max_duration_s=settings.max_duration_s
    )
    ticket = service.work.submit(transcription(service, upload_path(file), options))
    transcript = await service.work.result(ticket, request, settings.request_timeout_s)
    if format == "json":
        return JSONResponse(to_dict(transcript))
    exporter = EXPORTERS[format]
    return Response(exporter.render(transcript, "en"), media_type=exporter.media_type)

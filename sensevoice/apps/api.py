"""The HTTP service: `POST /transcribe` takes a recording and gives back its transcript as JSON.

    curl -F file=@meeting.mp3 -F lang=auto http://127.0.0.1:6006/transcribe

Every failure is `{"error": {"type": "NotAudioError", "message": "…"}}`, with the status of `STATUS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensevoice import __version__, errors
from sensevoice.exporters import to_dict
from sensevoice.options import TranscribeOptions
from sensevoice.strings import error_text, text

if TYPE_CHECKING:
    from sensevoice.pipeline import Transcriber
    from sensevoice.settings import Settings

log = logging.getLogger(__name__)

STATUS: dict[type[errors.SenseVoiceError], HTTPStatus] = {
    errors.SenseVoiceError: HTTPStatus.INTERNAL_SERVER_ERROR,
    # the recording
    errors.AudioError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NoSuchAudioError: HTTPStatus.NOT_FOUND,
    errors.EmptyAudioError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotAudioError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.NoAudioStreamError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TruncatedAudioError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.AudioTooLongError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    # the request
    errors.OptionError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownLanguageError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnknownFormatError: HTTPStatus.UNPROCESSABLE_ENTITY,
    # the model
    errors.ModelError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelNotFoundError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFileError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ChecksumError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.HubUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeviceError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PrecisionError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.OutOfMemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
}

BYTES_PER_MB = 2**20
FORM_OVERHEAD_BYTES = 64 * 1024  # the multipart headers and the other fields around the file


def create_app(transcriber: Transcriber, settings: Settings) -> FastAPI:
    """The service around one transcriber; its endpoints need no network and serve no pages."""
    # FastAPI's own /docs would fetch its scripts from a CDN, which an offline machine cannot
    app = FastAPI(title="SenseVoice Studio", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(LimitUploads, limit_mb=settings.max_upload_mb)
    _add_error_handlers(app)

    @app.get("/health")
    def health() -> dict[str, str]:
        """Answer as soon as the model is loaded."""
        return {"status": "ok", "model": transcriber.info.name, "version": __version__}

    # no `async`: FastAPI then runs it in a thread, and the event loop stays free while the model works
    @app.post("/transcribe")
    def transcribe(
        file: Annotated[UploadFile, File(description="A sound or video file.")],
        lang: Annotated[str, Form(description="auto, zh, en, yue, ja or ko")] = settings.language,
    ) -> dict[str, Any]:
        """Transcribe one recording; the upload lives in an unnamed temporary file until the reply."""
        options = TranscribeOptions(language=lang, max_duration_s=settings.max_duration_s)
        return to_dict(transcriber.transcribe(file.file, options))

    return app


class LimitUploads:
    """ASGI middleware that refuses a body of more than `limit_mb` MiB, before it is stored."""

    def __init__(self, app: ASGIApp, limit_mb: float) -> None:
        self.app = app
        self.limit_mb = limit_mb
        self.limit_bytes = int(limit_mb * BYTES_PER_MB) + FORM_OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it declares too much."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _declared_length(scope) > self.limit_bytes:
            await _error_response(self._too_large())(scope, receive, send)
        else:
            await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """`receive`, which fails once more has come than allowed: a length need not be declared."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit_bytes:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> HTTPException:
        sentence = text("error.upload_too_large", "en", limit_mb=f"{self.limit_mb:g}")
        return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def _declared_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(errors.SenseVoiceError)
    def expected(_: Request, error: errors.SenseVoiceError) -> JSONResponse:
        return _error_json(STATUS[type(error)], type(error).__name__, str(error))

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error_response(error)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        sentences = "; ".join(_field_sentence(fault) for fault in error.errors())
        return _error_json(HTTPStatus.UNPROCESSABLE_ENTITY, "InvalidRequest", sentences)

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> JSONResponse:
        return _error_json(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", error_text(error, "en"))


def _field_sentence(fault: Mapping[str, Any]) -> str:
    return f"{fault['loc'][-1]}: {fault['msg']}"


def _error_response(error: HTTPException) -> JSONResponse:
    return _error_json(HTTPStatus(error.status_code), HTTPStatus(error.status_code).phrase, str(error.detail))


def _error_json(status: HTTPStatus, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status)

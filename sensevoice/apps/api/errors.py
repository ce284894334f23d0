"""Every failure as a status and a sentence: one table, and two shapes of reply.

`{"error": {"type": "NotAudioError", "message": "…"}}`, or under `/v1/` OpenAI's
`{"error": {"message": "…", "type": "invalid_request_error", "param": null, "code": "NotAudioError"}}`.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from sensevoice import errors
from sensevoice.strings import error_text

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
    errors.OptionConflictError: HTTPStatus.BAD_REQUEST,
    errors.UnknownModelError: HTTPStatus.NOT_FOUND,
    # training data
    errors.DatasetError: HTTPStatus.UNPROCESSABLE_ENTITY,
    # jobs
    errors.JobError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.JobNotFoundError: HTTPStatus.NOT_FOUND,
    errors.JobNotFinishedError: HTTPStatus.CONFLICT,
    errors.JobFileFailedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.CrashingFileError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.IdempotencyError: HTTPStatus.CONFLICT,
    errors.WebhookRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.JobStoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    # the model
    errors.ModelError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelNotFoundError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ModelFileError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ChecksumError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.HubUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DeviceError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PrecisionError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SegmentTooLargeError: HTTPStatus.SERVICE_UNAVAILABLE,
    # the service
    errors.ServiceError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    errors.ForeignOriginError: HTTPStatus.FORBIDDEN,
    errors.RateLimitError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.UploadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UploadTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    errors.HeadTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    errors.StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.QueueFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ShuttingDownError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DecodeTimeoutError: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RequestTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    errors.MemoryFullError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.WorkerDiedError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooManyStreamsError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StreamIdleError: HTTPStatus.REQUEST_TIMEOUT,
    errors.MessageTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}

OPENAI_PREFIX = "/v1/"
# the codes that clients of OpenAI's service compare with; every other code is the name of our class
OPENAI_CODES = {
    "UnauthorizedError": "invalid_api_key",
    "RateLimitError": "rate_limit_exceeded",
    "UnknownModelError": "model_not_found",
}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def route_path(scope: Scope) -> str:
    """The path as routes know it: without the prefix under which a proxy shows the application."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def status_of(error: errors.SenseVoiceError) -> HTTPStatus:
    """The status of the error's class, or of its nearest ancestor in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def expected(error: BaseException) -> BaseException:
    """The error of ours that stands for a failure of the machine; any other error as it is."""
    if isinstance(error, errors.SenseVoiceError):
        return error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return errors.MemoryFullError()
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return errors.StorageFullError()
    return error


def error_response(error: BaseException, scope: Scope) -> JSONResponse:
    """The reply to a request that ended with `error`; of an unexpected error it gives nothing away."""
    error = expected(error)
    status, kind, message = _fault(error)
    scope["error_kind"] = kind
    param = _field(error.errors()[0]) if isinstance(error, RequestValidationError) else None
    return JSONResponse(error_body(route_path(scope), status, kind, message, param), status, _headers(error))


def _fault(error: BaseException) -> tuple[HTTPStatus, str, str]:
    """Status, kind and sentence."""
    if isinstance(error, errors.SenseVoiceError):
        return status_of(error), type(error).__name__, str(error)
    if isinstance(error, RequestValidationError):
        sentences = "; ".join(f"{_field(fault)}: {fault['msg']}" for fault in error.errors())
        return HTTPStatus.UNPROCESSABLE_ENTITY, "InvalidRequest", sentences
    if isinstance(error, HTTPException):
        status = HTTPStatus(error.status_code)
        return status, status.phrase, str(error.detail)
    return HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", error_text(error, "en")


def error_body(path: str, status: int, kind: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error, in OpenAI's shape for the paths that are OpenAI's."""
    if not path.startswith(OPENAI_PREFIX):
        return {"error": {"type": kind, "message": message}}
    code = OPENAI_CODES.get(kind, kind)
    return {"error": {"message": message, "type": _openai_type(status), "param": param, "code": code}}


def error_event(error: BaseException) -> str:
    """A failure as a server-sent event of OpenAI's, for a reply that has begun already."""
    body = error_body(OPENAI_PREFIX, *_fault(expected(error)))
    return f"data: {json.dumps(body)}\n\n"


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error that an endpoint raises on purpose; the others end in `logs.RequestLog`."""
    for kind in (errors.SenseVoiceError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    return error_response(error, request.scope)


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"


def _headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, HTTPException):
        return dict(error.headers or {})
    if isinstance(error, errors.UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.ServiceError) and error.retry_after_s is not None:
        return {"Retry-After": str(error.retry_after_s)}
    return {}


def _field(fault: Mapping[str, Any]) -> str:
    return str(next((part for part in reversed(fault["loc"]) if isinstance(part, str)), "request"))

"""Uploads on disk: streamed to files with random names, and gone with the request that brought them.

`Uploads` (middleware) bounds the size and the time of a request's body, and removes what it left behind
however the request ends. A router that takes files is made with `APIRouter(route_class=UploadRoute)`; its
endpoints declare `UploadFile` as usual, whose file then lies in the spool folder.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request, UploadFile
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensevoice.apps.api.access import is_guarded
from sensevoice.apps.api.errors import error_response, route_path, status_of
from sensevoice.apps.api.service import service_of
from sensevoice.errors import ServiceError, UploadTimeoutError, UploadTooLargeError
from sensevoice.settings import Settings

log = logging.getLogger(__name__)

BYTES_PER_MB = 2**20
FORM_OVERHEAD_BYTES = 64 * 1024  # the multipart headers and the other fields around the files
SUFFIX = ".upload"
STALE_S = 24 * 3600.0  # no request lives that long; what is older was left by a process that was killed


class Spool:
    """The files of one request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[tuple[Path, BinaryIO]] = []

    def create(self) -> BinaryIO:
        """A new empty file with a random name, open for writing and reading; `.name` is its path."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{secrets.token_hex(16)}{SUFFIX}"
        file = path.open("x+b")
        self._files.append((path, file))
        path.chmod(0o600)
        return file

    @property
    def is_used(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self._files)

    def clear(self) -> None:
        """Close and remove every file that has not been moved elsewhere."""
        for path, file in self._files:
            with suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)
        self._files.clear()


def upload_path(upload: UploadFile) -> Path:
    """Where an upload lies until its request ends; to keep it, move it away."""
    return Path(upload.file.name)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left in the spool folder."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


class Uploads:
    """ASGI middleware: bounds what a request may send, and cleans up after it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.limit_bytes = int(settings.max_upload_mb * BYTES_PER_MB) + FORM_OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it declares too much."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _declared_length(scope) > self.limit_bytes:
            await error_response(self._too_large(), scope)(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        spool = Spool(self.settings.spool_dir)
        scope["spool"] = spool
        try:
            await self.app(scope, self._bounded(scope, receive), send)
        finally:
            if spool.is_used:  # in a thread: to remove a large file takes a while
                await asyncio.shield(asyncio.to_thread(spool.clear))

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which fails once too much has come or once it has taken too long.

        A length need not be declared, and a client may send a byte at a time for ever.
        """
        received, complete = 0, False
        deadline = time.monotonic() + self.settings.upload_timeout_s

        async def bounded() -> Message:
            nonlocal received, complete
            message = await (receive() if complete else self._in_time(scope, receive, deadline))
            complete = complete or not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self.limit_bytes:
                raise _as_raised(self._too_large(), scope)
            return message

        return bounded

    async def _in_time(self, scope: Scope, receive: Receive, deadline: float) -> Message:
        limits = self.settings
        left_s = max(0.0, deadline - time.monotonic())
        try:
            return await asyncio.wait_for(receive(), min(limits.upload_idle_s, left_s))
        except asyncio.TimeoutError:
            limit_s = limits.upload_idle_s if limits.upload_idle_s < left_s else limits.upload_timeout_s
            raise _as_raised(UploadTimeoutError(limit_s), scope) from None

    def _too_large(self) -> ServiceError:
        return UploadTooLargeError(self.settings.max_upload_mb)


def _as_raised(error: ServiceError, scope: Scope) -> Exception:
    """The page's own application, mounted beside the service, knows no errors of ours."""
    return error if is_guarded(route_path(scope)) else HTTPException(status_of(error), str(error))


class UploadRoute(APIRoute):
    """A route whose form is parsed into the spool folder, before FastAPI looks at it.

    FastAPI itself would answer every failure to read a body with a bare 400.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind ours."""
        handle = super().get_route_handler()

        async def handle_upload(request: Request) -> Response:
            self.check(request)
            request = _UploadRequest(request.scope, request.receive)
            await request.form()
            return await handle(request)

        return handle_upload

    def check(self, request: Request) -> None:
        """Refuse a request before its body is read."""


class WorkRoute(UploadRoute):
    """A route whose upload goes straight to the work queue, and is not even read if there is no room."""

    def check(self, request: Request) -> None:
        """QueueFullError or ShuttingDownError."""
        service_of(request).work.check_room()


class _UploadRequest(Request):
    async def _get_form(self, **limits: Any) -> FormData:
        if self._form is None and _is_multipart(self):
            parser = _SpoolingParser(self.headers, self.stream(), self.scope["spool"], **limits)
            try:
                self._form = await parser.parse()
            except MultiPartException as error:
                raise HTTPException(400, error.message) from error
        return await super()._get_form(**limits)


def _is_multipart(request: Request) -> bool:
    return parse_options_header(request.headers.get("content-type"))[0] == b"multipart/form-data"


class _SpoolingParser(MultiPartParser):
    """Starlette's parser, with files of the spool folder where it has temporary ones."""

    def __init__(self, headers: Any, stream: Any, spool: Spool, **limits: Any) -> None:
        super().__init__(headers, stream, **limits)
        self._spool = spool

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        if part.file is not None:
            self._files_to_close_on_error.pop().close()
            part.file = UploadFile(
                self._spool.create(), size=0, filename=part.file.filename, headers=part.file.headers
            )


def _declared_length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0

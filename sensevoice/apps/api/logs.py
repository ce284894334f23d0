"""One line of JSON for each request, under an id that the reply carries too; no word of what was said."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensevoice.apps.api.errors import error_response, expected
from sensevoice.apps.api.metrics import Metrics

log = logging.getLogger("sensevoice.access")

request_id: ContextVar[str] = ContextVar("request_id", default="")

HEADER = "X-Request-ID"
CLIENT_GONE = 499  # nginx's: the client closed the connection before the reply
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what a client chose ends in our log


class RequestLog:
    """ASGI middleware around everything: ids, the log, the counters, and a reply to what nobody expected."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket, and note how it went."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        token = request_id.set(_id_of(scope))
        entry = _Entry(scope)
        try:
            await self._answer(entry, scope, receive, send)
        finally:
            self._note(entry)
            request_id.reset(token)

    async def _answer(self, entry: _Entry, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            entry.see(message)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ClientDisconnect:
            entry.status = CLIENT_GONE
        except Exception as error:
            entry.status, scope["error_kind"] = entry.status or 500, type(expected(error)).__name__
            log.exception("request failed")
            if not entry.started and scope["type"] == "http":
                await error_response(error, scope)(scope, receive, noted)

    def _note(self, entry: _Entry) -> None:
        fields = entry.fields()
        self.metrics.requests.labels(fields["method"], fields["route"], fields["status"]).inc()
        if "error" in fields:
            self.metrics.errors.labels(fields["error"]).inc()
        log.info("request", extra={"fields": fields})


class _Entry:
    """What is known of one request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.start = time.perf_counter()
        self.status = 0
        self.started = False

    def see(self, message: Message) -> None:
        """Look at a message of the reply, and give its head the request's id."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            MutableHeaders(scope=message)[HEADER] = request_id.get()
        elif message["type"] == "websocket.accept":
            self.started, self.status = True, HTTPStatus.SWITCHING_PROTOCOLS.value

    def fields(self) -> dict[str, Any]:
        """For the log. The path is not: in the page's, there are names of files."""
        route = self.scope.get("route")
        fields = {
            "method": self.scope.get("method", "WEBSOCKET"),
            "route": getattr(route, "path", "") or "other",
            "status": self.status,
            "duration_ms": round((time.perf_counter() - self.start) * 1000, 1),
        }
        if "error_kind" in self.scope:
            fields["error"] = self.scope["error_kind"]
        return fields


def _id_of(scope: Scope) -> str:
    given = Headers(scope=scope).get(HEADER, "")
    return given if _USABLE_ID.fullmatch(given) else secrets.token_hex(16)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON, with the id of the request in which it was made."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get() or None,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(
            {key: value for key, value in line.items() if value is not None}, ensure_ascii=False
        )


def start_json_logging(level: str) -> None:
    """Log JSON to stderr: our own messages from `level` on, other libraries' from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("sensevoice").setLevel(level.upper())

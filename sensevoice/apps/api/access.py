"""Who may use the service: keys, and how many requests one key may make."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sensevoice.apps.api.errors import error_response, route_path
from sensevoice.errors import ForeignOriginError, RateLimitError, ServiceError, UnauthorizedError
from sensevoice.settings import Settings

MAX_CALLERS = 10_000  # whose rate is remembered
POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
KEY_PROTOCOL = "sensevoice-key."  # a browser's WebSocket carries no headers, but subprotocols of its choice
GUARDED_PREFIX = "/v1/"
GUARDED_PATHS = {"/transcribe", "/ready", "/metrics"}


def is_guarded(path: str) -> bool:
    """Whether a path is the service's own and needs a key; the page has its own login."""
    return path.startswith(GUARDED_PREFIX) or path.rstrip("/") in GUARDED_PATHS


def is_known_key(key: str, keys: Iterable[str]) -> bool:
    """Whether `key` is one of `keys`, in a time that tells nothing about them."""
    digest = _digest(key)
    matches = [hmac.compare_digest(digest, _digest(known)) for known in keys]  # every one, found or not
    return any(matches)


def bearer_key(headers: Headers) -> str:
    """The key in a request's headers, "" if there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def given_key(scope: Scope) -> str:
    """The key that a request or WebSocket carries, "" if none."""
    if key := bearer_key(Headers(scope=scope)):
        return key
    offered = (name for name in scope.get("subprotocols", ()) if name.startswith(KEY_PROTOCOL))
    return str(next(offered, "")).removeprefix(KEY_PROTOCOL)


def foreign_origin(headers: Headers, allowed: Iterable[str]) -> str:
    """The web site whose script opens a WebSocket that it may not have, "" if all is well.

    Browsers ask no permission for WebSockets, as they do for replies to other sites' scripts (CORS).
    """
    origin = headers.get("origin", "")
    own = urlsplit(origin).netloc == headers.get("host", "")
    return "" if own or not origin or {origin, "*"} & set(allowed) else origin


class RateLimiter:
    """A bucket of `per_minute` tokens for each caller, which fills up again evenly within a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def take(self, caller: str) -> None:
        """Count one request of `caller`; RateLimitError if it has none left."""
        if not self.per_minute:
            return
        name, now = _digest(caller), self._clock()
        tokens, then = self._buckets.pop(name, (float(self.per_minute), now))
        tokens = min(float(self.per_minute), tokens + (now - then) * self.per_minute / 60)
        self._buckets[name] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise RateLimitError(self.per_minute, math.ceil((1 - tokens) * 60 / self.per_minute))


class Access:
    """ASGI middleware: lets in who has a key and has not used it too often; the body is not read before."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.keys, self.origins = app, settings.api_keys, settings.cors_origins
        self.limiter = RateLimiter(settings.rate_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket") or not is_guarded(route_path(scope)):
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ServiceError as error:
            await _refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        key = given_key(scope)
        if scope["type"] == "websocket" and (origin := foreign_origin(Headers(scope=scope), self.origins)):
            raise ForeignOriginError(origin)
        if self.keys and not is_known_key(key, self.keys):
            raise UnauthorizedError
        if scope.get("method", "POST") == "POST":  # a WebSocket has no method, and costs work too
            self.limiter.take(key if self.keys else (scope.get("client") or ("",))[0])


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    response: JSONResponse = error_response(error, scope)
    if scope["type"] == "http":
        await response(scope, receive, send)
    else:
        await receive()  # websocket.connect; closing instead of accepting is answered with 403
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": str(error)})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()

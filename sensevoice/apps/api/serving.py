"""uvicorn as the service wants it: no log of its own, no patience with slow heads, an orderly end on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sensevoice.apps.api.errors import error_body, status_of
from sensevoice.errors import HeadTimeoutError

if TYPE_CHECKING:
    from sensevoice.settings import Settings

BYTES_PER_KB = 1024
HEARTBEAT = "/heartbeat/"  # Gradio's: as long as a page is open, so is this reply
ENDING = "sensevoice.ending"  # key of a WebSocket's message that comes from the server: it is about to end


class TimedConnection(H11Protocol):
    """A connection that is closed unless the head of each request is there in time.

    uvicorn itself only limits the silence between two requests: a client that sends a byte now and then would
    hold its connection for ever. The time of a request's body is limited by `uploads.Uploads`.
    """

    def __init__(self, *arguments: Any, head_timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timeout_s = head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The time begins to run, although nothing has been sent."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """It runs until the head is complete, and again with the first byte of the next one."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._stop_watching()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """SIGTERM has come. What runs is finished; but an open page's sign of life never would be."""
        super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete and HEARTBEAT in self.scope["path"]:
            self.transport.close()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_timeout_s, self._give_up)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        """Say why, if anything was sent; a browser connects in advance, and needs no answer to nothing."""
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            error = HeadTimeoutError(self._head_timeout_s)
            body = json.dumps(error_body("", status_of(error), type(error).__name__, str(error))).encode()
            headers = [("content-type", "application/json"), ("connection", "close")]
            reply = h11.Response(status_code=status_of(error), headers=headers)
            events = (reply, h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


class EndingWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose application is told of the server's end and may finish; uvicorn's own cuts it off."""

    def shutdown(self) -> None:
        """SIGTERM has come; after the grace time the application's task is cancelled."""
        if self.handshake_complete and not self.close_sent:
            self.queue.put_nowait(cast("Any", {"type": "websocket.receive", ENDING: True}))
        else:
            super().shutdown()


def make_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to run `app`; `config.bind_socket()` takes the port."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours stays; and the requests are in our own log
        access_log=False,
        server_header=False,
        http=cast("Any", partial(TimedConnection, head_timeout_s=settings.head_timeout_s)),
        ws=EndingWebSocket,
        # what is a little too large is told so in JSON, instead of being cut off
        ws_max_size=2 * BYTES_PER_KB * settings.stream_max_message_kb,
        timeout_graceful_shutdown=max(1, round(settings.grace_s)),
    )


def run_server(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs within the grace time, and return.

    Raises KeyboardInterrupt after SIGINT, as uvicorn does.
    """
    # asyncio does this only for sockets that name their protocol, which uvicorn's do not; without it, each
    # reply waits 40 ms for the client's delayed acknowledgement of its head
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with _sigterm_is_no_failure():
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _sigterm_is_no_failure() -> Iterator[None]:
    """Uvicorn raises the signal that ended it once more, which would end the process with code 143."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""uvicorn as the service wants it: no log of its own, and an orderly end on SIGTERM."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

if TYPE_CHECKING:
    from sensevoice.settings import Settings

BYTES_PER_KB = 1024


def make_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to run `app`; `config.bind_socket()` takes the port."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,  # ours stays; and the requests are in our own log
        access_log=False,
        server_header=False,
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

"""What the endpoints of one application share, kept in `app.state.service`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from sensevoice.apps.api.metrics import Metrics
from sensevoice.apps.api.work import WorkQueue

if TYPE_CHECKING:
    from sensevoice.apps.api.probe import Probe
    from sensevoice.pipeline import Transcriber
    from sensevoice.settings import Settings


@dataclass(frozen=True)
class Service:
    """One loaded model, the threads that use it, and the settings of this application."""

    transcriber: Transcriber
    settings: Settings
    work: WorkQueue
    metrics: Metrics
    probe: Probe
    started_at: int  # seconds since 1970


async def _current_service(connection: HTTPConnection) -> Service:
    # a function that is not `async` would be called in a thread, and `/health` would wait for a free one
    return service_of(connection)


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request or WebSocket reached."""
    return cast("Service", connection.app.state.service)


CurrentService = Annotated[Service, Depends(_current_service)]

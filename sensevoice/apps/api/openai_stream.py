"""`stream=true`: a transcript as server-sent events, while it is being made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from sensevoice.apps.api.errors import error_event
from sensevoice.apps.api.models import TextDelta, TextDone
from sensevoice.apps.api.openai_shapes import log_probs
from sensevoice.apps.api.service import Service
from sensevoice.apps.api.transcribing import transcription
from sensevoice.apps.api.work import Ticket
from sensevoice.errors import RequestTimeoutError, ShuttingDownError
from sensevoice.options import TranscribeOptions
from sensevoice.transcript import Segment, Transcript
from sensevoice.typography import join_texts

if TYPE_CHECKING:
    from sensevoice.pipeline import Progress

log = logging.getLogger(__name__)

END = "data: [DONE]\n\n"
Segments = tuple[Segment, ...]


async def stream_transcription(
    request: Request, service: Service, path: Path, options: TranscribeOptions, *, logprobs: bool
) -> StreamingResponse:
    """Start the work, and answer with its events; what fails before the first of them is raised."""
    reports = _Reports(asyncio.get_running_loop())
    ticket = service.work.submit(transcription(service, path, options, reports.see))
    ticket.future.add_done_callback(reports.end)
    timeout_s = service.settings.request_timeout_s
    first = await service.work.wait(ticket, reports.next(), request, timeout_s)
    if first is None:
        ticket.future.result()
    events = _Events(service, ticket, reports, logprobs)
    return StreamingResponse(events.after(first, timeout_s), media_type="text/event-stream")


class _Reports:
    """Reports of progress on their way from the worker's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Segments | None] = asyncio.Queue()

    def see(self, progress: Progress) -> None:
        """Called in the worker."""
        if progress.segments:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, progress.segments)

    def end(self, _: object) -> None:
        """Called once there will be no more."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)

    async def next(self) -> Segments | None:
        """All segments finished so far, or None at the end."""
        return await self._queue.get()


@dataclass
class _Events:
    """The events of one transcription."""

    service: Service
    ticket: Ticket[Transcript]
    reports: _Reports
    logprobs: bool

    async def after(self, segments: Segments | None, timeout_s: float) -> AsyncIterator[str]:
        """A delta for each report, then the whole; a failure is an event too, since the status is sent."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        done: Segments = ()
        try:
            while segments is not None:
                if delta := self._delta(done, segments):
                    yield delta
                done = max(
                    done, segments, key=len
                )  # work that is tried again begins with the first once more
                segments = await self._next(deadline, timeout_s)
            yield self._whole(self.ticket.future.result())
            yield END
        except Exception as error:
            log.warning("a stream ended early", exc_info=error)
            yield error_event(error)
        except asyncio.CancelledError:  # the grace time is over, or the client has gone; this ends either way
            yield error_event(ShuttingDownError())
        finally:
            self.service.work.abandon(self.ticket)

    async def _next(self, deadline: float, timeout_s: float) -> Segments | None:
        left_s = deadline - asyncio.get_running_loop().time()
        try:
            return await asyncio.wait_for(self.reports.next(), max(0.0, left_s))
        except asyncio.TimeoutError:
            raise RequestTimeoutError(timeout_s) from None

    def _delta(self, before: Segments, now: Segments) -> str:
        text, known = join_texts(one.text for one in now), join_texts(one.text for one in before)
        if len(text) <= len(known):
            return ""
        new = log_probs(now[len(before) :]) if self.logprobs else None
        return _event(TextDelta(delta=text[len(known) :], logprobs=new))

    def _whole(self, transcript: Transcript) -> str:
        logprobs = log_probs(transcript.segments) if self.logprobs else None
        return _event(TextDone(text=transcript.text, logprobs=logprobs))


def _event(body: BaseModel) -> str:
    return f"data: {body.model_dump_json(exclude_none=True)}\n\n"

"""`create_app`: middleware, routers and lifespan of the service around one transcriber."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from sensevoice import __version__
from sensevoice.apps.api.access import Access
from sensevoice.apps.api.docs import add_docs
from sensevoice.apps.api.errors import add_error_handlers
from sensevoice.apps.api.health import device_of
from sensevoice.apps.api.health import router as health
from sensevoice.apps.api.jobs import router as jobs
from sensevoice.apps.api.logs import HEADER, RequestLog
from sensevoice.apps.api.metrics import Metrics
from sensevoice.apps.api.openai import router as openai
from sensevoice.apps.api.probe import Probe
from sensevoice.apps.api.service import Service
from sensevoice.apps.api.stream import router as stream
from sensevoice.apps.api.transcribe import router as transcribe
from sensevoice.apps.api.uploads import Uploads, remove_stale
from sensevoice.apps.api.work import WorkQueue
from sensevoice.scheduler import BatchingEngine

if TYPE_CHECKING:
    from sensevoice.pipeline import Transcriber
    from sensevoice.settings import Settings

log = logging.getLogger(__name__)

# A module with a `router` for each; one that has things to start and stop gives its router a `lifespan`.
ROUTERS = (transcribe, openai, jobs, stream, health)
CPU_WORKERS, GPU_WORKERS = 2, 16
LAST_S = 5.0


def create_app(transcriber: Transcriber, settings: Settings) -> FastAPI:
    """The service around one transcriber; its endpoints need no network and serve no pages.

    A page may be mounted on it afterwards, at "/".
    """
    # FastAPI's own /docs would fetch its scripts from a CDN, which an offline machine cannot
    app = FastAPI(
        title="SenseVoice Studio", version=__version__, docs_url=None, redoc_url=None, lifespan=_lifespan
    )
    metrics = Metrics()
    transcriber = _measured(transcriber, metrics)
    work = WorkQueue(settings.workers or _default_workers(transcriber), settings.queue_length, metrics)
    app.state.service = Service(
        transcriber, settings, work, metrics, Probe(transcriber), started_at=int(time.time())
    )
    add_error_handlers(app)
    _add_middleware(app, settings, metrics)
    for router in ROUTERS:
        app.include_router(router)
    add_docs(app)
    return app


def _default_workers(transcriber: Transcriber) -> int:
    """More threads than cores slow the event loop down, but those that wait for a GPU fill its batches."""
    return CPU_WORKERS if device_of(transcriber) == "cpu" else GPU_WORKERS


def _measured(transcriber: Transcriber, metrics: Metrics) -> Transcriber:
    """The transcriber, with its stages and its engine's batches in the metrics; a test's own may have neither."""
    engine = getattr(transcriber, "engine", None)
    if isinstance(engine, BatchingEngine):
        engine.observers.append(metrics.see_batch)
    return replace(transcriber, observe=metrics.see_stage) if hasattr(transcriber, "observe") else transcriber


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """From the inside out: each one added is put around the others."""
    app.add_middleware(Uploads, settings=settings)
    app.add_middleware(Access, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[HEADER, "Retry-After"],
        )
    app.add_middleware(RequestLog, metrics=metrics)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.work.open()
    await asyncio.to_thread(remove_stale, service.settings.spool_dir)
    yield
    # the server has waited for the grace time already; this is for the threads of what it then gave up
    if not await asyncio.to_thread(service.work.close, min(LAST_S, service.settings.grace_s)):
        log.warning("some requests were not finished within %g s", service.settings.grace_s)

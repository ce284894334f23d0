"""`/health`, `/ready` and `/metrics`: what those who run the service ask it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from sensevoice import __version__
from sensevoice.apps.api.models import HealthReply, ReadyReply, responses
from sensevoice.apps.api.service import CurrentService

if TYPE_CHECKING:
    from sensevoice.pipeline import Transcriber

router = APIRouter(tags=["operation"])


def device_of(transcriber: Transcriber) -> str:
    """Where the model runs; a test's transcriber may not say."""
    return str(getattr(getattr(transcriber, "engine", None), "device", "cpu"))


@router.get("/health")
async def health(service: CurrentService) -> HealthReply:
    """The process is alive. Needs no key."""
    return HealthReply(model=service.transcriber.info.name, version=__version__)


@router.get("/ready", responses=responses(401, 500, 503))
async def ready(service: CurrentService) -> ReadyReply:
    """The model is loaded and has transcribed a probe clip within the last half minute."""
    took_ms = await asyncio.to_thread(service.probe.took_ms)
    transcriber = service.transcriber
    return ReadyReply(model=transcriber.info.name, device=device_of(transcriber), probe_ms=took_ms)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401)},
)
async def metrics(service: CurrentService) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

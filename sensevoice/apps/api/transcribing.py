"""One upload through the work queue: what `/transcribe` and OpenAI's endpoint have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensevoice.apps.api.service import Service
from sensevoice.apps.api.work import Ticket
from sensevoice.audio import WatchedFile
from sensevoice.errors import DecodeTimeoutError
from sensevoice.options import TranscribeOptions

if TYPE_CHECKING:
    from sensevoice.pipeline import Progress, ProgressCallback
    from sensevoice.transcript import Transcript

log = logging.getLogger(__name__)


def transcription(
    service: Service, path: Path, options: TranscribeOptions, on_progress: ProgressCallback | None = None
) -> Callable[[Ticket[Transcript]], Transcript]:
    """The work of transcribing the file `path`, for `WorkQueue.submit`.

    It ends early if its ticket is abandoned, and with DecodeTimeoutError if decoding comes to a halt.
    """

    def work(ticket: Ticket[Transcript]) -> Transcript:
        watch = _Watch(service, ticket, on_progress)
        with path.open("rb") as file:
            source: Any = WatchedFile(file, watch.check)
            transcript = service.transcriber.transcribe(source, options, watch.see)
        watch.finish(transcript)
        return transcript

    return work


class _Watch:
    """Follows one transcription: its stages' times, its limits, and whether anyone still waits for it."""

    def __init__(self, service: Service, ticket: Ticket[Any], on_progress: ProgressCallback | None) -> None:
        self._service, self._ticket, self._on_progress = service, ticket, on_progress
        self._stage, self._since = "queue", ticket.queued_at
        self._moved_at = time.perf_counter()
        self._enter("recognise")

    def check(self) -> None:
        """Raise what ends the work, if anything does."""
        self._ticket.check()
        limit_s = self._service.settings.decode_timeout_s
        if time.perf_counter() - self._moved_at > limit_s:
            raise DecodeTimeoutError(limit_s)

    def see(self, progress: Progress) -> None:
        """Called after each minute of the recording."""
        self._moved_at = time.perf_counter()
        self.check()
        self._enter(progress.stage)
        if self._on_progress is not None:
            self._on_progress(progress)

    def finish(self, transcript: Transcript) -> None:
        """The transcription has come to its end."""
        self._enter("done")
        self._service.metrics.audio_seconds.inc(transcript.duration_s)
        fields: dict[str, Any] = {"audio_s": transcript.duration_s, "segments": len(transcript.segments)}
        if self._service.settings.log_transcripts:
            fields["text"] = transcript.text
        log.info("transcribed", extra={"fields": fields})

    def _enter(self, stage: str) -> None:
        if stage != self._stage:
            now = time.perf_counter()
            self._service.metrics.stages.labels(self._stage).observe(now - self._since)
            self._stage, self._since = stage, now

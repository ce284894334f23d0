"""Many recordings, one after another: transcribed, written or printed, and counted."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm  # type: ignore[import-untyped]

from sensevoice.apps.common import complain, model_sentence, open_transcriber, start_logging
from sensevoice.apps.files import OutputFolder, Recording
from sensevoice.errors import SenseVoiceError
from sensevoice.exporters import export
from sensevoice.options import TranscribeOptions
from sensevoice.runtime import check_libraries

if TYPE_CHECKING:
    from sensevoice.pipeline import Progress, Transcriber
    from sensevoice.settings import Settings
    from sensevoice.transcript import Transcript

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Everything that one run of `transcribe` was asked for."""

    recordings: Sequence[Recording]
    formats: Sequence[str]
    lang: str
    options: TranscribeOptions
    output: OutputFolder | None  # None: stdout

    def deliver(self, recording: Recording, transcript: Transcript) -> None:
        """Write or print one recording's results."""
        for name in self.formats:
            content = export(transcript, name, self.lang)
            if self.output:
                self.output.write(recording, name, content)
            else:
                _print_result(content, f"==> {recording.path} <==" if len(self.recordings) > 1 else "")


def _print_result(content: str, title: str) -> None:
    with tqdm.external_write_mode(file=sys.stdout):
        sys.stdout.write(f"{title}\n{content}\n" if title else content)
        sys.stdout.flush()


def run_batch(batch: Batch, settings: Settings, *, quiet: bool) -> int:
    """Load the model, transcribe everything, and return how many recordings failed."""
    transcriber = load_transcriber(settings, quiet=quiet)
    with Meter(len(batch.recordings), shown=not quiet) as meter:
        for recording in batch.recordings:
            meter.start(recording)
            try:
                meter.heard_s += _transcribe(batch, transcriber, recording, meter)
            except BrokenPipeError:
                raise
            except Exception as error:
                log.debug("%s", recording.path, exc_info=True)
                complain(f"{recording.path}: {sentence(error)}")
                meter.failed += 1
    if not quiet:
        complain(meter.summary(batch.output))
    return meter.failed


def load_transcriber(settings: Settings, *, quiet: bool = False) -> Transcriber:
    """The model that the settings ask for; says which it is, unless nothing but errors is wanted."""
    start_logging("error" if quiet else settings.log_level)
    check_libraries()

    transcriber = open_transcriber(settings)
    log.info(model_sentence(transcriber.info))
    if transcriber.starter_reason:
        log.info(transcriber.starter_reason)
    return transcriber


def _transcribe(batch: Batch, transcriber: Transcriber, recording: Recording, meter: Meter) -> float:
    """The recording's length in seconds, once its results are delivered."""
    if batch.output:
        batch.output.claim(recording)
    transcript = transcriber.transcribe(recording.path, batch.options, meter.report)
    batch.deliver(recording, transcript)
    return transcript.duration_s


def sentence(error: Exception) -> str:
    """What went wrong, in words."""
    if isinstance(error, SenseVoiceError) or not str(error):
        return str(error) or type(error).__name__
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.strerror else str(error)
    return f"unexpected {type(error).__name__}: {str(error).splitlines()[0]}"


class Meter:
    """The progress bar on a terminal: which recording, how much of all is done, seconds of sound heard."""

    LAYOUT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

    def __init__(self, total: int, *, shown: bool) -> None:
        self.total = total
        self.begun = self.failed = 0  # recordings
        self.heard_s = 0.0
        self._begun_s = time.perf_counter()
        # None shows the bar on terminals only
        self._bar = tqdm(
            total=total, disable=None if shown else True, file=sys.stderr, leave=False, bar_format=self.LAYOUT
        )

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def start(self, recording: Recording) -> None:
        """The next recording begins."""
        self.begun += 1
        self._bar.set_description_str(f"{self.begun}/{self.total} {recording.path.name}", refresh=False)
        self._show(0.0, 0.0)

    def report(self, progress: Progress) -> None:
        """How far the present recording has come."""
        self._show(progress.done_s / progress.total_s if progress.total_s else 0.0, progress.done_s)

    def _show(self, fraction: float, seconds: float) -> None:
        self._bar.n = self.begun - 1 + fraction
        self._bar.set_postfix_str(f"{self.heard_s + seconds:,.0f} s of audio", refresh=True)

    def summary(self, output: OutputFolder | None) -> str:
        """`3 recordings, 62.5 s of audio in 1.9 s (RTFx 33), 1 failed; results in DIR`."""
        took_s = time.perf_counter() - self._begun_s
        words = f"{self.total} recording{'s' if self.total > 1 else ''}, {self.heard_s:,.1f} s of audio"
        words += f" in {took_s:,.1f} s (RTFx {self.heard_s / took_s:.0f})"
        words += f", {self.failed} failed" if self.failed else ""
        return f"{words}; results in {output.folder}" if output else words

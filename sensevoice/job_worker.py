"""The threads that work on the jobs of a `JobStore`, in the one process that owns the work."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

from sensevoice.audio import WatchedFile
from sensevoice.errors import (
    DecodeTimeoutError,
    JobError,
    MemoryFullError,
    NoSuchAudioError,
    SenseVoiceError,
    StorageFullError,
)
from sensevoice.jobs import OWNER_NAME, Claim, Fault, JobStore
from sensevoice.options import TranscribeOptions
from sensevoice.runtime import stand_back
from sensevoice.transcript import Transcript

if TYPE_CHECKING:
    from sensevoice.pipeline import Progress, ProgressCallback

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.5  # jobs that another process has taken in are seen this late
REPORT_S = 0.5  # progress is written to the disk no more often
ASK_S = 0.25  # whether a job still exists, while its recording is read
SWEEP_S = 60.0
RETRY_S = 2.0  # after a fault of the database, and between two tries to become the owner
ABANDON_S = 10.0  # for a thread to see that it is to break off
FAULTS = (JobError, StorageFullError, OSError)  # of the disk and the database: they may pass

Companion = Callable[[threading.Event], None]


class Transcribes(Protocol):
    """What is asked of a transcriber; `pipeline.Transcriber` is the real one."""

    def transcribe(
        self,
        source: BinaryIO,
        options: TranscribeOptions | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Transcript:
        """As `pipeline.Transcriber.transcribe`."""


class _BrokenOffError(Exception):
    """The process is to end, and this work has outlasted the grace time."""


class _UnwantedError(Exception):
    """The job has been deleted."""


@contextlib.contextmanager
def ownership(directory: Path) -> Iterator[bool]:
    """Whether this process owns the work of `directory`, for as long as the block lasts.

    It is SQLite's own lock on a database of no content: the system lets go of it the moment that the
    process ends, however it ends, so that there is no lease to wait for and none to forget.
    """
    with contextlib.closing(sqlite3.connect(directory / OWNER_NAME, timeout=0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            yield False
        else:
            yield True


class JobWorker:
    """Works on jobs from `start` to `stop`; `companions` run beside it, where it owns the work, until told.

    A thread that dies is replaced. A process that does not own the work waits to take it over. `observe` is
    told what came of each recording.
    """

    def __init__(
        self,
        store: JobStore,
        transcriber: Transcribes,
        *,
        threads: int = 1,
        decode_timeout_s: float = math.inf,
        companions: Sequence[Companion] = (),
        observe: Callable[[Transcript | Fault], None] = lambda _: None,
    ) -> None:
        self.store, self.transcriber, self.companions = store, transcriber, companions
        self.n_threads, self.decode_timeout_s, self.observe = threads, decode_timeout_s, observe
        self.owns = threading.Event()
        self.waiting = 0  # recordings in the queue, a moment ago
        self._ending, self._abandoned = threading.Event(), threading.Event()
        self._news = threading.Condition()
        self._owner: threading.Thread | None = None

    def start(self) -> None:
        """Begin; once only."""
        self._owner = self._thread("jobs", self._own)

    def wake(self) -> None:
        """There is a new job: begin it without waiting for the next poll."""
        with self._news:
            self._news.notify_all()

    def stop(self, grace_s: float = 30.0) -> None:
        """Begin nothing new, wait up to `grace_s` for what runs, then put that back for the next start."""
        self._ending.set()
        self.wake()
        if self._owner:
            self._owner.join(grace_s)
            self._abandoned.set()
            self._owner.join(ABANDON_S)

    # The owner's thread --------------------------------------------------------------------------

    def _own(self) -> None:
        while not self._ending.is_set():
            try:
                with ownership(self.store.directory) as owned:
                    if owned:
                        self._lead()
            except Exception as error:
                log.error("The jobs' worker stumbled and goes on: %s", _told(error))
            self._ending.wait(RETRY_S)

    def _lead(self) -> None:
        """Put back what an ended process left, and see to it that all threads live."""
        if recovered := self.store.recover():
            log.warning("%d recordings were cut short by the end of a process", recovered)
        self.owns.set()
        errands = [self._run] * self.n_threads + [self._companion(one) for one in self.companions]
        threads: list[threading.Thread | None] = [None] * len(errands)
        swept_s = float("-inf")
        try:
            while not self._ending.is_set():
                threads = [self._alive(*pair) for pair in zip(threads, errands, strict=True)]
                if time.monotonic() - swept_s > SWEEP_S:
                    self._keep_house(self.store.sweep)
                    swept_s = time.monotonic()
                self._keep_house(self._count)
                self._ending.wait(POLL_S)
        finally:
            self.owns.clear()
            self._join(threads)

    def _count(self) -> None:
        self.waiting = self.store.waiting()

    def _keep_house(self, errand: Callable[[], object]) -> None:
        """Do what can as well be done later: a fault must not stop the work."""
        try:
            errand()
        except FAULTS as error:
            log.error("The jobs' store cannot be tidied: %s", _told(error))

    def _alive(self, thread: threading.Thread | None, errand: Callable[[], None]) -> threading.Thread:
        if thread and thread.is_alive():
            return thread
        if thread:
            log.error("A thread of the jobs' worker ended and is replaced")
        return self._thread("job", errand)

    def _join(self, threads: Sequence[threading.Thread | None]) -> None:
        """Wait for the threads, but for those that will not end no longer than `stop` allows."""
        for thread in filter(None, threads):
            while thread.is_alive() and not self._abandoned.is_set():
                thread.join(0.1)
        for thread in filter(None, threads):
            thread.join(ABANDON_S / 2)

    def _thread(self, name: str, errand: Callable[[], None]) -> threading.Thread:
        # a daemon, so that a decoder that hangs cannot keep the process; its file is recovered
        thread = threading.Thread(target=errand, name=name, daemon=True)
        thread.start()
        return thread

    def _companion(self, companion: Companion) -> Callable[[], None]:
        return lambda: companion(self._ending)

    # The working threads -------------------------------------------------------------------------

    def _run(self) -> None:
        stand_back()
        while not self._ending.is_set():
            try:
                claim = self.store.claim()
            except FAULTS as error:
                log.error("No job can be begun: %s", _told(error))
                self._ending.wait(RETRY_S)
                continue
            if claim:
                self._work(claim)
            else:
                self._wait_for_news()

    def _wait_for_news(self) -> None:
        with self._news:
            if not self._ending.is_set():
                self._news.wait(POLL_S)

    def _work(self, claim: Claim) -> None:
        """Transcribe one recording; whatever happens to it is its own and nobody else's."""
        try:
            outcome: Transcript | Fault = self._transcribe(claim)
        except _UnwantedError:
            log.info("job %s: deleted while it ran", claim.job_id)
            return
        except _BrokenOffError:
            self._keep(lambda: self.store.release(claim))
            return
        except Exception as error:
            if _is_out_of_memory(error):
                self._try_later(claim)
                return
            log.warning("job %s: a recording failed: %s%s", claim.job_id, _told(error), _trace(error))
            outcome = Fault.of(error)
        except BaseException:  # SystemExit and the like: this thread ends, as the process might have
            self._keep(lambda: self.store.put_back(claim))
            raise
        self._keep(lambda: self.store.finish(claim, outcome))
        self.observe(outcome)
        self.wake()  # others may have waited for a file that had to be alone

    def _try_later(self, claim: Claim) -> None:
        log.warning("job %s: out of memory, attempt %d", claim.job_id, claim.attempt)
        self._ending.wait(RETRY_S)  # others may give some back
        self._keep(lambda: self.store.put_back(claim, Fault.of(MemoryFullError())))

    def _transcribe(self, claim: Claim) -> Transcript:
        if not claim.path.exists():
            raise NoSuchAudioError(claim.name)
        watch = _Watch(self.store, claim, self._abandoned, self.decode_timeout_s)
        try:
            # an open file rather than its path: our name for it is in no error, and a deletion does no harm
            with claim.path.open("rb") as file:
                source: Any = WatchedFile(file, watch.check)
                return self.transcriber.transcribe(source, claim.options, watch.see)
        except Exception as error:
            if watch.verdict:  # whatever a decoder has made of it
                raise watch.verdict from error
            raise _named(error, claim.name) from error

    def _keep(self, action: Callable[[], object]) -> None:
        """Store an outcome; hold it while the disk is full, rather than do the work again."""
        while True:
            try:
                action()
                return
            except FAULTS as error:
                log.error("A result cannot be stored, trying again: %s", _told(error))
            if self._abandoned.wait(RETRY_S):
                return  # it is still marked as running, and the next start tries it again


class _Watch:
    """Follows one transcription: passes progress on, not too often, and ends work that is to end."""

    def __init__(
        self, store: JobStore, claim: Claim, abandoned: threading.Event, decode_timeout_s: float
    ) -> None:
        self.verdict: Exception | None = None
        self._store, self._claim, self._abandoned = store, claim, abandoned
        self._limit_s = decode_timeout_s
        self._moved_s = time.monotonic()
        self._asked_s = self._written_s = -math.inf

    def see(self, progress: Progress) -> None:
        """Called after each minute of the recording."""
        self._moved_s = time.monotonic()
        self._asked_s = -math.inf
        self.check()
        if progress.total_s and time.monotonic() - self._written_s > REPORT_S:
            _try(lambda: self._store.report(self._claim, progress.done_s, progress.total_s))
            self._written_s = time.monotonic()

    def check(self) -> None:
        """Raise what ends the work, if anything does."""
        self.verdict = self.verdict or self._judge()
        if self.verdict:
            raise self.verdict

    def _judge(self) -> Exception | None:
        now_s = time.monotonic()
        if self._abandoned.is_set():
            return _BrokenOffError()
        if now_s - self._moved_s > self._limit_s:
            return DecodeTimeoutError(self._limit_s)
        if now_s - self._asked_s > ASK_S:
            self._asked_s = now_s
            if _try(lambda: self._store.is_wanted(self._claim)) is False:
                return _UnwantedError()
        return None


def _try(action: Callable[[], T]) -> T | None:
    """What the store says; None while the disk is full, which is no reason to fail a recording."""
    try:
        return action()
    except FAULTS as error:
        log.warning("Progress cannot be stored: %s", _told(error))
        return None


def _named(error: Exception, name: str) -> Exception:
    """The same error, with the client's name where ours calls it "the recording"."""
    if not isinstance(error, SenseVoiceError) or "name" not in error.facts:
        return error
    sentence = str(error).replace(str(error.facts["name"]), name, 1)
    renamed = error.__class__.__new__(error.__class__)
    renamed.args, renamed.facts = (sentence,), {**error.facts, "name": name}
    return renamed


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is Python's MemoryError, or torch's for a GPU, which exists only where torch is in use."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _told(error: BaseException) -> str:
    """An error as the log may have it: its sentence may hold a client's file name, or what was said."""
    return type(error).__name__


def _trace(error: Exception) -> str:
    """Where a fault of the program lies, without its sentence; nothing of one that is the recording's."""
    return (
        ""
        if isinstance(error, SenseVoiceError)
        else "".join(["\n", *traceback.format_tb(error.__traceback__)])
    )

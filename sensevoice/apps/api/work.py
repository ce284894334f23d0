"""Who may start work, and the threads that do it: a bounded queue before a fixed number of workers.

The event loop only waits. A client that goes away, or waits too long, takes its work out of the queue;
work that runs already ends at its next report of progress.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from sensevoice.apps.api.metrics import Metrics
from sensevoice.errors import QueueFullError, RequestTimeoutError, ShuttingDownError, WorkerDiedError
from sensevoice.runtime import stand_back

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # a worker that dies may have been killed by its neighbour's work
LONGEST_RETRY_S = 60


class AbandonedError(Exception):
    """Nobody waits for this work any more; raised in the worker to end it."""


class Ticket(Generic[T]):
    """One piece of work in the queue or at a worker."""

    def __init__(self, work: Callable[[Ticket[T]], T]) -> None:
        self.future: Future[T] = Future()
        self.attempts = 0
        self.queued_at = time.perf_counter()
        self._work = work
        self._context = contextvars.copy_context()  # the worker's log lines then carry the request's id
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Say that nobody waits for it any more."""
        self._abandoned.set()
        self.future.cancel()

    def check(self) -> None:
        """To be called now and then by the work itself; raises AbandonedError once nobody waits for it."""
        if self._abandoned.is_set():
            raise AbandonedError

    def run(self) -> None:
        """Do the work in this thread."""
        self.attempts += 1
        if self.attempts == 1 and not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.copy().run(self._work, self)
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class WorkQueue:
    """`workers` threads and at most `length` tickets that wait for them; the threads start with the first."""

    def __init__(self, workers: int, length: int, metrics: Metrics) -> None:
        self.workers, self.length = workers, length
        self._metrics = metrics
        self._waiting: deque[Ticket[Any]] = deque()
        self._running: set[Ticket[Any]] = set()
        self._threads: set[threading.Thread] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._mean_s = 1.0  # how long a piece of work takes, roughly
        metrics.watch("queue_depth", "Requests that wait for a worker", lambda: len(self._waiting))
        metrics.watch("running", "Requests that are being transcribed", lambda: len(self._running))

    def open(self) -> None:
        """Take work, again if the queue was closed."""
        with self._changed:
            self._closed = False

    def check_room(self) -> None:
        """Raise QueueFullError or ShuttingDownError as `submit` would now: worth asking before an upload."""
        with self._changed:
            self._check_room()

    def submit(self, work: Callable[[Ticket[T]], T]) -> Ticket[T]:
        """Queue `work`, to be called with its ticket in a worker thread."""
        ticket = Ticket(work)
        with self._changed:
            self._check_room()
            self._waiting.append(ticket)
            self._start_threads()
            self._changed.notify()
        return ticket

    def abandon(self, ticket: Ticket[Any]) -> None:
        """Free what a ticket holds: its place in the queue, or soon its worker."""
        ticket.abandon()
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def close(self, grace_s: float) -> bool:
        """Take no more work, and wait for what runs and waits; what has not ended in time is abandoned.

        Returns whether everything was finished.
        """
        deadline = time.monotonic() + grace_s
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            late = [*self._waiting, *self._running]
        for ticket in late:
            self.abandon(ticket)
        return not late

    async def result(self, ticket: Ticket[T], request: Request, timeout_s: float) -> T:
        """Wait for the end of the work; raises what `wait` does."""
        return await self.wait(ticket, asyncio.wrap_future(ticket.future), request, timeout_s)

    async def wait(self, ticket: Ticket[Any], news: Awaitable[T], request: Request, timeout_s: float) -> T:
        """Wait for news of a ticket as long as the client does; without any, the ticket is abandoned.

        Raises what `news` raises, RequestTimeoutError, or ClientDisconnect.
        """
        done = asyncio.ensure_future(news)
        gone = asyncio.ensure_future(disconnected(request))
        either: set[asyncio.Future[Any]] = {done, gone}
        try:
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                return done.result()
            if gone.done():
                raise ClientDisconnect
            raise RequestTimeoutError(timeout_s)
        finally:
            gone.cancel()
            if not done.done():
                self.abandon(ticket)
                done.cancel()  # else asyncio would complain that nobody asks how the work ended

    def _check_room(self) -> None:
        if self._closed:
            raise ShuttingDownError
        busy = len(self._waiting) + len(self._running)
        if busy >= self.workers + self.length:
            turns = math.ceil((len(self._waiting) + 1) / self.workers)
            retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(self._mean_s * turns)))
            raise QueueFullError(len(self._waiting), retry_s)

    def _start_threads(self) -> None:
        while len(self._threads) < min(self.workers, len(self._waiting) + len(self._running)):
            thread = threading.Thread(
                target=self._serve, name=f"transcribe-{len(self._threads)}", daemon=True
            )
            self._threads.add(thread)
            thread.start()

    def _serve(self) -> None:
        """The life of a worker thread."""
        stand_back()
        while (ticket := self._next()) is not None:
            start = time.monotonic()
            try:
                ticket.run()
            except BaseException:  # not the work's own failure, which the ticket holds: the thread's end
                log.exception("a worker thread ended; its request is tried again")
                self._replace(ticket)
                return
            self._finish(ticket, time.monotonic() - start)

    def _next(self) -> Ticket[Any] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    self._threads.discard(threading.current_thread())
                    return None
                self._changed.wait()
            ticket = self._waiting.popleft()
            self._running.add(ticket)
            return ticket

    def _finish(self, ticket: Ticket[Any], took_s: float) -> None:
        with self._changed:
            self._running.discard(ticket)
            self._mean_s += 0.1 * (took_s - self._mean_s)

    def _replace(self, ticket: Ticket[Any]) -> None:
        """Start a thread for this one, which ends; give its ticket a second and last chance."""
        self._metrics.worker_restarts.inc()
        with self._changed:
            self._threads.discard(threading.current_thread())
            self._running.discard(ticket)
            if ticket.attempts < MAX_ATTEMPTS:
                self._waiting.appendleft(ticket)
            self._start_threads()
        if ticket.attempts >= MAX_ATTEMPTS:
            ticket.future.set_exception(WorkerDiedError())


async def disconnected(request: Request) -> None:
    """Return once the client has gone; the request's body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Many callers, few workers: what is asked at the same time is computed together.

    batcher = Batcher([compute_on_this_gpu, compute_on_that_gpu], cost=len, most=1000)
    results = batcher.run(items)

A caller's `run` waits until its own items are done. Callers take turns, an item each, so that a short
request does not wait behind a long one. What arrives while a batch is being computed makes up the next one:
the busier the workers, the larger the batches. A caller who meets a free worker is served in his own thread;
another thread lives as long as there is work.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Call(Generic[Item, Result]):
    """One caller's items; those from `next` on wait to be taken."""

    items: Sequence[Item]
    results: dict[int, Result] = field(default_factory=dict)
    next: int = 0
    is_over: bool = False
    # how it ended; unlike a Future, it takes no turn at the interpreter's lock but the one that the wait needs
    outcome: SimpleQueue[BaseException | None] = field(default_factory=SimpleQueue)

    @property
    def wants_more(self) -> bool:
        return self.next < len(self.items) and not self.is_over

    def end(self, error: BaseException | None = None) -> None:
        """Nothing of it is computed any more, and whoever waits for it goes on; only the first end counts."""
        self.is_over = True
        self.outcome.put(error)


class Batcher(Generic[Item, Result]):
    """Workers behind one queue; a worker computes one batch at a time."""

    def __init__(
        self,
        workers: Sequence[Callable[[list[Item]], Sequence[Result]]],
        *,
        cost: Callable[[Item], float],
        most: float,
    ) -> None:
        """`most`: what the items of a batch cost together; one item may cost more."""
        self._workers, self._cost, self._most = workers, cost, most
        self._calls: deque[_Call[Item, Result]] = deque()  # guarded by the lock, as are the workers
        self._working: set[int] = set()
        self._lock = Lock()

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        with self._lock:
            return sum(len(call.items) - call.next for call in self._calls if call.wants_more)

    def run(self, items: Sequence[Item]) -> list[Result]:
        """A result for each item, in order; an error of the worker is raised here."""
        if not items:
            return []
        call: _Call[Item, Result] = _Call(items)
        try:
            if (index := self._enqueue(call)) is not None:
                self._serve_here(index, call)
            return self._wait(call)
        finally:
            call.is_over = True  # after Ctrl-C too: what nobody waits for need not be computed

    def _enqueue(self, call: _Call[Item, Result]) -> int | None:
        """Where others wait, or what is asked is more than a batch, behind them; else the free worker for it."""
        with self._lock:
            free = [index for index in range(len(self._workers)) if index not in self._working]
            if free and not self._calls and self._is_a_batch(call.items):
                call.next = len(call.items)
                self._working.add(free[0])
                return free[0]
            self._calls.append(call)
            self._working.update(free)
            self._start(free)
        return None

    def _is_a_batch(self, items: Sequence[Item]) -> bool:
        return len(items) == 1 or sum(map(self._cost, items)) <= self._most

    def _wait(self, call: _Call[Item, Result]) -> list[Result]:
        error = call.outcome.get()
        try:
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame, which must not hold it
        return [call.results[index] for index in range(len(call.items))]

    def _start(self, workers: Sequence[int]) -> None:
        for index in workers:
            # no daemon: at the program's end, a batch that is being computed is waited for
            Thread(target=self._serve, args=(index,), name=f"sensevoice-{index}").start()

    def _serve_here(self, index: int, call: _Call[Item, Result]) -> None:
        """In the caller's thread; those who have come meanwhile get another."""
        try:
            self._compute(index, [(call, at) for at in range(len(call.items))])
        finally:
            with self._lock:
                if self._calls:
                    self._start([index])
                else:
                    self._working.discard(index)

    def _serve(self, index: int) -> None:
        while work := self._take(index):
            self._compute(index, work)

    def _take(self, index: int) -> list[tuple[_Call[Item, Result], int]]:
        """The next batch, an item of each caller in turn; empty, and the worker's end, without any."""
        work: list[tuple[_Call[Item, Result], int]] = []
        cost = 0.0
        with self._lock:
            while self._calls:
                call = self._calls.popleft()
                if not call.wants_more:
                    continue
                cost += self._cost(call.items[call.next])
                if work and cost > self._most:
                    self._calls.appendleft(call)
                    break
                work.append((call, call.next))
                call.next += 1
                self._calls.append(call)
            if not work:
                self._working.discard(index)
        return work

    def _compute(self, index: int, work: Sequence[tuple[_Call[Item, Result], int]]) -> None:
        try:
            results = self._workers[index]([call.items[at] for call, at in work])
        except BaseException as error:  # whatever it is, the callers must not wait for ever
            self._retry_alone(index, work, error)
        else:
            self._deliver(work, results)

    def _deliver(self, work: Sequence[tuple[_Call[Item, Result], int]], results: Sequence[Result]) -> None:
        for (call, at), result in zip(work, results, strict=True):
            call.results[at] = result
            if len(call.results) == len(call.items):
                call.end()

    def _retry_alone(
        self, index: int, work: Sequence[tuple[_Call[Item, Result], int]], error: BaseException
    ) -> None:
        """Find out whose item it was: the others of the batch must not fail with it."""
        if len(work) > 1 and isinstance(error, Exception):
            log.warning("a batch of %d failed and is computed one by one: %s", len(work), error)
            for one in work:
                self._compute(index, [one])
            return
        for call, _ in work:
            call.end(error)

"""Stages that run side by side: each in a thread of its own, and never far ahead of the next.

    with Background() as background:
        blocks = background.ahead(decode_blocks(path), limit=4)
        for text in background.map(recognise, find_speech(blocks), workers=2):
            ...

However the `with` ends, its threads have ended with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Thread
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _StoppedError(Exception):
    """The stages are to end; raised wherever one of them waits."""


@contextmanager
def _closing(items: Iterator[object]) -> Iterator[None]:
    """Close at the end what can be closed, as generators can."""
    try:
        yield
    finally:
        if isinstance(items, Generator):
            items.close()


class Background:
    """The threads of one piece of work; an iterator that it gives serves one thread.

    Without `threads`, for work that ends before they would pay, the stages take turns in the caller's.
    """

    def __init__(self, *, threads: bool = True) -> None:
        self._is_threaded = threads
        self._changed = Condition()  # one for all channels: there are few
        self._stopped = False
        self._threads: list[Thread] = []
        self._pools: list[ThreadPoolExecutor] = []

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every stage where it is, and wait until it has."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for thread in self._threads:
            thread.join()
        for pool in self._pools:
            pool.shutdown()

    def ahead(self, items: Iterator[T], limit: int) -> Iterator[T]:
        """The same items, made in a thread, at most `limit` of them before they are asked for.

        An error comes after the items before it. The thread closes `items` if it can be closed.
        """
        if not self._is_threaded:
            return items
        made: deque[T] = deque()
        ended: list[BaseException | None] = []

        def work() -> None:
            error: BaseException | None = None
            try:
                self._make(items, made, limit)
            except BaseException as raised:  # the thread that waits for items is to raise it
                error = raised
            with self._changed:
                ended.append(error)
                self._changed.notify_all()

        # a daemon: an iterator that nobody closes must not keep the program from ending
        thread = Thread(target=work, name="sensevoice-stage", daemon=True)
        with self._changed:
            if self._stopped:
                raise _StoppedError
            self._threads.append(thread)
            thread.start()
        return self._handed_on(made, ended)

    def map(self, function: Callable[[T], R], items: Iterator[T], workers: int) -> Iterator[R]:
        """`function` of each item, in order, by so many threads; each result is there as soon as it is made."""
        return self._map(function, items, workers) if self._is_threaded else map(function, items)

    def _map(self, function: Callable[[T], R], items: Iterator[T], workers: int) -> Iterator[R]:
        pool = ThreadPoolExecutor(workers, "sensevoice-map")
        self._pools.append(pool)

        def begun() -> Iterator[Future[R]]:
            with _closing(items):
                for item in items:
                    yield pool.submit(function, item)

        for future in self.ahead(begun(), workers):
            yield future.result()

    def _make(self, items: Iterator[T], made: deque[T], limit: int) -> None:
        with _closing(items):
            for item in items:
                with self._changed:
                    self._changed.wait_for(lambda: len(made) < limit or self._stopped)
                    if self._stopped:
                        raise _StoppedError
                    made.append(item)
                    self._changed.notify_all()

    def _handed_on(self, made: deque[T], ended: list[BaseException | None]) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: made or ended or self._stopped)
                if self._stopped:
                    raise _StoppedError
                if not made:
                    break
                item = made.popleft()
                self._changed.notify_all()
            yield item
        if ended[0] is not None:
            raise ended[0]

"""Stages in threads: order, how far ahead they run, and that nothing of them is left behind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from sensevoice.background import Background

PATIENCE_S = 20


def stages() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sensevoice-")]


class Counting:
    """0, 1, 2, ...: how many were made, in which thread, and whether it was closed."""

    def __init__(self, stop: int | None = None, error: BaseException | None = None) -> None:
        self.made, self.closed = 0, False
        self.changed = threading.Condition()
        self.thread: threading.Thread | None = None
        self._stop, self._error = stop, error

    def __iter__(self) -> Iterator[int]:
        return self.items()

    def items(self) -> Iterator[int]:
        try:
            for number in itertools.count():
                if number == self._stop:
                    if self._error:
                        raise self._error
                    return
                self.thread = threading.current_thread()
                with self.changed:
                    self.made += 1
                    self.changed.notify_all()
                yield number
        finally:
            self.closed = True

    def wait_for(self, made: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.made >= made, PATIENCE_S)


def test_items_come_in_order_from_another_thread() -> None:
    counting = Counting(stop=1_000)
    with Background() as background:
        assert list(background.ahead(iter(counting), limit=3)) == list(range(1_000))
    assert counting.thread is not threading.current_thread()
    assert counting.closed


def test_without_threads_each_item_is_made_when_it_is_asked_for() -> None:
    counting = Counting(stop=10)
    with Background(threads=False) as background:
        doubled = background.map(lambda number: 2 * number, background.ahead(counting.items(), limit=3), 2)
        assert (next(doubled), counting.made) == (0, 1)
        assert list(doubled) == list(range(2, 20, 2))
        assert stages() == []
    assert counting.thread is threading.current_thread()


def test_a_stage_runs_ahead_only_so_far() -> None:
    counting = Counting()
    with Background() as background:
        items = background.ahead(iter(counting), limit=3)
        counting.wait_for(4)  # three that are held, and one that finds no room
        assert next(items) == 0
        counting.wait_for(5)
        threading.Event().wait(0.05)
        assert counting.made == 5
    assert stages() == []
    assert counting.closed


def test_an_error_comes_after_the_items_before_it() -> None:
    counting = Counting(stop=2, error=LookupError("the third"))
    with Background() as background:
        items = background.ahead(iter(counting), limit=5)
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(LookupError, match="the third"):
            next(items)


def test_results_come_in_order_and_as_soon_as_they_are_made() -> None:
    release = threading.Event()

    def source() -> Iterator[int]:
        yield from (1, 2)
        assert release.wait(PATIENCE_S)
        yield 3

    with Background() as background:
        squares = background.map(lambda number: number**2, source(), workers=2)
        assert [next(squares), next(squares)] == [1, 4]
        release.set()
        assert list(squares) == [9]


def test_items_are_worked_on_side_by_side_and_no_more_than_a_few_wait() -> None:
    together, running = threading.Barrier(3), Counting()

    def meet(number: int) -> int:
        together.wait(PATIENCE_S)
        return number

    with Background() as background:
        results = background.map(meet, running.items(), workers=3)
        assert list(itertools.islice(results, 6)) == list(range(6))
        assert running.made <= 6 + 3 + 2
        together.abort()


def test_an_error_of_the_function_ends_what_lies_before_it() -> None:
    counting = Counting()
    with Background() as background, pytest.raises(ZeroDivisionError):
        list(background.map(lambda number: 1 // (3 - number), counting.items(), workers=2))
    assert stages() == []
    assert counting.closed


def test_stages_that_wait_for_one_another_end_when_nobody_wants_them() -> None:
    hanging, slow = threading.Event(), Counting()

    def through(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            if item == 2:
                hanging.set()
            yield item

    with Background() as background:
        first = background.ahead(slow.items(), limit=1)
        second = background.ahead(through(first), limit=1)
        assert next(second) == 0
        assert hanging.wait(PATIENCE_S)
    assert stages() == []
    assert slow.closed


def test_leaving_early_is_seen_by_a_stage_that_waits_for_another() -> None:
    """The second stage waits for an item that the first will never make."""
    asked, leave = threading.Event(), threading.Event()

    def dry() -> Iterator[int]:
        asked.set()
        assert leave.wait(PATIENCE_S)
        yield from ()

    with Background() as background:
        second = background.ahead(iter(background.ahead(dry(), limit=1)), limit=1)
        assert asked.wait(PATIENCE_S)
        leave.set()
        assert list(second) == []
    assert stages() == []

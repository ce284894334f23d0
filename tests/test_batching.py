"""One queue before few workers; `test_scheduler.py` has the rest of it, as recognition uses it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from sensevoice.batching import Batcher


class Doubling:
    """Doubles numbers, refuses negative ones, and remembers its batches and their threads."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.started, self.released = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.append(threading.current_thread())
        self.started.set()
        assert self.released.wait(10)
        if -2 in items:
            raise KeyboardInterrupt
        if min(items) < 0:
            raise ArithmeticError(items)
        return [2 * item for item in items]


@pytest.fixture
def worker() -> Doubling:
    return Doubling()


@pytest.fixture
def batcher(worker: Doubling) -> Batcher[int, int]:
    return Batcher([worker], cost=abs, most=10)


def test_a_caller_without_competition_needs_no_other_thread(
    batcher: Batcher[int, int], worker: Doubling
) -> None:
    worker.released.set()
    assert batcher.run([1, 2, 3]) == [2, 4, 6]
    assert batcher.run([70]) == [140]
    assert worker.batches == [[1, 2, 3], [70]]
    assert worker.threads == [threading.current_thread()] * 2
    assert batcher.waiting == 0


def test_more_than_a_batch_is_computed_elsewhere_since_others_may_come(
    batcher: Batcher[int, int], worker: Doubling
) -> None:
    worker.released.set()
    assert batcher.run([6, 5, 4]) == [12, 10, 8]
    assert worker.batches == [[6], [5, 4]]
    assert threading.current_thread() not in worker.threads


def test_those_who_come_meanwhile_are_served_after_a_caller_who_served_himself(
    batcher: Batcher[int, int], worker: Doubling
) -> None:
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(batcher.run, [1])
        assert worker.started.wait(10)
        others = [pool.submit(batcher.run, [item]) for item in (2, 3)]
        while batcher.waiting < 2:
            pass
        worker.released.set()
        assert [call.result(10) for call in (first, *others)] == [[2], [4], [6]]
    assert sorted(map(sorted, worker.batches)) == [[1], [2, 3]]
    assert worker.threads[0] is not worker.threads[1]


def test_an_error_is_raised_where_it_belongs_and_the_worker_goes_on(
    batcher: Batcher[int, int], worker: Doubling
) -> None:
    worker.released.set()
    with pytest.raises(ArithmeticError):
        batcher.run([1, -1, 2])
    assert worker.batches == [[1, -1, 2], [1], [-1], [2]]
    assert batcher.run([4]) == [8]


def test_an_interrupt_is_not_taken_for_a_fault_of_the_worker(
    batcher: Batcher[int, int], worker: Doubling
) -> None:
    worker.released.set()
    with pytest.raises(KeyboardInterrupt):
        batcher.run([1, -2, 2])
    assert worker.batches == [[1, -2, 2]]
    assert batcher.run([4]) == [8]

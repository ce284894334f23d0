"""Many callers share one engine: nothing is lost, nothing is mixed, nobody starves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from signal import SIGINT, pthread_kill
from threading import Event, Lock, get_ident
from time import monotonic, sleep

import numpy as np
import numpy.typing as npt
import pytest
from checkpoints import speech_like

from sensevoice.engine import TorchEngine
from sensevoice.features import SAMPLE_RATE
from sensevoice.runners import Utterance
from sensevoice.scheduler import BatchingEngine
from sensevoice.scores import FrameScores, Query

SECOND = SAMPLE_RATE


class RecordingEngine:
    """Answers with the utterance's first sample and the query, and remembers its batches."""

    vocabulary, tags, info, device = None, (), None, "cpu"

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[float]] = []
        self.released = Event()
        self.started = Event()
        self.lock = Lock()
        if not held:
            self.released.set()

    def recognise(self, utterances: Sequence[Utterance], query: Sequence[Query]) -> list[FrameScores]:
        with self.lock:
            self.batches.append([float(utterance[0]) for utterance in utterances])
        self.started.set()
        assert self.released.wait(10)
        if any(utterance[0] < 0 for utterance in utterances):
            raise RuntimeError("a bad utterance")
        return [answer(u, q) for u, q in zip(utterances, query, strict=True)]


def answer(utterance: Utterance, query: Query) -> FrameScores:
    languages = ("auto", "zh", "en", "yue", "ja", "ko")
    ids = np.array([int(utterance[0]), languages.index(query.language), len(utterance)], np.int32)
    return FrameScores(ids, np.ones(3, np.float32), np.zeros((4, 1), np.float32), np.zeros(1, np.int32))


def utterance(number: float, seconds: float = 1.0) -> npt.NDArray[np.float32]:
    return np.full(int(seconds * SECOND), number, np.float32)


def numbers(scores: Sequence[FrameScores]) -> list[int]:
    return [int(one.ids[0]) for one in scores]


def batching(engine: RecordingEngine, batch_s: float = 60.0) -> BatchingEngine:
    return BatchingEngine([engine], batch_s=batch_s)  # type: ignore[list-item]


def test_answers_come_back_in_order_and_with_their_own_query():
    engine = batching(RecordingEngine(), batch_s=2)
    scores = engine.recognise(
        [utterance(i) for i in range(5)], [Query(c) for c in ("zh", "en", "yue", "ja", "ko")]
    )
    assert numbers(scores) == [0, 1, 2, 3, 4]
    assert [int(one.ids[1]) for one in scores] == [1, 2, 3, 4, 5]


def test_no_utterances_need_no_worker():
    inner = RecordingEngine()
    assert batching(inner).recognise([]) == []
    assert inner.batches == []


def test_a_batch_holds_no_more_speech_than_it_may():
    inner = RecordingEngine()
    batching(inner, batch_s=3).recognise([utterance(i) for i in range(7)])
    assert [len(batch) for batch in inner.batches] == [3, 3, 1]


def test_an_utterance_longer_than_a_batch_is_a_batch_of_its_own():
    inner = RecordingEngine()
    assert numbers(batching(inner, batch_s=2).recognise([utterance(1), utterance(2, 5), utterance(3)])) == [
        1,
        2,
        3,
    ]
    assert inner.batches == [[1.0], [2.0], [3.0]]


def test_observers_are_told_of_what_was_computed_at_once_not_of_what_was_asked_at_once():
    inner = RecordingEngine(held=True)
    engine = batching(inner)
    sizes: list[int] = []
    engine.observers.append(lambda size, took_s: sizes.append(size) if took_s > 0 else None)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(engine.recognise, [utterance(1)])]
        assert inner.started.wait(10)
        calls += [pool.submit(engine.recognise, [utterance(i)] * 2) for i in (2, 3)]
        while engine.waiting < 4:
            pass
        inner.released.set()
        assert [numbers(call.result(10)) for call in calls] == [[1], [2, 2], [3, 3]]
    assert sizes == [1, 4]


def test_calls_that_arrive_meanwhile_are_batched_together_and_take_turns():
    inner = RecordingEngine(held=True)
    engine = batching(inner, batch_s=4)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(engine.recognise, [utterance(1)])
        assert inner.started.wait(10)
        long = pool.submit(engine.recognise, [utterance(10 + i) for i in range(9)])
        while engine.waiting < 9:
            pass
        short = pool.submit(engine.recognise, [utterance(99)])
        while engine.waiting < 10:
            pass
        inner.released.set()
        assert numbers(first.result(10)) == [1]
        assert numbers(short.result(10)) == [99]
        assert numbers(long.result(10)) == list(range(10, 19))
    assert 99.0 in inner.batches[1]
    assert [len(batch) for batch in inner.batches] == [1, 4, 4, 2]


def test_an_error_reaches_only_the_caller_whose_utterance_it_was():
    inner = RecordingEngine(held=True)
    engine = batching(inner)
    with ThreadPoolExecutor(3) as pool:
        blocking = pool.submit(engine.recognise, [utterance(1)])
        assert inner.started.wait(10)
        bad = pool.submit(engine.recognise, [utterance(-1)])
        good = pool.submit(engine.recognise, [utterance(2)])
        while engine.waiting < 2:
            pass
        inner.released.set()
        assert numbers(good.result(10)) == [2]
        with pytest.raises(RuntimeError, match="a bad utterance"):
            bad.result(10)
        assert numbers(blocking.result(10)) == [1]
    assert numbers(engine.recognise([utterance(3)])) == [3]


def test_two_engines_share_the_work():
    first, second = RecordingEngine(held=True), RecordingEngine(held=True)
    engine = BatchingEngine([first, second], batch_s=1)  # type: ignore[list-item]
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(engine.recognise, [utterance(i) for i in range(6)])
        assert first.started.wait(10)
        assert second.started.wait(10)
        first.released.set()
        second.released.set()
        assert numbers(result.result(10)) == list(range(6))
    assert len(first.batches) + len(second.batches) == 6


def test_thirty_two_threads_get_what_one_gets(small_engine: TorchEngine):
    clips = [speech_like(0.3 + 0.1 * (seed % 7), seed=seed) for seed in range(32)]
    alone = [small_engine.recognise([clip], Query("zh"))[0].ids.tolist() for clip in clips]
    engine = BatchingEngine([small_engine])
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda clip: engine.recognise([clip], Query("zh"))[0].ids.tolist(), clips))
    assert together == alone


def test_what_an_interrupted_caller_waited_for_is_not_computed():
    inner = RecordingEngine(held=True)
    engine = batching(inner, batch_s=1)

    def interrupt(caller: int) -> None:
        deadline = monotonic() + 10
        while engine.waiting < 2 and monotonic() < deadline:
            sleep(0.001)
        pthread_kill(caller, SIGINT)

    with ThreadPoolExecutor(2) as pool:
        blocking = pool.submit(engine.recognise, [utterance(1)])
        assert inner.started.wait(10)
        pool.submit(interrupt, get_ident())
        with pytest.raises(KeyboardInterrupt):
            engine.recognise([utterance(2), utterance(3)])
        inner.released.set()
        assert numbers(blocking.result(10)) == [1]
    assert inner.batches == [[1.0]]

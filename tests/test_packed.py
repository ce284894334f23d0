"""Packed batches, as GPUs and processors run them, against the padded network, on a processor."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from checkpoints import speech_like
from padded import padded_scores

from sensevoice import kernels
from sensevoice.checkpoint import Checkpoint
from sensevoice.graphs import GRAPH_LONGEST, GRAPH_ROWS, GraphCache, graph_sized
from sensevoice.kernels import PlainKernels
from sensevoice.network import sinusoids
from sensevoice.packed import Attend, Attention, PackedNetwork, padded_attention
from sensevoice.packing import PackedBatch, Packing, fill, new_batch, on_host, row_count
from sensevoice.precision import QuantisedLinear
from sensevoice.processor import (
    CANDIDATES,
    GROUP,
    RefinedHead,
    ReorderedLinear,
    add_filtered,
    best_tokens,
    in_groups,
    likeliest,
)
from sensevoice.runners import (
    GPU_BATCH_FRAMES,
    PackedRunner,
    ProcessorRunner,
    Utterance,
    halved,
    two_workers,
)
from sensevoice.runtime import niceness, stand_back
from sensevoice.scheduler import GPU_BATCH_S
from sensevoice.scores import FrameScores, Query

CPU = torch.device("cpu")
LFR_N = 6
DURATIONS_S = (2.0, 0.3, 4.1, 0.024, 0.0, 1.0, 4.1, 0.7, 0.025)
LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko", "auto", "zh", "en")


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [speech_like(seconds, seed=seed) for seed, seconds in enumerate(DURATIONS_S)]


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    return [Query(language, use_itn=i % 2 == 0) for i, language in enumerate(LANGUAGES)]


@pytest.fixture(scope="module")
def tag_ids(small_model: Checkpoint) -> np.ndarray:
    return np.array(sorted(small_model.vocabulary.special_ids), np.int32)


@pytest.fixture(scope="module")
def expected(
    small_model: Checkpoint, tag_ids: np.ndarray, utterances: list[Utterance], queries: list[Query]
) -> list[FrameScores]:
    return [
        padded_scores(small_model, tag_ids, [u], [q])[0] for u, q in zip(utterances, queries, strict=True)
    ]


@pytest.fixture(scope="module")
def packed(small_model: Checkpoint, tag_ids: np.ndarray) -> PackedRunner:
    return PackedRunner(small_model.network, small_model.frontend, tag_ids, CPU)


def plain_network(small_model: Checkpoint, tag_ids: np.ndarray, attention: Attention) -> PackedNetwork:
    network, frontend = small_model.network, small_model.frontend
    return PackedNetwork(network, frontend, tag_ids, torch.float32, PlainKernels(), attention)


def assert_equal_but_for_rounding(found: Sequence[FrameScores], wanted: Sequence[FrameScores]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-4)
        np.testing.assert_allclose(a.tag_log_probs, b.tag_log_probs, atol=1e-3)
        np.testing.assert_array_equal(a.tag_ids, b.tag_ids)


@pytest.fixture(scope="module")
def processor(small_model: Checkpoint, tag_ids: np.ndarray) -> ProcessorRunner:
    return ProcessorRunner(small_model.network, small_model.frontend, tag_ids)


@pytest.fixture(params=["packed", "processor"])
def runner(request: pytest.FixtureRequest) -> PackedRunner | ProcessorRunner:
    found: PackedRunner | ProcessorRunner = request.getfixturevalue(request.param)
    return found


def test_a_packed_batch_gives_what_each_utterance_gives_alone(
    runner: PackedRunner | ProcessorRunner,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
) -> None:
    assert_equal_but_for_rounding(runner(utterances, queries), expected)


@pytest.mark.parametrize("rows", [1, 3, 5, 6, 40])
def test_shifted_sums_are_a_convolution(rows: int) -> None:
    random = torch.Generator().manual_seed(rows)
    values, taps = torch.randn(rows, 8, generator=random), torch.randn(11, 8, generator=random)
    total = torch.ones(rows, 8)
    add_filtered(total, values, taps)
    wanted = torch.nn.functional.conv1d(values.t()[None], taps.t()[:, None], padding=5, groups=8)[0].t()
    torch.testing.assert_close(total, 1 + wanted)


@torch.inference_mode()
def test_the_likeliest_tokens_are_those_of_a_search_through_all_logits() -> None:
    torch.manual_seed(1)
    logits = torch.randn(40, 5 * GROUP)
    logits[:, -30:] = -torch.inf
    assert torch.equal(likeliest(logits, 12), logits.topk(12).indices)
    for found, wanted in zip(best_tokens(logits), kernels.best_tokens(logits), strict=True):
        torch.testing.assert_close(found, wanted)


@torch.inference_mode()
def test_outputs_that_fill_the_last_group_change_nothing() -> None:
    torch.manual_seed(2)
    head, rows = torch.nn.Linear(16, GROUP + 1), torch.randn(9, 16)
    logits = in_groups(head)(rows)
    assert logits.shape == (9, 2 * GROUP)
    for found, wanted in zip(best_tokens(logits), kernels.best_tokens(head(rows)), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@torch.inference_mode()
def test_weights_in_another_order_are_the_same_layer() -> None:
    torch.manual_seed(4)
    linear, x = torch.nn.Linear(48, 80), torch.randn(33, 48)
    reordered = ReorderedLinear(linear)
    torch.testing.assert_close(reordered(x), linear(x))
    torch.testing.assert_close(reordered.rectified(x), linear(x).relu())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_two_halves_of_a_batch_say_what_the_batch_says(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
    count: int,
) -> None:
    halves = ProcessorRunner(small_model.network, small_model.frontend, tag_ids)
    turns = [i % len(utterances) for i in range(count)]
    found = halves([utterances[i] for i in turns], [queries[i] for i in turns])
    assert_equal_but_for_rounding(found, [expected[i] for i in turns])


@pytest.mark.usefixtures("two_threads")
def test_the_workers_of_two_halves_share_the_threads_and_leave_others_theirs() -> None:
    with two_workers(1) as pool, ThreadPoolExecutor(1) as later:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == later.submit(torch.get_num_threads).result() == 2


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is the whole process's elsewhere")
@pytest.mark.usefixtures("two_threads")
def test_who_stands_back_is_worked_for_by_threads_that_do(
    small_model: Checkpoint, tag_ids: np.ndarray, utterances: list[Utterance]
) -> None:
    halves = ProcessorRunner(small_model.network, small_model.frontend, tag_ids)
    seen: list[int] = []
    compute, polite = halves._compute, niceness() + 7

    def watched(*batch: Any) -> list[FrameScores]:
        seen.append(niceness())
        return compute(*batch)

    def call() -> None:
        stand_back(polite)
        halves([utterances[0]] * 2, [Query()] * 2)

    with patch.object(halves, "_compute", watched), ThreadPoolExecutor(1) as caller:
        caller.submit(call).result()
    assert seen == [polite, polite]
    assert niceness() < polite


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([10, 40, 30, 20], ([1, 0], [2, 3])),
        ([5, 5], ([0], [1])),
        ([6, 4], ([0], [1])),
        ([7, 4], None),
        ([9], None),
    ],
)
def test_a_batch_is_halved_unless_one_half_would_take_too_long(
    rows: list[int], parts: tuple[list[int], list[int]] | None
) -> None:
    assert halved(rows) == parts


@torch.inference_mode()
def test_the_int8_heads_best_token_is_the_exact_one_and_so_is_its_logit() -> None:
    torch.manual_seed(3)
    head, rows = torch.nn.Linear(64, 900), torch.randn(300, 64)
    wanted, found = head(rows), RefinedHead(head)(rows)
    rough = QuantisedLinear(head)(rows)
    assert (rough.argmax(-1) != wanted.argmax(-1)).any()
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))
    torch.testing.assert_close(found.topk(CANDIDATES // 2).values, wanted.topk(CANDIDATES // 2).values)
    shift = (found.logsumexp(-1) - wanted.logsumexp(-1)).abs()
    assert shift.max() < 0.01


def test_padding_changes_nothing_but_rounding_either(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
) -> None:
    assert_equal_but_for_rounding(padded_scores(small_model, tag_ids, utterances, queries), expected)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_batches_of_any_size_agree(
    runner: PackedRunner | ProcessorRunner,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
    count: int,
) -> None:
    turns = [i % len(utterances) for i in range(count)]
    found = runner([utterances[i] for i in turns], [queries[i] for i in turns])
    assert_equal_but_for_rounding(found, [expected[i] for i in turns])


@torch.inference_mode()
def test_room_that_nobody_uses_changes_nothing_whatever_lies_in_it(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
) -> None:
    network = plain_network(small_model, tag_ids, padded_attention)
    packing = graph_sized(Packing.of(utterances, queries, LFR_N))
    assert packing is not None
    assert packing.rows > sum(packing.lengths) and packing.sequences > len(utterances)
    batch = new_batch(packing, CPU)
    batch.samples.copy_(torch.randn(len(batch.samples)))
    fill(batch, *on_host(packing, CPU))
    assert_equal_but_for_rounding(packing.read(network(batch).numpy(), tag_ids), expected)


@torch.inference_mode()
def test_the_networks_input_is_that_of_each_utterances_own_features(
    small_model: Checkpoint, tag_ids: np.ndarray, utterances: list[Utterance], queries: list[Query]
) -> None:
    network = plain_network(small_model, tag_ids, padded_attention)
    packing = Packing.of(utterances, queries, LFR_N)
    batch = new_batch(packing, CPU)
    fill(batch, *on_host(packing, CPU))
    rows = network.inputs(batch)
    encoder, start = small_model.network.encoder, 0
    for utterance, length in zip(utterances, packing.lengths, strict=True):
        features = small_model.frontend(utterance)
        own = rows[start + 4 : start + length] / encoder.scale
        assert own.shape == features.shape
        steps = torch.arange(5, length + 1)
        expected = features + sinusoids(steps, features.shape[1]) / encoder.scale
        torch.testing.assert_close(own, expected, atol=2e-3, rtol=0)
        start += length


@pytest.mark.parametrize("kind", ["packed", "processor"])
@pytest.mark.parametrize(("precision", "most"), [("fp16", 0.02), ("bf16", 0.15)])
def test_half_precision_is_near(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
    kind: str,
    precision: str,
    most: float,
) -> None:
    runner = (
        PackedRunner(small_model.network, small_model.frontend, tag_ids, CPU, precision)
        if kind == "packed"
        else ProcessorRunner(small_model.network, small_model.frontend, tag_ids, precision)
    )
    found = runner(utterances, queries)
    same = [a.ids == b.ids for a, b in zip(found, expected, strict=True)]
    for a, b, equal in zip(found, expected, same, strict=True):
        assert np.abs(a.probabilities - b.probabilities)[equal].max() < most
    assert np.concatenate(same).mean() > 1 - 2 * most  # of all: the shortest utterance has nine frames


def test_a_model_whose_numbers_overflow_fp16_is_computed_in_bf16(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    caplog: pytest.LogCaptureFixture,
) -> None:
    large = copy.deepcopy(small_model.network)
    with torch.no_grad():
        large.encoder.encoders0[0].feed_forward.w_2.weight.mul_(1e6)
    wanted = PackedRunner(large, small_model.frontend, tag_ids, CPU)(utterances, queries)
    runner = PackedRunner(large, small_model.frontend, tag_ids, CPU, "fp16")
    for _ in range(2):
        found = runner(utterances, queries)
        assert all(np.isfinite(one.probabilities).all() for one in found)
        assert np.mean([np.mean(a.ids == b.ids) for a, b in zip(found, wanted, strict=True)]) > 0.8
    assert [record.message.count("bf16") for record in caplog.records] == [1]


def test_a_graph_is_as_large_as_its_batch_needs_and_no_larger(utterances: list[Utterance]) -> None:
    packing = Packing.of(utterances, [Query()] * len(utterances), LFR_N)
    sized = graph_sized(packing)
    assert sized is not None
    used = sum(packing.lengths)
    assert sized.rows == min(size for size in GRAPH_ROWS if size >= used)
    assert packing.longest <= sized.longest <= sized.rows
    assert sized.read(np.zeros(sized.rows * 2 + sized.sequences * 4, np.int32), np.zeros(1, np.int32))[
        0
    ].ids.shape == (packing.lengths[0],)


def test_batches_that_no_graph_fits_run_without_one() -> None:
    second, long = np.zeros(16_000, np.float32), np.zeros(62 * 16_000, np.float32)
    short = np.zeros(400, np.float32)

    def sized(batch: list[np.ndarray]) -> Packing | None:
        return graph_sized(Packing.of(batch, [Query()] * len(batch), LFR_N))

    assert sized([second]) is not None
    assert sized([long]) is None, "longer than a graph's attention reaches"
    assert sized([short] * 100) is None, "more utterances than a graph has room for"
    assert sized([second] * 2_000) is None, "more rows than the largest graph has"


def test_the_largest_graph_holds_a_full_batch_of_the_schedulers() -> None:
    for seconds in (10, 30):
        utterances = [np.broadcast_to(np.float32(0), seconds * 16_000)] * int(GPU_BATCH_S / seconds)
        packing = Packing.of(utterances, [Query()] * len(utterances), LFR_N)
        assert packing.rows <= GPU_BATCH_FRAMES == max(GRAPH_ROWS)
        assert graph_sized(packing) is not None
        assert packing.longest <= max(GRAPH_LONGEST)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 1_359, 1_360, 16_000, 480_000])
def test_an_utterance_fits_into_the_samples_of_its_rows(samples: int) -> None:
    packing = Packing.of([np.zeros(samples, np.float32)], [Query()], LFR_N)
    exact = replace(packing, rows=row_count(samples, LFR_N))
    assert len(on_host(exact, CPU)[0]) <= len(new_batch(exact, CPU).samples)


FUSED = """
import torch
from sensevoice.kernels import Norm, PlainKernels
from sensevoice.triton_kernels import TritonKernels

torch.manual_seed(0)
plain, fused = PlainKernels(), TritonKernels()

def check(name, *arguments):
    for a, b in zip(getattr(plain, name)(*arguments), getattr(fused, name)(*arguments), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)

rows = 41
first, end = torch.zeros(2, rows, dtype=torch.int32)
for start, stop in ((0, 4), (4, 20), (20, 37)):
    first[start:stop], end[start:stop] = start, stop
for width in (48, 64):
    for dtype in (torch.float32, torch.float16):
        norm = Norm(torch.randn(width), torch.randn(width))
        mixed, qkv = torch.randn(rows, width).to(dtype), torch.randn(rows, 3 * width).to(dtype)
        x, taps = torch.randn(rows, width), torch.randn(11, width)
        for before in (x, None):
            check("remember", before, mixed, qkv[:, -width:], taps, first, end, norm)
        check("add", x, mixed, norm)
for size in (300, 2_048, 5_001):
    check("best_tokens", 5 * torch.randn(7, size), torch.randn(size))
"""


def test_the_fused_kernels_compute_what_the_plain_ones_do() -> None:
    """In Triton's interpreter, since there may be no GPU."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds only")
    root = Path(__file__).resolve().parents[1]
    settings = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", FUSED], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class _Graph:
    """A CUDA graph as far as a processor can play one: replaying computes again, into the same answer."""

    replays = 0

    def replay(self) -> None:
        _Graph.replays += 1
        self.again()

    def again(self) -> None:
        raise AssertionError("nothing was captured")


@pytest.fixture
def graphs_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    _Graph.replays = 0
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    capture = GraphCache._capture

    def capture_and_repeat(self: GraphCache, batch: PackedBatch) -> None:
        capture(self, batch)
        captured = self._captured[batch.rows, batch.longest]
        network = self._network
        # what the network depends on beyond its tensors is, as in a real graph, that of the capture
        captured.graph.again = lambda: captured.answer.copy_(network(captured.batch))  # type: ignore[method-assign]

    monkeypatch.setattr(GraphCache, "_capture", capture_and_repeat)


def spread_attention(batch: PackedBatch, heads: int) -> Attend:
    """Attention that is told of its utterances by tensors alone, as flash attention is."""
    at = batch.indices
    rows = torch.arange(batch.rows)
    heard = (rows >= at.first[:, None]) & (rows < at.end[:, None])

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        query, key, value = qkv.view(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=heard)
        return mixed.transpose(0, 1).reshape(len(qkv), -1)

    return attend


@pytest.mark.usefixtures("graphs_on_a_processor")
@torch.inference_mode()
def test_a_replayed_graph_answers_for_what_was_put_into_it(
    small_model: Checkpoint,
    tag_ids: np.ndarray,
    utterances: list[Utterance],
    queries: list[Query],
    expected: list[FrameScores],
) -> None:
    network = plain_network(small_model, tag_ids, spread_attention)
    graphs = GraphCache(network, CPU, LFR_N)
    orders = [[0, 1, 2], [2], [5, 4, 3], [6, 7, 8, 0, 2], [1, 0], [2], [8, 7, 6, 2, 0]]
    for order in orders:
        packing = graph_sized(Packing.of([utterances[i] for i in order], [queries[i] for i in order], LFR_N))
        assert packing is not None
        answer = graphs.run(packing, *on_host(packing, CPU)).numpy().copy()
        assert_equal_but_for_rounding(packing.read(answer, tag_ids), [expected[i] for i in order])
    assert graphs.count == 2
    assert _Graph.replays == len(orders) - graphs.count


@pytest.mark.usefixtures("graphs_on_a_processor")
def test_without_memory_for_graphs_batches_go_on_without_them(
    monkeypatch: pytest.MonkeyPatch, utterances: list[Utterance], queries: list[Query]
) -> None:
    def full(self: GraphCache, batch: PackedBatch) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(GraphCache, "_capture", full)
    graphs = GraphCache(lambda batch: batch.numbers.sum(), CPU, LFR_N)
    packing = graph_sized(Packing.of(utterances, queries, LFR_N))
    assert packing is not None
    host = on_host(packing, CPU)
    assert graphs.run(packing, *host) == graphs.run(packing, *host) == host[1].sum()
    assert graphs.count == 0

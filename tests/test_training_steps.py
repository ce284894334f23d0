"""A training step's arithmetic: the memory, flat weights, ranks, going on from a model."""

from __future__ import annotations

import copy
import random
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from sensevoice.checkpoint import find_tokenizer, load_checkpoint
from sensevoice.features import Frontend
from sensevoice.finetune.losses import text_loss
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.network import NetworkShape
from training.flat import Average, FlatWeights
from training.memory import ShiftedProducts
from training.network import TrainingNetwork
from training.pack import pack_recogniser
from training.ranks import Meeting, Ranks
from training.resume import StartError, load_start, restore, save_state, state_path
from training.spelling import text_slope
from training.steps import CapturedStep, Inputs, Steps, truth_counts
from training.tokens import build
from training.train import (
    Lesson,
    Schedule,
    Trainer,
    phoneme_weight_at,
    rate_at,
    strength_at,
)

TOKENIZER = find_tokenizer(STARTER_DIRECTORY)
VOCABULARY = load_checkpoint(STARTER_DIRECTORY).vocabulary.size
SMALL = NetworkShape(
    output_size=32, attention_heads=4, linear_units=48, num_blocks=3, tp_blocks=1, vocab_size=VOCABULARY
)
TINY = replace(SMALL, vocab_size=30)
ITEMS, FRAMES = 6, 12


def network(shape: NetworkShape = TINY, seed: int = 0) -> TrainingNetwork:
    torch.manual_seed(seed)
    frontend = Frontend(np.full(560, 0.5, np.float32), np.full(560, 2.0, np.float32), lfr_m=7, lfr_n=6)
    return TrainingNetwork(shape, frontend)


def lesson(rows: slice = slice(None)) -> Lesson:
    """Some rows of the one batch that there is; texts and known phonemes are of many lengths."""
    generator = torch.Generator().manual_seed(1)
    phonemes = torch.randint(0, 178, (ITEMS, FRAMES, 3), generator=generator)
    phonemes[:2] = -100
    tags = torch.randint(1, 30, (ITEMS, 4), generator=generator)
    tags[4, 1] = -100
    inputs = Inputs(
        torch.randn(ITEMS, FRAMES, 560, generator=generator)[rows],
        torch.randint(0, 16, (ITEMS, 4), generator=generator)[rows],
        tags[rows],
        phonemes[rows],
        truth_counts(tags[rows], phonemes[rows]),
        torch.tensor(0.7),
    )
    targets = torch.randint(1, 30, (ITEMS, 5), generator=generator)[rows]
    lengths = torch.tensor([5, 1, 0, 3, 2, 4])[rows]
    return Lesson(inputs, targets, lengths, lengths.sum().float())


def trainer(ranks: Ranks | None = None) -> Trainer:
    schedule = Schedule(seconds=1.0, peak_rate=1e-2, warmup_steps=1)
    return Trainer(network(), schedule, ranks or Ranks(), amp=False, capture=False)


@pytest.mark.parametrize("order", [3, 11])
def test_the_memory_and_its_gradients_are_those_of_the_convolution(order: int) -> None:
    torch.manual_seed(0)
    width = 6
    convolution = nn.Conv1d(width, width, order, padding=(order - 1) // 2, groups=width, bias=False)
    ours = ShiftedProducts.in_place_of(copy.deepcopy(convolution))
    assert ours.state_dict().keys() == convolution.state_dict().keys()
    x = torch.randn(2, width, 20)
    slope = torch.randn(2, width, 20)
    results = []
    for layer in (convolution, ours):
        given = x.clone().requires_grad_()
        out = layer(given)
        out.backward(slope)
        results.append((out.detach(), given.grad, layer.weight.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_the_training_network_is_the_shipped_one() -> None:
    model = network().eval()
    features, queries = torch.randn(2, FRAMES, 560), torch.randint(0, 16, (2, 4))
    logits, phonemes = model(features, queries)
    torch.testing.assert_close(logits, model.network(features, queries), atol=1e-5, rtol=1e-5)
    assert phonemes.shape == (2, FRAMES, 178)


def test_flat_weights_are_the_models_own() -> None:
    model = network()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = FlatWeights(model)
    torch.testing.assert_close(model.state_dict(), before)
    with torch.no_grad():
        weights.values.mul_(2)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, 2 * before[name])
    weights.put_slopes(tuple(torch.ones_like(p) for p in weights.parameters))
    count = sum(p.numel() for p in model.parameters())
    assert weights.clip(1.0) == pytest.approx(count**0.5, rel=1e-5)
    assert torch.linalg.vector_norm(weights.slopes) == pytest.approx(1.0, rel=1e-4)


def test_the_average_and_the_weights_change_places_and_back() -> None:
    model = network()
    weights = FlatWeights(model)
    average = Average(weights, 0.9)
    first = weights.values.clone()
    weights.values.add_(1.0)
    average.update(10**6)
    average.swap()
    torch.testing.assert_close(weights.values, first + 0.1)
    average.swap()
    torch.testing.assert_close(weights.values, first + 1.0)


def test_a_steps_gradient_is_that_of_the_whole_loss() -> None:
    learner, given = trainer(), lesson()
    found = learner.learn(given)
    ours = learner.weights.slopes.clone()
    logits, phonemes = learner.model(given.inputs.features, given.inputs.queries)
    scores = logits[:, 4:].log_softmax(-1).transpose(0, 1)
    frames = torch.full((ITEMS,), FRAMES)
    ctc = F.ctc_loss(scores, given.targets, frames, given.target_lengths, reduction="sum") / given.tokens
    tags = [
        F.cross_entropy(logits[:, kind], given.inputs.tags[:, kind], ignore_index=-100) for kind in range(4)
    ]
    read = F.cross_entropy(
        phonemes[:, :, None].expand(-1, -1, 3, -1).flatten(0, 2),
        given.inputs.phonemes.flatten(),
        ignore_index=-100,
    )
    total = ctc + 0.5 * sum(tags) + 0.7 * read
    learner.weights.put_slopes(torch.autograd.grad(total, learner.weights.parameters))
    torch.testing.assert_close(ours, learner.weights.slopes, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["ctc"], ctc.detach())
    torch.testing.assert_close(found["tags"], torch.stack(tags).detach())
    torch.testing.assert_close(found["phonemes"], read.detach())


def test_the_gradient_of_a_text_is_that_of_its_loss_and_half_precision_keeps_it() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(4, 4 + 10, 30)).requires_grad_()
    targets, lengths = torch.randint(1, 6, (4, 12)), torch.tensor([3, 0, 12, 7])  # the third has no room
    tokens = torch.tensor(11.0)
    frames = torch.full((4,), 10)
    loss = text_loss(logits, frames, targets, lengths) * (lengths.sum() / tokens)
    (wanted,) = torch.autograd.grad(loss, logits)
    found, apart, slope = text_slope(logits.detach(), targets, lengths, tokens)
    torch.testing.assert_close(found, loss.detach())
    assert apart == 0
    torch.testing.assert_close(slope, wanted, atol=1e-6, rtol=1e-5)
    assert not slope[:, :4].any() and not slope[2].any()
    *_, rough = text_slope(logits.detach().bfloat16(), targets, lengths, tokens)
    assert rough.dtype is torch.bfloat16
    assert torch.cosine_similarity(rough.float().flatten(), wanted.flatten(), dim=0) > 0.999


def test_two_views_of_a_row_are_drawn_together_by_the_gradient_of_their_divergences() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(4, 4 + 10, 30)).requires_grad_()
    targets, lengths = torch.randint(1, 30, (2, 3)).repeat(2, 1), torch.tensor([3, 2, 3, 2])
    tokens = torch.tensor(10.0)
    text = text_loss(logits, torch.full((4,), 10), targets, lengths)
    one, other = logits.log_softmax(-1).chunk(2)
    divergence = sum(
        F.kl_div(moved, still.detach(), reduction="sum", log_target=True)
        for moved, still in ((one, other), (other, one))
    )
    (wanted,) = torch.autograd.grad(text + 0.2 * divergence / tokens, logits)
    found, apart, slope = text_slope(logits.detach(), targets, lengths, tokens, views=2)
    torch.testing.assert_close(found, text.detach())
    torch.testing.assert_close(apart, (divergence / tokens).detach())
    torch.testing.assert_close(slope, wanted, atol=1e-6, rtol=1e-5)
    alike = logits.detach()[:2].repeat(2, 1, 1)
    assert text_slope(alike, targets, lengths, tokens, views=2)[1] == 0


def _one_of_two(number: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    with Meeting(number, 2, place).joined() as ranks:
        # texts of 6 and 9 tokens: a mean of the ranks' means would be another loss
        learner = trainer(ranks)
        assert ranks.agree(5.0 + number) == 5.0
        learner.learn(lesson(slice(3 * number, 3 * number + 3)))
        learner.update(10, 1e-2)
        torch.save((learner.weights.slopes, learner.weights.values), f"{out}/{number}.pt")


def test_two_ranks_with_half_a_batch_each_take_the_step_of_one_with_all_of_it(tmp_path: Path) -> None:
    place = f"file://{tmp_path}/meeting"
    torch.multiprocessing.spawn(_one_of_two, (place, str(tmp_path)), nprocs=2)
    alone = trainer()
    alone.learn(lesson())
    alone.update(10, 1e-2)
    for number in range(2):
        slopes, values = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(slopes, alone.weights.slopes, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(values, alone.weights.values, atol=1e-4, rtol=1e-3)


def packed(tmp_path: Path) -> tuple[Path, TrainingNetwork]:
    out, model = tmp_path / "model", network(SMALL)
    FlatWeights(model)  # whose views must not be saved as the whole
    pack_recogniser(out, model.network, SMALL, model.frontend, TOKENIZER)
    save_state(out, model)
    return out, model


def test_training_goes_on_with_the_very_weights_that_it_left(tmp_path: Path) -> None:
    out, model = packed(tmp_path)
    size = sum(4 * weight.numel() for weight in model.parameters())
    assert state_path(out).stat().st_size < 1.05 * size
    checkpoint = load_start(out, SMALL, TOKENIZER)
    again = network(SMALL, seed=1)
    restore(again, checkpoint)
    torch.testing.assert_close(dict(again.named_parameters()), dict(model.named_parameters()), atol=0, rtol=0)
    assert torch.equal(checkpoint.frontend.shift, model.frontend.shift)


def test_without_its_state_a_packed_model_gives_all_but_the_phoneme_reader(tmp_path: Path) -> None:
    out, model = packed(tmp_path)
    state_path(out).unlink()
    again = network(SMALL, seed=1)
    reader = again.phoneme_head.weight.clone()
    restore(again, load_start(out, SMALL, TOKENIZER))
    assert torch.equal(again.phoneme_head.weight, reader)
    half = {name: weight.half().float() for name, weight in model.network.state_dict().items()}
    torch.testing.assert_close(dict(again.network.state_dict()), half, atol=0, rtol=0)


def test_another_shape_tokenizer_or_state_is_refused_with_the_reason(tmp_path: Path) -> None:
    out, _ = packed(tmp_path)
    with pytest.raises(StartError, match="output_size 32, not 40"):
        load_start(out, replace(SMALL, output_size=40), TOKENIZER)
    other = tmp_path / "other.bpe.model"
    other.write_bytes(TOKENIZER.read_bytes() + b"\x00")
    with pytest.raises(StartError, match="its tokenizer is another than"):
        load_start(out, SMALL, other)
    shutil.rmtree(out)
    model = network(SMALL, seed=2)
    pack_recogniser(out, model.network, SMALL, model.frontend, TOKENIZER)
    with pytest.raises(StartError, match=r"model\.state\.pt is the state of another model"):
        restore(network(SMALL), load_start(out, SMALL, TOKENIZER))


def test_a_continued_schedule_distorts_fully_at_once_and_warms_up_briefly() -> None:
    schedule = Schedule(seconds=100.0, peak_rate=1e-3)
    further = schedule.continued()
    assert strength_at(0.0, schedule) == pytest.approx(0.15)
    assert [strength_at(share, further) for share in (0.0, 0.2, 0.6, 0.8, 1.0)] == pytest.approx(
        [1, 1, 1, 0.75, 0.5]
    )
    assert rate_at(199, 0.0, further) == pytest.approx(1e-3)
    assert rate_at(199, 0.0, schedule) == pytest.approx(1e-3 / 3)
    assert [phoneme_weight_at(share, schedule) for share in (0, 0.25, 0.5, 1)] == pytest.approx(
        [2, 1.2, 0.4, 0.4]
    )
    assert phoneme_weight_at(0.0, further) == pytest.approx(0.4)


def test_a_leg_that_another_follows_keeps_its_rate_and_its_distortions() -> None:
    leg = Schedule(seconds=100.0, peak_rate=1e-3, decays=False).continued()
    assert [rate_at(500, share, leg) for share in (0.0, 0.5, 1.0)] == pytest.approx([1e-3] * 3)
    assert strength_at(1.0, leg) == 1.0


class _Graph:
    """As much of a CUDA graph as a processor can have: what was captured has run once."""

    def replay(self) -> None:
        pass


def test_a_captured_step_gives_what_the_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": _Graph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: nullcontext(),
        "graph": lambda *_, **__: nullcontext(),
        "graph_pool_handle": lambda: (0, 0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    learner, alone = trainer(), trainer()
    learner.steps = Steps(learner.model, learner.weights, amp=False, capture=True)
    step = learner.steps.step_for(lesson().inputs)
    assert isinstance(step, CapturedStep)
    assert learner.steps.step_for(lesson().inputs) is step
    assert isinstance(
        learner.steps.step_for(lesson(slice(3)).inputs), CapturedStep
    )  # another shape, another graph
    found, wanted = (
        step.forward(lesson().inputs),
        alone.steps.step_for(lesson().inputs).forward(lesson().inputs),
    )
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.parts, wanted.parts)
    assert not found.logits.requires_grad
    step.backward(torch.zeros_like(found.logits))


def test_what_cannot_be_captured_is_run_as_it_is_written_and_the_reason_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("training.steps.CapturedStep", refuse)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    learner, alone = trainer(), trainer()
    learner.steps = Steps(learner.model, learner.weights, amp=False, capture=True)
    for one in (learner, alone):
        one.learn(lesson())
    assert torch.equal(learner.weights.slopes, alone.weights.slopes)
    learner.learn(lesson())
    assert capsys.readouterr().out.count("operation not permitted when stream is capturing") == 1


def test_a_tokenizer_has_as_many_english_pieces_as_are_wanted(tmp_path: Path) -> None:
    rng = random.Random(0)
    syllables = [a + b for a in "bcdfgklmnprst" for b in ("ar", "en", "ill", "oo", "u")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(1_500)]
    lines = [" ".join(rng.choices(words, k=6)) for _ in range(2_000)]
    few, many = (build(tmp_path / f"{count}.bpe.model", lines, count) for count in (200, 600))
    assert many - few == 400

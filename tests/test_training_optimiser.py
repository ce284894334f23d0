"""The training's optimiser: Muon's step is a matrix's polar factor, and the rest is AdamW's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sensevoice.network import NetworkShape, SenseVoiceNetwork
from training.flat import FlatWeights
from training.optimiser import ADAM_RMS, MATRIX_DECAY, OTHER_DECAY, Optimiser, orthogonalised

SHAPE = NetworkShape(
    input_size=12,
    output_size=8,
    attention_heads=2,
    linear_units=20,
    num_blocks=2,
    tp_blocks=1,
    kernel_size=3,
    vocab_size=11,
)
RATE = 1e-2
FINE, NOT_FINITE = torch.zeros(()), torch.ones(())


@pytest.fixture
def network() -> SenseVoiceNetwork:
    torch.manual_seed(0)
    return SenseVoiceNetwork(SHAPE)


@pytest.fixture
def weights(network: SenseVoiceNetwork) -> FlatWeights:
    flat = FlatWeights(network)
    flat.slopes.copy_(torch.randn(len(flat.slopes)))
    return flat


def polar_factor(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@pytest.mark.parametrize("size", [(5, 24, 24), (3, 12, 40), (3, 40, 12)])
def test_singular_values_come_near_one_and_directions_stay(size: tuple[int, int, int]) -> None:
    matrices = torch.randn(size, generator=torch.Generator().manual_seed(1))
    made = orthogonalised(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5 and values.max() < 1.3
    for matrix, result in zip(matrices, made, strict=True):
        assert torch.cosine_similarity(result.flatten(), polar_factor(matrix).flatten(), dim=0) > 0.97


def test_the_first_numbers_are_the_blocks_matrices_with_queries_keys_and_values_apart(
    network: SenseVoiceNetwork, weights: FlatWeights
) -> None:
    found = weights.matrices_of(weights.values)
    first = network.encoder.encoders0[0]
    assert torch.equal(torch.cat(found[:3]), first.self_attn.linear_q_k_v.weight)
    assert torch.equal(found[3], first.self_attn.linear_out.weight)
    assert torch.equal(found[5], first.feed_forward.w_2.weight)
    assert len(found) == 3 * 6  # blocks, and in each q, k, v, out, w_1, w_2
    assert weights.matrix_count >= sum(matrix.numel() for matrix in found)


def test_a_matrix_takes_the_step_of_its_polar_factor_and_decays(weights: FlatWeights) -> None:
    before = [matrix.clone() for matrix in weights.matrices_of(weights.values)]
    slopes = [matrix.clone() for matrix in weights.matrices_of(weights.slopes)]
    Optimiser(weights, muon=True).step(RATE, FINE)
    for matrix, old, slope in zip(weights.matrices_of(weights.values), before, slopes, strict=True):
        # the first momentum points where the slope does, and the length of either plays no part
        step = ADAM_RMS * max(slope.shape) ** 0.5 * orthogonalised(slope[None])[0]
        torch.testing.assert_close(
            matrix, old * (1 - RATE * MATRIX_DECAY) - RATE * step, atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("muon", [True, False])
def test_everything_else_takes_adamws_step(weights: FlatWeights, muon: bool) -> None:
    first = weights.matrix_count if muon else 0
    expected = torch.nn.Parameter(weights.values[first:].clone())
    expected.grad = weights.slopes[first:].clone()
    oracle = torch.optim.AdamW([expected], lr=RATE, betas=(0.9, 0.98), weight_decay=OTHER_DECAY)
    optimiser = Optimiser(weights, muon=muon)
    for _ in range(3):
        oracle.step()
        optimiser.step(RATE, FINE)
    torch.testing.assert_close(weights.values[first:], expected.data)


@pytest.mark.parametrize(
    "spoil", [lambda slopes: slopes.fill_(torch.nan), lambda slopes: slopes[0].fill_(torch.inf)]
)
def test_slopes_that_are_not_finite_change_nothing(
    weights: FlatWeights, spoil: Callable[[Tensor], Tensor]
) -> None:
    optimiser = Optimiser(weights, muon=True)
    optimiser.step(RATE, FINE)
    before, kept = weights.values.clone(), weights.slopes.clone()
    spoil(weights.slopes)
    optimiser.step(RATE, NOT_FINITE)
    assert torch.equal(weights.values, before)
    weights.slopes.copy_(kept)
    optimiser.step(RATE, FINE)
    assert torch.isfinite(weights.values).all() and not torch.equal(weights.values, before)

"""Other number formats say almost the same as float32."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from checkpoints import speech_like

from sensevoice.audio import decode
from sensevoice.checkpoint import load_checkpoint
from sensevoice.ctc import read_scores
from sensevoice.engine import TorchEngine
from sensevoice.errors import PrecisionError, SegmentTooLargeError
from sensevoice.hub import STARTER_DIRECTORY
from sensevoice.precision import WORTH_QUANTISING, QuantisedLinear, choose_precision, has_fast_bytes
from sensevoice.scores import Query

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.mp3"))
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("asked", "device", "parameters", "chosen"),
    [
        ("auto", CPU, 9_000_000, "fp32"),
        ("auto", CPU, WORTH_QUANTISING, "int8" if has_fast_bytes() else "fp32"),
        ("auto", GPU, 900_000_000, "fp16"),
        ("bf16", GPU, 9_000_000, "bf16"),
        ("int8", CPU, 9_000_000, "int8"),
    ],
)
def test_auto_is_int8_for_large_models_on_processors_and_fp16_on_gpus(
    asked: str, device: torch.device, parameters: int, chosen: str
):
    assert choose_precision(asked, device, parameters) == chosen


@pytest.mark.parametrize(("asked", "device"), [("fp8", CPU), ("int8", GPU)])
def test_a_precision_that_cannot_be_had_is_refused_with_the_choices(asked: str, device: torch.device):
    with pytest.raises(PrecisionError, match="choose one of auto, fp32"):
        choose_precision(asked, device, 1)


def test_a_quantised_layer_is_within_two_per_cent_of_the_float_one():
    torch.manual_seed(0)
    off, size = (
        0.0,
        0.0,
    )  # of ten, since one draw may lie above where a processor gives activations seven bits
    for _ in range(10):
        linear, x = torch.nn.Linear(512, 64), torch.randn(50, 512)
        wanted = linear(x)
        off += (QuantisedLinear(linear)(x) - wanted).abs().mean().item()
        size += wanted.abs().mean().item()
    assert off < 0.02 * size


def test_quantising_leaves_the_engine_that_others_have_chosen():
    usual = torch.backends.quantized.engine
    QuantisedLinear(torch.nn.Linear(8, 8))
    assert torch.backends.quantized.engine == usual


def texts(precision: str) -> list[str]:
    engine = TorchEngine(load_checkpoint(STARTER_DIRECTORY), "cpu", precision=precision)
    scores = engine.recognise([decode(path) for path in EXAMPLES], Query())
    return [read_scores(one, engine.vocabulary).text for one in scores]


@pytest.mark.parametrize(("precision", "most"), [("bf16", 0.03), ("fp16", 0.01), ("int8", 0.03)])
def test_the_starter_reads_the_examples_almost_alike(precision: str, most: float):
    wanted, found = zip(
        *((a, b) for a, b in zip(texts("fp32"), texts(precision), strict=True) if a), strict=True
    )
    assert jiwer.cer(list(wanted), list(found)) <= most


class TooSmall(TorchEngine):
    """An engine whose device holds two utterances of a second."""

    most = 2

    def _run(self, utterances, queries):  # type: ignore[no-untyped-def]
        if sum(len(utterance) for utterance in utterances) > self.most * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._run(utterances, queries)


def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_does(small_model):
    clips = [speech_like(1.0, seed=seed) for seed in range(7)]
    wanted = TorchEngine(small_model, "cpu").recognise(clips)
    found = TooSmall(small_model, "cpu").recognise(clips)
    assert [one.ids.tolist() for one in found] == [one.ids.tolist() for one in wanted]
    np.testing.assert_allclose(found[3].tag_log_probs, wanted[3].tag_log_probs, atol=1e-4)


def test_one_segment_too_large_for_memory_is_an_error_with_its_length(small_model):
    with pytest.raises(SegmentTooLargeError, match="3 s does not fit"):
        TooSmall(small_model, "cpu").recognise([speech_like(3.0, seed=0)])

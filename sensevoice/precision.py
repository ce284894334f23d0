"""Which number format the network computes in, and int8 weights for processors.

Int8 keeps the weights of the linear layers as bytes, a scale per output channel, and quantises the
activations of each call on the fly. The first block, which sees raw features, the last one, whose errors
nothing evens out any more, and the head, whose closest two tokens decide the text, stay in float32: the
error they save is worth their time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from sensevoice.errors import PrecisionError
from sensevoice.network import SenseVoiceNetwork
from sensevoice.options import Precision

PRECISIONS: tuple[str, ...] = get_args(Precision)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}
AUTO_ON_GPU = "fp16"
WORTH_QUANTISING = 50_000_000  # parameters: below, float32 is quick enough, and exact


def choose_precision(asked: str, device: torch.device, parameters: int) -> str:
    """What `auto` means here, or what was asked for; PrecisionError if it cannot be had on this device.

    On a processor, int8 for large models where its bytes are multiplied faster. On a GPU fp16, which reads
    the same as fp32 there, six times as fast (`benchmarks/README.md`).
    """
    if asked not in PRECISIONS:
        raise PrecisionError(asked, str(device), PRECISIONS)
    if asked == "int8" and device.type != "cpu":
        raise PrecisionError(asked, str(device), [name for name in PRECISIONS if name != "int8"])
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return AUTO_ON_GPU
    return "int8" if parameters >= WORTH_QUANTISING and has_fast_bytes() else "fp32"


def has_fast_bytes() -> bool:
    """Whether this processor multiplies bytes faster than floats, as AVX2 and later ones do."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def in_precision(network: SenseVoiceNetwork, precision: str) -> SenseVoiceNetwork:
    """A network that computes in `precision`; the one given is left as it is."""
    if precision == "fp32":
        return network
    if precision == "int8":
        return _quantised(network)
    return copy.deepcopy(network).to(DTYPES[precision])


def _quantised(network: SenseVoiceNetwork) -> SenseVoiceNetwork:
    """The same network with its linear layers in int8; what stays in float is shared with the original."""
    memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    quantised = copy.deepcopy(network, memo)
    kept = _kept_in_float(network)
    for name, module in list(quantised.named_modules()):
        if isinstance(module, nn.Linear) and not name.startswith(kept):
            owner, _, attribute = name.rpartition(".")
            setattr(quantised.get_submodule(owner), attribute, QuantisedLinear(module))
    return quantised


def _kept_in_float(network: SenseVoiceNetwork) -> tuple[str, ...]:
    last = len(network.encoder.tp_encoders) - 1
    return "encoder.encoders0.", f"encoder.tp_encoders.{last}.", "ctc."


class QuantisedLinear(nn.Module):
    """A linear layer whose weights are int8, symmetric per output channel."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # torch means to drop these tensors one day (pytorch/pytorch#184982); its version is pinned here
            warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor")
            bytes_ = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        with _engine("onednn" if _has_vnni() else torch.backends.quantized.engine):
            self.packed = torch.ops.quantized.linear_prepack(bytes_, linear.bias)
        # without VNNI, sums of 8-bit products saturate at 16 bits: activations then get 7 bits
        self.reduce_range = not _has_vnni()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] float32 -> [..., outputs] float32."""
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return result

    def rectified(self, x: Tensor) -> Tensor:
        """The same through a rectifier."""
        result: Tensor = torch.ops.quantized.linear_relu_dynamic(x, self.packed, self.reduce_range)
        return result


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Weights that are packed in it stay with this engine."""
    usual = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = usual


def _has_vnni() -> bool:
    probe = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(probe and probe())

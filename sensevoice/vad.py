"""Where somebody speaks: FSMN-VAD, and how its spans are joined and complemented."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from sensevoice.errors import ModelFileError
from sensevoice.features import HOP, SAMPLE_RATE, WINDOW, Frontend, frame_count
from sensevoice.options import VadOptions
from sensevoice.spans import Span
from sensevoice.vad_decision import NOISE_FRAMES, VadState, needs_decibels
from sensevoice.vad_network import FsmnEncoder
from sensevoice.vad_scoring import GPU_BATCH_FRAMES, FrameScorer

BLOCK_FRAMES = 500  # 5 s at a time keeps the activations in the processor's cache

# FunASR reads a recording in such chunks, and adapts its patience at each
CHUNK_MS = 60_000
CHUNK_SAMPLES = CHUNK_MS * SAMPLE_RATE // 1000
CHUNK_FRAMES = CHUNK_MS // 10
WITHHELD_FRAMES = 4  # at a chunk's end: 2 lack their window's end, 2 their context

# What the decision logic takes for granted
FIXED_SETTINGS = {
    "sample_rate": SAMPLE_RATE,
    "frame_in_ms": 10,
    "frame_length_ms": 25,
    "detect_mode": 1,
    "do_extend": 1,
}


@dataclass(frozen=True)
class VoiceActivityDetector:
    """FSMN-VAD; it holds weights only, so any number of threads may call it at once."""

    encoder: FsmnEncoder
    frontend: Frontend
    silence_ids: tuple[int, ...] = (0,)  # the classes that are silence
    noise_frames: int = NOISE_FRAMES
    scorer: FrameScorer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", FrameScorer(self.encoder, self.frontend, self.silence_ids))

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> VoiceActivityDetector:
        """Load a directory in the official layout: config.yaml, am.mvn, model.pt (of any float type).

        Raises ModelFileError, which names the file, if one is missing, damaged or of another shape.
        """
        path = directory / "config.yaml"
        config = _read_config(path)
        settings, frontend = config["model_conf"], config["frontend_conf"]
        _check_settings(path, settings, frontend)
        detector = cls(
            encoder=_load_encoder(path, config["encoder_conf"]),
            frontend=Frontend.from_config(frontend, directory / "am.mvn"),
            silence_ids=tuple(settings.get("sil_pdf_ids", (0,))),
            noise_frames=settings.get("noise_frame_num_used_for_snr", NOISE_FRAMES),
        )
        return detector.to(device)

    @property
    def device(self) -> torch.device:
        """Where frames are scored."""
        return self.frontend.filters.device

    @property
    def block_frames(self) -> int:
        """How many frames are best scored at a time."""
        return BLOCK_FRAMES if self.device.type == "cpu" else GPU_BATCH_FRAMES

    def to(self, device: torch.device | str) -> VoiceActivityDetector:
        """Itself if it is there, else a copy; always in float32, to decide as on a processor."""
        if self.device == torch.device(device):
            return self
        encoder, frontend = copy.deepcopy(self.encoder).to(device), copy.deepcopy(self.frontend).to(device)
        return replace(self, encoder=encoder, frontend=frontend)

    def speech_spans(self, samples: npt.NDArray[np.float32], options: VadOptions | None = None) -> list[Span]:
        """Find speech in [samples], 16 kHz mono in [-1, 1]; in order, never overlapping.

        Equal to the segments of FunASR 1.4.16 under the same options, and then merged if asked. A
        `max_end_silence_time_ms` of None stands for FunASR's default, a patience that falls as
        speech goes on, and is judged anew at each full minute of the recording.
        """
        options = options or VadOptions()
        silence = self.silence_probabilities(samples)
        decibels = frame_decibels(samples) if needs_decibels(options) else None
        spans = self._decide(silence, decibels, options, len(samples))
        return merge_spans(spans, up_to_ms=options.merge_up_to_ms, gap_ms=options.merge_gap_ms)

    @torch.inference_mode()
    def silence_probabilities(
        self, samples: npt.NDArray[np.float32], block_frames: int | None = None
    ) -> npt.NDArray[np.float64]:
        """[samples] -> the probability that each 10 ms frame is silence, [frames].

        The recording passes in blocks, so memory stays bounded; their size changes nothing else
        (below 7 frames, the last bits: torch multiplies such small matrices in another order).
        """
        memories: list[Tensor] | None = None
        scores = [torch.empty(0, dtype=torch.float64, device=self.device)]
        for features in self._feature_blocks(samples, block_frames or self.block_frames):
            silence, memories = self.scorer.silence(features[None], memories)
            scores.append(silence[0])
        return torch.cat(scores).cpu().numpy()

    def _feature_blocks(self, samples: npt.NDArray[np.float32], block_frames: int) -> Iterator[Tensor]:
        """[about block_frames, features] each, as if cut from the features of the whole recording."""
        context = self.frontend.lfr_m // 2
        frames = frame_count(len(samples))
        for first, stop in even_blocks(frames, block_frames):
            start, end = max(0, first - context), min(frames, stop + context)
            block = samples[start * HOP : (end - 1) * HOP + WINDOW]
            features = self.frontend(self.scorer.upload([block]))
            yield features[first - start : stop - start]

    def _decide(
        self,
        silence: npt.NDArray[np.float64],
        decibels: npt.NDArray[np.float64] | None,
        options: VadOptions,
        n_samples: int,
    ) -> list[Span]:
        state = VadState(options, self.noise_frames)
        if options.max_end_silence_time_ms is not None:
            return state.feed(silence, decibels) + state.finish()
        spans = []
        for chunk in _funasr_chunks(n_samples):
            state.adapt(CHUNK_MS)
            spans += state.feed(silence[chunk], None if decibels is None else decibels[chunk])
        return spans + state.finish()


def frame_decibels(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """[samples] -> the level of each 10 ms frame, [frames]: 10 log10(sum of its squares + 1e-6)."""
    levels = [np.empty(0)]
    for first, stop in even_blocks(frame_count(len(samples)), BLOCK_FRAMES):
        block = samples[first * HOP : (stop - 1) * HOP + WINDOW]
        windows = np.lib.stride_tricks.sliding_window_view(block, WINDOW)[::HOP]
        decibels = 10 * np.log10(np.square(windows).sum(axis=1) + 0.000001)
        levels.append(decibels.astype(np.float64))
    return np.concatenate(levels)


def merge_spans(spans: Iterable[Span], *, up_to_ms: int, gap_ms: int) -> list[Span]:
    """Join neighbours, from the left, while the joint span is at most `up_to_ms` long.

    A silence longer than `gap_ms` is never swallowed, and a span that is longer than `up_to_ms` by
    itself stays as it is. Merging twice changes nothing more.
    """
    merged: list[Span] = []
    for span in spans:
        last = merged[-1] if merged else span
        fits = span.end_ms - last.start_ms <= up_to_ms and span.start_ms - last.end_ms <= gap_ms
        if merged and fits:
            merged[-1] = Span(last.start_ms, span.end_ms)
        else:
            merged.append(span)
    return merged


def gaps_between(spans: Sequence[Span], duration_ms: int) -> list[Span]:
    """What no span covers of a recording that long; spans in order, gaps of 0 ms left out."""
    starts = [0, *(span.end_ms for span in spans)]
    ends = [*(span.start_ms for span in spans), duration_ms]
    return [Span(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def even_blocks(frames: int, block_frames: int) -> Iterator[tuple[int, int]]:
    """(first, stop) of each block, nearly all of one size.

    A last block of one frame would be multiplied otherwise (by a matrix-vector product), and round otherwise.
    """
    blocks = math.ceil(frames / block_frames)
    for index in range(blocks):
        yield index * frames // blocks, (index + 1) * frames // blocks


def _funasr_chunks(n_samples: int) -> Iterator[slice]:
    """The frames that FunASR scores chunk by chunk: those whose window and right context are complete."""
    first = 0
    for chunk in range(1, n_samples // CHUNK_SAMPLES + 1):
        yield slice(first, chunk * CHUNK_FRAMES - WITHHELD_FRAMES)
        first = chunk * CHUNK_FRAMES - WITHHELD_FRAMES
    yield slice(first, None)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(str(path), "it is missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelFileError(str(path), "it is not readable YAML") from error
    for section in ("model_conf", "frontend_conf", "encoder_conf"):
        if not isinstance(config, dict) or not isinstance(config.get(section), dict):
            raise ModelFileError(str(path), f"it has no {section}")
    return config


def _check_settings(path: Path, settings: dict[str, Any], frontend: dict[str, Any]) -> None:
    for name, value in FIXED_SETTINGS.items():
        if settings.get(name, value) != value:
            raise ModelFileError(str(path), f"{name} is {settings[name]}, and only {value} is supported")
    if frontend.get("lfr_n", 1) != 1:
        raise ModelFileError(str(path), "lfr_n is not 1, so frames would be skipped")


def _load_encoder(config_path: Path, sizes: dict[str, Any]) -> FsmnEncoder:
    try:
        encoder = FsmnEncoder.from_config(sizes)
    except (TypeError, ValueError) as error:
        raise ModelFileError(str(config_path), f"its encoder_conf: {error}") from error
    path = config_path.parent / "model.pt"
    weights = {name.removeprefix("encoder."): value.float() for name, value in _read_weights(path).items()}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(str(path), "its weights are not those that config.yaml describes") from error
    return encoder.eval().requires_grad_(False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelFileError(str(path), "it is missing") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ModelFileError(str(path), "it is damaged, or holds more than weights") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelFileError(str(path), "it holds no table of weights")
    return weights

"""From samples to the probability that each 10 ms frame is silence: features and FSMN, on a processor or a GPU.

On a processor every caller computes for himself. On a GPU a small block costs hardly more than its launches,
so what many callers ask for at once is scored together: whole clips side by side, since the network looks only
back and starts from nothing. A stream of its own keeps the blocks of one recording from waiting for the
recognition of those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sensevoice.batching import Batcher
from sensevoice.features import HOP, WINDOW, Frontend, frame_count
from sensevoice.vad_network import FsmnEncoder

Samples = npt.NDArray[np.float32]

LEAST_FRAMES = 10  # fewer than 7 rows are multiplied in another order, and round otherwise
GPU_BATCH_FRAMES = 30_000  # 5 min: launches cost little beside the work, and steps take 50 MB each


class Block(NamedTuple):
    """Some frames of a recording, and the samples around them."""

    parts: Sequence[Samples]  # end to end
    first: int  # which of their frames are to be scored: [first, stop)
    stop: int
    memories: Sequence[Tensor] | None = None  # what the block before left; None at the start

    @property
    def frames(self) -> int:
        """How many frames the samples hold."""
        return frame_count(sum(map(len, self.parts)))

    @property
    def is_whole(self) -> bool:
        """Whether nothing comes before or after it."""
        return self.memories is None and self.first == 0 and self.stop == self.frames


class Scored(NamedTuple):
    """What is known of a block."""

    silence: npt.NDArray[np.float64]  # [stop - first] the probability of silence
    memories: list[Tensor] | None  # for the block that follows; None after a whole recording


class FrameScorer:
    """Scores blocks of any number of recordings, for any number of threads."""

    def __init__(self, encoder: FsmnEncoder, frontend: Frontend, silence_ids: Sequence[int]) -> None:
        """`silence_ids`: the classes that are silence; everything is computed where the frontend is."""
        self._encoder, self._frontend = encoder, frontend
        self._device = frontend.filters.device
        self._silence_ids = torch.tensor(silence_ids, device=self._device)
        self._stream: torch.cuda.Stream | None = None
        self._batcher: Batcher[Block, Scored] | None = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
            self._batcher = self.batcher()

    def batcher(self) -> Batcher[Block, Scored]:
        """One worker, so that memory holds one batch, however many recordings are listened to."""
        return Batcher([self.score_all], cost=lambda block: block.frames, most=GPU_BATCH_FRAMES)

    def score(self, block: Block) -> Scored:
        """One block, together with those that others ask for meanwhile where that is quicker."""
        return self._batcher.run([block])[0] if self._batcher else self.score_all([block])[0]

    @torch.inference_mode()
    def score_all(self, blocks: Sequence[Block]) -> list[Scored]:
        """Each block as if alone; the host waits once for each group of them."""
        results: dict[int, Scored] = {}
        with self._on_stream():
            for group in together(blocks):
                if len(group) == 1:
                    results[group[0]] = self._score_one(blocks[group[0]])
                else:
                    scored = self._score_clips([blocks[index] for index in group])
                    results.update(zip(group, scored, strict=True))
        return [results[index] for index in range(len(blocks))]

    def silence(self, features: Tensor, memories: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """[..., T, features] -> P(silence), [..., T] float64, and the memories for what follows."""
        logits, left = self._encoder(features, memories)
        return logits.softmax(-1).index_select(-1, self._silence_ids).double().sum(-1), left

    def upload(self, parts: Sequence[Samples]) -> Tensor:
        """[n] samples to where frames are scored; the host does not wait."""
        return self._side_by_side([parts], sum(map(len, parts)))[0]

    def _on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _score_one(self, block: Block) -> Scored:
        features = self._frontend(self.upload(block.parts))[block.first : block.stop]
        frames = len(features)
        if frames < LEAST_FRAMES:
            features = torch.cat([features, features[-1:].expand(LEAST_FRAMES - frames, -1)])
        silence, memories = self.silence(features[None], block.memories)
        return Scored(silence[0, :frames].cpu().numpy(), memories)

    def _score_clips(self, clips: Sequence[Block]) -> list[Scored]:
        """Whole recordings side by side: what follows the end of the shorter ones is computed and not used."""
        lengths = [clip.frames for clip in clips]
        samples = self._side_by_side(
            [clip.parts for clip in clips], (max(LEAST_FRAMES, *lengths) - 1) * HOP + WINDOW
        )
        mel = self._frontend.log_mel(samples)  # [clips, longest, mels]
        stacked = self._frontend.stack(mel, self._moved(torch.tensor(lengths)))
        silence, _ = self.silence(self._frontend.normalise(stacked), None)
        return [
            Scored(row[:length], None) for row, length in zip(silence.cpu().numpy(), lengths, strict=True)
        ]

    def _side_by_side(self, rows: Sequence[Sequence[Samples]], length: int) -> Tensor:
        """[rows, length], silence after the shorter ones and nothing of what exceeds it, on the device."""
        host = torch.empty(len(rows), length, pin_memory=self._device.type == "cuda")
        for target, parts in zip(host.numpy(), rows, strict=True):
            end = 0
            for part in parts:
                begin, end = end, min(end + len(part), length)
                target[begin:end] = part[: end - begin]
            target[end:] = 0
        return host.to(self._device, non_blocking=True)

    def _moved(self, host: Tensor) -> Tensor:
        """The same on the device, without the wait that ordinary memory would mean."""
        if self._device.type == "cuda":
            host = host.pin_memory()
        return host.to(self._device, non_blocking=True)


def together(blocks: Sequence[Block]) -> Iterator[list[int]]:
    """Indices of what is scored at once: whole recordings, padded up to a batch; the rest alone."""
    whole = [index for index, block in enumerate(blocks) if block.is_whole]
    yield from ([index] for index in range(len(blocks)) if index not in whole)
    group: list[int] = []
    for index in sorted(whole, key=lambda index: -blocks[index].frames):
        if group and (len(group) + 1) * blocks[group[0]].frames > GPU_BATCH_FRAMES:
            yield group
            group = []
        group.append(index)
    if group:
        yield group

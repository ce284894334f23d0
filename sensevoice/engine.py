"""From utterances to frame scores: the one place where the network runs.

Engines keep nothing of a request, so any number of threads may share one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from sensevoice.checkpoint import Checkpoint, ModelInfo, Vocabulary
from sensevoice.errors import DeviceError, SegmentTooLargeError, UnknownLanguageError
from sensevoice.features import SAMPLE_RATE
from sensevoice.network import LANGUAGE_QUERIES
from sensevoice.options import LANGUAGES
from sensevoice.packing import row_count
from sensevoice.precision import choose_precision
from sensevoice.runners import PackedRunner, ProcessorRunner, Runner, Utterance
from sensevoice.scores import FrameScores, Query
from sensevoice.tags import TAGS, Tag

log = logging.getLogger(__name__)

ANY_LANGUAGE = Query()


class Engine(Protocol):
    """What recognises; stateless and safe to call from many threads at once."""

    vocabulary: Vocabulary
    tags: tuple[Tag, ...]  # the tag table, with the names that the checkpoint gives to its custom tokens
    info: ModelInfo
    device: str

    def recognise(
        self, utterances: Sequence[Utterance], query: Query | Sequence[Query] = ...
    ) -> list[FrameScores]:
        """One FrameScores for each utterance, in order; utterances are [samples] float32 mono 16 kHz.

        `query` is one for all, or one for each.
        """
        ...


def choose_device(device: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:n`; DeviceError if it is not here."""
    gpus = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if device == "auto":
        return torch.device(gpus[0] if gpus else "cpu")
    available = ["auto", "cpu", *(["cuda"] if gpus else []), *gpus]
    if device not in available:
        raise DeviceError(device, available)
    return torch.device("cuda:0" if device == "cuda" else device)


class TorchEngine:
    """Plain PyTorch on a CPU or one GPU, in the number format that `precision.py` chooses."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        *,
        precision: str = "auto",
        max_batch_frames: int | None = None,
    ) -> None:
        """Move the checkpoint's network to the device; a batch has `max_batch_frames`, padding included."""
        place = choose_device(device)
        self.precision = choose_precision(precision, place, checkpoint.info.parameters)
        tag_ids = np.array(sorted(checkpoint.vocabulary.special_ids), np.int32)
        self.runner: Runner = (
            ProcessorRunner(checkpoint.network, checkpoint.frontend, tag_ids, self.precision)
            if place.type == "cpu"
            else PackedRunner(checkpoint.network, checkpoint.frontend, tag_ids, place, self.precision)
        )
        self._lfr_n = checkpoint.frontend.lfr_n
        self._max_batch_frames = max_batch_frames or self.runner.batch_frames
        self.vocabulary = checkpoint.vocabulary
        self.tags = TAGS + checkpoint.custom_tags
        self.info = checkpoint.info
        self.device = str(place)

    @torch.inference_mode()
    def recognise(
        self, utterances: Sequence[Utterance], query: Query | Sequence[Query] = ANY_LANGUAGE
    ) -> list[FrameScores]:
        """One FrameScores for each utterance, in order; without speech frames if shorter than 25 ms.

        A batch that does not fit into memory is halved; SegmentTooLargeError if one utterance alone does not.
        """
        queries = [query] * len(utterances) if isinstance(query, Query) else list(query)
        for one in queries:
            if one.language not in LANGUAGE_QUERIES:
                raise UnknownLanguageError(one.language, LANGUAGES)
        results: dict[int, FrameScores] = {}
        for batch in self._batches([row_count(len(one), self._lfr_n) for one in utterances]):
            results.update(self._run_or_halve(batch, utterances, queries))
        return [results[index] for index in range(len(utterances))]

    def _run_or_halve(
        self, batch: Sequence[int], utterances: Sequence[Utterance], queries: Sequence[Query]
    ) -> dict[int, FrameScores]:
        try:
            scores = self._run([utterances[i] for i in batch], [queries[i] for i in batch])
            return dict(zip(batch, scores, strict=True))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise SegmentTooLargeError(len(utterances[batch[0]]) / SAMPLE_RATE) from None
        # outside the handler, whose traceback holds on to the tensors that did not fit
        log.warning("a batch of %d segments does not fit into memory and is halved", len(batch))
        half = len(batch) // 2
        first = self._run_or_halve(batch[:half], utterances, queries)
        return {**first, **self._run_or_halve(batch[half:], utterances, queries)}

    def _run(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> list[FrameScores]:
        return self.runner(utterances, queries)

    def _batches(self, frames: Sequence[int]) -> Iterator[list[int]]:
        """Indices of like-length utterances, the longest first, so that memory runs out early if at all."""
        batch: list[int] = []
        used = 0
        for index in sorted(range(len(frames)), key=lambda i: -frames[i]):
            cost = frames[batch[0]] if batch and self.runner.pads else frames[index]
            if batch and used + cost > self._max_batch_frames:
                yield batch
                batch, used, cost = [], 0, frames[index]
            batch.append(index)
            used += cost
        if batch:
            yield batch

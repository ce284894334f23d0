"""From utterances to frame scores: the one place where the network runs.

Engines keep nothing of a request, so any number of threads may share one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sensevoice.checkpoint import Checkpoint, ModelInfo, Vocabulary
from sensevoice.errors import DeviceError, SegmentTooLargeError, UnknownLanguageError
from sensevoice.features import SAMPLE_RATE, frame_count
from sensevoice.network import LANGUAGE_QUERIES, query_ids
from sensevoice.options import LANGUAGES
from sensevoice.precision import DTYPES, choose_precision, in_precision
from sensevoice.scores import N_QUERY_FRAMES, FrameScores, Query
from sensevoice.tags import TAGS, Tag

log = logging.getLogger(__name__)

Utterance = npt.NDArray[np.float32]

ANY_LANGUAGE = Query()
CPU_BATCH_FRAMES = 1_000  # one minute, padding included: more does not make a processor faster
CUDA_BATCH_FRAMES = 20_000
HEAD_FRAMES = 2_048  # the head's output is 25,055 wide: 200 MB at a time


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
        self._device = choose_device(device)
        self.precision = choose_precision(precision, self._device, checkpoint.info.parameters)
        self._dtype = DTYPES[self.precision]
        self._network = in_precision(checkpoint.network, self.precision).to(self._device)
        self._frontend = checkpoint.frontend.to(self._device)
        self._max_batch_frames = max_batch_frames or (
            CPU_BATCH_FRAMES if self._device.type == "cpu" else CUDA_BATCH_FRAMES
        )
        self.vocabulary = checkpoint.vocabulary
        self.tags = TAGS + checkpoint.custom_tags
        self.info = checkpoint.info
        self.device = str(self._device)

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
        for batch in self._batches([self._frames(len(utterance)) for utterance in utterances]):
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

    def _frames(self, samples: int) -> int:
        return N_QUERY_FRAMES + -(-frame_count(samples) // self._frontend.lfr_n)

    def _batches(self, frames: Sequence[int]) -> Iterator[list[int]]:
        """Indices of like-length utterances, the longest first, so that memory runs out early if at all."""
        batch: list[int] = []
        for index in sorted(range(len(frames)), key=lambda i: -frames[i]):
            if batch and frames[batch[0]] * (len(batch) + 1) > self._max_batch_frames:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _run(self, utterances: Sequence[Utterance], queries: Sequence[Query]) -> Iterator[FrameScores]:
        features = [
            self._frontend(torch.from_numpy(np.require(u, np.float32, ["C", "W"]))) for u in utterances
        ]
        lengths = [len(feature) for feature in features]
        encoded = self._encode(features, lengths, queries)  # [batch, 4 + frames, size]
        tags = self._network.ctc(encoded[:, :N_QUERY_FRAMES]).float().log_softmax(-1).cpu().numpy()
        ids, probabilities = self._best_tokens(
            torch.cat([rows[: N_QUERY_FRAMES + length] for rows, length in zip(encoded, lengths, strict=True)])
        )
        start = 0
        for tag_log_probs, length in zip(tags, lengths, strict=True):
            end = start + N_QUERY_FRAMES + length
            yield FrameScores(ids[start:end], probabilities[start:end], tag_log_probs)
            start = end

    def _encode(self, features: Sequence[Tensor], lengths: Sequence[int], queries: Sequence[Query]) -> Tensor:
        asked = torch.tensor([query_ids(q.language, q.use_itn) for q in queries], device=self._device)
        padded = None if len(set(lengths)) == 1 else torch.tensor(lengths, device=self._device)
        stacked = pad_sequence(list(features), batch_first=True).to(self._dtype)
        x, valid = self._network.with_queries(stacked, asked, padded)
        return self._network.encoder(x, valid)  # type: ignore[no-any-return]

    def _best_tokens(self, encoded: Tensor) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """The best token of each of [frames, size], and its probability; only these leave the device."""
        ids, probabilities = [], []
        for block in torch.split(encoded, HEAD_FRAMES):
            logits = self._network.ctc(block).float()  # [frames, vocabulary]
            best, index = logits.max(-1)
            ids.append(index.to(torch.int32))
            probabilities.append((best - logits.logsumexp(-1)).exp())
        return torch.cat(ids).cpu().numpy(), torch.cat(probabilities).cpu().numpy()

"""`network.py` as it is, on utterances filled up to the longest: the oracle for batches that are packed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sensevoice.checkpoint import Checkpoint
from sensevoice.network import query_ids
from sensevoice.scores import N_QUERY_FRAMES, FrameScores, Query


@torch.inference_mode()
def padded_encoding(
    model: Checkpoint, utterances: Sequence[np.ndarray], queries: Sequence[Query]
) -> tuple[torch.Tensor, list[int]]:
    """[utterances, 4 + frames, size], and how many rows of each are its own."""
    features = [model.frontend(utterance) for utterance in utterances]
    lengths = torch.tensor([len(feature) for feature in features])
    asked = torch.tensor([query_ids(query.language, query.use_itn) for query in queries])
    padded = pad_sequence(features, batch_first=True)
    encoded = model.network.encoder(*model.network.with_queries(padded, asked, lengths))
    return encoded, (N_QUERY_FRAMES + lengths).tolist()


@torch.inference_mode()
def padded_scores(
    model: Checkpoint, tag_ids: np.ndarray, utterances: Sequence[np.ndarray], queries: Sequence[Query]
) -> list[FrameScores]:
    """One FrameScores for each utterance, in order."""
    encoded, lengths = padded_encoding(model, utterances, queries)
    log_probs = model.network.ctc(encoded).log_softmax(-1)
    return [
        FrameScores(
            rows.argmax(-1)[:length].to(torch.int32).numpy(),
            rows.amax(-1).exp()[:length].numpy(),
            rows[:N_QUERY_FRAMES, tag_ids].numpy(),
            tag_ids,
        )
        for rows, length in zip(log_probs, lengths, strict=True)
    ]

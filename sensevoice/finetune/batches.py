"""Examples in batches of like length, and a batch as the network and the losses take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sensevoice.audio import decode
from sensevoice.checkpoint import Vocabulary
from sensevoice.features import Frontend
from sensevoice.finetune.dataset import TAG_FIELDS, Example
from sensevoice.finetune.losses import NOT_GIVEN
from sensevoice.network import LANGUAGE_QUERIES, query_ids
from sensevoice.tags import TagKind

NEIGHBOURS = (
    0.1  # utterances of one batch differ in length by about this share, so that each epoch has others
)


@dataclass(frozen=True)
class Batch:
    """Padded utterances and what they say."""

    # what the network hears
    features: Tensor  # [batch, frames, 560] float32, normalised; padding is 0
    frames: Tensor  # [batch] int64
    queries: Tensor  # [batch, 4] rows of the query table
    # what it should answer
    targets: Tensor  # [batch, tokens], one at least; padding is 0
    target_lengths: Tensor  # [batch]
    tags: Tensor  # [batch, 4] token ids, NOT_GIVEN where the example does not say


def length_batches(lengths: Sequence[int], batch_frames: int, seed: int) -> Iterator[list[int]]:
    """Indices in batches of at most `batch_frames`, padding included, in random order; each index once.

    What is longer than that by itself is a batch of its own. Give each epoch another seed.
    """
    rng = np.random.default_rng(seed)
    blurred = np.asarray(lengths) * rng.uniform(1 - NEIGHBOURS / 2, 1 + NEIGHBOURS / 2, len(lengths))
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(blurred, kind="stable").tolist():
        longest = max(longest, lengths[index])
        if not batches or longest * (len(batches[-1]) + 1) > batch_frames:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    yield from (batches[i] for i in rng.permutation(len(batches)))


def collate(
    examples: Sequence[Example],
    frontend: Frontend,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    *,
    told_language: float = 0.8,
) -> Batch:
    """Read the examples' recordings and put them side by side.

    The network is told the language in a share of the cases, as in FunASR's training, so that it learns
    both to follow and to find out. Raises AudioError for a recording that cannot be read.
    """
    features = [frontend(torch.from_numpy(decode(example.source))) for example in examples]
    texts = [vocabulary.encode(example.target) for example in examples]
    queries = [_queries(example, tell=rng.random() < told_language) for example in examples]
    return Batch(
        features=pad_sequence(features, batch_first=True),
        frames=torch.tensor([len(one) for one in features]),
        queries=torch.tensor(queries),
        targets=pad_sequence([torch.tensor(ids or [vocabulary.blank_id]) for ids in texts], batch_first=True),
        target_lengths=torch.tensor([len(ids) for ids in texts]),
        tags=torch.tensor([_tags(example, vocabulary) for example in examples]),
    )


def _queries(example: Example, *, tell: bool) -> list[int]:
    known = example.language in LANGUAGE_QUERIES
    return query_ids(example.language if tell and known else "auto", example.normalisation == "withitn")


def _tags(example: Example, vocabulary: Vocabulary) -> list[int]:
    """The ids of language, emotion, event and normalisation; a tag that the vocabulary lacks is not given."""
    names = (getattr(example, kind.value) for kind in TAG_FIELDS.values())
    ids = {name: id for kind in TagKind for name, id in vocabulary.tag_ids(kind).items()}
    return [ids.get(name, NOT_GIVEN) for name in names]

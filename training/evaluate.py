"""How far training has come: error rates and tags of a network on the held-out clips, in a line.

The whole evaluation of a packed model, in tables, is `results.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import sentencepiece as spm
import torch

from sensevoice.checkpoint import Vocabulary
from sensevoice.ctc import read_scores
from sensevoice.features import Frontend
from sensevoice.finetune.scoring import Confusion, ErrorRate, comparable, edits
from sensevoice.network import SenseVoiceNetwork, query_ids
from sensevoice.scores import N_QUERY_FRAMES, FrameScores
from training.testsets import Clip


@dataclass
class Scores:
    """Error rates by language, confusions by kind of tag, and some (found, wanted) texts."""

    rates: dict[str, ErrorRate] = field(default_factory=lambda: defaultdict(ErrorRate))
    tags: dict[str, Confusion] = field(default_factory=lambda: defaultdict(Confusion))
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> str:
        """One line of everything."""
        rates = " ".join(f"{name} {rate.rate:.3f}" for name, rate in sorted(self.rates.items()))
        tags = " ".join(f"{k} {c.accuracy:.2f}/F1 {c.macro_f1:.2f}" for k, c in sorted(self.tags.items()))
        return f"error {rates} | {tags}"


@torch.inference_mode()
def evaluate(
    network: SenseVoiceNetwork,
    frontend: Frontend,
    tokenizer: spm.SentencePieceProcessor,
    clips: Sequence[Clip],
    *,
    language: str | None = "auto",
) -> Scores:
    """Greedy reading of each clip, batch of one; `language` None asks for each clip's own."""
    network.eval()
    device = next(network.parameters()).device
    scores, vocabulary = Scores(), Vocabulary(tokenizer)
    for clip in clips:
        features = frontend(torch.from_numpy(clip.samples).to(device))[None]
        queries = torch.tensor([query_ids(language or clip.language, False)], device=device)
        reading = read_scores(_frame_scores(network(features, queries)[0], vocabulary), vocabulary)
        if clip.text:
            found, wanted = comparable(reading.text, clip.language), comparable(clip.text, clip.language)
            scores.rates[clip.language].add(edits(found, wanted), len(wanted))
            scores.examples[clip.language].append((reading.text, clip.text))
        for kind in ("language", "emotion", "event"):
            if truth := getattr(clip, kind):
                scores.tags[kind].add(getattr(reading, kind).name, truth)
    return scores


def _frame_scores(logits: torch.Tensor, vocabulary: Vocabulary) -> FrameScores:
    """As the engine gives them, from logits [4 + frames, vocabulary]."""
    log_probs = logits.float().log_softmax(-1).cpu()
    best, tags = log_probs.max(-1), sorted(vocabulary.special_ids)
    return FrameScores(
        ids=best.indices.int().numpy(),
        probabilities=best.values.exp().numpy(),
        tag_log_probs=log_probs[:N_QUERY_FRAMES, tags].numpy(),
        tag_ids=np.array(tags, np.int32),
    )

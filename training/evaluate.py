"""Stage "evaluate": error rates and tag scores of a network on clips that no training saw."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import sentencepiece as spm
import torch

from sensevoice.features import Frontend
from sensevoice.network import SenseVoiceNetwork, query_ids
from sensevoice.scores import N_QUERY_FRAMES

BLANK = 0


def normalised(text: str, language: str) -> list[str]:
    """What is compared: words for English, characters otherwise; no punctuation, no case."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(" " if unicodedata.category(c)[0] in "PSZ" else c for c in text.replace("'", ""))
    return text.split() if language == "en" else list(re.sub(r"\s", "", text))


def edits(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(wanted, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@dataclass
class Clip:
    """One evaluation clip and its truth; "" where a tag is not judged."""

    samples: npt.NDArray[np.float32]
    language: str
    plain: str = ""
    emotion: str = ""
    event: str = ""


@dataclass
class Scores:
    """Sums by language, and what was heard against what was there by tag."""

    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    units: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tags: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def error_rate(self, language: str) -> float:
        """Edits per word or character."""
        return self.errors[language] / max(1, self.units[language])

    def accuracy(self, kind: str) -> float:
        """Share of clips whose tag is right."""
        pairs = self.tags[kind]
        return sum(a == b for a, b in pairs) / max(1, len(pairs))

    def macro_f1(self, kind: str) -> float:
        """Mean F1 over the classes that occur."""
        pairs = self.tags[kind]
        classes = {wanted for _, wanted in pairs}
        return float(np.mean([_f1(pairs, name) for name in classes])) if classes else 0.0

    def summary(self) -> str:
        """One line of everything."""
        rates = " ".join(f"{lang} {self.error_rate(lang):.3f}" for lang in sorted(self.units))
        tags = " ".join(f"{k} {self.accuracy(k):.2f}/F1 {self.macro_f1(k):.2f}" for k in sorted(self.tags))
        return f"error {rates} | {tags}"


def _f1(pairs: Sequence[tuple[str, str]], name: str) -> float:
    right = sum(a == b == name for a, b in pairs)
    return 2 * right / max(1, sum(a == name for a, _ in pairs) + sum(b == name for _, b in pairs))


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
    scores = Scores()
    groups = _tag_groups(tokenizer)
    special = {i for i in range(tokenizer.vocab_size()) if tokenizer.id_to_piece(i).startswith("<|")}
    for clip in clips:
        features = frontend(torch.from_numpy(clip.samples).to(device))[None]
        queries = torch.tensor([query_ids(language or clip.language, False)], device=device)
        logits = network(features, queries)[0].float().cpu()
        ids = torch.unique_consecutive(logits[N_QUERY_FRAMES:].argmax(-1))
        text = tokenizer.decode([int(i) for i in ids if i != BLANK and int(i) not in special])
        if clip.plain:
            found, wanted = normalised(text, clip.language), normalised(clip.plain, clip.language)
            scores.errors[clip.language] += edits(found, wanted)
            scores.units[clip.language] += len(wanted)
            scores.examples[clip.language].append((text, clip.plain))
        truths = {"language": clip.language, "emotion": clip.emotion, "event": clip.event}
        for row, (kind, truth) in enumerate(truths.items()):
            if truth:
                best = max(groups[kind], key=lambda i: float(logits[row, i]))
                scores.tags[kind].append((groups[kind][best], truth))
    return scores


def _tag_groups(tokenizer: spm.SentencePieceProcessor) -> dict[str, dict[int, str]]:
    names = {
        "language": "zh en yue ja ko nospeech",
        "emotion": "HAPPY SAD ANGRY NEUTRAL EMO_UNKNOWN",
        "event": "Speech BGM Laughter Applause Cry Sneeze Breath Cough Event_UNK",
    }
    return {
        kind: {tokenizer.piece_to_id(f"<|{n}|>"): n for n in group.split()} for kind, group in names.items()
    }

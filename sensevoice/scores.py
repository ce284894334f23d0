"""What the engine is asked, and what it answers for one utterance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

N_QUERY_FRAMES = 4  # the encoder's first frames answer the queries: language, emotion, event, ITN


@dataclass(frozen=True)
class Query:
    """What the network is told before it hears the utterance."""

    language: str = "auto"
    use_itn: bool = True


@dataclass(frozen=True)
class FrameScores:
    """The network's answer for one utterance of T speech frames, 60 ms each.

    ids: the best token of each frame, [4 + T] int32
    probabilities: the probability of that token, [4 + T] float32
    tag_log_probs: log-probabilities of the vocabulary's tags in the four query frames, [4, tags] float32
    tag_ids: which tags these are, ascending, [tags]; shared by all answers of an engine
    """

    ids: npt.NDArray[np.int32]
    probabilities: npt.NDArray[np.float32]
    tag_log_probs: npt.NDArray[np.float32]
    tag_ids: npt.NDArray[np.int32]

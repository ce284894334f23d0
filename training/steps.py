"""One training step's network, forth and back; on a GPU as two CUDA graphs for each shape of batch.

The CTC loss stands between the two graphs, since it needs lengths that the host knows. Graphs of one shape are
always replayed one after the other, so those of all shapes share their memory.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sensevoice.finetune.losses import NOT_GIVEN
from sensevoice.scores import N_QUERY_FRAMES
from training.batches import IGNORED
from training.flat import FlatWeights
from training.network import TrainingNetwork

TAG_WEIGHT = 0.5
WARM_UPS = 2  # runs before a capture, in which libraries choose their kernels


@dataclass
class Inputs:
    """What the network hears and, but for the text, what it should answer; tensors of one device."""

    features: Tensor  # [batch, frames, 560]
    queries: Tensor  # [batch, 4]
    tags: Tensor  # [batch, 4]
    phonemes: Tensor  # [batch, frames, probes]
    counts: Tensor  # [5] how many truths: four tags, phonemes; means over the ranks
    phoneme_weight: Tensor  # []

    def clone(self) -> Inputs:
        """A copy of all."""
        return Inputs(**{field.name: getattr(self, field.name).clone() for field in fields(self)})

    def copy_(self, other: Inputs) -> None:
        """Take the other's values, which are of the same shapes."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name), non_blocking=True)


@dataclass
class Answers:
    """Token logits and what their truth is not needed for."""

    logits: Tensor  # [batch, 4 + frames, vocabulary]
    rest: Tensor  # [] the other losses, weighted
    parts: Tensor  # [5] the losses of four tags and of phonemes


def truth_counts(tags: Tensor, phonemes: Tensor) -> Tensor:
    """How many tags of each kind and how many phonemes are known: [5]."""
    return torch.cat([(tags != NOT_GIVEN).sum(0), (phonemes != IGNORED).sum()[None]]).float()


def answers(model: TrainingNetwork, inputs: Inputs, *, amp: bool) -> Answers:
    """Run the network, and compare all but the text."""
    # a cast kept by autocast would be a captured one's, and out of date at the next step
    with torch.autocast(inputs.features.device.type, dtype=torch.bfloat16, enabled=amp, cache_enabled=False):
        logits, phonemes = model(inputs.features, inputs.queries)
    tags = F.cross_entropy(
        logits[:, :N_QUERY_FRAMES].float().flatten(0, 1),
        inputs.tags.flatten(),
        reduction="none",
        ignore_index=NOT_GIVEN,
    )
    scores = phonemes.float().log_softmax(-1)  # [batch, frames, phonemes]
    known = inputs.phonemes != IGNORED
    hit = scores.gather(2, inputs.phonemes.clamp_min(0))
    parts = torch.cat([tags.view(-1, N_QUERY_FRAMES).sum(0), -torch.where(known, hit, 0.0).sum()[None]])
    parts = parts / inputs.counts.clamp_min(1)
    rest = TAG_WEIGHT * parts[:N_QUERY_FRAMES].sum() + inputs.phoneme_weight * parts[N_QUERY_FRAMES]
    return Answers(logits, rest, parts.detach())


class EagerStep:
    """A step as it is written."""

    def __init__(self, model: TrainingNetwork, weights: FlatWeights, *, amp: bool) -> None:
        self._model, self._weights, self._amp = model, weights, amp
        self._given: Answers | None = None

    def forward(self, inputs: Inputs) -> Answers:
        """The answers, whose logits are leaves."""
        self._given = answers(self._model, inputs, amp=self._amp)
        return Answers(self._given.logits.detach(), self._given.rest.detach(), self._given.parts)

    def backward(self, slope: Tensor) -> None:
        """Put the gradient into the weights' slopes, given that of the logits."""
        assert self._given is not None
        given, self._given = self._given, None
        _put_slopes(given, slope, self._weights)


def _put_slopes(given: Answers, slope: Tensor, weights: FlatWeights) -> None:
    ends = (torch.ones_like(given.rest), slope)
    weights.put_slopes(torch.autograd.grad((given.rest, given.logits), weights.parameters, ends))


class CapturedStep:
    """The same for batches of one shape: the host launches two graphs."""

    def __init__(
        self,
        model: TrainingNetwork,
        weights: FlatWeights,
        inputs: Inputs,
        pool: tuple[int, int],
        *,
        amp: bool,
    ) -> None:
        """Capture; RuntimeError if something in the step cannot be."""
        self._inputs = inputs.clone()
        self._warm_up(model, weights, amp)
        self._ahead, self._back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # other threads, NCCL's among them, may go on using the GPU meanwhile, hence "thread_local"
        with torch.cuda.graph(self._ahead, pool, capture_error_mode="thread_local"):
            given = answers(model, self._inputs, amp=amp)
        self._slope = torch.zeros_like(given.logits)
        with torch.cuda.graph(self._back, pool, capture_error_mode="thread_local"):
            _put_slopes(given, self._slope, weights)
        self._given = Answers(given.logits.detach(), given.rest.detach(), given.parts)

    def _warm_up(self, model: TrainingNetwork, weights: FlatWeights, amp: bool) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                given = answers(model, self._inputs, amp=amp)
                _put_slopes(given, torch.zeros_like(given.logits), weights)
        torch.cuda.current_stream().wait_stream(stream)

    def forward(self, inputs: Inputs) -> Answers:
        """See `EagerStep`; the answers last until the next call."""
        self._inputs.copy_(inputs)
        self._ahead.replay()
        return self._given

    def backward(self, slope: Tensor) -> None:
        """See `EagerStep`."""
        self._slope.copy_(slope)
        self._back.replay()


Step = EagerStep | CapturedStep


class Steps:
    """The step for each shape of batch: captured where that works, eager otherwise."""

    def __init__(self, model: TrainingNetwork, weights: FlatWeights, *, amp: bool, capture: bool) -> None:
        self._model, self._weights, self._amp = model, weights, amp
        self._eager = EagerStep(model, weights, amp=amp)
        self._captured: dict[torch.Size, CapturedStep] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self.capturing = capture  # may be turned off and on again

    def step_for(self, inputs: Inputs) -> Step:
        """The step that takes these inputs."""
        shape = inputs.features.shape
        if not self.capturing:
            return self._eager
        if self._pool is not None and shape not in self._captured:
            self._try_to_capture(inputs)
        return self._captured.get(shape, self._eager)

    def _try_to_capture(self, inputs: Inputs) -> None:
        assert self._pool is not None
        stream = torch.cuda.current_stream()
        try:
            step = CapturedStep(self._model, self._weights, inputs, self._pool, amp=self._amp)
        except RuntimeError as error:  # out of memory, too
            print(f"no CUDA graphs from now on, {list(inputs.features.shape)}: {error}", flush=True)
            self._pool = None
            torch.cuda.set_stream(stream)  # a capture that failed does not always go back to it
        else:
            self._captured[inputs.features.shape] = step

"""The network in training: the one to be shipped, with a phoneme reader half-way up that is left behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.finetune.masking import mask_features
from sensevoice.network import NetworkShape, SanmAttention, SenseVoiceNetwork, positions
from sensevoice.scores import N_QUERY_FRAMES
from training.augment import in_rhythm, warped
from training.memory import ShiftedProducts

PHONEMES = 178
MASKED = 0.6  # of a mask's full size: where one view is masked, the other tells what is behind it


class TrainingNetwork(nn.Module):
    """Batches are of whole rows, so that nothing is masked and attention runs its fastest way."""

    def __init__(self, shape: NetworkShape, frontend: Frontend, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = SenseVoiceNetwork(shape, dropout=dropout)
        for module in self.network.modules():
            if isinstance(module, SanmAttention):
                module.fsmn_block = ShiftedProducts.in_place_of(module.fsmn_block)
        self.frontend = frontend
        self.middle = (shape.num_blocks + 1) // 2
        self.phoneme_norm = nn.LayerNorm(shape.output_size)
        self.phoneme_head = nn.Linear(shape.output_size, PHONEMES)

    @torch.no_grad()
    def features(self, samples: Tensor, strength: float, times: Tensor) -> Tensor:
        """[batch, samples] -> stacked, normalised frames [batch, frames, 560].

        `strength`: how far voices are shifted and how much is masked, 0 to 1. `times`: see `drawn_rhythms`.
        """
        mel = in_rhythm(warped(self.frontend.log_mel(samples), strength), times)
        stacked = self.frontend.normalise(self.frontend.stack(mel))
        whole = torch.full((len(stacked),), stacked.shape[1], device=stacked.device)
        return mask_features(stacked, whole, MASKED * strength)

    def forward(self, features: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Token logits [batch, 4 + frames, vocabulary] and phoneme logits [batch, frames, 178]."""
        encoder = self.network.encoder
        x, _ = self.network.with_queries(features, queries, None)
        x = x * encoder.scale + positions(x.shape[1], x.shape[2], x.device)
        blocks = [*encoder.encoders0, *encoder.encoders]
        for block in blocks[: self.middle]:
            x = block(x, None)
        phonemes = self.phoneme_head(self.phoneme_norm(x[:, N_QUERY_FRAMES:]))
        for block in blocks[self.middle :]:
            x = block(x, None)
        x = encoder.after_norm(x)
        for block in encoder.tp_encoders:
            x = block(x, None)
        return self.network.ctc(encoder.tp_norm(x)), phonemes

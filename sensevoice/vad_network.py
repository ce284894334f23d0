"""The FSMN network of FSMN-VAD: from stacked log-mel frames to the probability of each phone class.

A feed-forward network whose layers remember the past through a depthwise FIR filter over frames
(Deep-FSMN, https://arxiv.org/abs/1803.05030). It looks only back, so a recording may be run in
blocks that hand their memories on, with the same result as in one piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Affine(nn.Module):
    """A linear layer under the name that official checkpoints give it."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)

    def forward(self, frames: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        projected: Tensor = self.linear(frames)
        return projected


class Memory(nn.Module):
    """Adds to each channel a weighted sum of its last `order` frames, `stride` frames apart."""

    def __init__(self, channels: int, order: int, stride: int) -> None:
        super().__init__()
        self.reach = (order - 1) * stride
        # 2-d, as in official checkpoints, although nothing happens along the last axis
        self.conv_left = nn.Conv2d(
            channels, channels, (order, 1), dilation=(stride, 1), groups=channels, bias=False
        )

    def forward(self, frames: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """[batch, T, channels] and what this returned last, [batch, channels, reach] -> both anew."""
        now = frames.transpose(1, 2)  # [batch, channels, T]
        if past is None:
            past = now.new_zeros(*now.shape[:2], self.reach)
        heard = torch.cat([past, now], dim=-1)
        filtered = F.conv1d(
            heard, self.conv_left.weight[..., 0], dilation=self.conv_left.dilation[0], groups=now.shape[1]
        )
        return frames + filtered.transpose(1, 2), heard[..., heard.shape[-1] - self.reach :]


class FsmnLayer(nn.Module):
    """Project down, remember, project up."""

    def __init__(self, width: int, channels: int, order: int, stride: int) -> None:
        super().__init__()
        self.linear = Affine(width, channels, bias=False)
        self.fsmn_block = Memory(channels, order, stride)
        self.affine = Affine(channels, width)

    def forward(self, frames: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """[batch, T, width] and this layer's memory -> the same, one layer up."""
        remembered, past = self.fsmn_block(self.linear(frames), past)
        return self.affine(remembered).relu_(), past


class FsmnEncoder(nn.Module):
    """FSMN-VAD's network; its state dict has the names of the official checkpoint's `encoder.*`."""

    def __init__(
        self,
        *,
        input_dim: int = 400,
        input_affine_dim: int = 140,
        fsmn_layers: int = 4,
        linear_dim: int = 250,
        proj_dim: int = 128,
        lorder: int = 20,
        lstride: int = 1,
        output_affine_dim: int = 140,
        output_dim: int = 248,
    ) -> None:
        super().__init__()
        self.in_linear1 = Affine(input_dim, input_affine_dim)
        self.in_linear2 = Affine(input_affine_dim, linear_dim)
        self.fsmn = nn.ModuleList(
            FsmnLayer(linear_dim, proj_dim, lorder, lstride) for _ in range(fsmn_layers)
        )
        self.out_linear1 = Affine(linear_dim, output_affine_dim)
        self.out_linear2 = Affine(output_affine_dim, output_dim)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FsmnEncoder:
        """Build from `encoder_conf`; ValueError if it asks for memory of the future."""
        sizes = {
            key: value for key, value in config.items() if key not in ("rorder", "rstride", "use_softmax")
        }
        if config.get("rorder", 0) != 0:
            raise ValueError("rorder is not 0, so the network would need frames that are yet to come")
        return cls(**sizes)

    def forward(
        self, frames: Tensor, memories: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Score a block of frames.

        frames: [batch, T, input_dim]; memories: what the block before returned, None at the start.
        Returns the logits, [batch, T, output_dim], and the memories for the next block.
        """
        hidden = self.in_linear2(self.in_linear1(frames)).relu_()
        kept = []
        for index, layer in enumerate(self.fsmn):
            hidden, past = layer(hidden, memories[index] if memories else None)
            kept.append(past)
        return self.out_linear2(self.out_linear1(hidden)), kept

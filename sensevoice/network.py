"""SenseVoiceSmall's network: SANM encoder and CTC head, under the official checkpoint's names.

SANM is self-attention plus a depthwise convolution over the values (the FSMN memory):
https://arxiv.org/abs/2006.01713. Four query frames stand before the speech, so an utterance of
T stacked frames gives 4 + T output frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.scores import N_QUERY_FRAMES

LANGUAGE_QUERIES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
EMOTION_QUERY, EVENT_QUERY = 1, 2
ITN_QUERIES = {True: 14, False: 15}
QUERY_COUNT = 16


@dataclass(frozen=True)
class NetworkShape:
    """The numbers of a checkpoint's `encoder_conf`, and its vocabulary's size."""

    input_size: int = 560
    output_size: int = 512
    attention_heads: int = 4
    linear_units: int = 2048
    num_blocks: int = 50
    tp_blocks: int = 20
    kernel_size: int = 11
    vocab_size: int = 25_055

    @classmethod
    def from_config(cls, encoder_conf: dict[str, Any], *, input_size: int, vocab_size: int) -> NetworkShape:
        """Take from `encoder_conf` what shapes the network; dropout rates do not matter here."""
        names = cls.__dataclass_fields__.keys() - {"input_size", "vocab_size"}
        known = {name: int(encoder_conf[name]) for name in names if name in encoder_conf}
        return cls(input_size=input_size, vocab_size=vocab_size, **known)


def query_ids(language: str, use_itn: bool) -> list[int]:
    """The rows of the query table that ask for language, emotion, event and text normalisation."""
    return [LANGUAGE_QUERIES[language], EMOTION_QUERY, EVENT_QUERY, ITN_QUERIES[use_itn]]


def positions(frames: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The sinusoids of so many frames, counted from 1: [frames, width]."""
    return sinusoids(torch.arange(1, frames + 1, device=device), width)


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Sines first, then cosines: [n] -> [n, width] float32."""
    octaves = torch.arange(width // 2, device=places.device, dtype=torch.float32)
    rates = torch.exp(octaves * -(math.log(10_000) / (width / 2 - 1)))
    angles = places[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SanmAttention(nn.Module):
    """Self-attention plus FSMN memory over the values."""

    def __init__(self, input_size: int, size: int, heads: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear_q_k_v = nn.Linear(input_size, 3 * size)
        self.linear_out = nn.Linear(size, size)
        self.fsmn_block = nn.Conv1d(
            size, size, kernel_size, padding=(kernel_size - 1) // 2, groups=size, bias=False
        )

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: [batch, frames, input]; valid: [batch, frames] or None if nothing is padded."""
        batch, frames, _ = x.shape
        q, k, v = self.linear_q_k_v(x).chunk(3, dim=-1)
        query, key, value = (t.view(batch, frames, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        mask = None if valid is None else valid[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        mixed = self.linear_out(attended.transpose(1, 2).reshape(batch, frames, -1))
        return mixed + self._memory(v, valid)  # type: ignore[no-any-return]

    def _memory(self, values: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return self.fsmn_block(values.transpose(1, 2)).transpose(1, 2) + values  # type: ignore[no-any-return]
        mask = valid[:, :, None].to(values.dtype)
        values = values * mask
        memory = self.fsmn_block(values.transpose(1, 2)).transpose(1, 2) + values
        return F.dropout(memory, self.dropout, self.training) * mask


class FeedForward(nn.Module):
    """Two linear layers with a rectifier between."""

    def __init__(self, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return self.w_2(F.dropout(F.relu(self.w_1(x)), self.dropout, self.training))  # type: ignore[no-any-return]


class SanmBlock(nn.Module):
    """Attention and feed-forward, each normalised before; residual wherever the width allows."""

    def __init__(self, input_size: int, shape: NetworkShape, dropout: float) -> None:
        super().__init__()
        size = shape.output_size
        self.self_attn = SanmAttention(input_size, size, shape.attention_heads, shape.kernel_size, dropout)
        self.feed_forward = FeedForward(size, shape.linear_units, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(input_size), nn.LayerNorm(size)
        self.widens = input_size != size
        self.dropout = dropout

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[batch, frames, input] -> [batch, frames, size]."""
        attended = F.dropout(self.self_attn(self.norm1(x), valid), self.dropout, self.training)
        x = attended if self.widens else x + attended
        return x + F.dropout(self.feed_forward(self.norm2(x)), self.dropout, self.training)


class SanmEncoder(nn.Module):
    """The 1 + (num_blocks - 1) + tp_blocks blocks of the official encoder."""

    def __init__(self, shape: NetworkShape, dropout: float) -> None:
        super().__init__()
        size = shape.output_size
        self.scale = size**0.5
        self.encoders0 = nn.ModuleList([SanmBlock(shape.input_size, shape, dropout)])
        self.encoders = nn.ModuleList(SanmBlock(size, shape, dropout) for _ in range(shape.num_blocks - 1))
        self.tp_encoders = nn.ModuleList(SanmBlock(size, shape, dropout) for _ in range(shape.tp_blocks))
        self.after_norm, self.tp_norm = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """[batch, frames, input] -> [batch, frames, size]."""
        x = x * self.scale + positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        for block in (*self.encoders0, *self.encoders):
            x = block(x, valid)
        x = self.after_norm(x)
        for block in self.tp_encoders:
            x = block(x, valid)
        return self.tp_norm(x)  # type: ignore[no-any-return]


class CtcHead(nn.Module):
    """The linear layer from encoder to vocabulary, under its official name."""

    def __init__(self, size: int, vocab_size: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(size, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> logits [..., vocabulary]."""
        return self.ctc_lo(x)  # type: ignore[no-any-return]


class SenseVoiceNetwork(nn.Module):
    """Queries and speech in, token logits out."""

    def __init__(self, shape: NetworkShape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(QUERY_COUNT, shape.input_size)
        self.encoder = SanmEncoder(shape, dropout)
        self.ctc = CtcHead(shape.output_size, shape.vocab_size)

    def forward(self, features: Tensor, queries: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [batch, 4 + frames, vocabulary].

        features: [batch, frames, input], queries: [batch, 4] rows of the query table, lengths: [batch]
        valid frames of each utterance, None if none is padded.
        """
        x, valid = self.with_queries(features, queries, lengths)
        return self.ctc(self.encoder(x, valid))  # type: ignore[no-any-return]

    def with_queries(
        self, features: Tensor, queries: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Put the query frames before the speech; returns ([batch, 4 + frames, input], valid or None)."""
        x = torch.cat([self.embed(queries).to(features.dtype), features], dim=1)
        if lengths is None:
            return x, None
        steps = torch.arange(x.shape[1], device=x.device)
        return x, steps < (lengths[:, None] + N_QUERY_FRAMES)

"""The network over packed batches: from samples to ids, probabilities and tags without leaving the device.

The arithmetic is `network.py`'s, which is the oracle of the tests; only the order of the sums differs.
Matrix products and attention are in `dtype`, everything between them in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sensevoice.features import Frontend
from sensevoice.kernels import Norm, PlainKernels, normalised
from sensevoice.network import FeedForward, SanmAttention, SanmBlock, SenseVoiceNetwork, sinusoids
from sensevoice.packing import PackedBatch
from sensevoice.scores import N_QUERY_FRAMES

Attend = Callable[[Tensor], Tensor]  # queries, keys and values [rows, 3 * size] -> [rows, size]
Attention = Callable[[PackedBatch, int], Attend]  # of a batch, for so many heads


class Layer(Protocol):
    """A linear layer."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""

    def rectified(self, x: Tensor, /) -> Tensor:
        """The same through a rectifier."""


class Linear(NamedTuple):
    """A linear layer's weights, [outputs, inputs] and [outputs]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""
        return F.linear(x, self.weight, self.bias)

    def rectified(self, x: Tensor) -> Tensor:
        """The same through a rectifier, in one kernel where cuBLAS has it."""
        return torch._addmm_activation(self.bias, x, self.weight.t())


class Block(NamedTuple):
    """The weights of one `SanmBlock`."""

    norm1: Norm
    qkv: Layer
    out: Layer
    taps: Tensor  # [order, size] float32
    norm2: Norm
    w_1: Layer
    w_2: Layer
    widens: bool


def _block_in_dtype(block: Block, dtype: torch.dtype) -> Block:
    return block._replace(
        qkv=_in_dtype(block.qkv, dtype),
        out=_in_dtype(block.out, dtype),
        w_1=_in_dtype(block.w_1, dtype),
        w_2=_in_dtype(block.w_2, dtype),
    )


def _in_dtype(layer: Layer, dtype: torch.dtype) -> Layer:
    return Linear(layer.weight.to(dtype), layer.bias.to(dtype)) if isinstance(layer, Linear) else layer


class PackedNetwork:
    """Weights on a device, and what is computed with them; holds nothing of a batch."""

    head_rows = 4_096  # the head's output is 25,055 wide: 410 MB at a time

    def __init__(
        self,
        network: SenseVoiceNetwork,
        frontend: Frontend,
        tag_ids: npt.NDArray[np.int32],
        dtype: torch.dtype,
        kernels: PlainKernels,
        attention: Attention,
    ) -> None:
        """`frontend` is on the device; the network's weights are copied to it."""
        self._frontend, self._kernels, self._attention, self._dtype = frontend, kernels, attention, dtype
        self._device = frontend.filters.device
        encoder = network.encoder
        self._scale, self._heads = float(encoder.scale), network.shape.attention_heads
        self._queries = self._exact(network.embed.weight)
        self._blocks = [self._block(block) for block in (*encoder.encoders0, *encoder.encoders)]
        self._tp_blocks = [self._block(block) for block in encoder.tp_encoders]
        self._after_norm, self._tp_norm = self._norm(encoder.after_norm), self._norm(encoder.tp_norm)
        head = network.ctc.ctc_lo
        self._head, self._head_bias = self._rounded(head.weight), self._exact(head.bias)
        tags = torch.from_numpy(tag_ids).long().to(self._device)
        self._tag_head = Linear(self._exact(head.weight)[tags], self._head_bias[tags])

    def in_dtype(self, dtype: torch.dtype) -> PackedNetwork:
        """The same with its matrices, which are none of int8, in another number format."""
        other = copy.copy(self)
        other._dtype, other._head = dtype, self._head.to(dtype)
        other._blocks, other._tp_blocks = (
            [_block_in_dtype(block, dtype) for block in blocks] for blocks in (self._blocks, self._tp_blocks)
        )
        return other

    def __call__(self, batch: PackedBatch) -> Tensor:
        """[rows * 2 + sequences * 4 * tags] int32: ids, then the bits of probabilities and tags."""
        return self.answer(self.encode(self.inputs(batch), batch), batch)

    def inputs(self, batch: PackedBatch) -> Tensor:
        """What the encoder's first block gets: [rows, input] float32, queries and positions included."""
        at, frontend = batch.indices, self._frontend
        mel = frontend.log_mel(batch.samples)  # [hops, mels]
        step = torch.arange(frontend.lfr_m, device=self._device, dtype=torch.int32)
        frames = (at.place - N_QUERY_FRAMES) * frontend.lfr_n + at.first_frame - (frontend.lfr_m - 1) // 2
        index = torch.maximum(frames[:, None] + step, at.first_frame[:, None])
        index = torch.minimum(index, at.last_frame[:, None])  # [rows, lfr_m]
        speech = frontend.normalise(mel[index].flatten(-2))
        asked = self._queries[at.query.clamp_min(0)]
        x = torch.where((at.query >= 0)[:, None], asked, speech) * self._scale
        positioned: Tensor = x + sinusoids(at.place + 1, x.shape[1])
        return positioned

    def encode(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """[rows, input] -> [rows, size] float32."""
        attend = self._attention(batch, self._heads)
        x = normalised(self._through(self._blocks, x, batch, attend), self._after_norm)
        return normalised(self._through(self._tp_blocks, x, batch, attend), self._tp_norm)

    def answer(self, encoded: Tensor, batch: PackedBatch) -> Tensor:
        """What the host needs of [rows, size], in one tensor."""
        found = [self._best_tokens(rows) for rows in torch.split(encoded, self.head_rows)]
        ids, probabilities, totals = (torch.cat(parts) for parts in zip(*found, strict=True))
        rows = batch.indices.query_rows
        tags = self._tag_head(encoded[rows]) - totals[rows][:, None]
        return torch.cat([ids, probabilities.view(torch.int32), tags.flatten().view(torch.int32)])

    def _through(self, blocks: Sequence[Block], x: Tensor, batch: PackedBatch, attend: Attend) -> Tensor:
        """The sum after the last of the blocks."""
        if not blocks:
            return x
        at, kernels = batch.indices, self._kernels
        hidden = normalised(x, blocks[0].norm1).to(self._dtype)
        for block, following in pairwise([*blocks, None]):
            assert block is not None
            qkv = block.qkv(hidden)
            mixed, values = block.out(attend(qkv)), qkv[:, -block.taps.shape[1] :]
            kept = None if block.widens else x
            x, hidden = kernels.remember(kept, mixed, values, block.taps, at.first, at.end, block.norm2)
            more = block.w_2(block.w_1.rectified(hidden))
            if following is None:
                return x + more
            x, hidden = kernels.add(x, more, following.norm1)
        raise AssertionError("the last block returns")

    def _best_tokens(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `PlainKernels.best_tokens`."""
        return self._kernels.best_tokens(self._logits(rows.to(self._dtype)), self._head_bias)

    def _logits(self, rows: Tensor) -> Tensor:
        """[rows, size] -> [rows, vocabulary] float32, without the bias."""
        if rows.is_cuda and rows.dtype != torch.float32:
            return torch.mm(rows, self._head.t(), out_dtype=torch.float32)
        return rows.float() @ self._head.float().t()

    def _block(self, block: nn.Module) -> Block:
        assert isinstance(block, SanmBlock)
        attention: SanmAttention = block.self_attn
        feed: FeedForward = block.feed_forward
        taps = self._exact(attention.fsmn_block.weight)[:, 0].t().contiguous()
        return Block(
            norm1=self._norm(block.norm1),
            qkv=self._linear(attention.linear_q_k_v),
            out=self._linear(attention.linear_out),
            taps=taps,
            norm2=self._norm(block.norm2),
            w_1=self._linear(feed.w_1),
            w_2=self._linear(feed.w_2),
            widens=block.widens,
        )

    def _linear(self, linear: nn.Module) -> Layer:
        assert isinstance(linear, nn.Linear)
        return Linear(self._rounded(linear.weight), self._rounded(linear.bias))

    def _norm(self, norm: nn.LayerNorm) -> Norm:
        return Norm(self._exact(norm.weight), self._exact(norm.bias))

    def _exact(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._device)

    def _rounded(self, weight: Tensor) -> Tensor:
        return self._exact(weight).to(self._dtype)


def varlen_attention(batch: PackedBatch, heads: int) -> Attend:
    """Flash attention over utterances end to end; rows without an utterance stay undefined."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = batch.indices.bounds, batch.longest

    def attend(qkv: Tensor) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
        mixed = varlen_attn(query, key, value, bounds, bounds, longest, longest)
        assert isinstance(mixed, Tensor)
        return mixed.reshape(len(qkv), -1)

    return attend


def padded_attention(batch: PackedBatch, heads: int) -> Attend:
    """The same in any number format: attention alone is padded, nothing else."""
    longest, device = max(batch.lengths), batch.samples.device
    spread, back = (torch.from_numpy(index).to(device) for index in _padding(batch.lengths, batch.rows))
    inside = torch.arange(longest, device=device) < torch.tensor(batch.lengths, device=device)[:, None]
    mask = None if len(set(batch.lengths)) == 1 else inside[:, None, None, :]

    def attend(qkv: Tensor) -> Tensor:
        padded = qkv[spread].view(len(spread), longest, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = padded.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(len(spread) * longest, -1)[back]

    return attend


def _padding(lengths: Sequence[int], rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows as [utterances, longest], the last one repeated, and where each of [rows] then is."""
    longest, size = max(lengths), np.array(lengths)[:, None]
    starts = np.cumsum([0, *lengths])[:-1, None]
    steps = np.arange(longest)
    back = np.zeros(rows, np.int64)
    back[: sum(lengths)] = np.flatnonzero(steps < size)
    return starts + np.minimum(steps, size - 1), back

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Dense attention that compares what queries and cells hold apart from where they are.

Meng et al., Conditional DETR, arXiv:2108.06152; with boxes as positions Liu et al., DAB-DETR, arXiv:2201.12329.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.attention import attend_to_each_other, join_heads, split_heads
from ..nn.capture import DENSE_CROSS_ATTENTION, SELF_ATTENTION, SELF_ATTENTION_MAPS, AttentionRecorder
from ..nn.keys import KeyTable, use_table
from ..nn.mlp import MLP, activation
from ..nn.position import box_sines, map_sines
from .decoder_layer import MERGES
from .inputs import DecoderInputs
from .queries import Memory

SMALLEST_SIDE = 1e-4
"""By which the attention along a side is divided at least: boxes of distributions may have none."""


class TokenPositions(nn.Module):
    """Where the cells of a memory of one level lie: sines, see :func:`isdfine.nn.position.map_sines`.

    Args:
        temperature, offset: of the sines.

    Shapes: a memory with tokens (B, S, D) -> (1 or B, S, D).
    """

    def __init__(self, temperature: float = 20.0, offset: float = 0.0) -> None:
        super().__init__()
        self.sines = {"temperature": temperature, "offset": offset}

    def forward(self, memory: Memory) -> Tensor:
        tokens, (size,) = memory.tokens, memory.sizes
        sines = map_sines(size, tokens.shape[2], **self.sines, padding=memory.padding, device=tokens.device)
        return sines.to(tokens.dtype)


class ConditionalQueryPosition(nn.Module):
    """What :class:`ConditionalDecoderLayer` reads of the boxes of queries: a perceptron of their sines, for attention
    among queries; and the sines of their centres, to be compared with those of the cells.

    From the second layer on a perceptron of what the query holds scales these sines. In all layers a query says how
    wide and how high what it looks for is: the sines along x are multiplied by that width over its box's, those along y
    likewise, so that a query with a narrow box looks at few columns.

    Args:
        dim: channels D.

    Shapes: see :class:`~isdfine.zoo.inputs.QueryPosition`, with 2 * D channels: D of each of the two.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.head = MLP(2 * dim, dim, dim, 2)
        self.scale = MLP(dim, dim, dim, 2)
        self.size = MLP(dim, dim, 2, 2)

    def forward(self, references: Tensor, content: Tensor, index: int, valid_ratios: Tensor | None) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.QueryPosition`."""
        sines = box_sines(references, self.dim // 2)  # y, x, w, h
        centres = sines[..., : self.dim]
        if index > 0:
            centres = centres * self.scale(content)
        modulation = self.size(content).sigmoid() / references[..., 2:].clamp(min=SMALLEST_SIDE)
        centres = centres.unflatten(-1, (2, -1)) * modulation.flip(-1)[..., None]
        return torch.cat((self.head(sines), centres.flatten(-2)), dim=-1)


class ConditionalSelfAttention(nn.Module):
    """Attention of queries among themselves; content and position have projections of their own.

    Args:
        dim: channels D, divisible by ``num_heads``.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight in training.

    Shapes, masks and ``record``: as :class:`isdfine.nn.attention.QuerySelfAttention`.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qcontent_proj = nn.Linear(dim, dim)
        self.qpos_proj = nn.Linear(dim, dim)
        self.kcontent_proj = nn.Linear(dim, dim)
        self.kpos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self, content: Tensor, position: Tensor, attn_mask: Tensor | None, record: AttentionRecorder | None
    ) -> Tensor:
        query = self.qcontent_proj(content) + self.qpos_proj(position)
        key = self.kcontent_proj(content) + self.kpos_proj(position)
        query, key, value = (split_heads(tokens, self.num_heads) for tokens in (query, key, self.v_proj(content)))
        heads = attend_to_each_other(query, key, value, attn_mask, self.dropout if self.training else 0.0, record)
        read: Tensor = self.out_proj(join_heads(heads))
        return read


class ConditionalCrossAttention(nn.Module):
    """Attention of queries to the cells of a memory; a pair's weight is what their contents say plus what the sines of
    their places say, in every head.

    Args:
        dim: channels D, divisible by ``num_heads``.
        num_heads: attention heads.
        positions_in_content: add the positions of both to their contents: in the first layer queries hold nothing yet.
        dropout: probability of dropping an attention weight in training.

    Shapes: content and positions (B, Q, D), sines of centres (B, Q, D), see :class:`ConditionalQueryPosition`, and the
    tokens of the inputs (B, S, D) -> (B, Q, D).
    """

    def __init__(self, dim: int, num_heads: int, *, positions_in_content: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qcontent_proj = nn.Linear(dim, dim)
        self.qpos_proj = nn.Linear(dim, dim) if positions_in_content else None
        self.kcontent_proj = nn.Linear(dim, dim)
        self.kpos_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.qpos_sine_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, content: Tensor, position: Tensor, centres: Tensor, inputs: DecoderInputs) -> Tensor:
        tokens, places, padded = inputs.tokens, inputs.token_positions, inputs.token_padding
        assert tokens is not None, "the decoder of these layers has token_positions"
        assert places is not None
        query, key, place = self.qcontent_proj(content), self.kcontent_proj(tokens), self.kpos_proj(places)
        if self.qpos_proj is not None:
            query, key = query + self.qpos_proj(position), key + place
        query = self._beside(query, self.qpos_sine_proj(centres))
        key = self._beside(key, place.expand_as(key))
        value = split_heads(self.v_proj(tokens), self.num_heads)
        if inputs.record is not None:
            inputs.record.add_dense_cross(query, key, padded)
        readable = None if padded is None else ~padded[:, None, None]
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=readable, dropout_p=dropout)
        read: Tensor = self.out_proj(join_heads(heads))
        return read

    def _beside(self, content: Tensor, place: Tensor) -> Tensor:
        """(B, Q, D) twice -> (B, heads, Q, 2 * D / heads)."""
        return torch.cat([split_heads(part, self.num_heads) for part in (content, place)], dim=-1)


class ConditionalDecoderLayer(nn.Module):
    """Self-attention, dense cross-attention, feed-forward net; normalised after each.

    Args:
        dim: channels D.
        num_heads: heads of both attentions.
        feedforward_dim: hidden channels of the feed-forward net.
        first: whether queries hold nothing yet, see :class:`ConditionalCrossAttention`.
        merge: how a query takes in what it read, see :class:`~isdfine.zoo.decoder_layer.DecoderLayer`.
        dropout: probability, on attention weights, both attention outputs, hidden and output feed-forward channels.
        act: activation name of the feed-forward net, see ``nn.mlp``.

    Parameter names are those of DAB-DETR's checkpoints. Its positions are those of :class:`ConditionalQueryPosition`.
    """

    attention_kinds: frozenset[str] = frozenset({SELF_ATTENTION, SELF_ATTENTION_MAPS, DENSE_CROSS_ATTENTION})

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        first: bool,
        merge: str = "residual",
        dropout: float = 0.0,
        act: str = "prelu",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.self_attn = ConditionalSelfAttention(dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = ConditionalCrossAttention(dim, num_heads, positions_in_content=first, dropout=dropout)
        if merge not in MERGES:
            raise ValueError(f"merge {merge!r} is unknown: choose one of {', '.join(MERGES)}")
        self._merge, join = MERGES[merge]
        self.add_module(self._merge, join(dim))
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.activation = activation(act)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (*self.self_attn.children(), *self.cross_attn.children(), self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))
        use_table(self, _NAMES)

    def forward(self, content: Tensor, references: Tensor, position: Tensor, inputs: DecoderInputs) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.Layer`."""
        position, centres = position.chunk(2, dim=-1)
        attended = self.self_attn(content, position, inputs.attn_mask, inputs.record)
        content = self.norm1(content + self.dropout(attended))
        read = self.cross_attn(content, position, centres, inputs)
        content = getattr(self, self._merge)(content, self.dropout(read))
        hidden = self.dropout(self.activation(self.linear1(content)))
        refined: Tensor = self.norm3(content + self.dropout(self.linear2(hidden)))
        return refined


_NAMES = KeyTable(
    {
        f"{attention}.{role}_proj": f"{short}_{role}_proj"
        for attention, short in (("self_attn", "sa"), ("cross_attn", "ca"))
        for role in ("qcontent", "qpos", "kcontent", "kpos", "v", *(["qpos_sine"] if short == "ca" else []))
    }
)

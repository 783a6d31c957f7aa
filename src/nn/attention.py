# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Self-attention with the parameter names and masks of ``torch.nn.MultiheadAttention``, and encoder layers of it.

All masks of the package are as torch has them there: bool, and True leaves out. ``attn_mask`` (Q, Q) holds what row i
may not read in column j, ``key_padding_mask`` (B, S) and a padding mask what only fills up a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import AttentionRecorder
from .mlp import activation


class QuerySelfAttention(nn.Module):
    """Multi-head attention of queries among themselves; the positions enter queries and keys, never the values.

    The attention matrix is not materialised, unless a recorder asks for it: everything goes through
    ``scaled_dot_product_attention``.

    Args:
        dim: channels D, divisible by ``num_heads``.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight in training.

    Shapes: content and position (B, Q, D), ``attn_mask`` bool, True = may not be read, (Q, Q) or anything that
    broadcasts to (B, heads, Q, Q), or None for none -> (B, Q, D). ``record`` collects what is attended to, see
    ``nn.capture``.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        attn_mask: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> Tensor:
        dim = content.shape[-1]
        placed = F.linear(content + position, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim])
        value = F.linear(content, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :])
        query, key, value = (split_heads(tokens, self.num_heads) for tokens in (*placed.chunk(2, dim=-1), value))
        heads = attend_to_each_other(query, key, value, attn_mask, self.dropout if self.training else 0.0, record)
        read: Tensor = self.out_proj(join_heads(heads))
        return read


def attend_to_each_other(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout: float = 0.0,
    record: AttentionRecorder | None = None,
) -> Tensor:
    """Fused attention of queries among themselves, or by way of the map where ``record`` asks for it.

    Args:
        query, key, value: (B, heads, Q, d).
        attn_mask, record: as in :class:`QuerySelfAttention`.
        dropout: probability of dropping an attention weight.

    Returns: (B, heads, Q, d).
    """
    if record is not None and record.materialise:
        scores = (query * query.shape[-1] ** -0.5) @ key.mT  # (B, heads, Q, Q), scaled first: halves overflow
        record.add_self_attention(query, key, scores)
        if attn_mask is not None:
            scores = scores.masked_fill(attn_mask, -torch.inf)
        return F.dropout(scores.softmax(dim=-1), dropout) @ value
    if record is not None:
        record.add_self_attention(query, key)
    readable = None if attn_mask is None else ~attn_mask  # that function's masks say what takes part
    return F.scaled_dot_product_attention(query, key, value, attn_mask=readable, dropout_p=dropout)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, Q, D) -> (B, heads, Q, D / heads)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1))
    return heads.transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, Q, D / heads) -> (B, Q, D)."""
    return x.transpose(1, 2).flatten(2)


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward net, each added to its input and then normalised (post-norm).

    Vaswani et al., Attention Is All You Need, arXiv:1706.03762, with positions added to queries and keys only
    (Carion et al., DETR, arXiv:2005.12872).

    Args:
        dim: channels D of a token, a multiple of num_heads.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward net.
        dropout: probability 0..1, on attention weights, on the hidden layer and on both residual branches.
        act: activation name of the feed-forward net, see ``nn.mlp``.
        attention: another one than :class:`QuerySelfAttention`, which whoever calls it hands to ``take_in``.

    Shapes: tokens (B, S, D), positions (1 or B, S, D), ``attn_mask`` (B, 1, 1, S) bool, True for tokens that nothing
    may read, or None -> (B, S, D).

    Raises:
        ValueError: if num_heads does not divide dim.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float = 0.0,
        act: str = "gelu",
        attention: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide {dim} channels: change nhead or hidden_dim")
        self.self_attn = QuerySelfAttention(dim, num_heads, dropout=dropout) if attention is None else attention
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.activation = activation(act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, S, D) tokens and their positions -> (B, S, D)."""
        return self.take_in(tokens, self.self_attn(tokens, positions, attn_mask))

    def take_in(self, tokens: Tensor, read: Tensor) -> Tensor:
        """(B, S, D) tokens and what they read -> (B, S, D)."""
        tokens = self.norm1(tokens + self.dropout(read))
        hidden = self.dropout(self.activation(self.linear1(tokens)))
        tokens = self.norm2(tokens + self.dropout(self.linear2(hidden)))
        return tokens


class TransformerEncoder(nn.Module):
    """Encoder layers one after the other, all with the same positions.

    Args:
        layers: none returns the tokens unchanged.

    Shapes: as in ``TransformerEncoderLayer``.
    """

    def __init__(self, layers: Iterable[TransformerEncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, tokens: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, S, D) tokens and their positions -> (B, S, D)."""
        for layer in self.layers:
            tokens = layer(tokens, positions, attn_mask)
        return tokens

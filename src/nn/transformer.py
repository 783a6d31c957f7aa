# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Transformer encoder layers over the tokens of one feature map."""

from __future__ import annotations

from torch import Tensor, nn

from .activation import activation
from .attention import QuerySelfAttention


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward net, each added to its input and then normalised (post-norm).

    Vaswani et al., Attention Is All You Need, arXiv:1706.03762, with positions added to queries and keys only
    (Carion et al., DETR, arXiv:2005.12872).

    Args:
        dim: channels D of a token, a multiple of num_heads.
        num_heads: attention heads.
        feedforward_dim: hidden width of the feed-forward net.
        dropout: probability 0..1, on attention weights, on the hidden layer and on both residual branches.
        act: activation name of the feed-forward net, see ``nn.activation``.

    Shapes: tokens (B, S, D), positions (1 or B, S, D), ``attn_mask`` (B, 1, 1, S) bool, True for tokens that nothing
    may read, or None -> (B, S, D).

    Raises:
        ValueError: if num_heads does not divide dim.
    """

    def __init__(
        self, dim: int, num_heads: int, feedforward_dim: int, *, dropout: float = 0.0, act: str = "gelu"
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide {dim} channels: change nhead or hidden_dim")
        self.self_attn = QuerySelfAttention(dim, num_heads, dropout=dropout)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.act = activation(act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, S, D) tokens and their positions -> (B, S, D)."""
        tokens = self.norm1(tokens + self.dropout(self.self_attn(tokens, positions, attn_mask)))
        hidden = self.dropout(self.act(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class TransformerEncoder(nn.Module):
    """Encoder layers one after the other, all with the same positions.

    Args:
        num_layers: how many; 0 returns the tokens unchanged.
        dim, num_heads, feedforward_dim, dropout, act: as in ``TransformerEncoderLayer``.

    Shapes: as in ``TransformerEncoderLayer``.
    """

    def __init__(
        self,
        num_layers: int,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float = 0.0,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, num_heads, feedforward_dim, dropout=dropout, act=act)
            for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, positions: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, S, D) tokens and their positions -> (B, S, D)."""
        for layer in self.layers:
            tokens = layer(tokens, positions, attn_mask)
        return tokens

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One decoder layer, and what joins a query and what it read: D-FINE's target gating, or the residual sum before it.

See docs/method.md 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.attention import QuerySelfAttention
from ..nn.capture import DEFORMABLE_KINDS
from ..nn.mlp import activation
from ..nn.sampling import DeformableAttention
from .inputs import DecoderInputs

HALF_MAX = 65504.0
"""Largest finite half-precision number: sums are kept below it."""


class TargetGate(nn.Module):
    """Weigh a query and what it read from the image channel by channel: LN(g1 * x1 + g2 * x2).

    The gates are sigmoids of one linear map of both inputs and start at 0.5, so a query that moved to another object
    can drop what it knew about the last one.

    Args:
        dim: channels D.

    Shapes: queries (..., D) and update (..., D) -> (..., D).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, 2 * dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, queries: Tensor, update: Tensor) -> Tensor:
        keep, take = self.gate(torch.cat((queries, update), dim=-1)).sigmoid().chunk(2, dim=-1)
        joined: Tensor = self.norm(keep * queries + take * update)
        return joined


class ResidualNorm(nn.LayerNorm):
    """The sum of the two, then layer norm: LN(x1 + x2). Args and shapes as :class:`TargetGate`."""

    def forward(self, queries: Tensor, update: Tensor) -> Tensor:  # type: ignore[override]  # a sum has two parts
        return super().forward(queries + update)


MERGES: dict[str, tuple[str, type[nn.Module]]] = {"gate": ("gateway", TargetGate), "residual": ("norm2", ResidualNorm)}
"""Name in checkpoints and class of what joins a query and what it read from the image."""


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward net; normalised after each.

    Args:
        dim: channels D.
        num_heads: heads of both attentions.
        feedforward_dim: hidden channels of the feed-forward net.
        num_levels, num_points, cross_attention, projections: see :class:`isdfine.nn.sampling.DeformableAttention`.
        merge: how a query takes in what it read: ``gate`` is D-FINE's target gate, ``residual`` a sum and layer norm.
        dropout: probability, on attention weights, both attention outputs, hidden and output feed-forward channels.
        act: activation name of the feed-forward net, see ``nn.mlp``.

    Parameter names are those of official checkpoints: of D-FINE's (there is no ``norm2``), or with ``projections`` and
    ``residual`` of RT-DETR's.
    """

    attention_kinds: frozenset[str] = DEFORMABLE_KINDS

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        num_levels: int,
        num_points: int | Sequence[int],
        cross_attention: str = "default",
        projections: bool = False,
        merge: str = "gate",
        dropout: float = 0.0,
        act: str = "relu",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.self_attn = QuerySelfAttention(dim, num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn = DeformableAttention(
            dim, num_heads, num_levels, num_points, method=cross_attention, projections=projections
        )
        if merge not in MERGES:
            raise ValueError(f"merge {merge!r} is unknown: choose one of {', '.join(MERGES)}")
        self._merge, join = MERGES[merge]
        self.add_module(self._merge, join(dim))
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.act = activation(act)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, content: Tensor, references: Tensor, position: Tensor, inputs: DecoderInputs) -> Tensor:
        """See :class:`~isdfine.zoo.inputs.Layer`."""
        attended = self.self_attn(content, position, inputs.attn_mask, inputs.record)
        content = self.norm1(content + self.dropout(attended))
        read = self.cross_attn(content + position, references, inputs.values, inputs.valid_ratios, inputs.record)
        content = getattr(self, self._merge)(content, self.dropout(read))
        hidden = self.dropout(self.act(self.linear1(content)))
        summed = content + self.dropout(self.linear2(hidden))
        refined: Tensor = self.norm3(summed.clamp(-HALF_MAX, HALF_MAX))
        return refined


def deformable_layers(count: int, dim: int, num_heads: int, feedforward_dim: int, **options: Any) -> list[DecoderLayer]:
    """Layers of Deformable-DETR and of what builds on it: with projections, and drawn as there.

    Args: see :class:`DecoderLayer`.
    """
    options = {"projections": True, "merge": "residual", **options}
    layers = [DecoderLayer(dim, num_heads, feedforward_dim, **options) for _ in range(count)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.self_attn.out_proj.weight)
    return layers

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What decoders with different box heads share: the layers, and what these read besides the queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...nn.capture import AttentionRecorder
from ...nn.queries import JoinedQueries
from ...nn.table_sampling import FeatureTable
from ...nn.types import Predictions
from .decoder_layer import DecoderLayer


class Heads(NamedTuple):
    """What turns queries into predictions. Official checkpoints keep the heads beside the layers, not among them."""

    position: nn.Module
    """(B, Q, 4) reference boxes -> (B, Q, D) query positions."""
    scores: nn.ModuleList
    """Per layer (B, Q, D) -> (B, Q, C)."""
    boxes: nn.ModuleList
    """Per layer (B, Q, D) -> what the decoder makes a box of: 4 * (N + 1) edge logits, or 4 offsets."""
    initial_box: nn.Module | None = None
    """(B, Q, D) after layer 0 -> (B, Q, 4) offsets of the box that all distributions refine; FDR only."""


@dataclass(frozen=True)
class Surroundings:
    """What all layers of one forward pass read besides the queries."""

    values: Sequence[Tensor]
    """Feature maps (B, D, H, W), one per level."""
    allowed: Tensor | None
    """(Q, Q) bool, True where row may read column; None for everywhere."""
    extent: Tensor | None
    """(B, levels, 2) how much of each map the image spans, see ``Padding.extent``; None for all of it."""
    record: AttentionRecorder | None
    """Collects what the layers attend to; None if nobody asked."""

    def of_width(self, dim: int) -> Surroundings:
        """The same with maps of ``dim`` channels, for wider layers."""
        maps = self.values.maps if isinstance(self.values, FeatureTable) else self.values
        if maps[0].shape[1] == dim:
            return self
        return replace(self, values=FeatureTable([enlarge_channels(one, dim, axis=1) for one in maps]))


def enlarge_channels(x: Tensor, dim: int, axis: int = -1) -> Tensor:
    """Repeat channels (c0 c0 c1 c1 ..) until there are ``dim`` of them, which is nearest interpolation."""
    channels = x.shape[axis]
    if channels == dim:
        return x
    return x.index_select(axis, torch.arange(dim, device=x.device) * channels // dim)


class DecoderStack(nn.Module):
    """Decoder layers; a subclass makes boxes of the queries after each.

    Args:
        layers: decoder layers; those after ``eval_idx`` may be wider and run in training only.
        eval_idx: index of the layer that answers in eval mode.
        aux_loss: in training predict after every layer, otherwise after the last only.
    """

    def __init__(self, layers: Sequence[DecoderLayer], *, eval_idx: int, aux_loss: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.widths = [layer.dim for layer in layers]
        self.eval_idx = eval_idx
        self.aux_loss = aux_loss

    def forward(
        self,
        queries: JoinedQueries,
        values: Sequence[Tensor],
        heads: Heads,
        *,
        every: bool,
        extent: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> tuple[list[Predictions], Predictions | None, list[Tensor]]:
        """Run the layers and score their boxes.

        Args:
            queries: all groups, concatenated.
            values: feature maps (B, D, H, W), one per level.
            heads: see :class:`Heads`.
            every: run and score all layers; otherwise none after layer ``eval_idx``, and only that one is scored.
            extent: see :class:`Surroundings`.
            record: collects what the layers attend to; None if nobody asked.

        Returns: with ``every`` the predictions of every layer (without ``aux_loss`` of the last) and those of the first
            head if there is one; otherwise those of layer ``eval_idx`` alone and None. Then the queries (B, Q, D')
            after each layer.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how queries become boxes")

    def box_heads(self) -> dict[str, nn.Module]:
        """New box heads by their names in checkpoints, in the order in which official models make them."""
        raise NotImplementedError(f"{type(self).__name__} must say which box heads it reads")

    def bins(self) -> Mapping[str, nn.Parameter]:
        """What places the bins of edge distributions, ``up`` and ``reg_scale``; empty without distributions."""
        return {}

    def freeze_silent(self, heads: Heads) -> None:
        """Freeze what nothing reads without auxiliary losses: distributed training wants a gradient for the others."""
        heads.scores[:-1].requires_grad_(False)

    def deployed(self) -> DecoderStack:
        """The layers that eval mode runs (shared, not copied); the result cannot be trained."""
        raise NotImplementedError(f"{type(self).__name__} must say what it becomes")

    def depth(self, every: bool) -> int:
        """Layers that run."""
        return len(self.layers) if every else self.eval_idx + 1

    def surroundings(
        self, queries: JoinedQueries, values: Sequence[Tensor], extent: Tensor | None, record: AttentionRecorder | None
    ) -> Surroundings:
        """What the layers will read."""
        allowed = None if queries.blocked is None else ~queries.blocked
        return Surroundings(values, allowed, extent, record)

    def run_layer(
        self, index: int, content: Tensor, references: Tensor, position: Tensor, around: Surroundings
    ) -> Tensor:
        """Queries (B, Q, D') of the layer's width, references (B, Q, 4), position (B, Q, D) -> (B, Q, D')."""
        return self.layers[index](
            content,
            references,
            enlarge_channels(position, self.widths[index]),
            around.values,
            around.allowed,
            extent=around.extent,
            record=around.record,
        )


def refuse_training(stack: DecoderStack, every: bool) -> None:
    """RuntimeError for a deployed stack in training mode, or where all layers are wanted."""
    if stack.training or every:
        raise RuntimeError("the deployed form has no training heads: call eval(), or train the model before fuse()")


def class_head(dim: int, num_scores: int) -> nn.Linear:
    """Scores start at 0.01, so that the many background queries do not swamp the first steps."""
    head = nn.Linear(dim, num_scores)
    nn.init.constant_(head.bias, -math.log(99))
    return head

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What decoder layers read, and what the decoder asks of its layers and of query positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..nn.capture import AttentionRecorder
from ..nn.cpu import FeatureTable


@dataclass(frozen=True)
class DecoderInputs:
    """What all layers of one forward pass read besides the queries; S counts the cells of all levels."""

    values: Sequence[Tensor]
    """Feature maps (B, D, H, W), one per level."""
    attn_mask: Tensor | None
    """(Q, Q) bool, True where row i may not read column j; None for no mask."""
    valid_ratios: Tensor | None
    """(B, levels, 2) how much of each map the image spans, see ``Padding.valid_ratios``; None for all of it."""
    record: AttentionRecorder | None
    """Collects what the layers attend to; None if nobody asked."""
    tokens: Tensor | None = None
    """(B, S, D) the same cells for dense attention, row by row; None for decoders without it."""
    token_positions: Tensor | None = None
    """(1 or B, S, D) where these cells lie."""
    token_padding: Tensor | None = None
    """(B, S) bool, True for cells that no query may read; None where all may be read."""
    position_ratios: Tensor | None = None
    """``valid_ratios`` for :class:`QueryPosition`, where padding is visible (``Padding.visible``); else None."""

    def of_width(self, dim: int) -> DecoderInputs:
        """The same with maps of ``dim`` channels, for wider layers."""
        maps = self.values.maps if isinstance(self.values, FeatureTable) else self.values
        if maps[0].shape[1] == dim:
            return self
        return replace(self, values=FeatureTable([enlarge_channels(level, dim, axis=1) for level in maps]))


class Layer(Protocol):
    """A decoder layer; a module."""

    dim: int
    """Channels D' of its queries."""
    attention_kinds: frozenset[str]
    """What it can record, see ``nn.capture``."""

    def __call__(self, content: Tensor, references: Tensor, position: Tensor, inputs: DecoderInputs) -> Tensor:
        """Refine queries once: content (B, Q, D') and references (B, Q, 4 or 2) in [0, 1] -> (B, Q, D').

        Position is what the decoder's :class:`QueryPosition` says.
        """
        ...


class QueryPosition(Protocol):
    """Says in the terms of attention where queries look; a module, called before every layer."""

    def __call__(self, references: Tensor, content: Tensor, index: int, valid_ratios: Tensor | None) -> Tensor:
        """References (B, Q, 4 or 2) in [0, 1] and content (B, Q, D) before layer ``index`` -> (B, Q, D).

        ``valid_ratios`` (B, levels, 2) are given where padding may count, as in published code.
        Some families need more channels than D; their layers know of it.
        """
        ...


def enlarge_channels(x: Tensor, dim: int, axis: int = -1) -> Tensor:
    """Repeat channels (c0 c0 c1 c1 ..) until there are ``dim`` of them, which is nearest interpolation."""
    channels = x.shape[axis]
    if channels == dim:
        return x
    return x.index_select(axis, torch.arange(dim, device=x.device) * channels // dim)

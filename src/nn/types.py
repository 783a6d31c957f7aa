# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The few types that models, criteria and distillers pass to each other.

Shape legend used everywhere: B images, Q queries, C classes, D channels, L decoder layers, S prediction sets,
T ground-truth boxes of an image, M matched pairs, N bins of an edge distribution (N + 1 values), H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from .capture import CapturedAttention

Target = Mapping[str, Tensor]
"""Ground truth of one image: ``boxes`` (T, 4) cxcywh fractions of it, ``labels`` (T,) int64 in 0..C-1, and more."""


class BatchDetections(NamedTuple):
    """What the post-processor returns, in the order of an exported graph's outputs."""

    labels: Tensor
    """(B, K) int64, contiguous class index."""
    boxes: Tensor
    """(B, K, 4) xyxy pixels of the original image."""
    scores: Tensor
    """(B, K) in [0, 1], descending."""


@dataclass(frozen=True)
class Want:
    """What a forward pass of a detector returns besides the final predictions.

    It says what comes back and nothing else: modes (``train()``, ``eval()``) decide about dropout and statistics.
    """

    layers: bool = False
    """Predictions of every decoder layer, of FDR's first head and of the encoder, instead of the evaluated layer's."""
    taps: frozenset[str] = frozenset()
    """Inner tensors by name, see ``DetectorOutput.taps``."""
    attention: frozenset[str] = frozenset()
    """Kinds of attention of the decoder layers, see ``nn.capture``."""

    def __or__(self, other: Want) -> Want:
        """Everything that one of the two wants."""
        return Want(self.layers or other.layers, self.taps | other.taps, self.attention | other.attention)


TRAINING = Want(layers=True)
"""What losses read."""


class MemoryTap(NamedTuple):
    """The tokens that the decoder reads."""

    tokens: Tensor
    """(B, S, D), S cells of all levels, row by row, level by level."""
    sizes: list[tuple[int, int]]
    """(height, width) of every level in cells."""


class LayerStart(NamedTuple):
    """Queries as a decoder layer gets them, (B, Q, ..)."""

    content: Tensor
    """(B, Q, D')."""
    normed: Tensor
    """(B, Q, D') the same as the heads read them, behind the decoder's last norm where it has one."""
    references: Tensor
    """(B, Q, 4) boxes or (B, Q, 2) points in [0, 1], where the layer looks."""
    boxes: Any = None
    """What the box head made after the layer before; None before the first."""


@dataclass(frozen=True)
class Predictions:
    """What one head says about B images and Q queries."""

    logits: Tensor
    """(B, Q, C) raw class scores (C = 1 for a class-agnostic head)."""
    boxes: Tensor
    """(B, Q, 4) cxcywh, fractions of the image; width and height may be negative for FDR heads."""
    edge_logits: Tensor | None = None
    """(B, Q, 4 * (N + 1)) distributions of the left, top, right, bottom edge; FDR heads only."""
    initial_boxes: Tensor | None = None
    """(B, Q, 4) detached boxes that the distributions refine; FDR heads only."""


@dataclass(frozen=True)
class QueryGroup:
    """Queries that attend to each other, and to other groups only where ``attends_to`` names them."""

    name: str
    """Suffix part of the losses' names, for example ``dn`` for denoising; ``""`` for the matching queries."""
    content: Tensor
    """(B, Q, D) query embeddings; Q may be 0 (every rank runs the same graph whatever its batch holds)."""
    reference_logits: Tensor
    """(B, Q, 4) reference boxes cxcywh, or (B, Q, 2) reference points, before the sigmoid."""
    position: Tensor | None = None
    """(B, Q, D) where the queries look, in the terms of attention; None for an embedding of their boxes, made anew in
    every layer."""
    supervised: bool = True
    """Whether the criterion scores what the decoder predicts for these queries."""
    mask: Tensor | None = None
    """(Q, Q) bool inside the group, True where row i may not read column j (see ``nn.attention``)."""
    attends_to: tuple[str, ...] = ()
    """Names of further groups whose queries these queries may read."""
    assigned: Tensor | None = None
    """(B, Q) int64 index of the ground-truth box of the same image that a query must reproduce, -1 for none."""
    padding: Tensor | None = None
    """(B, Q) bool, True where a slot only fills up the batch."""
    scores_padding: bool = True
    """Whether such slots must be found empty (DINO); False: the class loss leaves them out (DN-DETR)."""
    repeats: int = 1
    """How many times every ground-truth box stands in ``assigned`` (denoising groups G); 0 for an empty group."""


@dataclass(frozen=True)
class GroupOutput:
    """Decoder output for one extra query group."""

    group: QueryGroup
    layers: list[Predictions]
    """One per decoder layer, the last is the final one."""
    initial: Predictions | None = None
    """FDR's first head, after decoder layer 0."""
    hidden: tuple[Tensor, ...] = ()
    """(B, Q, D) per decoder layer, where the tap ``hidden`` is wanted."""


@dataclass(frozen=True)
class DetectorOutput:
    """What a detector was asked for (:class:`Want`). By default a model in eval mode returns ``Predictions`` alone."""

    layers: list[Predictions]
    """One per decoder layer for the matching queries, the last is the final one; the evaluated layer's alone where
    ``Want.layers`` is off."""
    initial: Predictions | None = None
    """FDR's first head, after decoder layer 0: no distributions."""
    proposals: Predictions | None = None
    """Encoder top-k proposals, row k seeds query k; C = 1 when selection is class-agnostic."""
    groups: dict[str, GroupOutput] = field(default_factory=dict)
    """Extra query groups by name (``dn`` = contrastive denoising)."""
    up: Tensor | None = None
    """Scalar tensor a, half the width of the inner bin range (FDR heads only)."""
    reg_scale: Tensor | None = None
    """Scalar tensor s = 1/c, the curvature of the bins (FDR heads only)."""
    memory_index: Tensor | None = None
    """(B, Q) int64 row of the flattened memory that each matching query came from; beyond its last row for queries of a
    padded batch that has fewer cells than queries."""
    attention: CapturedAttention | None = None
    """What the decoder layers attended to, where kinds of it are wanted (``nn.capture``)."""
    taps: Mapping[str, Any] = field(default_factory=dict)
    """Inner tensors by name: ``backbone`` and ``neck``, lists of maps (B, D, H, W); ``memory``, a :class:`MemoryTap`;
    ``queries``, the matching :class:`QueryGroup` before any decoder layer; ``hidden``, a tuple with these queries
    (B, Q, D) after every one; ``layer_starts``, a tuple with a :class:`LayerStart` before every one, whose boxes are
    detached."""
    binary_proposals: bool = False
    """Whether the proposals are those of every cell, and their first class tells objects from background."""

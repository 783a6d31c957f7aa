# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the decoder layers of a detector did with one image, as arrays: ``deploy.inspection`` reads it from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ConfigError

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One decoder layer; Q queries, P sampling points per head over all levels."""

    references_xyxy_px: Array
    """(Q, 4) the boxes that the layer starts from; its points are placed relative to them."""
    boxes_xyxy_px: Array
    """(Q, 4) the boxes after it."""
    points_px: Array
    """(Q, heads, P, 2) x and y that cross-attention reads at."""
    point_weights: Array
    """(Q, heads, P) sums to 1 over P."""
    point_levels: NDArray[np.int64]
    """(P,) feature map of each point, 0 is the finest."""
    self_attention: Array
    """(Q, Q) mean over the heads: row i says how much query i takes from each query."""
    edge_probabilities: Array | None
    """(Q, 4, N + 1) distributions of left, top, right, bottom edge; None without FDR."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """One image in one model; boxes in pixels of the image, Q queries."""

    scores: Array
    """(Q, C) sigmoid class scores."""
    boxes_xyxy_px: Array
    """(Q, 4) final boxes."""
    layers: tuple[InspectedLayer, ...]
    """Those that run in eval mode, first to last."""
    initial_boxes_xyxy_px: Array | None
    """(Q, 4) boxes that all distributions refine; None without FDR."""
    bin_weights: Array | None
    """(N + 1,) W(n) in units of the initial box's side / s; None without FDR."""
    inverse_curvature: float | None
    """s > 0; None without FDR."""

    def surest(self, count: int, threshold: float = 0.0) -> list[int]:
        """The ``count`` queries with the highest best class of at least ``threshold``, best first."""
        best = self.scores.max(axis=1)
        order = np.argsort(-best, kind="stable")[:count]
        return [int(query) for query in order if best[query] >= threshold]

    def numbered(self, wanted: Sequence[int] = ()) -> dict[int, InspectedLayer]:
        """Layers by their number in ascending order, the first is 1; those that are wanted, else all.

        Raises:
            ConfigError: there is no such layer.
        """
        layers = dict(enumerate(self.layers, 1))
        if wrong := [number for number in wanted if number not in layers]:
            raise ConfigError(f"--layers {wrong[0]}: the decoder has the layers 1 to {len(layers)}")
        return {number: layers[number] for number in sorted(set(wanted) or layers)}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Large images in overlapping tiles, and one answer from those of the tiles.

Two tiles see the same pixels where they overlap. A box of one and a box of the other are the same object if they agree
there, however differently they go on outside: this holds for an object that both see whole, for one that one tile cuts
off, and for one that is larger than the overlap and cut by both. Of a fused object every edge comes from a tile that
did not cut it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import ConfigError
from ..deploy.detections import Detections
from ..deploy.detector import Detector

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the large image."""
SAME = 0.5
"""Intersection over union, inside what two tiles share, from which two boxes are one object."""
_CUT = 0.01
"""Share of a tile's side within which an edge counts as cut off by the tile's border (at least 2 pixels)."""


@dataclass(frozen=True)
class Tiling:
    """How large images are cut.

    Args:
        size: (height, width) of a tile in pixels.
        overlap: share of a tile that its neighbour sees too. Objects are found whole if they are smaller than that.
        whole: look at the whole image besides, for objects larger than a tile.
    """

    size: tuple[int, int]
    overlap: float = 0.2
    whole: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise ConfigError(f"tiles of {self.size[0]} x {self.size[1]} (height x width): give at least 32 pixels")
        if not 0.05 <= self.overlap <= 0.8:
            raise ConfigError(
                f"overlap is {self.overlap}: give 0.05 to 0.8; without overlap an object at a seam is two halves that "
                "nobody can put together"
            )

    def windows(self, height: int, width: int) -> list[Window]:
        """Tiles of one size that cover an image; the whole image where it is no larger than a tile."""
        rows, columns = (_starts(side, tile, self.overlap) for side, tile in zip((height, width), self.size))
        tiles = [(x, y, min(x + self.size[1], width), min(y + self.size[0], height)) for y, x in product(rows, columns)]
        return [(0, 0, width, height), *tiles] if self.whole and len(tiles) > 1 else tiles

    def detect(self, detector: Detector, image: Image.Image, threshold: float) -> Detections:
        """Detections of a large image, the surest first."""
        windows = self.windows(image.height, image.width)
        parts = list(detector.stream((image.crop(window) for window in windows), threshold))
        if len(windows) == 1:
            return replace(parts[0], source=image)
        return merge(parts, windows, (image.height, image.width), image)


def merge(
    parts: Sequence[Detections], windows: Sequence[Window], size: tuple[int, int], source: Image.Image | None = None
) -> Detections:
    """One answer from those of tiles, class by class.

    Args:
        parts: of each tile, in its pixels.
        windows: where the tiles lie; overlapping.
        size: (height, width) of the large image.
        source: that image.
    """
    counts = [len(part) for part in parts]
    tile = np.repeat(np.arange(len(parts)), counts)
    frames = np.array(windows, dtype=np.float64).reshape(-1, 4)[tile]  # (M, 4)
    boxes = np.concatenate([part.boxes for part in parts]).astype(np.float64) + frames[:, [0, 1, 0, 1]]
    boxes = np.clip(boxes, frames[:, [0, 1, 0, 1]], frames[:, [2, 3, 2, 3]])  # a tile knows nothing beyond itself
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    cut = _cut_edges(boxes, frames, size)
    groups: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        groups += [rows[group] for group in _groups(boxes[rows], scores[rows], tile[rows], frames[rows])]
    groups.sort(key=lambda rows: -scores[rows].max())
    fused = [_fused(boxes[rows], scores[rows], cut[rows]) for rows in groups]
    return Detections(
        np.array(fused, dtype=np.float32).reshape(-1, 4),
        np.array([scores[rows].max() for rows in groups], dtype=np.float32),
        np.array([labels[rows[0]] for rows in groups], dtype=np.int64),
        parts[0].label_space,
        size,
        source,
    )


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one side, evenly spread, at least ``overlap`` of a tile shared."""
    if side <= tile:
        return [0]
    steps = -(-(side - tile) // max(1, int(tile * (1 - overlap))))
    return [round(number * (side - tile) / steps) for number in range(steps + 1)]


def _cut_edges(boxes: NDArray[np.float64], frames: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(M, 4) whether an edge lies at a border of its tile that is none of the image."""
    height, width = size
    sides = (frames[:, 2:] - frames[:, :2])[:, [0, 1, 0, 1]]
    near = np.abs(boxes - frames) <= np.maximum(2, _CUT * sides)
    inner = np.concatenate([frames[:, :2] > 0, frames[:, 2:] < [width, height]], axis=1)
    cut: NDArray[np.bool_] = near & inner
    return cut


def _groups(
    boxes: NDArray[np.float64], scores: NDArray[np.float32], tile: NDArray[np.int64], frames: NDArray[np.float64]
) -> list[NDArray[np.int64]]:
    """Rows that are one object: joined from the best agreement down, at most one box of a tile in each.

    A tile that reports two boxes means two objects, so they stay two however much they overlap.
    """
    pairs, agreement = _same_pairs(boxes, tile, frames)
    group = np.arange(len(boxes))
    members = {number: {int(tile[number])} for number in range(len(boxes))}
    sure = scores[pairs].sum(axis=1) if len(pairs) else np.zeros(0)
    for row, other_row in pairs[np.lexsort((-sure, -agreement))].tolist():
        first, second = int(group[row]), int(group[other_row])
        if first == second or members[first] & members[second]:
            continue
        members[first] |= members.pop(second)
        group[group == second] = first
    return [np.flatnonzero(group == number) for number in members]


def _same_pairs(
    boxes: NDArray[np.float64], tile: NDArray[np.int64], frames: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(P, 2) pairs of rows of different tiles that agree where both tiles look, and how well."""
    pairs, values = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for row in range(len(boxes) - 1):
        others = np.arange(row + 1, len(boxes))
        others = others[tile[others] != tile[row]]
        shared_low = np.maximum(frames[row, :2], frames[others, :2])
        shared_high = np.minimum(frames[row, 2:], frames[others, 2:])
        one_low, one_high = np.maximum(boxes[row, :2], shared_low), np.minimum(boxes[row, 2:], shared_high)
        low, high = np.maximum(boxes[others, :2], shared_low), np.minimum(boxes[others, 2:], shared_high)
        both = _area(np.maximum(one_low, low), np.minimum(one_high, high))
        union = _area(one_low, one_high) + _area(low, high) - both
        overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
        kept = overlap >= SAME
        pairs.append(np.stack([np.full(kept.sum(), row), others[kept]], axis=1))
        values.append(overlap[kept])
    return np.concatenate(pairs), np.concatenate(values)


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.clip(high - low, 0, None).prod(axis=1)
    return area


def _fused(boxes: NDArray[np.float64], scores: NDArray[np.float32], cut: NDArray[np.bool_]) -> list[float]:
    """Each edge from the surest box that was not cut there; where all were, the outermost."""
    edges = []
    for edge in range(4):
        whole = np.flatnonzero(~cut[:, edge])
        if whole.size:
            edges.append(boxes[whole[scores[whole].argmax()], edge])
        else:
            edges.append(boxes[:, edge].min() if edge < 2 else boxes[:, edge].max())
    return [float(edge) for edge in edges]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How far the detections of two runtimes are apart. Detections are matched: near-ties may change their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ..backends.base import Outputs

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Tolerance:
    """What may differ."""

    score: float
    """Largest difference of scores, in 0..1."""
    box: float
    """Largest difference of a box coordinate in pixels of the network's input."""
    floor: float = 0.0
    """Detections below this score, relative to the best one of the image, are not compared."""
    outliers: float = 0.0
    """Share of the compared detections that may lie beyond or find no partner: queries that changed places."""
    middle: float = 1.0
    """Half of the compared detections must lie within this share of ``score`` and ``box``: rounding leaves most of them
    where they were, a fault in the decoding moves them all."""


FP32 = Tolerance(1e-4, 0.05)
"""Rounding of another order of summation; ties at the last place of the top-k are excused."""


@dataclass(frozen=True)
class Difference:
    """Of a batch, all images together. One NaN or infinite number found anywhere makes the largest difference NaN,
    which is beyond every tolerance and never excused."""

    score: float
    """Largest of matched detections; with outliers allowed, the largest that is not excused."""
    box: float
    """Likewise, in pixels of the network's input."""
    unmatched: int
    """Detections without a partner of their label."""
    compared: int
    allowed: int
    """Outliers that are excused."""
    middle_score: float
    """Median of matched detections."""
    middle_box: float
    """Likewise, in pixels of the network's input."""

    def problems(self, tolerance: Tolerance) -> list[str]:
        """What lies beyond, by the name of the output; empty where everything is fine."""
        if not self.compared:
            return ["nothing could be compared: the scores are no numbers, or all detections tie"]
        beyond = []
        if self.unmatched > self.allowed:
            beyond.append(f"labels: {self.unmatched} of {self.compared} detections have no partner of their class")
        for name, largest, middle, limit, unit in (
            ("boxes", self.box, self.middle_box, tolerance.box, " px"),
            ("scores", self.score, self.middle_score, tolerance.score, ""),
        ):
            if not largest <= limit:
                beyond.append(f"{name}: off by {largest:.3g}{unit}, {limit:g}{unit} is allowed")
            elif not middle <= (most := limit * tolerance.middle):
                beyond.append(f"{name}: half are off by more than {middle:.3g}{unit}, {most:g}{unit} is allowed")
        return beyond


def compare(expected: Outputs, got: Outputs, scale: Array, tolerance: Tolerance) -> Difference:
    """Match detections image by image and take the largest differences.

    Args:
        expected, got: of the same B images.
        scale: (B, 4) what one pixel of the original image is in pixels of the network's input, for x, y, x, y.
        tolerance: sets the price of a pair and what is excused.
    """
    pairs = [_pairs(expected.take(i), got.take(i), scale[i], tolerance) for i in range(len(expected.scores))]
    rows = np.concatenate(pairs)  # (M, 3): score difference, box difference, has a partner
    allowed = int(tolerance.outliers * len(rows))
    partners = rows[rows[:, 2] > 0, :2]
    lost = len(rows) - len(partners)
    spare = max(0, allowed - lost)
    beyond = np.maximum(partners[:, 0] / tolerance.score, partners[:, 1] / tolerance.box)
    order = np.argsort(np.where(np.isnan(beyond), np.inf, beyond), kind="stable")
    kept = partners[order[: max(0, len(order) - spare)]]
    score, box = (float(value) for value in kept.max(axis=0)) if len(kept) else (0.0, 0.0)
    middle_score, middle_box = (float(value) for value in np.median(partners, axis=0)) if len(partners) else (0.0, 0.0)
    score, box = (
        value if np.isfinite(numbers).all() else np.nan for value, numbers in ((score, got.scores), (box, got.boxes))
    )
    return Difference(score, box, lost, len(rows), allowed, middle_score, middle_box)


def _pairs(expected: Outputs, got: Outputs, scale: Array, tolerance: Tolerance) -> Array:
    """(M, 3) differences of score and box, and whether there is a partner, of every expected detection that counts."""
    scores = np.abs(expected.scores[:, None] - got.scores[None])  # (K, K)
    boxes = (np.abs(expected.boxes[:, None] - got.boxes[None]) * scale).max(axis=-1)
    same = expected.labels[:, None] == got.labels[None]
    price = np.minimum(scores / tolerance.score + boxes / tolerance.box, 1e6)
    price = np.where(same, np.where(np.isnan(price), 1e6, price), 1e7)
    mine, theirs = linear_sum_assignment(price)
    partner = same[mine, theirs]
    rows = np.stack([scores[mine, theirs], boxes[mine, theirs], partner], axis=1)
    # The last places of the top-k may be taken by another of nearly the same score.
    near = tolerance.score * expected.scores.max()
    could_be_cut = expected.scores[mine] <= got.scores.min() + near
    could_come_in = got.scores[theirs] <= expected.scores.min() + near
    tied = (price[mine, theirs] > 1) & could_be_cut & could_come_in
    counts = expected.scores[mine] >= tolerance.floor * expected.scores.max()
    compared: NDArray[np.floating[Any]] = rows[counts & ~tied]
    return compared

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of each class over the score threshold, at IoU 0.5, and the threshold that is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .matching import JudgedImage, Matches

RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads precision."""
THRESHOLDS = np.linspace(0, 1, 201)
"""Where classes are compared."""
ABSENT = -1.0
"""AP of a class without objects, as COCO has it."""


class OperatingPoint(NamedTuple):
    """What a class gives at one threshold."""

    threshold: float
    """Detections with at least this score are kept."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """One class over all images: its n counted detections, the surest first."""

    name: str
    num_objects: int
    """Annotated boxes without crowd regions."""
    scores: NDArray[np.float64]
    """(n,) descending."""
    precision: NDArray[np.float64]
    """(n,) of the detections up to and with this one."""
    recall: NDArray[np.float64]
    """(n,) likewise; 0 where the class has no objects."""

    @property
    def f1(self) -> NDArray[np.float64]:
        """(n,) harmonic mean of precision and recall."""
        return _f1(self.precision, self.recall)

    def interpolated(self) -> NDArray[np.float64]:
        """(101,) COCO's precision: at each of ``RECALLS`` the highest that is reached with that recall or more."""
        highest = np.maximum.accumulate(self.precision[::-1])[::-1]
        places = np.searchsorted(self.recall, RECALLS, side="left")
        return np.where(places < len(highest), np.append(highest, 0.0)[places.clip(0, len(highest))], 0.0)

    @property
    def ap(self) -> float:
        """Average precision at this IoU, -1 without objects."""
        return float(self.interpolated().mean()) if self.num_objects else ABSENT

    def at(self, thresholds: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Precision, recall and F1 of the detections with at least these scores, each of their shape.

        Where nothing is left, precision is 1 (nothing is wrong), recall and F1 are 0.
        """
        kept = np.searchsorted(-self.scores, -thresholds, side="right")
        precision, recall = np.append(1.0, self.precision)[kept], np.append(0.0, self.recall)[kept]
        return precision, recall, _f1(precision, recall)

    def best(self) -> OperatingPoint | None:
        """Where F1 is highest (of equals the highest threshold); None where nothing was found or is to be found.

        The threshold lies half-way to the next lower score, so that rounding it does not lose the last detection.
        """
        if not self.num_objects or not self.f1.any():
            return None
        ends = np.flatnonzero(np.append(self.scores[:-1] > self.scores[1:], True))
        place = int(ends[int(np.argmax(self.f1[ends]))])
        below = float(self.scores[place + 1]) if place + 1 < len(self.scores) else 0.0
        threshold = (float(self.scores[place]) + below) / 2
        return OperatingPoint(threshold, float(self.precision[place]), float(self.recall[place]), float(self.f1[place]))


def score_curves(images: Sequence[JudgedImage], matches: Sequence[Matches], names: Sequence[str]) -> list[ScoreCurve]:
    """One curve per class.

    Args:
        images, matches: in the same order; among equal scores the order of images counts, as in COCO's evaluator
            (which sorts them by id).
        names: of the C classes.
    """
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in images)])
    scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
    right = np.concatenate([np.zeros(0, bool), *(match.truth >= 0 for match in matches)])
    counted = ~np.concatenate([np.zeros(0, bool), *(match.ignored for match in matches)])
    truth = np.concatenate([np.zeros(0, np.int64), *(image.truth_labels[~image.crowd] for image in images)])
    objects = np.bincount(truth, minlength=len(names))
    curves = []
    for label, name in enumerate(names):
        own = np.flatnonzero((labels == label) & counted)
        own = own[np.argsort(-scores[own], kind="stable")]
        hits = np.cumsum(right[own])
        precision = hits / np.arange(1, len(own) + 1)
        recall = hits / max(1, objects[label])
        curves.append(ScoreCurve(name, int(objects[label]), scores[own], precision, recall))
    return curves


def best_common_threshold(curves: Sequence[ScoreCurve], default: float) -> float:
    """The threshold (a multiple of 0.005) with the highest mean F1 of the classes that have objects.

    Among equals the middle one; ``default`` where nothing is found at any threshold.
    """
    rows = [curve.at(THRESHOLDS)[2] for curve in curves if curve.num_objects]
    if not rows or not np.any(rows):
        return default
    mean = np.mean(rows, axis=0)
    places = np.flatnonzero(mean >= mean.max() - 1e-12)
    return float(THRESHOLDS[places[len(places) // 2]])


def _f1(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)

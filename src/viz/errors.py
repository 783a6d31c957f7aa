# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a detector got right and wrong at IoU 0.5: curves, a threshold, kinds of errors, who is taken for whom."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..core.errors import cell, one_line
from ..core.files import whole_file
from .draw import THRESHOLD
from .matching import IOU, MAX_DETECTIONS, JudgedImage, Matches, best_free, match_all, pairwise_overlap
from .operating_points import ScoreCurve, best_common_threshold, score_curves

NEAR = 0.1
"""Overlap from which a wrong box counts as meant for an object."""
Kind = Literal["confusion", "localisation", "duplicate", "background", "miss"]
KINDS: dict[Kind, str] = {
    "confusion": "Confusions: the place is right, the class is wrong",
    "localisation": f"Localisation: the class is right, the overlap is only {NEAR:g} to {IOU:g}",
    "duplicate": "Duplicates: the object was found already",
    "background": "False positives: no annotated object there",
    "miss": "Misses: annotated objects without a detection",
}

COLUMNS = (
    *("kind", "image", "class", "score", "x1", "y1", "x2", "y2"),
    *("object", "object_x1", "object_y1", "object_x2", "object_y2", "iou"),
)
"""Of the table of errors."""


@dataclass(frozen=True, eq=False)
class Error:
    """One wrong detection, or one object that was not found."""

    kind: Kind
    image: int
    """Index of the image."""
    label: int
    """Class of the detection; of a miss that of the object."""
    score: float
    """Of the detection; of a miss the best below the threshold that has the right place and class, 0 for none."""
    box_xyxy_px: NDArray[np.float64] | None
    """(4,) the detection; None for a miss."""
    truth_xyxy_px: NDArray[np.float64] | None = None
    """(4,) the object that it concerns, if any."""
    truth_label: int = -1
    overlap: float = 0.0
    """IoU of the two."""

    @property
    def size_px(self) -> float:
        """Root of the area of the box, or of a miss's object."""
        box = self.truth_xyxy_px if self.box_xyxy_px is None else self.box_xyxy_px
        assert box is not None
        return float(np.sqrt(np.clip(box[2:] - box[:2], 0, None).prod()))


@dataclass(frozen=True, eq=False)
class Mistakes:
    """All of a data set at one threshold."""

    confusion: NDArray[np.int64]
    """(C + 1, C + 1): rows are the annotated class, columns the detected one; the last row counts detections of
    nothing, the last column objects that were not found."""
    errors: list[Error]

    def of(self, kind: Kind) -> list[Error]:
        """Errors of a kind: the surest first, misses by size with the largest first."""
        own = [error for error in self.errors if error.kind == kind]
        return sorted(own, key=lambda error: -error.size_px if kind == "miss" else -error.score)


def find_mistakes(
    images: Sequence[JudgedImage], matches: Sequence[Matches], num_classes: int, threshold: float
) -> Mistakes:
    """Explain every detection with at least ``threshold`` and every object.

    A detection that found its object (``matching.match``) is right. Of the others, the surest first, one that overlaps
    a free object of another class by at least ``IOU`` is a confusion and takes it. The rest are duplicates (an object
    that is taken, overlap at least ``IOU``), localisation errors (of a free object of the class, overlap at least
    ``NEAR``) or background. Objects left free are misses, also those that a localisation error is near to. What
    ``match`` ignored is left out.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    errors: list[Error] = []
    for number, (image, matched) in enumerate(zip(images, matches)):
        _explain(number, image, matched, threshold, matrix, errors)
    return Mistakes(matrix, errors)


def _explain(
    number: int, image: JudgedImage, matched: Matches, threshold: float, matrix: NDArray[np.int64], errors: list[Error]
) -> None:
    overlap = pairwise_overlap(image.boxes_xyxy_px, image.truth_xyxy_px)
    sure = (image.scores >= threshold) & ~matched.ignored
    right = np.flatnonzero(sure & (matched.truth >= 0))
    free = ~image.crowd
    free[matched.truth[right]] = False
    for detection in right.tolist():
        matrix[image.labels[detection], image.labels[detection]] += 1
    wrong = np.flatnonzero(sure & (matched.truth < 0))
    unexplained = []
    for detection in wrong[np.argsort(-image.scores[wrong], kind="stable")].tolist():
        label = int(image.labels[detection])
        place = best_free(overlap[detection], free & (image.truth_labels != label), IOU)
        if place < 0:
            unexplained.append(detection)
            continue
        free[place] = False
        matrix[image.truth_labels[place], label] += 1
        errors.append(_error("confusion", number, image, detection, place, overlap))
    for detection in unexplained:  # only now is it known which objects are taken
        matrix[-1, image.labels[detection]] += 1
        errors.append(_without_object(number, image, detection, free, overlap))
    for place in np.flatnonzero(free).tolist():
        matrix[image.truth_labels[place], -1] += 1
        unsure = matched.truth == place
        score = float(image.scores[unsure].max(initial=0.0))
        label = int(image.truth_labels[place])
        errors.append(Error("miss", number, label, score, None, image.truth_xyxy_px[place], label))


def _without_object(
    number: int, image: JudgedImage, detection: int, free: NDArray[np.bool_], overlap: NDArray[np.float64]
) -> Error:
    objects = ~image.crowd
    taken = best_free(overlap[detection], objects & ~free, IOU)
    if taken >= 0:
        return _error("duplicate", number, image, detection, taken, overlap)
    near = best_free(overlap[detection], free & (image.truth_labels == image.labels[detection]), NEAR)
    if near >= 0:
        return _error("localisation", number, image, detection, near, overlap)
    return Error(
        "background", number, int(image.labels[detection]), float(image.scores[detection]),
        image.boxes_xyxy_px[detection],
    )  # fmt: skip


def _error(
    kind: Kind, number: int, image: JudgedImage, detection: int, place: int, overlap: NDArray[np.float64]
) -> Error:
    return Error(
        kind, number, int(image.labels[detection]), float(image.scores[detection]), image.boxes_xyxy_px[detection],
        image.truth_xyxy_px[place], int(image.truth_labels[place]), float(overlap[detection, place]),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found in some images, C classes."""

    names: Sequence[str]
    """Class names by index."""
    images: Sequence[JudgedImage]
    curves: Sequence[ScoreCurve]
    """One per class."""
    threshold: float
    """Score at which mistakes are counted."""
    mistakes: Mistakes

    def numbers(self) -> dict[str, Any]:
        """Plain data for JSON."""
        points = {curve.name: curve.best() for curve in self.curves}
        return {
            "threshold": self.threshold,
            "best": {name: None if point is None else point._asdict() for name, point in points.items()},
            "confusion": self.mistakes.confusion.tolist(),
            "errors": {kind: len(self.mistakes.of(kind)) for kind in KINDS},
        }

    def write_errors(self, path: Path) -> None:
        """A table (CSV) with one line per error: boxes x1, y1, x2, y2 in pixels.

        The score of a miss is the best below the threshold at its place, 0 where there is none.
        """
        with whole_file(path, durable=False) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for error in (error for kind in KINDS for error in self.mistakes.of(kind)):
                detection, object_ = (
                    [""] * 4 if box is None else [f"{value:.2f}" for value in box]
                    for box in (error.box_xyxy_px, error.truth_xyxy_px)
                )
                image, name = cell(one_line(self.images[error.image].name)), cell(self.names[error.label])
                row = [error.kind, image, name, f"{error.score:.5f}", *detection]
                truth = "" if error.truth_label < 0 else cell(self.names[error.truth_label])
                table.writerow([*row, truth, *object_, f"{error.overlap:.4f}"])


def judge(
    images: Sequence[JudgedImage],
    names: Sequence[str],
    threshold: float | None = None,
    *,
    max_detections: int = MAX_DETECTIONS,
) -> Judgement:
    """Match, measure and explain.

    Args:
        images: in the order of their ids, as COCO's evaluator takes them.
        names: of the C classes.
        threshold: score at which mistakes are counted; None for the one with the highest mean F1.
        max_detections: per class and image.
    """
    matches = match_all(images, max_detections=max_detections)
    curves = score_curves(images, matches, names)
    chosen = best_common_threshold(curves, THRESHOLD) if threshold is None else threshold
    return Judgement(names, images, curves, chosen, find_mistakes(images, matches, len(names), chosen))

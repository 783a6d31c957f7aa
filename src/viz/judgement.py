# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A whole set of images judged at IoU 0.5: curves, a threshold, mistakes; and these as files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import cell, one_line
from ..core.files import whole_file
from .draw import THRESHOLD
from .errors import KINDS, Kind, Mistakes, find_mistakes
from .matching import MAX_DETECTIONS, JudgedImage, match_all
from .operating_points import ScoreCurve, best_common_threshold, score_curves
from .sheet import error_sheet

SHEET = 24
"""Errors on one sheet."""
COLUMNS = (
    *("kind", "image", "class", "score", "x1", "y1", "x2", "y2"),
    *("object", "object_x1", "object_y1", "object_x2", "object_y2", "iou"),
)
"""Of the table of errors."""


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

    def sheets(
        self, most: int, open_image: Callable[[int], Image.Image]
    ) -> Iterator[tuple[Kind, int, list[Image.Image]]]:
        """Per kind of error its name, how many there are, and sheets with the first ``most`` of them.

        Args:
            most: errors shown per kind, ``SHEET`` of them on each sheet.
            open_image: index of an image -> RGB.
        """
        image_names = [image.name for image in self.images]
        for kind in KINDS:
            errors = self.mistakes.of(kind)
            parts = [errors[start : min(start + SHEET, most)] for start in range(0, min(len(errors), most), SHEET)]
            yield kind, len(errors), [error_sheet(part, open_image, image_names, self.names) for part in parts]

    def write_errors(self, path: Path) -> None:
        """A table (CSV) with one line per error: boxes x1, y1, x2, y2 in pixels.

        The score of a miss is the best below the threshold at its place, 0 where there is none.
        """
        with whole_file(path, durable=False) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for error in (error for kind in KINDS for error in self.mistakes.of(kind)):
                found, object_ = (
                    [""] * 4 if box is None else [f"{value:.2f}" for value in box]
                    for box in (error.box_xyxy_px, error.truth_xyxy_px)
                )
                image, name = cell(one_line(self.images[error.image].name)), cell(self.names[error.label])
                row = [error.kind, image, name, f"{error.score:.5f}", *found]
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

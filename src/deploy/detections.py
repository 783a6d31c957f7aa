# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a detector found in one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import DataError
from ..core.extras import need
from ..data.label_space import LabelSpace
from ..viz.draw import draw_detections
from .pictures import Channels, Picture, as_rgb

BOX_DIGITS, SCORE_DIGITS = 2, 5
"""Decimals in COCO results: a hundredth of a pixel, and scores whose order survives in all but exact ties."""


class Detection(NamedTuple):
    """One found object."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels."""
    score: float
    label: int
    """Contiguous class index."""
    name: str


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """M objects of one image, the surest first.

    ``len``, iteration, and indexing with a number, a slice, a mask or numbers:
    ``found[found.scores > 0.7]`` keeps some, ``found.of("cat", "dog")`` those of some classes.
    """

    boxes: NDArray[np.float32]
    """(M, 4) xyxy in pixels of the image as it is displayed (turned by EXIF). Not clipped to the image."""
    scores: NDArray[np.float32]
    """(M,) in [0, 1], descending."""
    labels: NDArray[np.int64]
    """(M,) contiguous class index 0..C-1."""
    label_space: LabelSpace
    """Names and original category ids of the C classes."""
    size: tuple[int, int]
    """(height, width) of the displayed image in pixels."""
    source: Picture | None = None
    """The image as it was given, for ``draw``."""
    channels: Channels = "rgb"
    """Colour order of ``source``, where that is an array."""

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.label_space.names[label] for label in self.labels.tolist()]

    def __repr__(self) -> str:
        height, width = self.size
        best = [f"{name} {score:.2f}" for name, score in zip(self.names[:3], self.scores.tolist())]
        more = ["..."] if len(self) > len(best) else []
        return f"Detections({len(self)} in {height} x {width} px{': ' * bool(best)}{', '.join([*best, *more])})"

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        for box, score, label, name in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names):
            yield Detection((box[0], box[1], box[2], box[3]), score, label, name)

    def __getitem__(self, index: Any) -> Detections:
        """A part; also for a single number, so that what comes out can always do the same."""
        rows = np.arange(len(self))[index]
        rows = np.atleast_1d(rows)
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def above(self, threshold: float) -> Detections:
        """Those with at least this score."""
        return self[self.scores >= threshold]

    def of(self, *names: str) -> Detections:
        """Those of the named classes.

        Raises:
            DataError: a class that the model does not know.
        """
        known = self.label_space.names
        if unknown := [name for name in names if name not in known]:
            raise DataError(f"no class is called {unknown[0]!r}: the model knows {self.label_space.describe()}")
        return self[np.isin(self.labels, [known.index(name) for name in names])]

    def clipped(self) -> Detections:
        """The same with boxes cut at the border of the image."""
        height, width = self.size
        limits = np.array([width, height, width, height], dtype=np.float32)
        return replace(self, boxes=np.clip(self.boxes, 0, limits))

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Entries of a COCO results file, with original category ids.

        Boxes x, y, width, height are rounded to 2 decimals, scores to 5 (computed in double precision, then rounded).
        """
        boxes = self.boxes.astype(np.float64)
        boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": self.label_space.category_ids[label],
                "bbox": [round(value, BOX_DIGITS) for value in box],
                "score": round(score, SCORE_DIGITS),
            }
            for box, score, label in zip(boxes_xywh.tolist(), self.scores.tolist(), self.labels.tolist())
        ]

    def to_supervision(self) -> Any:
        """A ``supervision.Detections`` with ``class_name`` among its data.

        Raises:
            ConfigError: the package is not installed, or cannot be imported.
        """
        supervision = need("supervision")
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def draw(self, image: Picture | None = None) -> Image.Image:
        """The image with its boxes, names and scores.

        Args:
            image: what to draw on; None = the image that was given to ``detect`` (a path is read again).

        Raises:
            DataError: no image is known, or it has another size than the one these detections are of.
        """
        given = self.source if image is None else image
        if given is None:
            raise DataError("these detections do not know their image: give it, draw(image)")
        rgb = as_rgb(given, self.channels)
        if (rgb.height, rgb.width) != self.size:
            raise DataError(
                f"the image has height, width {(rgb.height, rgb.width)}, the detections are of one with {self.size}: "
                "draw on the image they were found in"
            )
        return draw_detections(rgb, self, self.label_space, threshold=0.0)

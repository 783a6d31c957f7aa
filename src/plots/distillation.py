# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Teacher and student on one image: their boxes, the difference of their memories, and LCMD's masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.dataset.detection import GroundTruth
from ..nn.types import BatchDetections
from ..viz.canvas import DPI, new_figure
from ..viz.draw import ClassNames, draw_boxes, draw_detections
from .panels import add_box, panel_shape, show_view

_COLUMNS = 3
_WIDTH = 5.0
"""Inches of a panel: captions of boxes stay legible."""
_HEAD, _BAR = 0.3, 0.55
"""Inches of a row of titles, and of the colour bars."""
_OUTLINE = "#000000"
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ComparedLevel:
    """One level of both memories, (H, W) each."""

    stride: int
    difference: Array
    """NaN in padding."""
    location: Array
    """bool, LCMD's location mask."""
    scale: Array
    """LCMD's scale mask, 0 in padding."""


@dataclass(frozen=True, eq=False)
class ComparedImage:
    """What teacher and student say of an image; boxes in its pixels."""

    truth: GroundTruth | None
    teacher: BatchDetections
    """Of one image, as the student's."""
    student: BatchDetections
    levels: Sequence[ComparedLevel]
    """None where the models have no memory in common."""
    span: tuple[float, float]
    """(height, width) in pixels of the image that a level spans from the upper left corner: more than the image where
    it is padded."""
    cosine: bool
    """Whether differences are 1 - cosine, 0 or more; else those of two attentions, of either sign."""


class _Map(NamedTuple):
    """How a field of a level is shown."""

    field: str
    title: str
    bar: str
    """What the colour bar says; none without."""
    style: dict[str, Any]


def distillation_figure(
    image: Image.Image, seen: ComparedImage, label_space: ClassNames, threshold: float, title: str
) -> Any:
    """Panels in rows of three: ground truth, teacher, student; then per level the difference of the memories and, with
    ground truth, LCMD's location mask and scale mask.

    Args:
        image: RGB.
        threshold: smallest score of a box, the same for both.
        title: of the figure.

    Returns: a matplotlib ``Figure``. Maps lie in pixels of the image and carry the gids ``difference/<stride>``,
    ``location/<stride>`` and ``scale/<stride>``.
    """
    shape = panel_shape((0, 0, *image.size))
    pictures, maps = _pictures(image, seen, label_space, threshold, shape), _maps(seen) if seen.levels else []
    rows = -(-(len(pictures) + len(maps) * len(seen.levels)) // _COLUMNS)
    heights = [_WIDTH * shape + _HEAD] * rows + [_BAR] * bool(maps)
    figure = new_figure(_COLUMNS * _WIDTH, sum(heights) + 2 * _HEAD)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(heights), _COLUMNS, squeeze=False, height_ratios=heights)
    panels = iter(grid.flat)
    for name, picture in pictures:
        axes = next(panels)
        show_view(axes, picture, (0, 0, *picture.size))
        axes.set_title(name, fontsize=10)
    grey = image.convert("L").convert("RGB")
    drawn: dict[str, Any] = {}
    for level in seen.levels:
        for kind in maps:
            axes = next(panels)
            show_view(axes, grey, (0, 0, *image.size))
            drawn[kind.field] = _lay_over(axes, kind, level, seen.span)
            for box in [] if seen.truth is None else seen.truth.boxes.tolist():
                add_box(axes, box, edgecolor=_OUTLINE, linewidth=0.8)
            axes.set_title(f"{kind.title}, stride {level.stride}", fontsize=10)
    for axes in panels:
        axes.set_axis_off()
    for kind, axes in zip(maps, grid[-1]):
        if kind.bar:
            axes.set_axis_on()
            figure.colorbar(drawn[kind.field], cax=axes, orientation="horizontal", format="%.2g")
            axes.set_xlabel(kind.bar, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.set_box_aspect(0.05)
    return figure


def _pictures(
    image: Image.Image, seen: ComparedImage, label_space: ClassNames, threshold: float, shape: float
) -> list[tuple[str, Image.Image]]:
    """Names and boxes drawn on the image in the size of a panel, so that captions come out as they are written."""
    scale = DPI * _WIDTH * min(1 / image.width, shape / image.height)
    picture = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pictures = []
    if seen.truth is not None:
        truth = replace(seen.truth, boxes=seen.truth.boxes * scale)
        pictures.append((f"ground truth: {_boxes(len(truth.boxes))}", draw_boxes(picture, truth, label_space)))
    for name, found in (("teacher", seen.teacher), ("student", seen.student)):
        count = int((found.scores >= threshold).sum())
        scaled = found._replace(boxes=found.boxes * scale)
        drawn = draw_detections(picture, scaled, label_space, threshold)
        pictures.append((f"{name}: {_boxes(count)} with a score >= {threshold:g}", drawn))
    return pictures


def _boxes(count: int) -> str:
    return "1 box" if count == 1 else f"{count} boxes"


def _maps(seen: ComparedImage) -> list[_Map]:
    """What is shown of every level, in colours that mean the same at all of them."""
    from matplotlib.colors import LogNorm

    differences = np.concatenate([level.difference.ravel() for level in seen.levels])
    most = float(np.nanquantile(np.abs(differences), 0.995)) or 1.0
    if seen.cosine:
        bar, colors = "1 - cosine of both memories' cells (0: the same direction)", {"cmap": "inferno", "vmin": 0.0}
    else:
        bar = "attention of the teacher minus the student's (1: that of a mean cell)"
        colors = {"cmap": "RdBu_r", "vmin": -most}
    maps = [_Map("difference", "difference of the memories", bar, colors | {"vmax": most, "alpha": 0.65})]
    if seen.truth is not None:
        smallest = min(float(level.scale[level.scale > 0].min()) for level in seen.levels)
        norm = LogNorm(10.0 ** min(np.floor(np.log10(smallest)), -1), 1)  # whole decades: none weighs more than 1
        maps += [
            _Map("location", "LCMD's location mask", "", {"cmap": "winter", "vmin": 0.0, "vmax": 1.0, "alpha": 0.5}),
            _Map("scale", "LCMD's scale mask", "weight of a cell", {"cmap": "viridis", "norm": norm, "alpha": 0.65}),
        ]
    return maps


def _lay_over(axes: Any, kind: _Map, level: ComparedLevel, span: tuple[float, float]) -> Any:
    """Colour the cells of a level over the image that the axes show."""
    values: Array = getattr(level, kind.field).astype(float)
    shown = values if kind.field == "difference" else np.where(values > 0, values, np.nan)
    limits = axes.get_xlim(), axes.get_ylim()
    drawn = axes.imshow(shown, extent=(0, span[1], span[0], 0), interpolation="nearest", **kind.style)
    drawn.set_gid(f"{kind.field}/{level.stride}")
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    return drawn

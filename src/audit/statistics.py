# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that describe a data set: classes, sizes, shapes and places of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classes import class_counts, objects_per_image
from .findings import Split

SMALL, LARGE = 32.0, 96.0
"""COCO's bounds: areas below 32 x 32 pixels are small, from 96 x 96 large."""
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class Statistics:
    """Plain arrays of one split: n images, A boxes with area that are no crowd regions, C classes."""

    name: str
    classes: tuple[str, ...]
    class_counts: NDArray[np.int64]
    """(C,)"""
    boxes_per_image: NDArray[np.int64]
    """(n,)"""
    image_sizes: NDArray[np.int64]
    """(n, 2) height, width."""
    box_sizes_px: NDArray[np.float64]
    """(A, 2) height, width."""
    box_sizes: NDArray[np.float64]
    """(A, 2) height, width as fractions of the image."""
    centers: NDArray[np.float64]
    """(A, 2) x, y as fractions of the image."""


def statistics_of(split: Split) -> Statistics:
    """Measure one split."""
    data = split.annotations
    good = ~data.crowd & (data.boxes_xywh_px[:, 2:] > 0).all(axis=1)
    sizes = split.sizes_of_boxes[good]
    boxes = data.boxes_xywh_px[good]
    box_sizes_px = boxes[:, [3, 2]]
    return Statistics(
        split.name,
        data.label_space.names,
        class_counts(split),
        objects_per_image(split),
        data.sizes,
        box_sizes_px,
        box_sizes_px / sizes,
        (boxes[:, :2] + boxes[:, 2:] / 2) / sizes[:, ::-1],
    )


def summary_of(stats: Statistics) -> dict[str, Any]:
    """The main numbers as plain data; sizes in pixels, quantiles by percent."""
    side = np.sqrt(stats.box_sizes_px.prod(axis=1))
    height, width = stats.box_sizes_px.T
    return {
        "images": len(stats.boxes_per_image),
        "boxes": int(stats.class_counts.sum()),
        "images_without_boxes": int((stats.boxes_per_image == 0).sum()),
        "classes": {name: int(count) for name, count in zip(stats.classes, stats.class_counts)},
        "boxes_small_medium_large": [
            int((side < SMALL).sum()), int(((side >= SMALL) & (side < LARGE)).sum()), int((side >= LARGE).sum())
        ],
        "boxes_per_image": _quantiles(stats.boxes_per_image),
        "box_side_px": _quantiles(side),
        "box_side_relative": _quantiles(np.sqrt(stats.box_sizes.prod(axis=1))),
        "box_width_by_height": _quantiles(width / height),
        "image_height_px": _quantiles(stats.image_sizes[:, 0]),
        "image_width_px": _quantiles(stats.image_sizes[:, 1]),
    }  # fmt: skip


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{q}%": round(float(value), 4) for q, value in zip(_QUANTILES, np.percentile(values, _QUANTILES))}


def summary_table(summaries: dict[str, dict[str, Any]], *, classes: int = 100) -> str:
    """The summaries of all splits for a terminal."""
    lines: list[str] = []
    for name, summary in summaries.items():
        small, medium, large = summary["boxes_small_medium_large"]
        lines += [
            f"{name}: {summary['images']:,} images ({summary['images_without_boxes']:,} without boxes), "
            f"{summary['boxes']:,} boxes (small {small:,}, medium {medium:,}, large {large:,})",
            f"  {'quantile':22}" + "".join(f"{f'{q}%':>10}" for q in _QUANTILES),
        ]
        for key in ("boxes_per_image", "box_side_px", "box_side_relative", "box_width_by_height", "image_height_px",
                    "image_width_px"):  # fmt: skip
            lines.append(
                f"  {key.replace('_', ' '):22}" + "".join(f"{value:>10.4g}" for value in summary[key].values())
            )
    lines += ["", *_class_lines(list(summaries), [summary["classes"] for summary in summaries.values()], classes)]
    return "\n".join(lines)


def _class_lines(names: Sequence[str], counts: Sequence[dict[str, int]], shown: int) -> list[str]:
    total = {name: sum(count.get(name, 0) for count in counts) for count in counts for name in count}
    order = sorted(total, key=lambda name: -total[name])
    width = max([len(name) for name in order[:shown]] + [5]) + 2
    lines = [f"{'boxes':<{width}}" + "".join(f"{name:>12}" for name in names)]
    lines += [f"{name:<{width}}" + "".join(f"{count.get(name, 0):>12,}" for count in counts) for name in order[:shown]]
    return lines + ([f"... and {len(order) - shown} more classes (--json FILE has all)"] if len(order) > shown else [])

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Plots of a data set from plain arrays: classes, box sizes and shapes, image sizes, objects per image, box centres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..viz.canvas import DPI, new_figure
from .statistics import Statistics

_BOUNDS_PX = (32.0, 96.0)
"""COCO's small | medium | large."""
_COLORS = ("#2a6fbb", "#e08214", "#4d9221", "#b2457f", "#6b6b6b", "#8c6d31")
_CELLS, _FINE_CELLS, _MANY = 16, 32, 10_000
"""Cells a side of the map of centres: few for few boxes, else it shows single boxes."""


def save_plots(splits: Sequence[Statistics], folder: Path) -> list[Path]:
    """Draw all plots, the splits in one picture each.

    Args:
        splits: at least one; sizes (n, 2) and (A, 2) are height, width, centres (A, 2) x, y.
        folder: exists; gets classes.png, box_sizes.png, aspect_ratios.png, image_sizes.png, objects_per_image.png
            and box_centers.png.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    draw = {
        "classes": _classes,
        "box_sizes": _box_sizes,
        "aspect_ratios": _aspect_ratios,
        "image_sizes": _image_sizes,
        "objects_per_image": _objects_per_image,
        "box_centers": _box_centers,
    }
    paths = []
    for name, plot in draw.items():
        path = folder / f"{name}.png"
        plot(splits).savefig(path, dpi=DPI)
        paths.append(path)
    return paths


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    figure = new_figure(width, height)
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).ravel())


def _classes(splits: Sequence[Statistics]) -> Any:
    """Boxes per class and split, the most frequent on top."""
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    counts = np.zeros((len(splits), len(names)), dtype=np.int64)
    for row, split in enumerate(splits):
        for name, count in zip(split.classes, split.class_counts.tolist()):
            counts[row, names.index(name)] = count
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    figure, (axes,) = _figure(9, max(2.5, 1.2 + len(names) * max(0.19, 0.11 * len(splits))))
    thick = 0.8 / len(splits)
    for row, split in enumerate(splits):
        places = np.arange(len(names)) + (row - (len(splits) - 1) / 2) * thick
        axes.barh(places, counts[row, order], thick, color=_color(row), label=split.name)
        if len(splits) == 1 or len(names) <= 20:
            for place, count in zip(places, counts[row, order].tolist()):
                axes.annotate(f"{count:,}", (max(count, 1), place), (3, 0), textcoords="offset points", va="center",
                              fontsize=7)  # fmt: skip
    logarithmic = counts.max(initial=0) > 30 * max(1, counts[counts > 0].min(initial=1))
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(0.7, counts.max() * 2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        axes.margins(x=0.1)
    axes.set_yticks(np.arange(len(names)), [names[index] for index in order], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    _finish(axes, "boxes per class", "boxes (logarithmic)" if logarithmic else "boxes", None, 0)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _box_sizes(splits: Sequence[Statistics]) -> Any:
    """Sides of boxes (root of the area) in pixels, with COCO's bounds, and relative to the image."""
    figure, (absolute, relative) = _figure(11, 4.2, columns=2)
    _histogram(absolute, splits, [np.sqrt(split.box_sizes_px.prod(axis=1)) for split in splits])
    for bound in _BOUNDS_PX:
        absolute.axvline(bound, color="black", linewidth=0.8, linestyle="--")
    low, high = absolute.get_xlim()
    low, high = min(low, 12.0), max(high, 260.0)
    absolute.set_xlim(low, high)
    absolute.margins(y=0.18)
    for text, left, right in zip(("small", "medium", "large"), (low, *_BOUNDS_PX), (*_BOUNDS_PX, high)):
        absolute.annotate(text, (float(np.sqrt(left * right)), 0.985), xycoords=("data", "axes fraction"), ha="center",
                          va="top", fontsize=9)  # fmt: skip
    _finish(absolute, "box size in pixels", "root of width x height [px]", "boxes [%]", len(splits))
    _histogram(relative, splits, [100 * np.sqrt(split.box_sizes.prod(axis=1)) for split in splits])
    _finish(relative, "box size in the image", "root of the area [% of the image's]", "boxes [%]", len(splits))
    return figure


def _aspect_ratios(splits: Sequence[Statistics]) -> Any:
    figure, (axes,) = _figure(7.5, 4.2)
    _histogram(axes, splits, [split.box_sizes_px[:, 1] / split.box_sizes_px[:, 0] for split in splits])
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    _finish(axes, "shape of boxes", "width / height (below 1: tall, above 1: wide)", "boxes [%]", len(splits))
    return figure


def _image_sizes(splits: Sequence[Statistics]) -> Any:
    """One spot per size, its area by the number of images."""
    figure, (axes,) = _figure(6.5, 5.5)
    for row, split in enumerate(splits):
        sizes, counts = np.unique(split.image_sizes, axis=0, return_counts=True)
        label = f"{split.name}: {len(split.image_sizes):,} images, {len(sizes):,} size{'s' if len(sizes) > 1 else ''}"
        spots = 20 + 400 * counts / counts.max(initial=1)
        axes.scatter(sizes[:, 1], sizes[:, 0], spots, color=_color(row), alpha=0.45, label=label, linewidths=0)
    largest = max([int(split.image_sizes.max(initial=1)) for split in splits])
    axes.plot((0, largest * 1.1), (0, largest * 1.1), color="black", linewidth=0.6, linestyle=":")
    axes.set_xlim(0, largest * 1.1)
    axes.set_ylim(0, largest * 1.1)
    axes.set_aspect("equal")
    _finish(axes, "sizes of images (dotted: square)", "width [px]", "height [px]", 0)
    legend = axes.legend(loc="lower right", fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure


def _objects_per_image(splits: Sequence[Statistics]) -> Any:
    figure, (axes,) = _figure(7.5, 4.2)
    largest = max(int(split.boxes_per_image.max(initial=0)) for split in splits)
    width = max(1, -(-(largest + 1) // 60))
    edges = np.arange(0, largest + 1 + width, width) - 0.5
    for row, split in enumerate(splits):
        label = f"{split.name}: at most {int(split.boxes_per_image.max(initial=0))}"
        _steps(axes, split.boxes_per_image, edges, row, label)
    _finish(axes, "objects per image", "objects", "images [%]", 2)
    return figure


def _box_centers(splits: Sequence[Statistics]) -> Any:
    """Where in the image boxes have their centres; all splits on one scale of colours."""
    columns = min(len(splits), 3)
    rows = -(-len(splits) // columns)
    figure, panels = _figure(0.8 + 4.0 * columns, 4.3 * rows, rows, columns)
    maps, side = [], _FINE_CELLS if min(len(split.centers) for split in splits) >= _MANY else _CELLS
    for split in splits:
        cells, _, _ = np.histogram2d(split.centers[:, 1], split.centers[:, 0], side, ((0, 1), (0, 1)))
        maps.append(100 * cells / max(1, len(split.centers)))
    highest = max(float(cells.max()) for cells in maps) or 1.0
    for panel, split, cells in zip(panels, splits, maps):
        picture = panel.imshow(cells, extent=(0, 1, 1, 0), vmin=0, vmax=highest, cmap="viridis")
        panel.set_title(f"{split.name}: box centres", fontsize=11)
        panel.set_xlabel("x / width")
        panel.set_ylabel("y / height")
    for panel in panels[len(splits) :]:
        panel.axis("off")
    bar = figure.colorbar(picture, ax=panels, shrink=0.75)
    bar.set_label(f"boxes [%] per cell of 1/{side}")
    return figure


def _histogram(axes: Any, splits: Sequence[Statistics], values: Sequence[NDArray[np.float64]]) -> None:
    """Shares on a logarithmic axis, with bins that are the same for all splits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    everything = np.concatenate(values) if values else np.zeros(0)
    low, high = (float(everything.min()), float(everything.max())) if everything.size else (1.0, 10.0)
    edges = np.geomspace(low / 1.05, high * 1.05, 50)
    axes.set_xscale("log")
    for row, (split, own) in enumerate(zip(splits, values)):
        _steps(axes, own, edges, row, f"{split.name}: {len(own):,}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _steps(axes: Any, values: NDArray[Any], edges: NDArray[Any], row: int, label: str) -> None:
    shares = 100 * np.histogram(values, edges)[0] / max(1, len(values))
    axes.stairs(shares, edges, color=_color(row), label=label, fill=row == 0, alpha=0.45 if row == 0 else 1.0,
                linewidth=1.6)  # fmt: skip


def _finish(axes: Any, title: str, x: str, y: str | None, entries: int) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    if y is not None:
        axes.set_ylabel(y)
    axes.grid(axis="x", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    if entries:
        axes.legend(fontsize=8)


def _color(row: int) -> str:
    return _COLORS[row % len(_COLORS)]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What decoder layers look at: sampling points of deformable cross-attention, and attention among queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import add_box, new_figure, show_view, view_around

_LEVELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Colours of feature maps, fine to coarse; apart for colour-blind readers too."""
_OWN = "#000000"
_LARGEST_SPOT = 150.0
"""Area in square points of a point with weight 1 in its head; less in flat panels."""
_SMALLEST_SPOT = 2.5
_SHOWN = 12
"""Queries that are marked as attended to, at most."""


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """What one query looks at in one decoder layer."""

    layer: int
    """Number of the decoder layer, the first is 1."""
    reference_xyxy_px: NDArray[Any]
    """(4,) the box that the layer starts from; its points are placed relative to it."""
    points_px: NDArray[Any]
    """(heads, P, 2) x and y."""
    weights: NDArray[Any]
    """(heads, P), sums to 1 over P."""
    levels: NDArray[Any]
    """(P,) feature map of each point, 0 is the finest."""
    self_weights: NDArray[Any]
    """(Q,) share of each query in what self-attention reads, sums to 1."""
    query_boxes_xyxy_px: NDArray[Any]
    """(Q, 4) where these queries are."""


def attention_figure(image: Image.Image, caption: str, query: int, layers: Sequence[LayerAttention]) -> Any:
    """One object: above its sampling points per layer, below the queries that it attends to.

    The area of a point is its weight in its head, its colour the feature map. Of the queries those with the most weight
    are marked, each by its box, as opaque as its weight is large beside the largest; the object's own is black.

    Args:
        image: RGB, the whole image.
        caption: class and score.
        query: index of the object's query.
        layers: those to be shown, at least one.

    Returns: a matplotlib ``Figure``; the points of a layer are a collection with the gid ``points/<layer>/<level>``.
    """
    count = len(layers)
    wide = max(3.1, 9.3 / count)
    view = _view(image, layers)
    shapes = _shape((0, 0, image.width, image.height)), _shape(view)
    figure = new_figure(wide * count, 1.3 + wide * sum(shapes))
    figure.suptitle(f"{caption}: sampling points (above) and self-attention (below)", fontsize=11)
    grid = figure.subplots(2, count, squeeze=False, height_ratios=shapes[::-1])
    for column, layer in enumerate(layers):
        _sampling(grid[0, column], image, layer, view)
        _queries(grid[1, column], image, layer, query)
    levels = sorted({int(level) for layer in layers for level in layer.levels})
    handles = [_spot(f"feature map {level + 1}", level) for level in levels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def attention_maps_figure(maps: Sequence[NDArray[Any]], numbers: Sequence[int], order: Sequence[int]) -> Any:
    """Attention among queries per layer, mean over the heads.

    Args:
        maps: (Q, Q) each, rows sum to 1.
        numbers: of the decoder layers, the first is 1.
        order: queries to show, in this order, usually the surest first.

    Returns: a matplotlib ``Figure``.
    """
    figure = new_figure(max(6.5, 3.1 * len(maps)), 3.9)
    figure.suptitle(f"self-attention of the {len(order)} surest queries (surest first)", fontsize=11)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    shown = [weights[np.ix_(order, order)] for weights in maps]
    highest = max(float(np.quantile(weights, 0.995)) for weights in shown)
    for panel, weights, number in zip(panels, shown, numbers):
        picture = panel.imshow(weights, cmap="viridis", vmin=0, vmax=highest, interpolation="nearest")
        panel.set_title(f"layer {number}", fontsize=9)
        panel.set_xlabel("read query", fontsize=8)
        panel.tick_params(labelsize=7)
    panels[0].set_ylabel("reading query", fontsize=8)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.8)
    bar.set_label("weight (mean of heads)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _view(image: Image.Image, layers: Sequence[LayerAttention]) -> tuple[int, int, int, int]:
    """The boxes and nearly all of the weight of the points: single far points would make the rest tiny."""
    points = np.concatenate([layer.points_px.reshape(-1, 2) for layer in layers])
    weights = np.concatenate([layer.weights.ravel() for layer in layers])
    heavy = points[weights >= np.quantile(weights, 0.5)]
    low, high = np.quantile(heavy, 0.03, axis=0), np.quantile(heavy, 0.97, axis=0)
    boxes = [*(layer.reference_xyxy_px for layer in layers), np.concatenate([low, high])]
    return view_around(np.stack(boxes), (image.height, image.width), margin=0.1)


def _shape(view: tuple[int, int, int, int]) -> float:
    """Height of a panel as a share of its width, kept within what fits a page."""
    left, top, right, bottom = view
    return min(max((bottom - top) / (right - left), 0.3), 1.6)


def _sampling(panel: Any, image: Image.Image, layer: LayerAttention, view: tuple[int, int, int, int]) -> None:
    show_view(panel, image, view)
    largest = _LARGEST_SPOT * min(1.0, _shape(view) / 0.6)  # or they would hide a flat object
    add_box(panel, layer.reference_xyxy_px, edgecolor=_OWN, linewidth=1.2)
    for level in np.unique(layer.levels).tolist():
        own = layer.levels == level
        points, weights = layer.points_px[:, own].reshape(-1, 2), layer.weights[:, own].ravel()
        spots = panel.scatter(
            points[:, 0], points[:, 1], np.maximum(largest * weights, _SMALLEST_SPOT),
            color=_LEVELS[level % len(_LEVELS)], alpha=0.75, linewidths=0.4, edgecolors="white", clip_on=True,
        )  # fmt: skip
        spots.set_gid(f"points/{layer.layer}/{level}")
    panel.set_title(f"layer {layer.layer}", fontsize=9)


def _queries(panel: Any, image: Image.Image, layer: LayerAttention, query: int) -> None:
    show_view(panel, image, (0, 0, image.width, image.height))
    others = np.argsort(-layer.self_weights, kind="stable")[:_SHOWN]
    highest = float(layer.self_weights[others].max())
    for index in reversed(others.tolist()):
        if index != query:
            strength = float(layer.self_weights[index]) / highest
            add_box(panel, layer.query_boxes_xyxy_px[index], edgecolor=_LEVELS[0], alpha=strength, linewidth=1.4)
    add_box(panel, layer.query_boxes_xyxy_px[query], edgecolor=_OWN, linewidth=1.6)
    share = float(layer.self_weights[others].sum())
    panel.set_title(f"layer {layer.layer}: {len(others)} queries, {share:.0%} of the weight", fontsize=8)


def _spot(label: str, level: int) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=_LEVELS[level % len(_LEVELS)], label=label)

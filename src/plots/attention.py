# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What decoder layers look at: sampling points of deformable cross-attention, and attention among queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..deploy.inspection import InspectedLayer, Inspection
from ..viz.canvas import new_figure, view_around
from .panels import add_box, panel_shape, show_view

_LEVELS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
"""Colours of feature maps, fine to coarse; apart for colour-blind readers too."""
_OWN = "#000000"
_LARGEST_SPOT = 150.0
"""Area in square points of a point with weight 1 in its head; less in flat panels."""
_SMALLEST_SPOT = 2.5
_SPOTS = 256
"""Points of a feature map that are shown, those of the most weight: dense attention has one per cell and head."""
MAP_QUERIES = 100
"""Queries in a picture of the whole self-attention: more could not be told apart."""
_SHOWN = 12
"""Queries that are marked as attended to, at most."""


def attention_figure(image: Image.Image, seen: Inspection, query: int, caption: str, layers: Sequence[int] = ()) -> Any:
    """One object: above its sampling points per layer, below the queries that it attends to.

    The area of a point is its weight in its head, its colour the feature map. Of the queries those with the most weight
    are marked, each by its box, as opaque as its weight is large beside the largest; the object's own is black.

    Args:
        image: RGB, the whole image that was inspected.
        query: the object's.
        caption: its class and score.
        layers: decoder layers, the first is 1; none for all of them.

    Returns: a matplotlib ``Figure``; the points of a layer are a collection with the gid ``points/<layer>/<level>``.

    Raises:
        ConfigError: there is no such layer.
    """
    from matplotlib.lines import Line2D

    shown = seen.numbered(layers)
    wide = max(3.1, 9.3 / len(shown))
    view = _view(image, list(shown.values()), query)
    shapes = panel_shape((0, 0, image.width, image.height)), panel_shape(view)
    figure = new_figure(wide * len(shown), 1.3 + wide * sum(shapes))
    figure.suptitle(f"{caption}: sampling points (above) and self-attention (below)", fontsize=11)
    grid = figure.subplots(2, len(shown), squeeze=False, height_ratios=shapes[::-1])
    for (upper, lower), (number, layer) in zip(grid.T, shown.items()):
        show_view(upper, image, view)
        _sampling(upper, layer, query, number, _LARGEST_SPOT * min(1.0, shapes[1] / 0.6))  # less in flat panels
        show_view(lower, image, (0, 0, image.width, image.height))
        _queries(lower, layer, query, number)
    levels = sorted({int(level) for layer in shown.values() for level in layer.point_levels})
    spots = [
        Line2D([], [], marker="o", linestyle="", color=_LEVELS[level % len(_LEVELS)], label=f"feature map {level + 1}")
        for level in levels
    ]
    figure.legend(handles=spots, loc="outside lower center", ncols=len(spots), fontsize=8, frameon=False)
    return figure


def attention_maps_figure(seen: Inspection, layers: Sequence[int] = ()) -> Any:
    """Attention among the surest queries per layer, mean over the heads; no layers for all of them.

    Returns: a matplotlib ``Figure``.

    Raises:
        ConfigError: there is no such layer.
    """
    order, shown = seen.surest(MAP_QUERIES), seen.numbered(layers)
    figure = new_figure(max(6.5, 3.1 * len(shown)), 3.9)
    figure.suptitle(f"self-attention of the {len(order)} surest queries (surest first)", fontsize=11)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    maps = [layer.self_attention[np.ix_(order, order)] for layer in shown.values()]
    highest = max(float(np.quantile(weights, 0.995)) for weights in maps)
    for panel, weights, number in zip(panels, maps, shown):
        picture = panel.imshow(weights, cmap="viridis", vmin=0, vmax=highest, interpolation="nearest")
        panel.set_title(f"layer {number}", fontsize=9)
        panel.set_xlabel("read query", fontsize=8)
        panel.tick_params(labelsize=7)
    panels[0].set_ylabel("reading query", fontsize=8)
    bar = figure.colorbar(picture, ax=list(panels), shrink=0.8)
    bar.set_label("weight (mean of heads)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _view(image: Image.Image, layers: Sequence[InspectedLayer], query: int) -> tuple[int, int, int, int]:
    """The boxes and nearly all of the weight of the points: single far points would make the rest tiny."""
    points = np.concatenate([layer.points_px[query].reshape(-1, 2) for layer in layers])
    weights = np.concatenate([layer.point_weights[query].ravel() for layer in layers])
    heavy = points[weights >= np.quantile(weights, 0.5)]
    low, high = np.quantile(heavy, 0.03, axis=0), np.quantile(heavy, 0.97, axis=0)
    boxes = [*(layer.references_xyxy_px[query] for layer in layers), np.concatenate([low, high])]
    return view_around(np.stack(boxes), (image.height, image.width), margin=0.1)


def _sampling(panel: Any, layer: InspectedLayer, query: int, number: int, largest: float) -> None:
    add_box(panel, layer.references_xyxy_px[query], edgecolor=_OWN, linewidth=1.2)
    for level in np.unique(layer.point_levels).tolist():
        own = layer.point_levels == level
        points, weights = layer.points_px[query][:, own].reshape(-1, 2), layer.point_weights[query][:, own].ravel()
        if len(weights) > _SPOTS:
            heaviest = np.argsort(-weights, kind="stable")[:_SPOTS]
            points, weights = points[heaviest], weights[heaviest]
        spots = panel.scatter(
            points[:, 0], points[:, 1], np.maximum(largest * weights, _SMALLEST_SPOT),
            color=_LEVELS[level % len(_LEVELS)], alpha=0.75, linewidths=0.4, edgecolors="white", clip_on=True,
        )  # fmt: skip
        spots.set_gid(f"points/{number}/{level}")
    panel.set_title(f"layer {number}", fontsize=9)


def _queries(panel: Any, layer: InspectedLayer, query: int, number: int) -> None:
    shares = layer.self_attention[query]
    others = np.argsort(-shares, kind="stable")[:_SHOWN]
    for index in reversed(others.tolist()):
        if index != query:
            strength = float(shares[index]) / float(shares[others[0]])
            add_box(panel, layer.references_xyxy_px[index], edgecolor=_LEVELS[0], alpha=strength, linewidth=1.4)
    add_box(panel, layer.references_xyxy_px[query], edgecolor=_OWN, linewidth=1.6)
    panel.set_title(f"layer {number}: {len(others)} queries, {shares[others].sum():.0%} of the weight", fontsize=8)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-grained distribution refinement (FDR) of one object: Figure 4 of D-FINE's paper, arXiv 2410.13842."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..core.errors import ConfigError
from ..deploy.inspection import Inspection
from ..viz.canvas import new_figure, view_around
from .panels import add_box, show_view

EDGES = ("left", "top", "right", "bottom")
INITIAL, REFINED = "#d55e00", "#009e73"
"""Apart for colour-blind readers too."""
_PLAIN, _WEIGHTED = "#0072b2", "#8c6d31"
_OUTWARDS = np.array([-1.0, -1.0, 1.0, 1.0])


def edges_of(
    initial_xyxy_px: NDArray[Any], probabilities: NDArray[Any], bin_weights: NDArray[Any], inverse_curvature: float
) -> NDArray[np.float64]:
    """(4,) where the edges lie by the mean of P(n) W(n): an edge moves outwards by the sum times side / s."""
    initial = np.asarray(initial_xyxy_px, dtype=np.float64)
    sides = np.tile(initial[2:] - initial[:2], 2)  # width, height, width, height
    offsets = (np.asarray(probabilities, np.float64) * np.asarray(bin_weights, np.float64)).sum(axis=1)
    edges: NDArray[np.float64] = initial + _OUTWARDS * offsets * sides / inverse_curvature
    return edges


def refinement_figure(
    image: Image.Image, seen: Inspection, query: int, caption: str, layers: Sequence[int] = (), title: str = ""
) -> Any:
    """An object with its first and its refined box, and per layer the distributions of its edges.

    Upper row of a layer: P(n), with a line where W(n) equals the mean. Lower row: P(n) W(n), whose sum is the mean
    offset of the edge from the initial box, and the edge that it gives, in pixels.

    Args:
        image: RGB, the one that was inspected.
        query: the object's.
        caption: its class and score.
        layers: decoder layers, the first is 1; none for the first and the last.
        title: of the figure.

    Returns: a matplotlib ``Figure``; artists carry gids: ``initial``, ``refined`` (rectangles in pixels), and the bars
    ``P/<layer>/<edge>`` and ``PW/<layer>/<edge>``.

    Raises:
        ConfigError: the model has no distributions, or no such layer.
    """
    if seen.initial_boxes_xyxy_px is None or seen.bin_weights is None or seen.inverse_curvature is None:
        raise ConfigError("this model's boxes are no distributions (box_head is direct): use attention instead of fdr")
    shown = seen.numbered(layers or (1, len(seen.layers)))
    initial, bin_weights = seen.initial_boxes_xyxy_px[query], seen.bin_weights
    figure = new_figure(14.5, max(4.6, 0.8 + 2.75 * len(shown)))
    if title:
        figure.suptitle(title, fontsize=11)
    pictures, charts = figure.subfigures(1, 2, width_ratios=(1, 2.7))
    last = max(shown)
    _draw_pictures(pictures, image, initial, shown[last].boxes_xyxy_px[query], caption, f"refined (layer {last})")
    grid = charts.subplots(2 * len(shown), 4, sharex=True, squeeze=False)
    for row, (number, layer) in enumerate(shown.items()):
        assert layer.edge_probabilities is not None
        probabilities = layer.edge_probabilities[query]
        edges = edges_of(initial, probabilities, bin_weights, seen.inverse_curvature)
        weighted = probabilities * bin_weights
        low, high = min(0.0, float(weighted.min())) * 1.15, max(0.0, float(weighted.max())) * 1.15
        for column, name in enumerate(EDGES):
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            _bars(upper, probabilities[column], _PLAIN, f"P/{number}/{name}")
            upper.set_title(f"{name}, layer {number}", fontsize=9)
            upper.set_ylim(0, float(probabilities.max()) * 1.12)
            offset = float(weighted[column].sum())
            mean = float(np.interp(offset, bin_weights, np.arange(len(bin_weights))))
            upper.axvline(mean, color=REFINED, linewidth=1.2)
            upper.axvline((len(bin_weights) - 1) / 2, color=INITIAL, linewidth=1.0, linestyle=(0, (4, 2)))
            _bars(lower, weighted[column], _WEIGHTED, f"PW/{number}/{name}")
            lower.axhline(0, color="black", linewidth=0.6)
            lower.set_ylim(low, max(high, low + 1e-3))
            text = f"sum {offset:+.3f}, edge at {'xyxy'[column]} = {edges[column]:.1f} px"
            lower.set_title(text, fontsize=8, color=REFINED)
        for panel, text in ((grid[2 * row, 0], "P(n)"), (grid[2 * row + 1, 0], "P(n) W(n)")):
            panel.set_ylabel(text, fontsize=9)
    for panel in grid[-1]:
        panel.set_xlabel("bin n", fontsize=8)
    return figure


def _draw_pictures(
    figure: Any, image: Image.Image, initial: NDArray[Any], refined: NDArray[Any], caption: str, label: str
) -> None:
    """The whole image with the place of the object, and the object with its first and last box (4,)."""
    whole, near = figure.subplots(2, 1, height_ratios=(1, 1.6))
    view = view_around(np.stack([initial, refined]), (image.height, image.width))
    show_view(whole, image, (0, 0, image.width, image.height))
    add_box(whole, view, edgecolor="black", linewidth=1.2)
    whole.set_title("where it is in the image", fontsize=9)
    show_view(near, image, view)
    near.set_title(caption, fontsize=10)
    last = add_box(near, refined, edgecolor=REFINED, gid="refined", label=label)
    first = add_box(near, initial, rim=False, edgecolor=INITIAL, linestyle=(0, (4, 3)), gid="initial", label="initial")
    near.legend(
        handles=[first, last], loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8, frameon=False
    )


def _bars(panel: Any, values: NDArray[Any], color: str, gid: str) -> None:
    for bar in panel.bar(np.arange(len(values)), values, width=0.9, color=color):
        bar.set_gid(gid)
    panel.tick_params(labelsize=7)
    panel.grid(axis="y", linewidth=0.3, alpha=0.6)
    panel.set_axisbelow(True)

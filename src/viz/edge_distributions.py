# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-grained distribution refinement (FDR) of one object: Figure 4 of D-FINE's paper, arXiv 2410.13842."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .canvas import add_box, new_figure, show_view, view_around

EDGES = ("left", "top", "right", "bottom")
INITIAL, REFINED = "#d55e00", "#009e73"
"""Apart for colour-blind readers too."""
_PLAIN, _WEIGHTED = "#0072b2", "#8c6d31"
_OUTWARDS = np.array([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class LayerDistributions:
    """The four edges of one object after one decoder layer, N + 1 bins."""

    layer: int
    """Number of the decoder layer, the first is 1."""
    probabilities: NDArray[Any]
    """(4, N + 1) of left, top, right, bottom; each row sums to 1."""
    box_xyxy_px: NDArray[Any]
    """(4,) the layer's box in pixels of the image."""


@dataclass(frozen=True, eq=False)
class RefinedObject:
    """One object with what the layers made of it."""

    caption: str
    """Class and score."""
    initial_xyxy_px: NDArray[Any]
    """(4,) the box that all distributions refine."""
    layers: Sequence[LayerDistributions]
    """Those to be shown, at least one, the last is the final one."""
    bin_weights: NDArray[Any]
    """(N + 1,) W(n), in units of the initial box's width or height / s."""
    inverse_curvature: float
    """s > 0."""


def edges_of(
    initial_xyxy_px: NDArray[Any], probabilities: NDArray[Any], bin_weights: NDArray[Any], inverse_curvature: float
) -> NDArray[np.float64]:
    """(4,) where the edges lie by the mean of P(n) W(n): an edge moves outwards by the sum times side / s."""
    initial = np.asarray(initial_xyxy_px, dtype=np.float64)
    sides = np.tile(initial[2:] - initial[:2], 2)  # width, height, width, height
    offsets = (np.asarray(probabilities, np.float64) * np.asarray(bin_weights, np.float64)).sum(axis=1)
    edges: NDArray[np.float64] = initial + _OUTWARDS * offsets * sides / inverse_curvature
    return edges


def refinement_figure(image: Image.Image, found: RefinedObject, title: str = "") -> Any:
    """The object with its first and its refined box, and per layer the distributions of its edges.

    Upper row of a layer: P(n), with a line where W(n) equals the mean. Lower row: P(n) W(n), whose sum is the mean
    offset of the edge from the initial box, and the edge that it gives, in pixels.

    Args:
        image: RGB, the whole image.
        found: of this image.
        title: of the figure.

    Returns: a matplotlib ``Figure``; artists carry gids: ``initial``, ``refined`` (rectangles in pixels), and the bars
    ``P/<layer>/<edge>`` and ``PW/<layer>/<edge>``.
    """
    rows = len(found.layers)
    figure = new_figure(14.5, max(4.6, 0.8 + 2.75 * rows))
    if title:
        figure.suptitle(title, fontsize=11)
    pictures, charts = figure.subfigures(1, 2, width_ratios=(1, 2.7))
    _draw_pictures(pictures, image, found)
    grid = charts.subplots(2 * rows, 4, sharex=True, squeeze=False)
    for row, layer in enumerate(found.layers):
        edges = edges_of(found.initial_xyxy_px, layer.probabilities, found.bin_weights, found.inverse_curvature)
        tallest = float(np.max(layer.probabilities)) * 1.12
        weighted = layer.probabilities * found.bin_weights
        low, high = min(0.0, float(weighted.min())) * 1.15, max(0.0, float(weighted.max())) * 1.15
        for column, edge in enumerate(EDGES):
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            _plain(upper, layer, column, found.bin_weights, tallest)
            _weighted(lower, layer, column, weighted[column], edges[column], (low, max(high, low + 1e-3)))
            upper.set_title(f"{edge}, layer {layer.layer}", fontsize=9)
        for panel, text in ((grid[2 * row, 0], "P(n)"), (grid[2 * row + 1, 0], "P(n) W(n)")):
            panel.set_ylabel(text, fontsize=9)
    for panel in grid[-1]:
        panel.set_xlabel("bin n", fontsize=8)
    return figure


def _draw_pictures(figure: Any, image: Image.Image, found: RefinedObject) -> None:
    """The whole image with the place of the object, and the object itself."""
    final = found.layers[-1].box_xyxy_px
    size = (image.height, image.width)
    whole, near = figure.subplots(2, 1, height_ratios=(1, 1.6))
    view = view_around(np.stack([found.initial_xyxy_px, final]), size)
    show_view(whole, image, (0, 0, image.width, image.height))
    add_box(whole, view, edgecolor="black", linewidth=1.2)
    whole.set_title("where it is in the image", fontsize=9)
    show_view(near, image, view)
    near.set_title(found.caption, fontsize=10)
    refined = add_box(near, final, edgecolor=REFINED, gid="refined", label=f"refined (layer {found.layers[-1].layer})")
    initial = add_box(
        near, found.initial_xyxy_px, rim=False, edgecolor=INITIAL, linestyle=(0, (4, 3)), gid="initial",
        label="initial",
    )  # fmt: skip
    near.legend(
        handles=[initial, refined], loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8, frameon=False
    )


def _plain(panel: Any, layer: LayerDistributions, column: int, bin_weights: NDArray[Any], tallest: float) -> None:
    values = layer.probabilities[column]
    _bars(panel, values, _PLAIN, f"P/{layer.layer}/{EDGES[column]}")
    panel.set_ylim(0, tallest)
    mean = float((values * bin_weights).sum())
    panel.axvline(float(np.interp(mean, bin_weights, np.arange(len(bin_weights)))), color=REFINED, linewidth=1.2)
    panel.axvline((len(bin_weights) - 1) / 2, color=INITIAL, linewidth=1.0, linestyle=(0, (4, 2)))


def _weighted(
    panel: Any, layer: LayerDistributions, column: int, values: NDArray[Any], edge: float, limits: tuple[float, float]
) -> None:
    _bars(panel, values, _WEIGHTED, f"PW/{layer.layer}/{EDGES[column]}")
    panel.axhline(0, color="black", linewidth=0.6)
    panel.set_ylim(*limits)
    axis = "xyxy"[column]
    panel.set_title(f"sum {float(values.sum()):+.3f}, edge at {axis} = {edge:.1f} px", fontsize=8, color=REFINED)


def _bars(panel: Any, values: NDArray[Any], color: str, gid: str) -> None:
    for bar in panel.bar(np.arange(len(values)), values, width=0.9, color=color):
        bar.set_gid(gid)
    panel.tick_params(labelsize=7)
    panel.grid(axis="y", linewidth=0.3, alpha=0.6)
    panel.set_axisbelow(True)

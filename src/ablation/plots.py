# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of an ablation: a metric over training steps and over decoder layers, one line per variant.

Lines are means; the range from the lowest to the highest value of the runs is a band or a whisker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..viz.canvas import new_figure, save_figure
from .layers import values_by_layer
from .results import ABSENT, Outcome, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#8c6d31", "#7a3b9a", "#9b2226")
"""Apart for colour-blind readers too (Okabe and Ito, and three more)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_STYLES = ("-", "--", ":")
"""The next style begins where the colours are used up."""
_MOST_BANDS = 4
"""Curves up to which ranges are drawn as bands; more of them would cover each other."""
_APART = 0.01
"""Distance of neighbouring curves' whiskers, as a share of the whole axis."""


@dataclass(frozen=True)
class Curve:
    """One line: what was measured at each place, by several runs."""

    name: str
    x: Sequence[float]
    y: Sequence[Sequence[float]]
    """Per place the values of the runs, one or more."""


def save_curves(
    path: Path, curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, whole_x: bool = False
) -> None:
    """Draw the curves into a PNG file, which is written whole or not at all.

    Args:
        path: the file; its folder is made where it is missing.
        curves: at least one, each with at least one place and a value at every place.
        whole_x: ticks at whole numbers only (layers).

    Raises:
        ValueError: a curve with a place that has no value.
        ConfigError: matplotlib is not installed.
    """
    for curve in curves:
        if len(curve.x) != len(curve.y) or not all(curve.y):
            raise ValueError(f"{curve.name}: give one or more values for each of its {len(curve.x)} places")
    figure = new_figure(9.0, 4.6)
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    banded = len(curves) <= _MOST_BANDS
    places = [place for curve in curves for place in curve.x]
    step = 0.0 if banded else _APART * (max(places) - min(places) or 1)
    for index, curve in enumerate(curves):
        _draw(axes, curve, index, banded=banded, shift=step * (index - (len(curves) - 1) / 2))
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    spread = "band: lowest to highest" if banded else "whisker: lowest to highest\n(set apart sideways)"
    figure.legend(loc="outside right upper", fontsize=8, title=f"mean over seeds,\n{spread}", title_fontsize=8)
    save_figure(figure, path)


def _draw(axes: Axes, curve: Curve, index: int, *, banded: bool, shift: float) -> None:
    """One line with its range; ``shift`` keeps whiskers of different curves apart."""
    color = COLORS[index % len(COLORS)]
    x = [place + shift for place in curve.x]
    means = [sum(values) / len(values) for values in curve.y]
    lowest, highest = [min(values) for values in curve.y], [max(values) for values in curve.y]
    if banded:
        axes.fill_between(x, lowest, highest, color=color, alpha=0.1, linewidth=0)
    else:
        axes.vlines(x, lowest, highest, color=color, alpha=0.6, linewidth=1.0)
    axes.plot(
        x, means, _STYLES[index // len(COLORS) % len(_STYLES)], color=color, marker=MARKERS[index % len(MARKERS)],
        markersize=4.5, linewidth=1.6, label=f"{curve.name} (n = {len(curve.y[0])})",
    )  # fmt: skip


def draw_plots(results: Results, data: str) -> list[str]:
    """Draw what there is of a data set into the matrix's folder; returns the file names."""
    metric, prefix = results.matrix.metrics[0], f"{data}_" if data else ""
    of_data = f" on {data}" if data else f": {results.matrix.name}"
    drawn: list[str] = []

    def draw(name: str, curves_of: Callable[[list[Outcome]], Curve | None], title: str, x_label: str) -> None:
        cells = [(variant.name, list(results.of(data, variant.name).values())) for variant in results.matrix.variants]
        drawable = [(label, curve) for label, cell in cells if cell and (curve := curves_of(cell)) is not None]
        if drawable:
            curves = [Curve(label, curve.x, curve.y) for label, curve in drawable]
            drawn.append(f"{prefix}{metric}_{name}.png")
            save_curves(
                results.matrix.output_dir / drawn[-1], curves, title=f"{title}{of_data}", x_label=x_label,
                y_label=f"{metric} [%]", whole_x=name == "over_layers",
            )  # fmt: skip

    draw(
        "over_steps", lambda cell: _over_steps(cell, metric), f"{metric} over training steps", "training step (batches)"
    )
    layer_title = f"{metric} of each decoder layer's boxes"
    draw("over_layers", lambda cell: _over_layers(cell, metric), layer_title, "decoder layer")
    return drawn


def _over_steps(cell: Sequence[Outcome], metric: str) -> Curve | None:
    """Values at the steps that all runs of a cell were evaluated at."""
    curves = [{step: stats[metric] for step, stats in outcome.curve if stats[metric] != ABSENT} for outcome in cell]
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    return Curve("", steps, [[100 * curve[step] for curve in curves] for step in steps]) if steps else None


def _over_layers(cell: Sequence[Outcome], metric: str) -> Curve | None:
    values = values_by_layer([outcome.layers for outcome in cell if outcome.layers is not None], metric)
    places = range(1, len(values) + 1)
    return Curve("", places, [[100 * value for value in layer] for layer in values]) if values else None

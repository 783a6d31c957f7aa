# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of means with bands from the lowest to the highest value: one line per compared variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.atomic import whole_file

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#8c6d31")
"""Apart for colour-blind readers too (Okabe and Ito)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLES = ("-", "--", ":")
"""The next style begins where the colours are used up."""


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
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        if len(curve.x) != len(curve.y) or not all(curve.y):
            raise ValueError(f"{curve.name}: give one or more values for each of its {len(curve.x)} places")
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        color = COLORS[index % len(COLORS)]
        means = [sum(values) / len(values) for values in curve.y]
        label = f"{curve.name} (n = {len(curve.y[0])})"
        axes.fill_between(
            curve.x, [min(values) for values in curve.y], [max(values) for values in curve.y],
            color=color, alpha=0.1, linewidth=0,
        )  # fmt: skip
        axes.plot(
            curve.x, means, _STYLES[index // len(COLORS) % len(_STYLES)], color=color, label=label,
            marker=MARKERS[index % len(MARKERS)], markersize=4.5, linewidth=1.6,
        )  # fmt: skip
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    figure.legend(
        loc="outside right upper", fontsize=8, title="mean over seeds,\nband: lowest to highest", title_fontsize=8
    )
    with whole_file(path, durable=False) as partial:
        figure.savefig(partial, format="png", dpi=110)

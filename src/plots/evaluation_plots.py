# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Plots of an evaluation: precision over recall, F1 over the score threshold, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..viz.canvas import new_figure
from ..viz.draw import class_color
from ..viz.fonts import cut, legible_name
from ..viz.operating_points import RECALLS, THRESHOLDS, ScoreCurve

TOGETHER = 10
"""Classes that share one panel; more get a small panel each."""
_COLUMNS = 6
_NUMBERED = 25
"""Classes up to which a confusion matrix shows its numbers."""


def precision_recall_figure(curves: Sequence[ScoreCurve]) -> Any:
    """COCO's interpolated precision over recall at IoU 0.5, per class with its AP50, and the mean.

    Args:
        curves: of all classes; those without objects are left out.

    Returns: a matplotlib ``Figure``; lines carry the class name as gid.
    """
    shown = _with_objects(curves)
    lines = [(RECALLS, curve.interpolated()) for _, curve in shown]
    labels = [f"{legible_name(curve.name, label)}  {100 * curve.ap:.1f}" for label, curve in shown]
    mean = float(np.mean([curve.ap for _, curve in shown])) if shown else 0.0
    return _panels(shown, lines, labels, f"mean  {100 * mean:.1f}", "recall", "precision", "AP50 (%)")


def f1_figure(curves: Sequence[ScoreCurve], threshold: float | None = None) -> Any:
    """F1 over the score threshold at IoU 0.5, per class with the best value and its threshold, and the mean.

    Args:
        curves: of all classes; those without objects are left out.
        threshold: marked with a line, None for none.
    """
    shown = _with_objects(curves)
    lines = [(THRESHOLDS, curve.at(THRESHOLDS)[2]) for _, curve in shown]
    labels = []
    for label, curve in shown:
        best = curve.best()
        numbers = f"{best.f1:.2f} at {best.threshold:.2f}" if best else "0"
        labels.append(f"{legible_name(curve.name, label)}  {numbers}")
    mean = np.mean([line for _, line in lines], axis=0) if lines else np.zeros_like(THRESHOLDS)
    place = int(np.argmax(mean))
    text = f"mean  {mean[place]:.2f} at {THRESHOLDS[place]:.2f}"
    figure = _panels(shown, lines, labels, text, "score threshold", "F1", "best F1 and its threshold")
    if threshold is not None:
        for axes in figure.axes:
            if axes.get_xlabel() or axes.get_lines():
                axes.axvline(threshold, color="black", linewidth=0.8, linestyle=":")
    return figure


def confusion_figure(confusion: NDArray[np.int64], names: Sequence[str]) -> Any:
    """Rows: annotated class and "nothing"; columns: detected class and "missed". Shade: share of the row.

    Args:
        confusion: (C + 1, C + 1) counts, see ``errors.Mistakes``.
        names: C class names.
    """
    count = len(names) + 1
    side = float(np.clip(2.6 + 0.42 * count, 5.0, 16.0)) if count <= _NUMBERED else float(min(24, 3 + 0.16 * count))
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    size = 9 if count <= _NUMBERED else max(3.0, min(9.0, 0.75 * 72 * (side - 3) / count))
    short = [cut(legible_name(name, label), 24) for label, name in enumerate(names)]
    axes.set_xticks(range(count), [*short, "missed"], rotation=90, fontsize=size)
    axes.set_yticks(range(count), [*short, "nothing"], fontsize=size)
    axes.set_xlabel("detected")
    axes.set_ylabel("annotated")
    if count <= _NUMBERED:
        for row, column in zip(*np.nonzero(confusion)):
            ink = "white" if shares[row, column] > 0.55 else "black"
            number = f"{confusion[row, column]:,}"
            axes.text(column, row, number, ha="center", va="center", color=ink, fontsize=8 if len(number) < 5 else 6)
    figure.colorbar(picture, ax=axes, shrink=0.7).set_label("share of the row")
    return figure


def color_of(label: int) -> tuple[float, float, float]:
    """The class's colour, the same as in drawn pictures, for matplotlib."""
    red, green, blue = class_color(label)
    return red / 255, green / 255, blue / 255


def _with_objects(curves: Sequence[ScoreCurve]) -> list[tuple[int, ScoreCurve]]:
    return [(label, curve) for label, curve in enumerate(curves) if curve.num_objects]


def _panels(
    shown: Sequence[tuple[int, ScoreCurve]],
    lines: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    labels: Sequence[str],
    mean_label: str,
    x_label: str,
    y_label: str,
    legend: str,
) -> Any:
    """All classes in one panel with a legend, or a small panel per class after one with the mean of all."""
    mean = np.mean([y for _, y in lines], axis=0) if lines else np.zeros(0)
    if len(shown) <= TOGETHER:
        figure = new_figure(9.0, 4.8)
        axes = figure.subplots()
        for (label, curve), (x, y), text in zip(shown, lines, labels):
            axes.plot(x, y, color=color_of(label), linewidth=1.6, label=_listed(_fitting(text, 40)), gid=curve.name)
        if lines:
            axes.plot(lines[0][0], mean, color="black", linewidth=2.2, label=mean_label, gid="mean")
            figure.legend(loc="outside right upper", fontsize=9, title=legend, title_fontsize=9)
        _finish(axes, x_label, y_label)
        return figure
    rows = -(-(len(shown) + 1) // _COLUMNS)
    height = 0.8 + 2.05 * rows
    figure = new_figure(14.0, height, layout=None)  # with one, and with shared axes, 80 panels take a minute
    figure.subplots_adjust(0.03, 0.3 / height, 0.99, 1 - 0.7 / height, wspace=0.14, hspace=0.22)
    grid = figure.subplots(rows, _COLUMNS).ravel()
    figure.suptitle(f"{y_label} over {x_label}; numbers: {legend}", fontsize=11, y=1 - 0.1 / height)
    grid[0].plot(lines[0][0], mean, color="black", linewidth=2.0, gid="mean")
    grid[0].set_title(mean_label, fontsize=8)
    for axes, (label, curve), (x, y), text in zip(grid[1:], shown, lines, labels):
        axes.plot(x, y, color=color_of(label), linewidth=1.6, gid=curve.name)
        axes.set_title(_fitting(text, 34), fontsize=8)
    for axes in grid:
        _finish(axes, "", "", 7)
        axes.label_outer()
    for axes in grid[len(shown) + 1 :]:
        axes.axis("off")
    return figure


def _finish(axes: Any, x_label: str, y_label: str, size: int = 9) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.tick_params(labelsize=size)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)


def _fitting(text: str, most: int) -> str:
    """A long class name is cut, the numbers after it are kept."""
    name, gap, numbers = text.rpartition("  ")
    return cut(name, most - len(gap + numbers)) + gap + numbers


def _listed(label: str) -> str:
    """Matplotlib leaves labels that begin with an underscore out of legends."""
    return f" {label}" if label.startswith("_") else label

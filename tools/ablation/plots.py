# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of an ablation: a metric over training steps and over decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .curves import Curve, save_curves
from .layers import values_by_layer
from .results import ABSENT, Outcome, Results


def draw_plots(results: Results, data: str) -> list[str]:
    """Draw what there is of a data set into the matrix's folder; returns the file names."""
    metric, prefix = results.matrix.metrics[0], f"{data}_" if data else ""
    of_data = f" on {data}" if data else f": {results.matrix.name}"
    drawn: list[str] = []

    def draw(name: str, curves_of: Callable[[list[Outcome]], Curve | None], title: str, x_label: str) -> None:
        cells = [(one.name, list(results.of(data, one.name).values())) for one in results.matrix.variants]
        found = [(label, curve) for label, cell in cells if cell and (curve := curves_of(cell)) is not None]
        if found:
            curves = [Curve(label, curve.x, curve.y) for label, curve in found]
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
    curves = [{step: stats[metric] for step, stats in one.curve if stats[metric] != ABSENT} for one in cell]
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    return Curve("", steps, [[100 * one[step] for one in curves] for step in steps]) if steps else None


def _over_layers(cell: Sequence[Outcome], metric: str) -> Curve | None:
    values = values_by_layer([one.layers for one in cell if one.layers is not None], metric)
    places = range(1, len(values) + 1)
    return Curve("", places, [[100 * one for one in layer] for layer in values]) if values else None

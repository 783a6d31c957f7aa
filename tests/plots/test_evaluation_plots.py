# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from figure_cases import clipped_texts
from isdfine.plots.evaluation_plots import color_of, confusion_figure, f1_figure, precision_recall_figure
from isdfine.viz.canvas import png
from isdfine.viz.draw import class_color
from isdfine.viz.fonts import legible_name
from isdfine.viz.matching import match_all
from isdfine.viz.operating_points import THRESHOLDS, ScoreCurve, score_curves
from judged_cases import random_images


def curves_of(classes: int, images: int = 40) -> list[ScoreCurve]:
    made = random_images(3, images, classes)
    names = [f"class {index} with a name that is longer than most names are" for index in range(classes)]
    return score_curves(made, match_all(made), names)


def line(figure, gid):
    (found,) = [drawn_line for axes in figure.axes for drawn_line in axes.get_lines() if drawn_line.get_gid() == gid]
    return found


@pytest.mark.parametrize("classes", [1, 3, 14])
def test_lines_are_the_curves(classes: int) -> None:
    curves = curves_of(classes)
    precision, f1 = precision_recall_figure(curves), f1_figure(curves, 0.4)
    shown = [(label, curve) for label, curve in enumerate(curves) if curve.num_objects]
    for label, curve in shown:
        drawn = line(precision, curve.name)
        assert drawn.get_ydata() == pytest.approx(curve.interpolated())
        assert drawn.get_color() == color_of(label)
        assert line(f1, curve.name).get_ydata() == pytest.approx(curve.at(THRESHOLDS)[2])
    mean = np.mean([curve.interpolated() for _, curve in shown], axis=0)
    assert line(precision, "mean").get_ydata() == pytest.approx(mean)
    assert not clipped_texts(precision)
    assert not clipped_texts(f1)


def test_numbers_in_the_legend() -> None:
    curves = curves_of(2)
    texts = [text.get_text() for text in precision_recall_figure(curves).legends[0].get_texts()]
    for curve, text in zip(curves, texts):
        assert text.endswith(f"{100 * curve.ap:.1f}")
        assert "…" in text
    best = curves[0].best()
    assert best is not None
    (first, *_) = [text.get_text() for text in f1_figure(curves).legends[0].get_texts()]
    assert first.endswith(f"{best.f1:.2f} at {best.threshold:.2f}")


NAMES = ["$\\frac$ to $5", "_hidden_", "кошка\nи собака", "汽车"]
"""What matplotlib would read as a formula, leave out of legends, break into lines, and cannot write."""


def test_names_are_shown_as_they_are() -> None:
    images = random_images(3, 40, 4)
    curves = score_curves(images, match_all(images), NAMES)
    shown = [legible_name(name, label) for label, name in enumerate(NAMES)]
    assert shown[:3] == ["$\\frac$ to $5", "_hidden_", "кошка и собака"]
    for figure in (precision_recall_figure(curves), f1_figure(curves), confusion_figure(np.ones((5, 5), int), NAMES)):
        assert png(figure).startswith(b"\x89PNG")
        if figure.legends:
            listed = [text.get_text() for text in figure.legends[0].get_texts()]
            assert [text.rpartition("  ")[0].strip() for text in listed[:4]] == shown
        else:
            assert [xticklabel.get_text() for xticklabel in figure.axes[0].get_xticklabels()] == [*shown, "missed"]


def test_panels_of_many_classes_keep_their_distance() -> None:
    figure = f1_figure(curves_of(14), 0.4)
    figure.canvas.draw()
    extents = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    (title,) = figure.texts
    assert title.get_text() == "F1 over score threshold; numbers: best F1 and its threshold"
    extents.append(title.get_window_extent())
    assert not any(extent.overlaps(other) for extent, other in itertools.combinations(extents, 2))


def test_classes_without_objects_are_left_out() -> None:
    empty = ScoreCurve("none", 0, *(np.zeros(0) for _ in range(3)))
    assert not [drawn_line for axes in precision_recall_figure([empty]).axes for drawn_line in axes.get_lines()]
    figure = f1_figure([*curves_of(1), empty])
    assert {drawn_line.get_gid() for axes in figure.axes for drawn_line in axes.get_lines()} >= {"mean"}
    assert not [drawn_line for axes in figure.axes for drawn_line in axes.get_lines() if drawn_line.get_gid() == "none"]


@pytest.mark.parametrize("classes", [1, 8, 40])
def test_a_confusion_matrix_has_all_its_names_and_numbers(classes: int) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 2000, (classes + 1, classes + 1))
    figure = confusion_figure(counts, [f"class {index} with a long name" for index in range(classes)])
    axes = figure.axes[0]
    assert axes.get_xticklabels()[-1].get_text() == "missed"
    assert axes.get_yticklabels()[-1].get_text() == "nothing"
    numbers = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    if classes < 25:
        assert numbers == {(row, column): f"{counts[row, column]:,}" for row, column in zip(*np.nonzero(counts))}
    else:
        assert not numbers
    assert not clipped_texts(figure)


def test_colours_are_those_of_drawn_pictures() -> None:
    assert [round(255 * channel) for channel in color_of(7)] == list(class_color(7))

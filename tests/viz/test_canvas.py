# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isdfine.viz.canvas import add_box, color_of, new_figure, save_figure, show_view, view_around
from isdfine.viz.draw import class_color


@pytest.mark.parametrize(
    "box",
    [(40, 30, 60, 50), (-50, -50, -10, -10), (0, 0, 0, 0), (390, 290, 500, 400), (60, 50, 40, 30), (0, 0, 400, 9)],
)
def test_a_view_lies_inside_and_shows_the_box(box: tuple[int, ...]) -> None:
    left, top, right, bottom = view_around([box], (300, 400))
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 300
    assert min(right - left, bottom - top) >= 48
    limits = np.array([400, 300, 400, 300])
    inside = np.clip(np.array(box), 0, limits)
    assert left <= min(inside[0], inside[2]) <= max(inside[0], inside[2]) <= right
    assert top <= min(inside[1], inside[3]) <= max(inside[1], inside[3]) <= bottom


def test_flat_boxes_are_shown_with_their_surroundings() -> None:
    left, top, right, bottom = view_around([(100, 500, 500, 510)], (1000, 1000))
    assert (left, right) == (0, 640)
    assert bottom - top == pytest.approx(0.35 * 640, abs=2)
    assert (top + bottom) / 2 == pytest.approx(505, abs=2)


def test_small_images_are_shown_whole() -> None:
    assert view_around([(0, 0, 1, 1)], (1, 1)) == (0, 0, 1, 1)
    assert view_around([(3, 1, 5, 2)], (4, 30)) == (0, 0, 30, 4)


def test_axes_are_in_pixels_of_the_whole_image(tmp_path: Path) -> None:
    figure = new_figure(3, 3)
    axes = figure.subplots()
    show_view(axes, Image.new("RGB", (4000, 3000)), (100, 200, 3100, 2200))
    patch = add_box(axes, (150, 250, 300, 500), edgecolor=color_of(1))
    assert (axes.get_xlim(), axes.get_ylim()) == ((100, 3100), (2200, 200))
    assert max(axes.get_images()[0].get_array().shape) <= 1200
    assert patch.get_bbox().extents.tolist() == [150, 250, 300, 500]
    save_figure(figure, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as written:
        assert written.size == (330, 330)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_colours_are_those_of_drawn_pictures() -> None:
    assert [round(255 * channel) for channel in color_of(7)] == list(class_color(7))

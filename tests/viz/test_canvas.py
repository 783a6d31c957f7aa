# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from isdfine.viz.canvas import view_around


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

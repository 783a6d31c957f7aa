# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from isdfine.viz.curves import COLORS, Curve, save_curves


def draw(path: Path, curves: list[Curve]) -> np.ndarray:
    save_curves(path, curves, title="AP over steps", x_label="step", y_label="AP [%]")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has(picture: np.ndarray, color: str) -> bool:
    """Whether a colour fills a good number of pixels."""
    return int((abs(picture - ImageColor.getrgb(color)).max(axis=-1) < 8).sum()) > 40


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_curve_has_its_colour_and_nothing_is_cut_off(tmp_path: Path, count: int) -> None:
    curves = [
        Curve(f"variant_{one}", [1, 2, 3], [[one, one + 0.3], [one + 1, one + 2], [one + 2]]) for one in range(count)
    ]
    picture = draw(tmp_path / "new" / "a.png", curves)
    drawn = [has(picture, color) for color in COLORS if color != "#000000"]  # the text is black too
    assert drawn == [True] * min(count, 7) + [False] * (7 - min(count, 7))
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() == 255


def test_more_curves_than_colours_and_a_single_point_are_drawn(tmp_path: Path) -> None:
    many = draw(tmp_path / "a.png", [Curve(f"v{one}", [1, 2], [[one], [one]]) for one in range(11)])
    assert has(many, COLORS[0])
    assert has(draw(tmp_path / "b.png", [Curve("v", [1], [[1.0, 2.0]])]), COLORS[0])


def test_a_failed_drawing_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    draw(path, [Curve("v", [1, 2], [[1], [2]])])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="v: give one or more values for each of its 2 places"):
        draw(path, [Curve("v", [1, 2], [[1], []])])
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from isdfine.ablation.plots import COLORS, MARKERS, Curve, save_curves


def draw(path: Path, curves: list[Curve]) -> np.ndarray:
    save_curves(path, curves, title="AP over steps", x_label="step", y_label="AP [%]")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has(picture: np.ndarray, color: str) -> bool:
    """Whether a colour fills a good number of pixels."""
    return int((abs(picture - ImageColor.getrgb(color)).max(axis=-1) < 8).sum()) > 40


@pytest.mark.parametrize("count", [1, 3, 4, 5, 10])
def test_every_curve_has_its_colour_and_nothing_is_cut_off(tmp_path: Path, count: int) -> None:
    curves = [
        Curve(f"variant_{index}", [1, 2, 3], [[index, index + 0.3], [index + 1, index + 2], [index + 2]])
        for index in range(count)
    ]
    picture = draw(tmp_path / "new" / "a.png", curves)
    shown = count - 1 if count > COLORS.index("#000000") else count
    drawn = [has(picture, color) for color in COLORS if color != "#000000"]  # the text is black too
    assert drawn == [True] * shown + [False] * (len(COLORS) - 1 - shown)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert border.min() == 255


def test_ranges_are_bands_for_few_curves_and_whiskers_apart_for_many(tmp_path: Path) -> None:
    wide = Curve("wide", [1, 2], [[0, 10], [0, 10]])
    few = draw(tmp_path / "a.png", [wide, *[Curve(f"v{index}", [1, 2], [[5], [5]]) for index in range(3)]])
    many = draw(tmp_path / "b.png", [wide, *[Curve(f"v{index}", [1, 2], [[5], [5]]) for index in range(4)]])

    def tinted(picture: np.ndarray) -> int:
        """Pixels of the first curve's colour at a tenth of its strength on white."""
        tint = 255 - (255 - np.array(ImageColor.getrgb(COLORS[0]))) * 0.1
        return int((abs(picture - tint).max(axis=-1) < 4).sum())

    assert tinted(few) > 50_000
    assert tinted(many) < 2_000
    # ranges of many curves at one place stand beside each other
    same = draw(tmp_path / "c.png", [Curve(f"v{index}", [1, 2], [[0, 10], [0, 10]]) for index in range(9)])
    columns = [
        set(np.where((abs(same[:, :700] - ImageColor.getrgb(color)).max(axis=-1) < 8).any(axis=0))[0])
        for color in COLORS[:9]
        if color != "#000000"
    ]
    left = [min(column) for column in columns]  # of the markers at the first place
    assert len(set(left)) == 8


def test_nine_curves_differ_in_more_than_their_line_style() -> None:
    looks = [(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]) for index in range(9)]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 9


def test_more_curves_than_colours_and_a_single_point_are_drawn(tmp_path: Path) -> None:
    many = draw(tmp_path / "a.png", [Curve(f"v{index}", [1, 2], [[index], [index]]) for index in range(13)])
    assert has(many, COLORS[0])
    assert has(draw(tmp_path / "b.png", [Curve("v", [1], [[1.0, 2.0]])]), COLORS[0])


def test_a_failed_drawing_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    draw(path, [Curve("v", [1, 2], [[1], [2]])])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="v: give one or more values for each of its 2 places"):
        draw(path, [Curve("v", [1, 2], [[1], []])])
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

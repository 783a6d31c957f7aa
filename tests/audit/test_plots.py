# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from isdfine.audit.plots import save_plots

PLOTS = ["classes", "box_sizes", "aspect_ratios", "image_sizes", "objects_per_image", "box_centers"]


def numbers(name="train", classes=3, boxes=200, seed=0):
    random = np.random.default_rng(seed)
    return SimpleNamespace(
        name=name,
        classes=tuple(f"class number {index}" for index in range(classes)),
        class_counts=random.integers(0, 2000, classes),
        boxes_per_image=random.integers(0, 30, 50),
        image_sizes=random.integers(100, 900, (50, 2)),
        box_sizes_px=random.uniform(2, 300, (boxes, 2)),
        box_sizes=random.uniform(0.01, 1, (boxes, 2)),
        centers=random.uniform(0, 1, (boxes, 2)),
    )


def ink(path):
    """Share of pixels that are not white, at the border (one pixel) and inside."""
    with Image.open(path) as image:
        dark = np.asarray(image.convert("L")) < 250
    border = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]])
    return border.mean(), dark.mean(), dark.shape


def check(paths, folder):
    assert [path.name for path in paths] == [f"{name}.png" for name in PLOTS]
    for path in paths:
        border, inside, _ = ink(path)
        assert path.parent == folder
        assert border == 0, f"{path.name} is cut off"
        assert inside > 0.01, f"{path.name} is empty"


@pytest.mark.parametrize(
    "names", [("train", "val"), pytest.param(("train", "val", "test", "more"), marks=pytest.mark.slow)]
)
def test_every_plot_is_drawn_and_nothing_is_cut_off(tmp_path, names):
    check(save_plots([numbers(name, seed=seed) for seed, name in enumerate(names)], tmp_path), tmp_path)


@pytest.mark.slow
def test_many_classes_make_a_taller_picture(tmp_path):
    heights = []
    for classes in (3, 80):
        folder = tmp_path / str(classes)
        folder.mkdir()
        check(save_plots([numbers(classes=classes)], folder), folder)
        heights.append(ink(folder / "classes.png")[2][0])
    assert heights[1] > 80 * 16  # a line of text a class


@pytest.mark.slow
def test_a_data_set_without_boxes_is_drawn_too(tmp_path):
    empty = numbers(boxes=0)
    empty.class_counts = np.zeros(3, dtype=np.int64)
    check(save_plots([empty], tmp_path), tmp_path)

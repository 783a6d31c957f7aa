# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from isdfine.nn.types import BatchDetections
from isdfine.viz.draw import class_color, draw_boxes, draw_detections, save_comparison, side_by_side

NAMES = SimpleNamespace(names=("text", "a rather long class name"))


def picture(width=300, height=200):
    return Image.new("RGB", (width, height), (128, 128, 128))


def detections(boxes, scores, labels=None):
    return BatchDetections(torch.tensor(labels or [0] * len(boxes)), torch.tensor(boxes).float(), torch.tensor(scores))


def changed(before, after):
    """(height, width) bool of changed pixels."""
    return (np.asarray(before) != np.asarray(after)).any(axis=-1)


def test_only_sure_detections_and_the_input_is_kept():
    image = picture()
    drawn = draw_detections(image, detections([[20, 60, 90, 120], [150, 60, 250, 120]], [0.9, 0.1]), NAMES)
    assert image.getcolors() == [(300 * 200, (128, 128, 128))]
    assert changed(image, drawn)[:, :120].any()
    assert not changed(image, drawn)[:, 120:].any()
    assert drawn.getpixel((20, 90)) == class_color(0)


def test_the_surest_is_drawn_last():
    boxes, labels = [[20, 60, 90, 120], [20, 60, 90, 120]], [0, 1]
    for scores, top in (([0.9, 0.6], 0), ([0.6, 0.9], 1)):
        drawn = draw_detections(picture(), detections(boxes, scores, labels), NAMES)
        assert drawn.getpixel((20, 110)) == class_color(top)


@pytest.mark.parametrize(
    "box", [[0, 0, 299, 199], [250, 0, 320, 30], [-50, -50, -10, -10], [280, 190, 299, 199], [40, 30, 20, 10]]
)
def test_captions_stay_inside(box):
    """The whole caption is visible: as many pixels change as for a box in the middle, whose caption surely fits."""
    reference = draw_detections(picture(), detections([[100, 100, 101, 101]], [0.9], [1]), NAMES)
    drawn = draw_detections(picture(), detections([box], [0.9], [1]), NAMES)
    white = [(np.asarray(image) > 170).all(axis=-1).sum() for image in (reference, drawn)]
    assert white[0] == white[1] > 0


def test_lines_grow_with_the_image():
    def thickness(width, height):
        image = picture(width, height)
        box = [width // 4, height // 4, width // 2, height // 2]
        return changed(image, draw_detections(image, detections([box], [0.9]), NAMES))[height * 3 // 8].sum()

    assert thickness(300, 200) == 2
    assert thickness(3000, 2000) == 16


def test_colours_are_stable_and_apart():
    colours = [class_color(index) for index in range(80)]
    assert len(set(colours)) == 80
    assert colours[:3] == [class_color(0), class_color(1), class_color(2)]
    assert all(np.abs(np.subtract(a, b)).max() > 60 for a, b in pairwise(colours))


def test_nothing_to_draw():
    image = picture()
    assert not changed(image, draw_detections(image, detections(np.zeros((0, 4)), []), NAMES)).any()


def test_comparison_has_both(tmp_path):
    truth = SimpleNamespace(boxes=torch.tensor([[20.0, 60, 90, 120]]), labels=torch.tensor([0]), image=picture)
    found = detections([[150, 60, 250, 120]], [0.9], [1])
    both = side_by_side(truth, found, NAMES)
    left, right = draw_boxes(picture(), truth, NAMES), draw_detections(picture(), found, NAMES)
    header = both.height - 200
    assert both.width == 608
    assert header >= 12
    assert not changed(both.crop((0, header, 300, both.height)), left).any()
    assert not changed(both.crop((308, header, 608, both.height)), right).any()
    save_comparison(tmp_path / "a.png", truth, found, NAMES)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.size == both.size


def test_captions_avoid_each_other_and_other_boxes():
    """Two boxes of one place and one above them: no caption hides another, or the content of the upper box."""
    boxes = [[60, 60, 160, 120], [62, 62, 158, 118], [60, 20, 160, 58]]
    names = SimpleNamespace(names=("text",))
    drawn = draw_detections(picture(), detections(boxes, [0.9, 0.8, 0.7]), names)
    alone = [draw_detections(picture(), detections([box], [0.9]), names) for box in boxes]
    white = [(np.asarray(image) > 200).all(axis=-1).sum() for image in (drawn, *alone)]
    assert white[0] >= 0.97 * sum(white[1:]), "all letters of all captions are visible"
    assert not changed(picture(), drawn)[24:54, 64:156].any(), "the inside of the upper box is free"


def test_many_captions_are_smaller_than_few():
    def written(count):
        boxes = [
            [10 + 60 * (n % 15), 60 + 180 * (n // 15), 40 + 60 * (n % 15), 100 + 180 * (n // 15)] for n in range(count)
        ]
        drawn = draw_detections(picture(1000, 1000), detections(boxes, [0.9] * count), NAMES)
        return (np.asarray(drawn) == class_color(0)).all(axis=-1).sum() / count

    assert written(60) < 0.8 * written(10)


@pytest.mark.parametrize("index", range(24))
def test_captions_stand_out_from_their_colour(index):
    """Contrast of at least 3, which WCAG asks of large letters."""
    names = SimpleNamespace(names=[f"class {index}" for index in range(24)])
    drawn = np.asarray(draw_detections(picture(), detections([[100, 100, 180, 160]], [0.9], [index]), names))
    inside = drawn[88:99, 103:150].reshape(-1, 3)

    def luminance(color):
        part = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in color)
        ]
        return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2]

    ink = (255, 255, 255) if (inside > 200).all(axis=-1).any() else (0, 0, 0)
    low, high = sorted((luminance(ink), luminance(class_color(index))))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_arrays_are_drawn_like_tensors():
    found = detections([[20, 60, 90, 120]], [0.9])
    arrays = SimpleNamespace(boxes=found.boxes.numpy(), labels=found.labels.numpy(), scores=found.scores.numpy())
    assert not changed(draw_detections(picture(), found, NAMES), draw_detections(picture(), arrays, NAMES)).any()


def test_captions_of_a_crowd_leave_the_picture_visible():
    """300 boxes with names of 40 letters: before captions were cut and left out, they hid all of it."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, [620, 400], (300, 2))
    boxes = np.concatenate([corners, corners + 16], axis=1)
    names = SimpleNamespace(names=tuple(f"class {index:02}, a name of forty characters.." for index in range(80)))
    found = detections(boxes, random.uniform(0.4, 1, 300).tolist(), random.integers(0, 80, 300).tolist())
    image = picture(640, 425)
    assert 0.2 < changed(image, draw_detections(image, found, names)).mean() < 0.5
    truth = SimpleNamespace(boxes=found.boxes, labels=found.labels, image=lambda: image)
    assert side_by_side(truth, found, names).width == 2 * 640 + 8


def test_long_names_are_cut_and_scores_are_not():
    names = SimpleNamespace(names=("a name of forty characters, as they come",))
    image, box = picture(90, 120), [[10, 40, 80, 90]]
    one, other = (draw_detections(image, detections(box, [score]), names) for score in (0.44, 0.88))
    assert changed(one, other).any()


def test_titles_of_narrow_pictures_are_not_cut():
    truth = SimpleNamespace(boxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), image=lambda: picture(60, 50))
    both = np.asarray(side_by_side(truth, detections(np.zeros((0, 4)), []), NAMES))
    header = both[: both.shape[0] - 50]
    assert (header[:, -2:] == 255).all()
    assert (header[:, -40:-2] < 128).any()


def test_names_in_other_scripts_can_be_told_apart():
    drawn = []
    for name in ("кошка", "собак"):
        names = SimpleNamespace(names=(name,))
        drawn.append(draw_detections(picture(), detections([[50, 50, 200, 150]], [0.9]), names))
    assert changed(*drawn).any()

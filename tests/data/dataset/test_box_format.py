# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from data import coco_files
from isdfine.audit.sources import discover, read_all
from isdfine.data.dataset.box_format import other_format, some_corners

HEIGHT, WIDTH = 80, 100


def corners(count, seed=0):
    """Corner boxes anywhere in an image, (count, 4)."""
    random = np.random.default_rng(seed)
    size = random.uniform(5, 40, (count, 2))
    begin = random.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.concatenate([begin, begin + size], axis=1)


def said(boxes):
    return other_format(np.asarray(boxes, float), np.tile([HEIGHT, WIDTH], (len(boxes), 1)))


def as_sizes(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def as_centres(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def read_as_centres(boxes):
    """x, y, width, height as a reader of centres and sizes makes them of any four numbers."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_of_another_format_are_recognised(seed):
    truth = corners(40, seed)
    assert said(as_sizes(truth)) == ""
    assert "fit if the numbers are corners x1, y1, x2, y2 in place of x, y, width" in said(truth)
    assert "corners x1, y1, x2, y2 in place of a centre" in said(read_as_centres(truth))
    assert "a centre and a size in place of x, y, width, height" in said(as_centres(truth))
    assert "the top left corner and a size in place" in said(read_as_centres(as_sizes(truth)))
    assert "y, x, height, width" in said(as_sizes(truth)[:, [1, 0, 3, 2]])
    assert "y1, x1, y2, x2" in said(truth[:, [1, 0, 3, 2]])


def some_said(boxes):
    return some_corners(np.asarray(boxes, float), np.tile([HEIGHT, WIDTH], (len(boxes), 1)))


@pytest.mark.parametrize("seed", range(5))
def test_some_corners_among_sizes_are_recognised(seed):
    truth = corners(100, seed)
    mixed = as_sizes(truth)
    assert some_said(mixed) == ""
    mixed[::8] = truth[::8]
    assert "fit if their numbers are corners x1, y1, x2, y2: some of the 100 boxes" in some_said(mixed)


def test_few_corners_say_nothing():
    truth = as_sizes(corners(100))
    truth[:2] = [60, 50, 90, 70]
    assert some_said(truth) == ""


def test_few_boxes_say_nothing():
    assert said(corners(5)) == ""
    assert said(np.zeros((0, 4))) == ""


@pytest.mark.parametrize("seed", range(20))
def test_boxes_that_reach_out_by_nature_are_sound(seed):
    truth = as_sizes(corners(12, seed))
    random = np.random.default_rng(seed)
    truth[:, :2] -= random.uniform(0, 25, (12, 2))  # bodies that go on beyond the edge, as in CrowdHuman
    truth[:, 2:] += random.uniform(0, 50, (12, 2))
    assert said(truth) == some_said(truth) == ""


@pytest.mark.parametrize("seed", range(5))
def test_sloppy_boxes_around_objects_that_fill_their_image_are_sound(seed):
    random = np.random.default_rng(seed)
    size = random.uniform(0.85, 1, (200, 2)) * (WIDTH, HEIGHT)
    begin = random.uniform(0, 1, (200, 2)) * ((WIDTH, HEIGHT) - size) + random.uniform(-6, 6, (200, 2))
    truth = np.concatenate([begin, size], axis=1)
    assert said(truth) == some_said(truth) == ""


def test_whole_images_are_sound():
    assert said([[0, 0, WIDTH, HEIGHT]] * 20) == ""
    assert said([[1, 1, WIDTH, HEIGHT]] * 20) == ""  # a pixel too far
    assert some_said([[0.1 * WIDTH, 0.1 * HEIGHT, WIDTH, HEIGHT]] * 20) == ""  # sloppy


@pytest.mark.parametrize("name", ["coco128", "bccd", "doclayout-mini"])
def test_real_data_is_sound(name):
    for split in read_all(discover(coco_files.shared_data(name))):
        data = split.annotations
        sizes = np.repeat(data.sizes, np.diff(data.offsets), axis=0)
        assert other_format(data.boxes_xywh_px, sizes) == some_corners(data.boxes_xywh_px, sizes) == ""

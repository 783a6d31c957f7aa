# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from isdfine.data.dataset.box_format import sound_areas

BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 30], [1, 1, 40, 40.0]])
OWN = [100, 600, 1600]


@pytest.mark.parametrize(
    "given",
    [
        [100, 600, 1600],
        [60, 20, 1599.9],
        [0.9, 600, 2],
        [144, 704, 1764],
        [0.5, 0.5, 1600],
    ],
)
def test_areas_that_can_be_true_are_kept(given):
    found, reasons = sound_areas(np.array(given, float), BOXES)
    assert found.tolist() == given
    assert not reasons


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([-100, -600, -1600], "below 0"),
        ([0, 0, 0], "0"),
        ([np.inf, -np.inf, np.inf], "no finite number"),
        ([9600, 9600, 9600], "larger than the box"),
        ([0.01, 0.06, 0.16], "at most 1 or the same throughout, whatever the box"),
        ([1, 1, 1], "at most 1 or the same throughout, whatever the box"),
        ([50, 50, 50], "at most 1 or the same throughout, whatever the box"),
    ],
)
def test_others_are_the_boxes_own(given, reason):
    found, reasons = sound_areas(np.array(given, float), BOXES)
    assert found.tolist() == OWN
    assert {name: rows.tolist() for name, rows in reasons.items()} == {reason: [True] * 3}


def test_single_areas_of_a_pixel_in_large_boxes_are_not_believed():
    found, reasons = sound_areas(np.array([100.0, 0.5, 0.5]), BOXES)
    assert found.tolist() == [100, 0.5, OWN[2]]  # a thin mask in the second is a small one either way
    assert {name: rows.tolist() for name, rows in reasons.items()} == {"at most 1 in a large box": [False, False, True]}


def test_no_area_is_no_fault():
    found, reasons = sound_areas(np.array([np.nan, 500, np.nan]), BOXES)
    assert found.tolist() == [100, 500, 1600]
    assert not reasons


def test_boxes_without_area_say_nothing():
    boxes = np.array([[0, 0, 0, 10], [5, 5, -20, 30], [0, 0, 10, 10], [0, 0, 5, 5]], float)
    found, reasons = sound_areas(np.array([0, -600, 100, 20.0]), boxes)
    assert found.tolist() == [0, -600, 100, 20]
    assert not reasons
    assert sound_areas(np.zeros(0), np.zeros((0, 4)))[0].shape == (0,)

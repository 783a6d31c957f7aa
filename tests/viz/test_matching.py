# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO's assignment on cases worked out by hand."""

import numpy as np
import pytest

from isdfine.viz.matching import match, pairwise_overlap
from judged_cases import judged


def test_overlap_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 9]], dtype=float)
    truth = np.array([[0, 0, 10, 10], [0, 0, 20, 10]], dtype=float)
    expected = [[1, 0.5], [50 / 150, 0.5], [0, 0]]
    assert pairwise_overlap(boxes, truth) == pytest.approx(np.array(expected))
    inside = pairwise_overlap(boxes, truth, np.array([False, True]))
    assert inside[:2, 1] == pytest.approx([1, 1])


def test_the_surest_takes_the_object_and_a_second_one_is_wrong() -> None:
    image = judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 8, 0, 0.5), (0, 0, 10, 7, 0, 0.9), (0, 0, 10, 10, 1, 0.99)])
    found = match(image)
    assert found.truth.tolist() == [-1, 0, -1]
    assert not found.ignored.any()


def test_the_highest_overlap_wins_and_half_is_enough() -> None:
    image = judged([(0, 0, 10, 10, 0), (0, 0, 10, 12, 0)], [(0, 0, 10, 12, 0, 0.9), (0, 0, 5, 10, 0, 0.8)])
    assert match(image).truth.tolist() == [1, 0]
    assert match(image, iou=0.51).truth.tolist() == [1, -1]


def test_of_equal_overlaps_the_last_object_is_taken() -> None:
    """As in pycocotools, where a later object with the same overlap replaces the one before."""
    image = judged([(0, 0, 10, 10, 0), (0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8)])
    assert match(image).truth.tolist() == [1, 0]


def test_crowds_take_any_number_and_make_nothing_wrong() -> None:
    image = judged(
        [(0, 0, 100, 100, 0, True), (0, 0, 10, 10, 0)],
        [(0, 0, 10, 10, 0, 0.9), (20, 20, 30, 30, 0, 0.8), (40, 40, 50, 50, 0, 0.7), (90, 90, 130, 130, 0, 0.6)],
    )
    found = match(image)
    assert found.truth.tolist() == [1, -1, -1, -1]
    assert found.ignored.tolist() == [False, True, True, False]


def test_only_the_surest_of_a_class_count() -> None:
    image = judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0, 0.2), (50, 50, 60, 60, 0, 0.9), (0, 0, 9, 9, 1, 0.1)])
    found = match(image, max_detections=1)
    assert found.truth.tolist() == [-1, -1, -1]
    assert found.ignored.tolist() == [True, False, False]


def test_nothing_to_match() -> None:
    assert match(judged([], [])).truth.shape == (0,)
    assert match(judged([], [(0, 0, 1, 1, 0, 0.5)])).truth.tolist() == [-1]
    assert match(judged([(0, 0, 1, 1, 0)], [])).ignored.shape == (0,)

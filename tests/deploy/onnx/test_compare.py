# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detections are matched by what they are, not by their place in the list."""

import numpy as np
import pytest

from isdfine.deploy.backends.base import Outputs
from isdfine.deploy.onnx.compare import FP32, Tolerance, compare

SCALE = np.full((1, 4), 0.5)
"""The network's input has half the pixels of the original."""


def found(rows: list[tuple[int, float, float]]) -> Outputs:
    """Detections of one image from (label, left edge, score)."""
    labels, left, scores = (np.array([part]) for part in zip(*rows))
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=-1)
    return Outputs(labels.astype(np.int64), boxes, scores)


ROWS = [(0, 5.0, 0.9), (1, 5.0, 0.8), (0, 80.0, 0.8), (2, 40.0, 0.3)]


def test_the_order_of_ties_does_not_matter() -> None:
    swapped = [ROWS[0], ROWS[2], ROWS[1], ROWS[3]]
    difference = compare(found(ROWS), found(swapped), SCALE, FP32)
    assert (difference.score, difference.box, difference.unmatched, difference.compared) == (0, 0, 0, 4)
    assert difference.problems(FP32) == []


def test_differences_are_in_pixels_of_the_input() -> None:
    moved = [(0, 5.08, 0.90005), *ROWS[1:]]
    difference = compare(found(ROWS), found(moved), SCALE, FP32)
    assert difference.box == pytest.approx(0.04)
    assert difference.score == pytest.approx(5e-5)
    assert difference.problems(FP32) == []
    far = compare(found(ROWS), found([(0, 5.2, 0.9), *ROWS[1:]]), SCALE, FP32)
    assert far.problems(FP32) == ["boxes: off by 0.1 px, 0.05 px is allowed"]


def test_another_class_is_no_partner() -> None:
    difference = compare(found(ROWS), found([(3, 5.0, 0.9), *ROWS[1:]]), SCALE, FP32)
    assert difference.problems(FP32) == ["labels: 1 of 4 detections have no partner of their class"]


def test_a_tie_at_the_last_place_is_excused_and_nothing_else() -> None:
    other = [*ROWS[:3], (1, 70.0, 0.30005)]  # within 1e-4 of the best score
    assert compare(found(ROWS), found(other), SCALE, FP32).problems(FP32) == []
    clearly = [*ROWS[:3], (1, 70.0, 0.31)]
    assert compare(found(ROWS), found(clearly), SCALE, FP32).problems(FP32)


def test_nan_is_beyond_every_tolerance() -> None:
    broken = found(ROWS)
    broken.boxes[0, 1] = np.nan
    assert compare(found(ROWS), broken, SCALE, FP32).problems(FP32)
    broken = found(ROWS)
    broken.scores[0, 0] = np.nan
    assert compare(found(ROWS), broken, SCALE, FP32).problems(FP32)


def test_outliers_are_excused_up_to_their_share() -> None:
    loose = Tolerance(0.02, 2.0, floor=0.1, outliers=0.25)
    one_moved = compare(found(ROWS), found([(0, 50.0, 0.9), *ROWS[1:]]), SCALE, loose)
    assert (one_moved.allowed, one_moved.problems(loose)) == (1, [])
    two_moved = compare(found(ROWS), found([(0, 50.0, 0.9), (1, 50.0, 0.8), *ROWS[2:]]), SCALE, loose)
    assert two_moved.problems(loose) == ["boxes: off by 22.5 px, 2 px is allowed"]
    faint = [*ROWS[:3], (2, 40.0, 0.05)]
    assert compare(found(faint), found(faint), SCALE, loose).compared == 3  # below a tenth of the best score


def test_nan_is_no_outlier() -> None:
    loose = Tolerance(0.02, 2.0, floor=0.5, outliers=0.5)
    for place in ((0, 1), (0, 3)):  # one that is compared and could be excused, one below the floor
        broken = found(ROWS)
        broken.scores[place] = np.inf
        assert compare(found(ROWS), broken, SCALE, loose).problems(loose) == ["scores: off by nan, 0.02 is allowed"]
        broken = found(ROWS)
        broken.boxes[place] = np.nan
        assert compare(found(ROWS), broken, SCALE, loose).problems(loose) == ["boxes: off by nan px, 2 px is allowed"]


def test_nothing_compared_is_no_agreement() -> None:
    nothing = found(ROWS)
    nothing.scores[:] = np.nan
    (problem,) = compare(nothing, nothing, SCALE, FP32).problems(FP32)
    assert problem == "nothing could be compared: the scores are no numbers, or all detections tie"


def test_half_of_the_detections_must_be_much_nearer() -> None:
    """A box scaled by 1.01 moves few pixels where images are small, but it moves all of them."""
    loose = Tolerance(0.02, 2.0, middle=0.125)
    moved = [(label, left + 1.0, score) for label, left, score in ROWS]  # half a pixel of the input
    assert compare(found(ROWS), found(moved), SCALE, loose).problems(loose) == [
        "boxes: half are off by more than 0.5 px, 0.25 px is allowed"
    ]
    one = [moved[0], *ROWS[1:]]
    assert compare(found(ROWS), found(one), SCALE, loose).problems(loose) == []

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of errors by hand; sums that must hold for any data."""

import numpy as np
import pytest

from isdfine.viz.errors import KINDS, find_mistakes
from isdfine.viz.matching import match_all
from judged_cases import judged, random_images


def one_of_each():
    """Classes cat 0, dog 1."""
    return [
        judged(
            [(0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 0), (60, 0, 70, 10, 1), (80, 0, 99, 30, 1)],
            [
                (0, 0, 10, 10, 0, 0.9),  # right
                (0, 0, 10, 9, 0, 0.8),  # the same again
                (20, 0, 30, 9, 0, 0.7),  # a dog
                (40, 0, 44, 10, 0, 0.6),  # four tenths of a cat
                (200, 200, 210, 210, 1, 0.5),  # nothing
                (60, 0, 70, 10, 1, 0.2),  # right, but not sure enough
            ],
        )
    ]


def test_one_of_each_kind() -> None:
    images = one_of_each()
    mistakes = find_mistakes(images, match_all(images), 2, 0.4)
    assert mistakes.confusion.tolist() == [[1, 0, 1], [1, 0, 2], [2, 1, 0]]
    (confusion,) = mistakes.of("confusion")
    assert (confusion.label, confusion.truth_label, confusion.score) == (0, 1, 0.7)
    assert confusion.overlap == pytest.approx(0.9)
    (localisation,) = mistakes.of("localisation")
    assert (localisation.score, localisation.overlap) == (0.6, pytest.approx(0.4))
    (duplicate,) = mistakes.of("duplicate")
    assert (duplicate.score, duplicate.truth_label) == (0.8, 0)
    (background,) = mistakes.of("background")
    assert (background.score, background.truth_xyxy_px) == (0.5, None)
    misses = mistakes.of("miss")
    assert [miss.score for miss in misses] == [0, 0, 0.2]
    assert misses[0].size_px == pytest.approx((19 * 30) ** 0.5)
    assert all(miss.box_xyxy_px is None for miss in misses)


def test_a_lower_threshold_finds_more() -> None:
    images = one_of_each()
    mistakes = find_mistakes(images, match_all(images), 2, 0.1)
    assert mistakes.confusion[1, 1] == 1
    assert len(mistakes.of("miss")) == 2


def test_a_neighbour_of_a_found_object_is_no_localisation_error() -> None:
    images = [judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 0, 0.9), (7, 0, 17, 10, 0, 0.8)])]
    mistakes = find_mistakes(images, match_all(images), 1, 0.5)
    assert [error.kind for error in mistakes.errors] == ["background"]


def test_crowds_are_nobodys_mistake() -> None:
    images = [judged([(0, 0, 90, 90, 0, True)], [(5, 5, 20, 20, 0, 0.9), (5, 5, 20, 20, 1, 0.8)])]
    mistakes = find_mistakes(images, match_all(images), 2, 0.5)
    assert [(error.kind, error.label) for error in mistakes.errors] == [("background", 1)]
    assert mistakes.confusion.sum() == 1


@pytest.mark.parametrize("seed", range(5))
def test_sums(seed: int) -> None:
    """Every object and every counted detection appears once; the matrix and the list say the same."""
    images = random_images(seed, count=20)
    matches, threshold = match_all(images), 0.35
    mistakes = find_mistakes(images, matches, 3, threshold)
    matrix, counts = mistakes.confusion, {kind: len(mistakes.of(kind)) for kind in KINDS}
    objects = np.concatenate([image.truth_labels[~image.crowd] for image in images])
    assert matrix[:-1].sum(axis=1).tolist() == np.bincount(objects, minlength=3).tolist()
    kept = [image.labels[(image.scores >= threshold) & ~found.ignored] for image, found in zip(images, matches)]
    assert matrix[:, :-1].sum(axis=0).tolist() == np.bincount(np.concatenate(kept), minlength=3).tolist()
    right = sum(int(((image.scores >= threshold) & (found.truth >= 0)).sum()) for image, found in zip(images, matches))
    assert np.trace(matrix[:-1, :-1]) == right
    assert matrix[:-1, :-1].sum() - right == counts["confusion"]
    assert matrix[-1].sum() == counts["localisation"] + counts["duplicate"] + counts["background"]
    assert matrix[:-1, -1].sum() == counts["miss"]
    assert min(counts.values()) > 0
    scores = [error.score for error in mistakes.of("background")]
    assert scores == sorted(scores, reverse=True)
    sizes = [error.size_px for error in mistakes.of("miss")]
    assert sizes == sorted(sizes, reverse=True)

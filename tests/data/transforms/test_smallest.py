# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from torch import nn

from isdfine.data.dataset.targets import describe_limits, smallest_kept
from isdfine.data.transforms import (
    ConvertBoxes,
    ConvertPILImage,
    PadToSize,
    RandomCrop,
    RandomIoUCrop,
    RandomZoomOut,
    Resize,
    ResizeShortestEdge,
    ResizeToFit,
    SanitizeBoundingBoxes,
)

SIZES = np.array([[40, 60], [100, 50]])


@pytest.mark.parametrize(
    ("ops", "expected"),
    [
        ([], [[0, 0, 0], [0, 0, 0]]),
        ([Resize((20, 30))], [[0, 0, 0], [0, 0, 0]]),
        ([SanitizeBoundingBoxes(2, 5)], [[2, 2, 5], [2, 2, 5]]),
        ([Resize((20, 30)), SanitizeBoundingBoxes(1, 1)], [[2, 2, 4], [5, 5 / 3, 25 / 3]]),
        ([SanitizeBoundingBoxes(3, 1), Resize((20, 30)), SanitizeBoundingBoxes(1, 1)], [[3, 3, 4], [5, 3, 25 / 3]]),
        ([ResizeShortestEdge(20, 200), SanitizeBoundingBoxes(1, 1)], [[2, 2, 4], [2.5, 2.5, 6.25]]),
        ([ResizeToFit((20, 20)), SanitizeBoundingBoxes(1, 1)], [[40 / 13, 3, 120 / 13], [5, 5, 25]]),
        ([PadToSize((200, 200)), Resize((100, 100)), SanitizeBoundingBoxes(1, 1)], [[2, 2, 4], [2, 2, 4]]),
        ([RandomCrop((20, 20)), Resize((10, 20)), SanitizeBoundingBoxes(1, 1)], [[2, 1, 2], [2, 1, 2]]),
        (
            [RandomZoomOut(), RandomIoUCrop(), Resize((20, 30)), SanitizeBoundingBoxes(1, 1), ConvertPILImage(),
             ConvertBoxes()],
            [[2, 2, 4], [5, 5 / 3, 25 / 3]],
        ),
        ([SanitizeBoundingBoxes(2, 1), nn.Identity(), SanitizeBoundingBoxes(9, 1)], [[2, 2, 1], [2, 2, 1]]),
    ],
)  # fmt: skip
def test_limits_in_pixels_of_the_original(ops, expected):
    assert smallest_kept(ops, SIZES) == pytest.approx(np.array(expected, float))


def test_no_image():
    assert smallest_kept([ResizeToFit((20, 20))], np.zeros((0, 2), np.int64)).shape == (0, 3)


def test_limits_in_words():
    sanitize = SanitizeBoundingBoxes(min_size=2)
    assert describe_limits([]) == ""
    assert describe_limits([sanitize]) == "SanitizeBoundingBoxes (min_size 2 pixels)"
    assert describe_limits([Resize((20, 30)), sanitize]).endswith("at the size after Resize to 20 x 30")
    assert describe_limits([ResizeShortestEdge(20, 30), sanitize]).endswith("at the size after ResizeShortestEdge")

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from isdfine.distill.context import layer_pairs


@pytest.mark.parametrize(
    ("layers", "direction", "span", "expected"),
    [
        (4, "deep_to_shallow", 1, [(1, 2), (2, 3), (3, 4)]),
        (4, "deep_to_shallow", 2, [(1, 3), (2, 4), (3, 4)]),
        (4, "deep_to_shallow", 9, [(1, 4), (2, 4), (3, 4)]),  # the pairs of GO-LSD
        (4, "shallow_to_deep", 1, [(2, 1), (3, 2), (4, 3)]),
        (4, "shallow_to_deep", 2, [(2, 1), (3, 1), (4, 2)]),
        (2, "shallow_to_deep", 1, [(2, 1)]),
        (1, "deep_to_shallow", 1, []),
        (1, "shallow_to_deep", 1, []),
    ],
)
def test_student_and_teacher_layers(layers: int, direction: Any, span: int, expected: list[tuple[int, int]]) -> None:
    assert layer_pairs(layers, direction, span) == expected


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="direction: 'sideways' is none of 'deep_to_shallow', 'shallow_to_deep'"):
        layer_pairs(3, "sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="span is 0: give the distance between student and teacher in layers, 1 or"):
        layer_pairs(3, "deep_to_shallow", 0)

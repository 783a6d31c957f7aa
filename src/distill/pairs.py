# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which decoder layer learns from which."""

from __future__ import annotations

from typing import Literal, get_args

from ..core.errors import check_choice

Direction = Literal["deep_to_shallow", "shallow_to_deep"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


def pairs(layers: int, direction: Direction, span: int = 1) -> list[tuple[int, int]]:
    """Neighbouring decoder layers as student and teacher (docs/method.md 7.2).

    Args:
        layers: decoder layers L; the first is 1, the last is the one that detects.
        direction: ``deep_to_shallow``: every layer but the last learns from the one ``span`` layers deeper;
            ``shallow_to_deep``: every layer but the first learns from the one ``span`` layers before it.
        span: distance, 1 or more; cut off at the last or first layer.

    Returns: (student, teacher), 1-based, students ascending, each once; empty for one layer.

    Raises:
        ValueError: an unknown direction, or a distance below 1.
    """
    check_choice("direction", direction, DIRECTIONS)
    check_span("span", span)
    if direction == "deep_to_shallow":
        return [(one, min(one + span, layers)) for one in range(1, layers)]
    return [(one, max(one - span, 1)) for one in range(2, layers + 1)]


def check_span(name: str, span: int) -> None:
    """Refuse a distance below one layer (ValueError)."""
    if span < 1:
        raise ValueError(f"{name} is {span}: give the distance between student and teacher in layers, 1 or more")

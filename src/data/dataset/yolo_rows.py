# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of one YOLO label file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..label_space import LabelSpace
from .problems import Problems
from .text_lines import text_lines

TOLERANCE = 1e-3
"""Coordinates may pass the image's edge by this much, for tools that round."""
_BEYOND = 0.5
"""Coordinates that pass it by up to this much are still fractions: the box is cut, with a warning."""
_BOX, _SHORTEST_POLYGON = 5, 7

Row = tuple[int, float, float, float, float]
"""Class, centre x, centre y, width, height; fractions of the image."""


def parse_rows(path: Path, space: LabelSpace, problems: Problems, *, keypoints: int = 0) -> list[Row] | None:
    """Boxes of a label file; a polygon becomes the box around it.

    Args:
        path: rows ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...``.
        space: the classes.
        problems: where to report rows that cannot be used.
        keypoints: numbers that follow a box in files with key points; they are passed over.

    Returns:
        None where the file was reported and nobody knows what is in it.

    Raises:
        DataError: with file and line: other column counts, no numbers, an unknown class, values outside [0, 1].
    """
    rows: list[Row] = []
    reported = len(problems.found)
    lines = text_lines(path, problems)
    if len(problems.found) > reported:
        return None
    for place, line in lines:
        try:
            row, beyond = _row(_without_keypoints(line.split(), keypoints), space)
        except _BadRow as error:
            problems.report(error.kind, place, str(error), boxes=1)
            continue
        if beyond and (cut := _inside(row)):
            problems.mend("box beyond edge", place, f"{beyond:g} is outside 0..1: the box is cut to the image")
            row = cut
        rows.append(row)
    if lines and not rows:
        problems.losses.add("", emptied=1)
    return rows


def _inside(row: Row) -> Row | None:
    """The part of the box within the image, None where there is none."""
    number, cx, cy, w, h = row
    x0, x1, y0, y1 = (min(max(one, 0.0), 1.0) for one in (cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2))
    return (number, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


class _BadRow(Exception):
    """What is wrong with a row."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def _without_keypoints(columns: list[str], keypoints: int) -> list[str]:
    if keypoints and len(columns) not in (_BOX, _BOX + keypoints):
        text = f"{len(columns)} columns, expected class cx cy w h and {keypoints} numbers of key points (kpt_shape)"
        raise _BadRow("broken line", text)
    return columns[:_BOX] if keypoints else columns


def _row(columns: Sequence[str], space: LabelSpace) -> tuple[Row, float | None]:
    """The row, and the first of its values that lies outside the image."""
    count = len(columns)
    if count == _BOX + 1:
        text = "6 columns, expected class cx cy w h: a sixth may be the confidence of a prediction: remove it"
        raise _BadRow("broken line", text)
    if count != _BOX and (count < _SHORTEST_POLYGON or count % 2 == 0):
        text = f"{count} columns, expected class cx cy w h, or class and x y of at least 3 points of a polygon"
        raise _BadRow("broken line", text)
    number, *values = _finite(columns)
    if number not in range(len(space)):
        known = f"the {len(space)} classes 0..{len(space) - 1}: {space.describe()}"
        raise _BadRow("unknown category", f"class {columns[0]} is not one of {known}")
    outside = [one for one in values if not -TOLERANCE <= one <= 1 + TOLERANCE]
    beyond = outside[0] if outside else None
    sizes = values[2:] if count == _BOX else [0.0]
    wrong = [one for one in outside if not -_BEYOND <= one <= 1 + _BEYOND] or [one for one in sizes if one < -TOLERANCE]
    if wrong:
        text = f"{wrong[0]:g} is outside 0..1: coordinates must be fractions of the image's width and height"
        raise _BadRow("bad box", text)
    if count == _BOX:
        cx, cy, w, h = values
        return (int(number), cx, cy, w, h), beyond
    x, y = values[0::2], values[1::2]
    x0, x1, y0, y1 = min(x), max(x), min(y), max(y)
    return (int(number), (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), beyond


def _finite(columns: Sequence[str]) -> list[float]:
    try:
        numbers = [float(one) for one in columns]
    except ValueError as error:
        raise _BadRow("broken line", f"{' '.join(columns)[:80]!r} holds something that is no number") from error
    if not all(map(math.isfinite, numbers)):
        raise _BadRow("broken line", f"{' '.join(columns)[:80]!r} holds a number that is not finite")
    return numbers

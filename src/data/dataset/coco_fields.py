# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Single fields of COCO entries, many at once; those in another form than they should have: numbers as text, words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problems import Problems

_INT64 = 2**63
Entry = Mapping[str, Any]
_LONGEST = 40
"""Characters of a number: beyond, Python refuses to read it or takes long."""
LARGEST = 1e12
"""Of the numbers of a box: no picture is that large, and sums and products of larger ones may be infinite."""
_UPRIGHT_DEGREES = 0.5
_FLAGS = {"": 0, "false": 0, "no": 0, "true": 1, "yes": 1}


def fits_int64(value: object) -> bool:
    """Whether it is a whole number as it should be."""
    return type(value) is int and -_INT64 <= value < _INT64


def whole_number(value: object) -> int | None:
    """``7``, ``7.0``, ``"7"`` or ``"7.0"`` as 7; None for what is no whole number of 64 bits."""
    if fits_int64(value):
        return int(value)  # type: ignore[call-overload]
    number = finite_number(value)
    if number is None or not number.is_integer():
        return None
    exact = int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() else int(number)
    return exact if fits_int64(exact) else None


def finite_number(value: object) -> float | None:
    """A finite number, also one written as text."""
    if type(value) not in (int, float, str) or (isinstance(value, str) and len(value) > _LONGEST):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def flag(value: object) -> int | None:
    """0 or another number, also as text, or true and false as words; nothing means 0."""
    if value is None or isinstance(value, bool):
        return int(bool(value))
    return _FLAGS.get(value.strip().lower(), whole_number(value)) if isinstance(value, str) else whole_number(value)


def box_numbers(value: object) -> list[float] | None:
    """x, y, width, height of a list, of which some may be text, or of one text with commas or spaces between."""
    parts = value.strip(" []()").replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 4:
        return None
    numbers = [number for one in parts if (number := finite_number(one)) is not None]
    return numbers if len(numbers) == 4 and max(map(abs, numbers)) <= LARGEST else None


def is_rotated(degrees: object) -> bool:
    """Whether a rectangle turned so far is no longer the box around itself."""
    number = finite_number(degrees)
    return number is not None and min(number % 180, -number % 180) > _UPRIGHT_DEGREES


def report_rotated(names: Sequence[object], place: str, problems: Problems) -> None:
    """Say which boxes belong to rotated rectangles."""
    if names:
        shown = ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
        text = (
            f"{len(names)} boxes are rectangles from before a rotation that stands beside them (annotations {shown}): "
            "they do not bound their objects; export them as polygons, or draw upright boxes"
        )
        problems.mend("rotated box", place, text)


class ImageIds:
    """Numbers for ids of images, also for those that are text: they only link images and annotations."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def number(self, value: object) -> int | None:
        """The number that stands for an id until all are known."""
        number = whole_number(value)
        if number is None and isinstance(value, str) and value:
            number = self._texts.setdefault(value, len(self._texts) - _INT64)
        return number

    def shown(self, number: int) -> str:
        """The id as the file has it."""
        return next((repr(text) for text, own in self._texts.items() if own == number), str(number))

    def numbered(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) with numbers above all others in place of texts."""
        texts = ids < len(self._texts) - _INT64
        largest = max(int(ids[~texts].max(initial=0)), 0)
        found = ids.copy()
        found[texts] = [largest + 1 + number + _INT64 for number in ids[texts].tolist()]
        return found


def annotation_ids(values: Iterable[object]) -> list[int]:
    """Whole numbers as they are; the others, in their order, those that follow the largest."""
    known = [whole_number(one) for one in values]
    largest, numbers, missing = max((one for one in known if one is not None), default=0), [], 0
    for number in known:
        missing += number is None
        numbers.append(max(largest, 0) + missing if number is None else number)
    return numbers


def entry_objects(batch: list[Any], first: int, key: str, place: str, problems: Problems) -> list[Entry]:
    if set(map(type, batch)) == {dict}:
        return batch
    for index, entry in enumerate(batch, first):
        if type(entry) is not dict:
            text = f"{key}[{index}] is {short(entry)}, not an object: not COCO detection JSON"
            boxes = int(key == "annotations")
            problems.report("broken json", place, text, boxes=boxes, images=1 - boxes)
    return [entry for entry in batch if type(entry) is dict]


def whole_numbers(
    entries: Sequence[Entry],
    keep: NDArray[np.bool_],
    key: str,
    first: int,
    place: str,
    problems: Problems,
    read: Callable[[object], int | None] = whole_number,
    *,
    values: list[Any] | None = None,
    boxes: int = 0,
) -> NDArray[np.int64]:
    """One whole number per entry; those that ``read`` does not understand either are not kept.

    Args:
        values: of the entries, where they are not simply those of the key.
        boxes: that are left out with an entry: 0 for an image, which is one itself.
    """
    values = [entry.get(key) for entry in entries] if values is None else values
    if are_int64(values):
        return np.array(values, dtype=np.int64)  # the usual case, many times as fast
    for index, value in enumerate(values):
        if type(value) is bool or fits_int64(value):
            continue
        which = f"entry {first + index} has {key} {short(value)}"
        if type(value) is int:
            text = f"{which}, which does not fit into 64 bits: renumber"
        else:
            text = f"{which}, not a whole number: {short(entries[index])}"
        number = read(value)
        if number is None:
            lost = int(keep[index])
            problems.report("bad entry", place, text, boxes=boxes * lost, images=(1 - boxes) * lost)
        else:
            problems.mend("odd entry", place, text)
        values[index] = 0 if number is None else number
        keep[index] &= number is not None
    return np.array(values, dtype=np.int64)


def is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(one) in (float, int) and abs(one) <= LARGEST for one in value)
    )


def are_int64(values: Sequence[Any]) -> bool:
    """Whether there is nothing to object to in some whole numbers: many times as fast as one by one."""
    return set(map(type, values)) == {int} and -_INT64 <= min(values) <= max(values) < _INT64


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."

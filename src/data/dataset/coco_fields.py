# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Single fields of COCO entries in another form than they should have: numbers as text, words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from .. import Ints
from .problems import Problems

_INT64 = 2**63
_LONGEST = 40
"""Characters of a number: beyond, Python refuses to read it or takes long."""
LARGEST = 1e12
"""Of the numbers of a box: no picture is that large, and sums and products of larger ones may be infinite."""
_UPRIGHT_DEGREES = 0.5
_FLAGS = {"": 0, "false": 0, "no": 0, "true": 1, "yes": 1}


def fits_int64(value: object) -> TypeGuard[int]:
    """Whether it is a whole number as it should be."""
    return type(value) is int and -_INT64 <= value < _INT64


def whole_number(value: object) -> int | None:
    """``7``, ``7.0``, ``"7"`` or ``"7.0"`` as 7; None for what is no whole number of 64 bits."""
    if fits_int64(value):
        return value
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
    numbers = [number for part in parts if (number := finite_number(part)) is not None]
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

    def numbered(self, ids: Ints) -> Ints:
        """(n,) with numbers above all others in place of texts."""
        texts = ids < len(self._texts) - _INT64
        largest = max(int(ids[~texts].max(initial=0)), 0)
        numbered: Ints = ids.copy()
        numbered[texts] = [largest + 1 + number + _INT64 for number in ids[texts].tolist()]
        return numbered


def is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(number) in (float, int) and abs(number) <= LARGEST for number in value)
    )


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


@dataclass
class OddEntry:
    """An object in a list of a COCO file of which some field is in another form than it should have.

    A field is read as what it means, and that is said. Where that is not clear the entry is left out.
    """

    fields: Mapping[str, Any]
    number: int
    place: str
    problems: Problems
    is_box: bool
    """Else an image."""
    kept: bool = True
    name: str = "annotation 0"
    """What messages call it."""

    @classmethod
    def of(cls, value: Any, number: int, key: str, place: str, problems: Problems) -> OddEntry | None:
        """The entry that is ``number`` in the list ``key``; None, reported, where it is no object."""
        is_box = key == "annotations"
        if isinstance(value, dict):
            return cls(value, number, place, problems, is_box)
        text = f"{key}[{number}] is {short(value)}, not an object: not COCO detection JSON"
        problems.report("broken json", place, text, boxes=int(is_box), images=int(not is_box))
        return None

    def leave_out(self, kind: str, text: str) -> None:
        """Report a reason not to use it; only the first one counts it."""
        lost = int(self.kept)
        self.kept = False
        self.problems.report(kind, self.place, text, boxes=lost * self.is_box, images=lost * (not self.is_box))

    def whole(self, key: str, read: Callable[[object], int | None] = whole_number, value: Any = None) -> int:
        """A whole number, as ``read`` understands it; 0 where the entry is left out for it."""
        value = self.fields.get(key) if value is None else value
        if type(value) is bool or fits_int64(value):
            return int(value)
        text = f"entry {self.number} has {key} {short(value)}"
        if type(value) is int:
            text += ", which does not fit into 64 bits: renumber"
        else:
            text += f", not a whole number: {short(self.fields)}"
        number = read(value)
        if number is None:
            self.leave_out("bad entry", text)
        else:
            self.problems.mend("odd entry", self.place, text)
        return number or 0

    def flag(self, key: str) -> bool:
        """Whether it is set; nothing means no."""
        value = self.fields.get(key, 0)
        if value is None and self.kept:
            self.problems.mend("odd entry", self.place, f"entry {self.number} has {key}: null: read as 0")
        return bool(self.whole(key, flag, value or 0))

    def annotation_id(self) -> int | None:
        """The id, or None to be given one: nothing depends on it but how a message calls the annotation."""
        value = self.fields.get("id")
        number = whole_number(value)
        self.name = f"annotation {number or 0}"
        if not fits_int64(value) and value is not None:  # none at all is as good as any
            text = f"entry {self.number} has id {short(value)}, not a whole number: it is given one"
            self.problems.mend("bad annotation id", self.place, text)
        return number

    def category_id(self) -> int:
        value = self.fields.get("category_id")
        if fits_int64(value) or (type(value) is float and value.is_integer() and fits_int64(int(value))):
            return int(value)  # some write 2.0
        number = whole_number(value)
        text = f"{self.name} has category_id {short(value)}: not a whole number"
        self._said("unknown category", text, number is not None)
        return number or 0

    def box(self) -> tuple[float, float, float, float]:
        """x, y, width, height."""
        value = self.fields.get("bbox")
        numbers = box_numbers(value)
        if not is_box(value):
            expected = "expected 4 finite numbers x, y, width, height"
            self._said("bad box", f"{self.name} has bbox {short(value)}: {expected}", numbers is not None)
        x, y, width, height = numbers or (0.0, 0.0, 0.0, 0.0)
        return x, y, width, height

    def area(self) -> float | None:
        """None where there is none that can be read; no box is left out for its area."""
        value = self.fields.get("area")
        if value is None or (type(value) is float and value == value) or fits_int64(value):
            return None if value is None else float(value)
        number = finite_number(value)
        text = f"{self.name} has area {short(value)}: expected a number of pixels, or no area"
        self.problems.mend("wrong area" if number is None else "odd entry", self.place, text)
        return number

    def _said(self, kind: str, text: str, clear: bool) -> None:
        if clear:
            self.problems.mend("odd entry", self.place, text)
        else:
            self.leave_out(kind, text)

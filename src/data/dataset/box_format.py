# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes in another format than they are read in, and areas that cannot be theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .. import Flags, Floats, Ints

_FEWEST = 6
"""Boxes below which a data set says nothing about its format."""
_BEYOND = 0.02
"""Part of the image's side by which a box must reach out of it to speak against the format it was read in."""
_FAR, _VERY_FAR = 0.1, 0.2
"""The same where sloppy boxes of objects that fill their image would fit as corners, too."""
_SHARE = 0.1
"""Share of such boxes from which another format is looked for."""
_FITTING = 0.995
"""Share of boxes that must fit their image in the other format."""

_OTHERS: dict[str, tuple[float, Callable[[Floats, Floats, Floats, Floats], tuple[Floats, ...]]]] = {
    "corners x1, y1, x2, y2 in place of x, y, width, height": (_VERY_FAR, lambda x, y, w, h: (x, y, w, h)),
    "corners x1, y1, x2, y2 in place of a centre and a size": (
        _FAR, lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)
    ),
    "a centre and a size in place of x, y, width, height": (
        _BEYOND, lambda x, y, w, h: (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    ),
    "y, x, height, width in place of x, y, width, height (or if those of the images change places)": (
        _BEYOND, lambda x, y, w, h: (y, x, y + h, x + w)
    ),
    "y1, x1, y2, x2 in place of x, y, width, height": (_VERY_FAR, lambda x, y, w, h: (y, x, h, w)),
    "the top left corner and a size in place of a centre and a size": (
        _BEYOND, lambda x, y, w, h: (x + w / 2, y + h / 2, x + 1.5 * w, y + 1.5 * h)
    ),
}  # fmt: skip
"""Corners x1, y1, x2, y2 of boxes x, y, w, h whose numbers were taken for something else; how far those reach out."""


def other_format(boxes_xywh_px: Floats, sizes: Ints) -> str:
    """What the boxes look like where they reach out of their images as they were read, and all fit in another format.

    Args:
        boxes_xywh_px: (A, 4) as they were read.
        sizes: (A, 2) height, width of their images.

    Returns:
        A sentence with the counts; empty where nothing is suspicious or there are few boxes.
    """
    total, beyond = len(sizes), _beyond(boxes_xywh_px, sizes)
    if total < _FEWEST:
        return ""
    for name, (reach, corners) in _OTHERS.items():
        count = int(np.count_nonzero(beyond > reach))
        many = count >= max(_FEWEST / 2, _SHARE * total)
        if many and np.count_nonzero(_inside(corners(*boxes_xywh_px.T), sizes)) >= _FITTING * total:
            return f"{count} of {total} boxes reach far out of their image, but fit if the numbers are {name}"
    return ""


def some_corners(boxes_xywh_px: Floats, sizes: Ints) -> str:
    """Whether some of the boxes look like corners, as files have them that were joined from several.

    Args:
        boxes_xywh_px, sizes: as for ``other_format``.

    Returns:
        A sentence with the count; empty where a box that reaches very far out of its image is no pair of corners.
    """
    far = _beyond(boxes_xywh_px, sizes) > _VERY_FAR
    count = int(np.count_nonzero(far))
    if count < _FEWEST / 2 or not _inside(boxes_xywh_px[far].T, sizes[far]).all():
        return ""
    return (
        f"all {count} boxes that reach very far out of their image fit if their numbers are corners x1, y1, x2, y2: "
        f"some of the {len(sizes)} boxes may be such"
    )


def _beyond(boxes_xywh_px: Floats, sizes: Ints) -> Floats:
    """(A,) how far each box reaches out of its image, as a part of the image's side."""
    x, y, w, h = boxes_xywh_px.T
    height, width = sizes.T.astype(np.float64)
    farthest: Floats = np.maximum(np.maximum(-x, x + w - width) / width, np.maximum(-y, y + h - height) / height)
    return farthest


def _inside(corners: Iterable[Floats], sizes: Ints) -> Flags:
    """(A,) whether corners x1, y1, x2, y2 are in order and in their image."""
    (x1, y1, x2, y2), (height, width) = corners, sizes.T
    fits: Flags = (
        (x1 >= -1) & (y1 >= -1) & (x2 <= width + 1) & (y2 <= height + 1) & (x2 > x1) & (y2 > y1)
    )  # fmt: skip
    return fits


ROUNDING_PX = 2.0
"""Pixels by which the sides of a mask may exceed its box: corners are rounded, or the last pixel is not counted."""
_LARGE_PX = 32.0**2
"""Area from which COCO counts a box among the medium ones: a mask in it has more than a pixel."""
_FEW = 3
"""Boxes from which on equal areas of unequal boxes are no chance."""


def sound_areas(given_px: Floats, boxes_xywh_px: Floats) -> tuple[Floats, dict[str, Flags]]:
    """The areas to measure with: the file's where they can be true (a mask's is below its box's), else the boxes' own.

    Args:
        given_px: (A,) as in the file; NaN where it gives none, infinite where it gives no finite number.
        boxes_xywh_px: (A, 4). A box without area has no say about the file's value.

    Returns:
        (A,) areas, and for each reason not to believe the file which rows (A,) it is about.
    """
    width, height = boxes_xywh_px.T[2:]
    own = width * height
    judged = (width > 0) & (height > 0) & ~np.isnan(given_px)
    reasons = {"no finite number": np.isinf(given_px)}
    judged &= ~reasons["no finite number"]
    reasons["below 0"] = judged & (given_px < 0)
    reasons["0"] = judged & (given_px == 0)
    reasons["larger than the box"] = judged & (given_px > (width + ROUNDING_PX) * (height + ROUNDING_PX))
    left = judged & ~np.any(list(reasons.values()), axis=0)
    given, boxes = given_px[left], own[left]
    constant = len(given) >= _FEW and np.ptp(given) == 0 and boxes.max() > 1.5 * boxes.min()
    if constant or (len(given) >= _FEW and given.max() <= 1 and np.median(boxes) > 4):
        reasons["at most 1 or the same throughout, whatever the box"] = left
    else:
        reasons["at most 1 in a large box"] = left & (given_px <= 1) & (own > _LARGE_PX)
    wrong = np.any(list(reasons.values()), axis=0)
    return np.where(wrong | np.isnan(given_px), own, given_px), {
        name: rows for name, rows in reasons.items() if rows.any()
    }

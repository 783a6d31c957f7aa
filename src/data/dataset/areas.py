# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Areas that a file gives for its boxes: the metrics by size rest on them, so what cannot be true is not believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDING_PX = 2.0
"""Pixels by which the sides of a mask may exceed its box: corners are rounded, or the last pixel is not counted."""
_LARGE_PX = 32.0**2
"""Area from which COCO counts a box among the medium ones: a mask in it has more than a pixel."""
_FEW = 3
"""Boxes from which on equal areas of unequal boxes are no chance."""

Rows = NDArray[np.bool_]


def sound_areas(
    given_px: NDArray[np.float64], boxes_xywh_px: NDArray[np.float64]
) -> tuple[NDArray[np.float64], dict[str, Rows]]:
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
    if np.count_nonzero(left) >= _FEW and _constant_or_fractions(given_px[left], own[left]):
        reasons["at most 1 or the same throughout, whatever the box"] = left
    else:
        reasons["at most 1 in a large box"] = left & (given_px <= 1) & (own > _LARGE_PX)
    wrong = np.any(list(reasons.values()), axis=0)
    return np.where(wrong | np.isnan(given_px), own, given_px), {
        name: rows for name, rows in reasons.items() if rows.any()
    }


def _constant_or_fractions(given_px: NDArray[np.float64], own: NDArray[np.float64]) -> bool:
    constant = np.ptp(given_px) == 0 and own.max() > 1.5 * own.min()
    return bool(constant or (given_px.max() <= 1 and np.median(own) > 4))

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of pictures that EXIF turns: formats differ in whether boxes belong to the stored or to the turned picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..data.dataset.images import SIDEWAYS, Header, belongs_upright, read_headers
from .findings import Split

Corners = NDArray[np.float64]

_TURN: dict[int, Callable[[Corners, Corners, float, float], tuple[Corners, Corners]]] = {
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
"""Where a point (x, y) of a picture of width w and height h goes, by EXIF orientation (EXIF 2.32, tag 274)."""


def as_upright(split: Split) -> tuple[Split, list[str]]:
    """The split with boxes and sizes that belong to the pictures as EXIF turns them and viewers show them.

    Only images with an EXIF orientation change, of entries that belong to the stored picture; see ``belongs_upright``.

    Returns:
        The split, and a remark where something was turned.
    """
    data = split.annotations
    boxes, sizes, turned = data.boxes_xywh_px.copy(), data.sizes.copy(), []
    for index, header in enumerate(read_headers([split.path(index) for index in range(len(data))])):
        if not isinstance(header, Header) or header.orientation == 1:
            continue
        height, width = sizes[index].tolist()
        if belongs_upright((height, width), header.stored, header.orientation, default=data.upright):
            continue
        rows = data.rows(index)
        boxes[rows] = _turned(boxes[rows], header.orientation, float(width), float(height))
        if header.orientation in SIDEWAYS:
            sizes[index] = (width, height)
        turned.append(data.file_names[index])
    edited = replace(split, annotations=replace(data, boxes_xywh_px=boxes, sizes=sizes, upright=True))
    if not turned:
        return edited, []
    text = "images that EXIF turns now belong to the turned picture, which the new format means"
    return edited, [f"{split.name}: boxes of {len(turned)} {text}: {turned[0]}"]


def _turned(boxes_xywh_px: Corners, orientation: int, width: float, height: float) -> Corners:
    x, y, w, h = boxes_xywh_px.T
    x0, y0 = _TURN[orientation](x, y, width, height)
    x1, y1 = _TURN[orientation](x + w, y + h, width, height)
    left, top = np.minimum(x0, x1), np.minimum(y0, y1)
    return np.stack([left, top, np.maximum(x0, x1) - left, np.maximum(y0, y1) - top], axis=1)

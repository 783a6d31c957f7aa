# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of pictures that EXIF turns: formats differ in whether boxes belong to the stored or to the turned picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .findings import Split

_ORIENTATION = 0x0112
_UNREADABLE = (OSError, SyntaxError, ValueError)
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
_BACK = {6: 8, 8: 6}
"""Orientations that another one takes back; the rest take back themselves."""
_SIDEWAYS = (5, 6, 7, 8)


def in_frame(split: Split, *, upright: bool) -> tuple[Split, list[str]]:
    """The split with boxes and sizes that belong to the turned (upright) or to the stored pictures.

    Only images with an EXIF orientation change. An entry of a format for stored pictures whose size is that of the
    turned one is taken as turned, as the data set class does.

    Args:
        upright: what the new format wants.

    Returns:
        The split, and a remark where something was turned.
    """
    data = split.annotations
    boxes, sizes, turned = data.boxes_xywh_px.copy(), data.sizes.copy(), []
    for index in range(len(data)):
        orientation, stored = _header(split, index)
        if orientation not in _TURN:
            continue
        height, width = sizes[index].tolist()
        is_upright = data.upright or (orientation in _SIDEWAYS and (height, width) != stored)
        # A square, mirrored or upside-down picture keeps its size: then a format for stored pictures means those.
        if is_upright == upright:
            continue
        step = orientation if upright else _BACK.get(orientation, orientation)
        rows = data.rows(index)
        boxes[rows] = _turned(boxes[rows], step, float(width), float(height))
        if orientation in _SIDEWAYS:
            sizes[index] = (width, height)
        turned.append(data.file_names[index])
    if not turned:
        return split, []
    return replace(split, annotations=replace(data, boxes_xywh_px=boxes, sizes=sizes)), [
        _remark(split, turned, upright)
    ]


def _header(split: Split, index: int) -> tuple[int, tuple[int, int]]:
    """EXIF orientation and stored (height, width); 1 where there is no readable picture."""
    try:
        with Image.open(split.path(index)) as image:
            return int(image.getexif().get(_ORIENTATION, 1)), (image.height, image.width)
    except _UNREADABLE:
        return 1, (0, 0)


def _turned(boxes_xywh_px: Corners, orientation: int, width: float, height: float) -> Corners:
    x, y, w, h = boxes_xywh_px.T
    x0, y0 = _TURN[orientation](x, y, width, height)
    x1, y1 = _TURN[orientation](x + w, y + h, width, height)
    left, top = np.minimum(x0, x1), np.minimum(y0, y1)
    return np.stack([left, top, np.maximum(x0, x1) - left, np.maximum(y0, y1) - top], axis=1)


def _remark(split: Split, turned: Sequence[str], upright: bool) -> str:
    frame = "turned picture, which the new format means" if upright else "picture as stored, which the new format means"
    return f"{split.name}: boxes of {len(turned)} images that EXIF turns now belong to the {frame}: {turned[0]}"

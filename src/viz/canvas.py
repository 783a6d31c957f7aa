# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What pictures made with matplotlib share: figures without global state, the part of an image to show, files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..core.extras import need
from ..core.files import whole_file
from .fonts import face_of, family_for, legible

DPI = 110
_FLATTEST = 0.35
"""Shorter by longer side of a cut-out, at least: a line of text needs some surroundings."""


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Any:
    """A figure of that many inches, without a window and without global state.

    Args:
        layout: of matplotlib, which keeps texts apart; None for many panels, whose places are then set by hand.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = need("matplotlib.figure", "plots").Figure(figsize=(width, height), layout=layout)
    need("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """A figure as a PNG file. Names in it are shown as they are: any script, and no formulas between dollar signs."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        if not (words := text.get_text()).isascii():
            if face_of(words) is None:
                text.set_text(legible(words))
            text.set_fontfamily(family_for(text.get_text()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with whole_file(path, durable=False) as partial:
        partial.write_bytes(png(figure))


def view_around(
    boxes_xyxy_px: ArrayLike, size: tuple[int, int], *, margin: float = 0.3, least: int = 48
) -> tuple[int, int, int, int]:
    """The part of an image that shows boxes with some surroundings.

    Args:
        boxes_xyxy_px: (n, 4), n >= 1; what lies outside the image is not looked for.
        size: (height, width) of the image.
        margin: added on each side, as a share of the height or width that the boxes span. Flat boxes get more, so
            that the view is not flatter than ``_FLATTEST``, where the image has it.
        least: pixels a side, where the image has them.

    Returns: left, top, right, bottom in pixels, inside the image, at least 1 x 1.
    """
    boxes = np.asarray(boxes_xyxy_px, dtype=np.float64).reshape(-1, 4)
    limits = np.array([size[1], size[0]], dtype=np.float64)
    corners = np.stack([boxes[:, :2], boxes[:, 2:]])
    low, high = corners.min(axis=(0, 1)).clip(0, limits), corners.max(axis=(0, 1)).clip(0, limits)
    span = np.maximum((high - low) * (1 + 2 * margin), least)
    span = np.maximum(span, _FLATTEST * np.minimum(span, limits).max())
    start = ((low + high - span) / 2).clip(0, np.maximum(limits - span, 0))
    left, top = (int(side) for side in np.minimum(start, limits - 1))
    right, bottom = (int(side) for side in np.minimum(np.ceil(start + span), limits))
    return left, top, max(right, left + 1), max(bottom, top + 1)

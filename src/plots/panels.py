# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Panels of a figure that show an image, with boxes in its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LARGEST = 1200
"""Pixels a side beyond which a cut-out gains nothing in a figure."""


def show_view(axes: Any, image: Image.Image, view: tuple[int, int, int, int]) -> None:
    """A part of an image, in axes whose units are pixels of the whole image."""
    part = image.crop(view)
    if max(part.size) > _LARGEST:
        part.thumbnail((_LARGEST, _LARGEST))
    left, top, right, bottom = view
    axes.imshow(np.asarray(part), extent=(left, right, bottom, top), interpolation="antialiased")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_xticks([])
    axes.set_yticks([])


def panel_shape(view: tuple[int, int, int, int]) -> float:
    """Height of a panel as a share of its width, kept within what fits a page."""
    left, top, right, bottom = view
    return min(max((bottom - top) / (right - left), 0.3), 1.6)


def add_box(axes: Any, box_xyxy_px: Sequence[float] | NDArray[Any], *, rim: bool = True, **style: Any) -> Any:
    """An unfilled rectangle in pixels of the image; a thin white rim keeps it visible on any ground."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, top, right, bottom = (float(side) for side in box_xyxy_px)
    width = style.pop("linewidth", 1.8)
    patch = Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=width, **style)
    if rim:
        patch.set_path_effects([withStroke(linewidth=width + 1.4, foreground="white")])
    axes.add_patch(patch)
    return patch

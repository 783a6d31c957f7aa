# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The pixels of a decided sample: decode as much as is needed, one slice, the colours, one resize.

Where the canvas lies within the image, torch resizes the slice: its kernel for bytes gives Pillow's numbers at half the
time or less. Where a border is visible, or the image was decoded at reduced scale, only the part of the result that the
image reaches is resized, by Pillow, which can begin between two pixels; so the numbers are those of the whole canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .colour import Bands
from .decisions import Decision
from .frame import Window

GAP = 1.5
"""Pixels per side that are decoded at least for each pixel of the result: reduced decoding softens what lies below."""
REDUCTIONS = (8, 4, 2)
LATE = 1.25
"""Decoded pixels per pixel of the result from which on colours are changed after resizing, where fewer are left."""
_COVERED = 0.999
_BILINEAR = Image.Resampling.BILINEAR


class Pixels(NamedTuple):
    """A decoded image, perhaps smaller than its file says."""

    image: Image.Image
    """RGB."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Its pixels per pixel of the file, vertical and horizontal."""


Read = Callable[[float], Pixels]
"""Decodes the image of a sample; may reduce it to not less than that scale, 0..1, of the file."""


def needed_scale(decision: Decision) -> float:
    """Pixels per pixel of the file, 0..1, that the result can make use of."""
    height, width = decision.frame.size
    rows, columns = decision.canvas
    return min(1.0, GAP * max(rows / height, columns / width))


def reduction(scale: float) -> int:
    """The largest whole number that an image may be divided by to keep a scale: 1, 2, 4 or 8."""
    return next((one for one in REDUCTIONS if one * scale <= 1), 1)


def render(decision: Decision, read: Read) -> Tensor:
    """The final image, uint8 (3, H, W).

    Args:
        decision: with its final size.
        read: called once.
    """
    pixels = read(needed_scale(decision))
    if pixels.scale == (1.0, 1.0) and decision.frame.filled:
        return _resized_slice(decision, pixels.image)
    return _resized_part(decision, pixels)


def _cut(image: Image.Image, box: Window) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _bands(image: Image.Image) -> Bands:
    return tuple(np.asarray(band) for band in image.split())


def _coloured(decision: Decision, part: Image.Image, whole: Image.Image) -> Image.Image:
    if decision.distortion is None:
        return part
    bands = decision.distortion.apply(_bands(part), whole)
    return Image.merge("RGB", [Image.fromarray(band) for band in bands])


def _resized_slice(decision: Decision, image: Image.Image) -> Tensor:
    part = _coloured(decision, _cut(image, decision.frame.window), image)
    if decision.frame.mirrored:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[None]  # channels last: torch is fastest so
    if tuple(pixels.shape[-2:]) == decision.canvas:
        return pixels[0].contiguous()
    return F.interpolate(pixels, size=decision.canvas, mode="bilinear", antialias=True)[0]


class _Axis(NamedTuple):
    """One axis of a result that the image reaches in part; pixels of the decoded image unless said otherwise."""

    first: int
    """The part of the result, in its own pixels."""
    last: int
    begin: int
    """What is resized, border included; its begin may be negative."""
    end: int
    inner: tuple[int, int]
    """The part of the decoded image in it."""
    box: tuple[float, float]
    """Where the part of the result begins and ends, counted from ``begin``."""

    def coverage(self) -> NDArray[np.float32]:
        """(last - first,) how much of each pixel of the result is image, 0..1; the rest is border."""
        line = Image.new("F", (self.end - self.begin, 1))
        line.paste(1.0, (self.inner[0] - self.begin, 0, self.inner[1] - self.begin, 1))
        found: NDArray[np.float32] = np.asarray(
            line.resize((self.last - self.first, 1), _BILINEAR, box=(self.box[0], 0, self.box[1], 1))
        )[0]
        return found


def _axis(canvas: tuple[int, int], visible: tuple[int, int], scale: float, length: int, size: int) -> _Axis:
    """Plan one axis.

    Args:
        canvas, visible: begin and end, in pixels of the file.
        scale: pixels of the decoded image per pixel of the file.
        length: of the decoded image.
        size: of the result.
    """
    low, high = canvas[0] * scale, canvas[1] * scale
    seen = (visible[0] * scale, visible[1] * scale)
    step = (high - low) / size  # pixels per pixel of the result
    reach = max(step, 1.0)  # of the triangle filter
    first = max(0, math.floor((seen[0] - reach - low) / step - 0.5))
    last = min(size, math.ceil((seen[1] + reach - low) / step + 0.5))
    begin = math.floor(max(low, low + first * step - reach) + 1e-6)
    end = math.ceil(min(high, low + last * step + reach) - 1e-6)
    inner = (max(math.floor(seen[0] + 1e-6), begin), min(math.ceil(seen[1] - 1e-6), end, length))
    box = (max(0.0, low + first * step - begin), min(end - begin, low + last * step - begin))
    return _Axis(first, last, begin, end, inner, (float(box[0]), float(box[1])))


def _resized_part(decision: Decision, pixels: Pixels) -> Tensor:
    frame, (rows, columns) = decision.frame, decision.canvas
    fill = torch.tensor(decision.fill, dtype=torch.uint8)[:, None, None]
    if frame.visible.empty:
        return fill.expand(3, rows, columns).clone()
    window, visible, whole = frame.window, frame.visible, pixels.image
    y = _axis((window.top, window.bottom), (visible.top, visible.bottom), pixels.scale[0], whole.height, rows)
    x = _axis((window.left, window.right), (visible.left, visible.right), pixels.scale[1], whole.width, columns)
    part = _cut(whole, Window(x.inner[0], y.inner[0], x.inner[1], y.inner[1]))
    late = part.width * part.height > LATE * (x.last - x.first) * (y.last - y.first)
    if not late:
        part = _coloured(decision, part, whole)
    outer = (x.end - x.begin, y.end - y.begin)
    if part.size != outer:
        canvas = Image.new("RGB", outer, decision.fill)
        canvas.paste(part, (x.inner[0] - x.begin, y.inner[0] - y.begin))
        part = canvas
    box = (x.box[0], y.box[0], x.box[1], y.box[1])
    bands = _bands(part.resize((x.last - x.first, y.last - y.first), _BILINEAR, box=box))
    if late and decision.distortion is not None:
        bands = _late_colours(decision, bands, whole, y.coverage(), x.coverage())
    whole_result = bands[0].shape == (rows, columns)
    result = torch.empty(3, rows, columns, dtype=torch.uint8) if whole_result else fill.expand(3, rows, columns).clone()
    for plane, band in zip(result.numpy(), bands):
        seen = plane[:, ::-1] if frame.mirrored else plane
        seen[y.first : y.last, x.first : x.last] = band
    return result


def _late_colours(
    decision: Decision, bands: Bands, whole: Image.Image, rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> Bands:
    """Change the colours of the image in a resized part, and not those of the border, where both are mixed.

    Args:
        decision: its colours.
        bands: (h, w) each.
        whole: the decoded image.
        rows, columns: (h,) and (w,) how much of them is image, 0..1.
    """
    assert decision.distortion is not None
    edges = np.flatnonzero(rows < _COVERED), np.flatnonzero(columns < _COVERED)
    mixed: list[tuple[Any, NDArray[np.float32]]] = [
        ((edges[0], slice(None)), rows[edges[0], None] * columns),
        ((slice(None), edges[1]), rows[:, None] * columns[edges[1]]),
    ]
    bands = tuple(np.array(band) for band in bands)
    for band, border in zip(bands, decision.fill):
        before = [(band[place] - border * (1 - share)) / np.maximum(share, 1e-3) for place, share in mixed]
        for (place, _), values in zip(mixed, before):
            band[place] = np.clip(values + 0.5, 0, 255)
    bands = decision.distortion.apply(bands, whole)
    for band, border in zip(bands, decision.fill):
        after = [band[place] * share + border * (1 - share) for place, share in mixed]
        for (place, _), values in zip(mixed, after):
            band[place] = values + 0.5
    return bands

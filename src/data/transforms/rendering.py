# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The pixels of a decided sample: decode as much as is needed, one slice, the colours, one resize.

Only the part of the result that the image reaches is resized, and gets the numbers that it has in the whole canvas. An
image at full scale is resized by torch, whose kernel for bytes gives Pillow's numbers in half the time or less but
begins at whole pixels; a reduced one by Pillow, which can begin between two pixels.
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

from .decisions import Decision, Window

GAP = 1.5
"""Pixels per side that are decoded at least for each pixel of the result: reduced decoding softens what lies below."""
REDUCTIONS = (8, 4, 2)
LATE = 1.25
"""Decoded pixels per pixel of the result from which on colours are changed after resizing, where fewer are left."""
_COVERED = 0.999
_UP = 1e-9
"""Keeps a product that should be whole from being rounded down."""
_SHIFT = 1 / 512
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
    return next((reduction for reduction in REDUCTIONS if reduction * scale <= 1), 1)


def render(decision: Decision, read: Read) -> Tensor:
    """The final image, uint8 (3, H, W), the three values of a pixel side by side in memory.

    Args:
        decision: with its final size.
        read: called once.
    """
    pixels = read(needed_scale(decision))
    if decision.frame.visible.empty:
        result = _border(decision)
    elif pixels.scale == (1.0, 1.0) and decision.frame.in_whole_pixels:
        result = _at_full_scale(decision, pixels.image)
    else:
        result = _reduced(decision, pixels)
    return torch.from_numpy(result).permute(2, 0, 1)


def _border(decision: Decision) -> NDArray[np.uint8]:
    """(H, W, 3) the result without an image in it."""
    canvas = np.zeros((*decision.canvas, 3), np.uint8)
    if any(decision.fill):
        canvas[:] = decision.fill
    return canvas


def _cut(image: Image.Image, box: Window) -> Image.Image:
    return image if box == (0, 0, *image.size) else image.crop(box)


def _bands(image: Image.Image) -> tuple[NDArray[np.uint8], ...]:
    return tuple(np.asarray(band) for band in image.split())


def _at_full_scale(decision: Decision, image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3). Resize with torch, whose kernel is faster than Pillow's but begins at whole pixels only."""
    frame, (rows, columns) = decision.frame, decision.canvas
    window, visible = frame.window, frame.visible
    part = _cut(image, visible)
    if frame.mirrored:  # the source: often less than the result
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        middle = window.left + window.right
        visible = Window(middle - visible.right, visible.top, middle - visible.left, visible.bottom)
    y = _axis((window.top, window.bottom), (visible.top, visible.bottom), rows, aligned=True)
    x = _axis((window.left, window.right), (visible.left, visible.right), columns, aligned=True)
    late = not frame.filled and _is_late(part, y, x)
    pixels: NDArray[np.uint8]
    if late or decision.distortion is None:
        pixels = (np.array if frame.filled else np.asarray)(part)
    else:
        pixels = decision.distortion.apply(_bands(part), image, channels_last=True).transpose(1, 2, 0)
    if not frame.filled:
        pixels = _on_canvas(pixels, y, x, decision.fill)
    resized = _resized(pixels, y, x)
    if late and decision.distortion is not None:
        resized = _late_colours(decision, resized, image, y.coverage(), x.coverage())
    if resized.shape == (rows, columns, 3) and resized.flags.c_contiguous:
        return resized
    result = _border(decision)
    result[y.first : y.last, x.first : x.last] = resized
    return result


def _on_canvas(pixels: NDArray[np.uint8], y: _Axis, x: _Axis, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The part of a canvas that is resized: an image (h, w, 3) at its place on the border."""
    canvas = np.zeros((y.end - y.begin, x.end - x.begin, 3), np.uint8)
    if any(fill):
        canvas[:] = fill
    inside = canvas[y.inner[0] - y.begin : y.inner[1] - y.begin, x.inner[0] - x.begin : x.inner[1] - x.begin]
    inside[:] = pixels
    return canvas


def _resized(pixels: NDArray[np.uint8], y: _Axis, x: _Axis) -> NDArray[np.uint8]:
    """(h, w, 3) -> the part of the result.

    The kernel wants a batch whose strides say that channels come last, also that of its one image: it is two to five
    times as fast then.
    """
    bottom, right = y.before + y.last - y.first, x.before + x.last - x.first
    if pixels.shape[:2] == (bottom, right) and y.step == x.step == 1:
        return pixels
    # Scales and not sizes: behind the part there may be more of the border than these pixels need.
    scales = [
        (1 + _UP) * max(1 / axis.step, end / size) for axis, end, size in zip((y, x), (bottom, right), pixels.shape[:2])
    ]
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(batch, scale_factor=scales, mode="bilinear", antialias=True)[0]
    part: NDArray[np.uint8] = resized.permute(1, 2, 0).numpy()[y.before : bottom, x.before : right]
    return part


def _is_late(part: Image.Image, y: _Axis, x: _Axis) -> bool:
    return part.width * part.height > LATE * (x.last - x.first) * (y.last - y.first)


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
    step: float
    """Pixels per pixel of the result."""
    before: int
    """Pixels of the result that are made in front of ``first`` and not used."""

    def coverage(self) -> NDArray[np.float32]:
        """(last - first,) how much of each pixel of the result is image, 0..1; the rest is border."""
        line = Image.new("F", (self.end - self.begin, 1))
        line.paste(1.0, (self.inner[0] - self.begin, 0, self.inner[1] - self.begin, 1))
        box = (self.box[0], 0, self.box[1], 1)
        shares: NDArray[np.float32] = np.asarray(line.resize((self.last - self.first, 1), _BILINEAR, box=box))[0]
        return shares


def _axis(
    canvas: tuple[float, float],
    visible: tuple[float, float],
    size: int,
    *,
    scale: float = 1.0,
    length: int | None = None,
    aligned: bool = False,
) -> _Axis:
    """Plan one axis.

    Args:
        canvas, visible: begin and end, in pixels of the file.
        size: of the result.
        scale: pixels of the decoded image per pixel of the file.
        length: of the decoded image; None: as its file.
        aligned: what is resized begins where a pixel of the result and one of the file begin together.
    """
    low, high = canvas[0] * scale, canvas[1] * scale
    seen = (visible[0] * scale, visible[1] * scale)
    step = (high - low) / size
    reach = max(step, 1.0)  # of the triangle filter
    first = max(0, math.floor((seen[0] - reach - low) / step - 0.5))
    last = min(size, math.ceil((seen[1] + reach - low) / step + 0.5))
    before = _to_alignment(first, step) if aligned else 0
    start = low + (first - before) * step
    begin = round(start) if aligned else math.floor(max(low, start - reach) + 1e-6)
    end = math.ceil(min(high, low + last * step + reach) - 1e-6)
    if aligned and step < 1:  # torch copies what would get as many pixels as it has, whatever the scale
        end = max(end, min(math.ceil(high), begin + math.ceil(step / (1 - step)) + 1))
    inner = (
        max(math.floor(seen[0] + 1e-6), begin),
        min(math.ceil(seen[1] - 1e-6), end, length or math.ceil(visible[1])),
    )
    box = (max(0.0, low + first * step - begin), min(end - begin, low + last * step - begin))
    return _Axis(first, last, begin, end, inner, (float(box[0]), float(box[1])), step, before)


def _to_alignment(first: int, step: float) -> int:
    """How many pixels of a result lie between ``first`` and one before that begins with a pixel of the image.

    Up to ``_SHIFT`` of a pixel of the result is let pass: less than half a step of 255 at the sharpest edge, where the
    canvas would have to be many times as large. The first pixel of the canvas always does.
    """
    starts = np.arange(first, -1, -1) * step
    return int(np.argmax(np.abs(starts - np.rint(starts)) <= step * _SHIFT))


def _reduced(decision: Decision, pixels: Pixels) -> NDArray[np.uint8]:
    """(H, W, 3). Resize with Pillow, for which the canvas may begin and end within pixels of the decoded image."""
    frame, (rows, columns) = decision.frame, decision.canvas
    window, visible, whole = frame.window, frame.visible, pixels.image
    vertical, horizontal = pixels.scale
    y = _axis((window.top, window.bottom), (visible.top, visible.bottom), rows, scale=vertical, length=whole.height)
    x = _axis((window.left, window.right), (visible.left, visible.right), columns, scale=horizontal, length=whole.width)
    part = _cut(whole, Window(x.inner[0], y.inner[0], x.inner[1], y.inner[1]))
    late = _is_late(part, y, x)
    if not late and decision.distortion is not None:
        part = Image.merge("RGB", [Image.fromarray(band) for band in decision.distortion.apply(_bands(part), whole)])
    outer = (x.end - x.begin, y.end - y.begin)
    if part.size != outer:
        canvas = Image.new("RGB", outer, decision.fill)
        canvas.paste(part, (x.inner[0] - x.begin, y.inner[0] - y.begin))
        part = canvas
    box = (x.box[0], y.box[0], x.box[1], y.box[1])
    resized = np.asarray(part.resize((x.last - x.first, y.last - y.first), _BILINEAR, box=box))
    if late and decision.distortion is not None:
        resized = _late_colours(decision, resized, whole, y.coverage(), x.coverage())
    result = _border(decision)
    seen = result[:, ::-1] if frame.mirrored else result
    seen[y.first : y.last, x.first : x.last] = resized
    return result


def _late_colours(
    decision: Decision,
    resized: NDArray[np.uint8],
    whole: Image.Image,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Change the colours of the image in a resized part, and not those of the border, where both are mixed.

    Args:
        decision: its colours.
        resized: (h, w, 3)
        whole: the decoded image.
        rows, columns: (h,) and (w,) how much of them is image, 0..1.

    Returns:
        (h, w, 3)
    """
    assert decision.distortion is not None
    edges = np.flatnonzero(rows < _COVERED), np.flatnonzero(columns < _COVERED)
    mixed: list[tuple[Any, NDArray[np.float32]]] = [
        ((slice(None), edges[0]), rows[edges[0], None] * columns),
        ((slice(None), slice(None), edges[1]), rows[:, None] * columns[edges[1]]),
    ]
    border, parts = np.array(decision.fill, np.float32)[:, None, None], np.array(resized).transpose(2, 0, 1)
    before = [(parts[place] - border * (1 - share)) / np.maximum(share, 1e-3) for place, share in mixed]
    for (place, _), values in zip(mixed, before):
        parts[place] = np.clip(values + 0.5, 0, 255)
    parts = decision.distortion.apply(list(parts), whole, channels_last=True)
    after = [parts[place] * share + border * (1 - share) for place, share in mixed]
    for (place, _), values in zip(mixed, after):
        parts[place] = values + 0.5
    changed: NDArray[np.uint8] = parts.transpose(1, 2, 0)
    return changed

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Colour changes of RandomPhotometricDistort with the arithmetic that torchvision has on PIL images.

Pillow cuts every intermediate image to whole numbers in 0..255. Cutting is no part of a matrix, and a highlight that
one change overexposes stays cut when the next darkens it; so each change is done for itself, but on a few thousand
pixels at a time, which stay in the processor's cache from the first change to the last. Hue is turned without the steps
of 1/255 that Pillow's HSV images have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Planes = NDArray[np.float32]
"""(3, n) red, green, blue, whole numbers 0..255; changed in place."""
Bands = Sequence[NDArray[np.uint8]]
_BLOCK = 32768
"""Pixels worked on at once."""
_SAMPLE = 10_000
"""Pixels that the mean of an image is taken from (where it has as many)."""
_GREY = np.array([19595, 38470, 7471], dtype=np.float32) / np.float32(65536)
"""Pillow's weights of grey; multiples of 2**-16, so that float32 sums of bytes are exact."""
_BLACK = np.zeros((3, _BLOCK), np.float32)
_WHITE = np.full((3, _BLOCK), 255, np.float32)
_EXACT = np.float32(1e-4)
"""Lifts sums that should be whole over what rounding has taken from them."""


@dataclass(frozen=True)
class Distortion:
    """The decided changes; None: not done."""

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    contrast_first: bool = True
    """Whether contrast comes before saturation and hue."""
    permutation: tuple[int, ...] | None = None
    """Channel that each channel is taken from."""

    @property
    def names(self) -> tuple[str, ...]:
        """The changes in their order, the permutation left out."""
        order = ["brightness", "saturation", "hue"]
        order.insert(1 if self.contrast_first else 3, "contrast")
        return tuple(name for name in order if getattr(self, name) is not None)

    def apply(self, bands: Bands, whole: Image.Image, *, channels_last: bool = False) -> NDArray[np.uint8]:
        """Change the colours of a part of an image.

        Args:
            bands: its red, green and blue as bytes, (h, w) each.
            whole: the image that contrast takes its mean from, RGB, at any scale.
            channels_last: let the three values of a pixel lie side by side in memory.

        Returns:
            (3, h, w)
        """
        shape = bands[0].shape
        after = np.empty((*shape, 3) if channels_last else (3, *shape), np.uint8)
        after = after.transpose(2, 0, 1) if channels_last else after
        changes, order = [self._change(name, whole) for name in self.names], self.permutation or (0, 1, 2)
        if changes:
            _changed(bands, changes, [after[order.index(channel)] for channel in range(3)])
        else:
            for channel, source in enumerate(order):
                after[channel] = bands[source]
        return after

    def _change(self, name: str, whole: Image.Image) -> Callable[[Planes], None]:
        """One change as a function on planes."""
        factor = np.float32(getattr(self, name))
        if name == "brightness":
            return lambda planes: blend(planes, np.float32(0), factor)
        if name == "saturation":
            return lambda planes: blend(planes, grey(planes), factor)
        if name == "hue":
            return lambda planes: turn_hue(planes, int(float(factor) * 255))
        mean = self._mean_grey(whole)
        return lambda planes: blend(planes, mean, factor)

    def _mean_grey(self, whole: Image.Image) -> np.float32:
        """Mean grey of the image at the time of contrast, from every k-th pixel, to the nearest whole number."""
        step = max(1.0, (whole.width * whole.height / _SAMPLE) ** 0.5)
        size = (max(1, round(whole.width / step)), max(1, round(whole.height / step)))
        pixels: NDArray[np.uint8] = np.asarray(whole.resize(size, Image.Resampling.NEAREST)).reshape(-1, 3).T
        changes = [self._change(name, whole) for name in self.names[: self.names.index("contrast")]]
        sums = 0.0
        for first in range(0, pixels.shape[1], _BLOCK):
            planes = np.ascontiguousarray(pixels[:, first : first + _BLOCK], dtype=np.float32)
            _run(changes, planes)
            sums += float(grey(np.floor(planes)).sum(dtype=np.float64))
        mean: np.float32 = np.float32(int(sums / pixels.shape[1] + 0.5))
        return mean


def _run(changes: Sequence[Callable[[Planes], None]], planes: Planes) -> None:
    """One change after the other; the fractions that the last one leaves are still to be cut off."""
    for number, change in enumerate(changes):
        if number:
            np.floor(planes, out=planes)
        change(planes)


def _changed(bands: Bands, changes: Sequence[Callable[[Planes], None]], after: Bands) -> None:
    """Write what becomes of red, green and blue, (h, w) each, a block at a time."""
    flat, results = ([band.reshape(-1) for band in each] for each in (bands, after))
    room = np.empty((3, _BLOCK), np.float32)
    for first in range(0, len(flat[0]), _BLOCK):
        last = min(first + _BLOCK, len(flat[0]))
        planes = room if last - first == _BLOCK else np.empty((3, last - first), np.float32)
        for plane, band in zip(planes, flat):
            np.copyto(plane, band[first:last])
        _run(changes, planes)
        for result, plane in zip(results, planes):
            np.copyto(result[first:last], plane, casting="unsafe")


def blend(planes: Planes, other: np.float32 | Planes, factor: np.float32) -> None:
    """Pillow's blend from ``other`` (factor 0) to the pixels (factor 1) and beyond, within 0..255, not cut to whole."""
    planes *= factor
    planes += other * (1 - factor) + _EXACT
    if factor > 1:
        np.maximum(planes, _BLACK[:, : planes.shape[1]], out=planes)
        np.minimum(planes, _WHITE[:, : planes.shape[1]], out=planes)


def grey(planes: Planes) -> Planes:
    """(n,) Pillow's grey, whole numbers."""
    red, green, blue = planes
    sums: Planes = red * _GREY[0]  # no matrix product: numpy's would start threads in every worker
    sums += green * _GREY[1]
    sums += blue * _GREY[2]
    sums += np.float32(0.5)
    return np.floor(sums, out=sums)


def turn_hue(planes: Planes, steps: int) -> None:
    """Turn the hue and keep the largest and the smallest channel.

    By up to a sixth of a turn a channel x becomes 2 x - middle -+ turn * chroma, cut to [smallest, largest]: up where
    the channel after it in the circle is below the one before it. Larger turns are made of several.

    Args:
        planes: changed in place.
        steps: to turn by; 255 are a full turn, as in Pillow.
    """
    sextants = (steps - 0.5) * 6 / 255  # Pillow drops the fractions of steps: half a step on average
    parts = max(1, int(np.ceil(abs(sextants))))
    whole = planes.astype(np.int16)  # twice as many in a register as floats
    for _ in range(parts):
        _turn(whole, np.float32(sextants / parts))
    np.copyto(planes, whole)


def _turn(planes: NDArray[np.int16], sextants: np.float32) -> None:
    red, green, blue = planes
    smallest, middle = np.minimum(red, green), np.maximum(red, green)
    largest = np.maximum(middle, blue)
    np.minimum(middle, blue, out=middle)
    np.maximum(middle, smallest, out=middle)
    np.minimum(smallest, blue, out=smallest)
    chroma = np.subtract(largest, smallest).astype(np.float32)
    chroma *= sextants
    change = np.rint(chroma, out=chroma).astype(np.int16)
    signs = [(value - other) >> 15 for value, other in ((green, blue), (blue, red), (red, green))]  # -1 below, else 0
    for plane, sign in zip(planes, signs):
        plane += plane
        plane -= middle
        plane += sign
        sign ^= change  # -change - 1 where -1
        plane -= sign
        np.maximum(plane, smallest, out=plane)
        np.minimum(plane, largest, out=plane)

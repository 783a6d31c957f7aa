# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where the canvas of a sample lies over its image, while crops, borders and flips are decided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class Window(NamedTuple):
    """Part of an image in its pixels: half open."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def empty(self) -> bool:
        """Whether nothing is inside."""
        return self.right <= self.left or self.bottom <= self.top

    def within(self, other: Window) -> Window:
        """What both share."""
        return Window(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


@dataclass(frozen=True)
class Frame:
    """A canvas over an image: all in pixels of the image, which is not touched.

    Offsets given to ``crop`` and ``pad`` are those of the canvas as it would be seen, mirrored or not.
    """

    window: Window
    """The canvas; it may reach beyond the image."""
    visible: Window
    """The part of the image that is left; the rest of the canvas is border."""
    mirrored: bool = False

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Frame:
        """The canvas is an image of ``size`` (height, width)."""
        image = Window(0, 0, size[1], size[0])
        return cls(image, image)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self.window.bottom - self.window.top, self.window.right - self.window.left

    @property
    def filled(self) -> bool:
        """Whether the image covers all of the canvas."""
        return self.visible == self.window

    def crop(self, left: int, top: int, height: int, width: int) -> Frame:
        """Cut a part out of the canvas."""
        if self.mirrored:
            left = self.size[1] - left - width
        left, top = self.window.left + left, self.window.top + top
        window = Window(left, top, left + width, top + height)
        return replace(self, window=window, visible=self.visible.within(window))

    def pad(self, left: int, top: int, right: int, bottom: int) -> Frame:
        """Enlarge the canvas."""
        if self.mirrored:
            left, right = right, left
        old = self.window
        window = Window(old.left - left, old.top - top, old.right + right, old.bottom + bottom)
        return replace(self, window=window)

    def mirror(self) -> Frame:
        """Exchange left and right."""
        return replace(self, mirrored=not self.mirrored)

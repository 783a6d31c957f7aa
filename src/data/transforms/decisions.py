# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What each augmentation does to a sample, decided on its boxes alone, before its image is even decoded.

The random numbers are drawn as the transforms themselves draw them: same numbers, same order, same comparisons in
float32. So a sample has the same crop, canvas, flip, colours and boxes as when its transforms run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import Flags, Ints
from . import ops as T
from . import sizes as S
from .colour import Distortion


class Window(NamedTuple):
    """Part of an image in its pixels: half open. It may begin and end within pixels, after a resize."""

    left: float
    top: float
    right: float
    bottom: float

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
    def size(self) -> tuple[float, float]:
        """(height, width) of the canvas."""
        return self.window.bottom - self.window.top, self.window.right - self.window.left

    @property
    def filled(self) -> bool:
        """Whether the image covers all of the canvas."""
        return self.visible == self.window

    @property
    def in_whole_pixels(self) -> bool:
        """Whether the canvas begins and ends with pixels of the image."""
        return all(side == int(side) for side in self.window)

    def crop(self, left: float, top: float, height: float, width: float) -> Frame:
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


Boxes = NDArray[np.float32]
"""(n, 4) xyxy pixels of the canvas, or what ConvertBoxes makes of them."""


@dataclass
class Decision:
    """All that is decided about a sample; ops change it in turn."""

    frame: Frame
    boxes: Boxes
    kept: Ints
    """(n,) rows of the target that the boxes belong to."""
    size: tuple[int, int] | None = None
    """(height, width) of the final image, once it is known."""
    distortion: Distortion | None = None
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the border."""

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) that the boxes refer to now."""
        return self.size or (int(self.frame.size[0]), int(self.frame.size[1]))

    def crop(self, left: int, top: int, height: int, width: int) -> None:
        """Cut a part out of the canvas, which may have been resized; boxes end at its edges."""
        if self.size is None:
            self.frame = self.frame.crop(left, top, height, width)
        else:
            down, across = (own / now for own, now in zip(self.frame.size, self.size))
            self.frame = self.frame.crop(left * across, top * down, height * down, width * across)
            self.size = height, width
        self.boxes = _inside(self.boxes - np.array([left, top, left, top], np.float32), (height, width))

    def keep(self, mask: Flags) -> None:
        """Go on with some boxes."""
        if not mask.all():
            self.boxes, self.kept = self.boxes[mask], self.kept[mask]


def decide(ops: Sequence[nn.Module], size: tuple[int, int], boxes: Boxes) -> Decision:
    """Run ops without an image.

    Args:
        ops: each of a type in ``DECISIONS``.
        size: (height, width) of the image.
        boxes: (n, 4) xyxy pixels.
    """
    decision = Decision(Frame.whole(size), boxes, np.arange(len(boxes)))
    for op in ops:
        DECISIONS[type(op)](op, decision)
    return decision


class Crop(NamedTuple):
    """Where RandomIoUCrop cuts, and which boxes have their centre inside."""

    left: int
    top: int
    height: int
    width: int
    inside: Flags


def find_crop(op: T.RandomIoUCrop, size: tuple[int, int], boxes: Boxes) -> Crop | None:
    """What ``RandomIoUCrop.make_params`` of torchvision draws; None: no crop.

    Args:
        op: its limits.
        size: (height, width) of the canvas.
        boxes: (n, 4) xyxy pixels, n > 0.
    """
    while True:
        overlap = op.options[int(torch.randint(low=0, high=len(op.options), size=(1,)))]
        if overlap >= 1:
            return None
        state = torch.get_rng_state()
        crops, drawn = _crops(op, size, torch.rand(4 * op.trials).numpy().reshape(-1, 2))
        inside, overlaps = _overlaps(crops, boxes)
        good = np.flatnonzero(inside.any(axis=1) & (overlaps >= np.float32(overlap)))
        torch.set_rng_state(state)  # only the numbers up to the crop that is taken count as drawn
        torch.rand(2 * int(drawn[good[0]] if good.size else drawn[-1]))
        if good.size:
            left, top, right, bottom = crops[good[0]].tolist()
            return Crop(left, top, bottom - top, right - left, inside[good[0]])


def _crops(op: T.RandomIoUCrop, size: tuple[int, int], pairs: NDArray[np.float32]) -> tuple[Ints, Ints]:
    """All crops that are tried with one overlap.

    Args:
        op: its limits.
        size: (height, width) of the canvas.
        pairs: (2 * trials, 2) random numbers; a trial takes one for the sides, and if they are good one for the place.

    Returns:
        Corners (k, 4) of k <= trials crops, an empty one for the last trial if its sides are not good; and (k,) pairs
        that were taken up to and with each.
    """
    sides = np.float32(op.min_scale) + np.float32(op.max_scale - op.min_scale) * pairs
    room = np.array(size[::-1])
    extent = (room.astype(np.float32) * sides).astype(np.int64)  # (2 * trials, 2) width, height
    aspect = extent[:, 0] / extent[:, 1]
    good = ((op.min_aspect_ratio <= aspect) & (aspect <= op.max_aspect_ratio)).tolist()
    place, chosen = 0, []
    for _ in range(op.trials):
        if good[place]:
            chosen.append(place)
            place += 1
        place += 1
    rows = np.array(chosen, dtype=np.int64)
    crops = np.zeros((len(chosen) + 1, 4), np.int64)
    crops[:-1, :2] = (room - extent[rows]).astype(np.float32) * pairs[rows + 1]
    crops[:-1, 2:] = crops[:-1, :2] + extent[rows]
    return crops, np.append(rows + 2, place)


def _overlaps(crops: Ints, boxes: Boxes) -> tuple[Flags, NDArray[np.float32]]:
    """Which boxes have their centre inside each crop (k, n), and the largest IoU (k,) of such a box with it."""
    low, high = crops.T.astype(np.float32).reshape(2, 2, -1, 1)  # (2, k, 1) each: left and top, right and bottom
    begin, end = boxes.T.reshape(2, 2, 1, -1)  # (2, 1, n)
    centre = np.float32(0.5) * (begin + end)
    between = (low < centre) & (centre < high)
    inside = between[0] & between[1]
    both = np.maximum(np.minimum(end, high) - np.maximum(begin, low), 0)
    shared = both[0] * both[1]
    box, crop = end - begin, high - low
    union = box[0] * box[1] + crop[0] * crop[1] - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=inside)
    return inside, iou.max(axis=1)


def _happens(p: float) -> bool:
    """Draw whether something of probability ``p`` happens."""
    return bool(torch.rand(1).item() < np.float32(p))


def _distort(op: T.RandomPhotometricDistort, decision: Decision) -> None:
    drawn = {}
    for name in ("brightness", "contrast", "saturation", "hue"):
        low, high = getattr(op, name)
        drawn[name] = torch.empty(1).uniform_(low, high).item() if _happens(op.p) else None
    contrast_first = torch.rand(()).item() < 0.5
    permutation = tuple(torch.randperm(3).tolist()) if _happens(op.p) else None
    distortion = Distortion(**drawn, contrast_first=contrast_first, permutation=permutation)
    decision.distortion = distortion if distortion.names or permutation else None


def _zoom_out(op: T.RandomZoomOut, decision: Decision) -> None:
    if not _happens(op.p):
        return
    height, width = decision.canvas
    low, high = op.side_range
    factor = np.float32(low) + np.float32(torch.rand(1).item()) * np.float32(high - low)
    right, bottom = int(np.float32(width) * factor) - width, int(np.float32(height) * factor) - height
    place = torch.rand(2).numpy()
    left, top = int(np.float32(right) * place[0]), int(np.float32(bottom) * place[1])
    decision.frame = decision.frame.pad(left, top, right - left, bottom - top)
    decision.boxes = _inside(decision.boxes + np.array([left, top, left, top], np.float32), decision.canvas)
    decision.fill = fill_of(op)


def fill_of(op: T.RandomZoomOut) -> tuple[int, int, int]:
    """Colour of its border."""
    red, green, blue = [op.fill] * 3 if isinstance(op.fill, int) else op.fill
    return red, green, blue


def _crop(op: T.RandomIoUCrop, decision: Decision) -> None:
    height, width = decision.canvas
    too_small = min(height, width) * op.min_scale < 1
    if not _happens(op.p) or not len(decision.boxes) or too_small:
        return
    crop = find_crop(op.for_aspect(width / height), (height, width), decision.boxes)
    if crop is None:
        return
    decision.crop(crop.left, crop.top, crop.height, crop.width)
    decision.boxes[~crop.inside] = 0


def _sanitize(op: T.SanitizeBoundingBoxes, decision: Decision) -> None:
    height, width = decision.canvas
    x1, y1, x2, y2 = decision.boxes.T
    w, h = x2 - x1, y2 - y1
    inside = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)  # for a size above 0 the other corner follows
    decision.keep((w >= op.min_size) & (h >= op.min_size) & (w * h >= op.min_area) & inside)


def _flip(op: T.RandomHorizontalFlip, decision: Decision) -> None:
    if not _happens(op.p):
        return
    width = np.float32(decision.canvas[1])
    decision.frame = decision.frame.mirror()
    decision.boxes = decision.boxes[:, [2, 1, 0, 3]]
    decision.boxes[:, ::2] = -(decision.boxes[:, ::2] - width)


def _resize(op: S.Resize | S.KeepAspect, decision: Decision) -> None:
    height, width = decision.canvas
    new_height, new_width = op.size_of(height, width) if isinstance(op, S.KeepAspect) else op.size
    decision.size = new_height, new_width
    ratio = (new_width / width, new_height / height)
    decision.boxes = decision.boxes * np.array([*ratio, *ratio], np.float32)


def _choose(op: S.RandomChoice, decision: Decision) -> None:
    for own in op.drawn():
        DECISIONS[type(own)](own, decision)


def _convert_boxes(op: T.ConvertBoxes, decision: Decision) -> None:
    height, width = decision.canvas
    boxes = decision.boxes.copy()
    if op.fmt != "xyxy":
        boxes[:, 2:] -= boxes[:, :2]
    if op.fmt == "cxcywh":
        boxes[:, :2] = (boxes[:, :2] * 2 + boxes[:, 2:]) / 2
    decision.boxes = boxes / np.array([width, height, width, height], np.float32)


def _inside(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    clamped: Boxes = np.minimum(np.maximum(boxes, 0), np.array([size[1], size[0]] * 2, np.float32))
    return clamped


DECISIONS: dict[type, Callable[[Any, Decision], None]] = {
    T.RandomPhotometricDistort: _distort,
    T.RandomZoomOut: _zoom_out,
    T.RandomIoUCrop: _crop,
    T.SanitizeBoundingBoxes: _sanitize,
    T.RandomHorizontalFlip: _flip,
    S.Resize: _resize,
    S.ResizeShortestEdge: _resize,
    S.RandomShortestSize: lambda op, decision: _resize(op.drawn(), decision),
    S.RandomSizeCrop: lambda op, decision: decision.crop(**op.window(*decision.canvas)),
    S.RandomChoice: _choose,
    S.ResizeToFit: _resize,
    T.ConvertPILImage: lambda op, decision: None,
    T.ConvertBoxes: _convert_boxes,
    T.EmptyTransform: lambda op, decision: None,
}
"""By the exact type of the op: a subclass may do anything."""
RANDOM = (
    *(T.RandomPhotometricDistort, T.RandomZoomOut, T.RandomIoUCrop, T.RandomHorizontalFlip),
    *(S.RandomShortestSize, S.RandomSizeCrop, S.RandomChoice),
)


def tensors(decision: Decision, target: dict[str, Any]) -> dict[str, Tensor]:
    """The target with the boxes that are left, in the order of its entries.

    Args:
        decision: what became of the boxes.
        target: tensors and arrays; those with one row per box are cut down.
    """
    rows = {"boxes": decision.boxes, **{name: target[name][decision.kept] for name in T.PER_BOX if name in target}}
    return as_tensors({name: rows.get(name, value) for name, value in target.items()})


def as_tensors(target: dict[str, Any]) -> dict[str, Tensor]:
    """The entries of a target, of which some are arrays still."""
    return {name: value if isinstance(value, Tensor) else torch.from_numpy(value) for name, value in target.items()}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The ops that set the size of images, and what can be said of sizes without an image.

All take and return (image, target). Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as PILImage
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ...core.errors import DataError
from ...core.registry import register
from .. import Ints
from .ops import ConvertBoxes, ConvertPILImage

_NO_LIMIT = 1 << 30


@register
class Resize(v2.Resize):
    """Resize to exactly ``size``; the aspect ratio is not kept. Bilinear, antialiased.

    Args:
        size: (height, width) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size=list(_pair("Resize", size)), antialias=True)


class KeepAspect(v2.Transform):
    """Base of the resizes that keep the aspect ratio, so that images leave with different sizes."""

    def ratio(self, height: int, width: int) -> Fraction:
        """Pixels after per pixel before, for an image of this size."""
        raise NotImplementedError

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size gets: rounded half up, in exact arithmetic, and at least 1."""
        ratio = self.ratio(height, width)
        new_height, new_width = (max(1, math.floor(side * ratio + Fraction(1, 2))) for side in (height, width))
        return new_height, new_width

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size that the image of a sample gets, for v2.Transform."""
        image = next(value for value in flat_inputs if isinstance(value, (PILImage, tv_tensors.Image)))
        return {"size": list(self.size_of(*F.get_size(image)))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one entry of the sample, for v2.Transform."""
        is_sized = isinstance(inpt, (PILImage, tv_tensors.TVTensor))
        return F.resize(inpt, size=params["size"], antialias=True) if is_sized else inpt


@register
class ResizeShortestEdge(KeepAspect):
    """Give the shorter side a length, the longer one what keeps the aspect ratio. Bilinear, antialiased.

    Where the longer side would exceed its limit it gets the limit, and the shorter one ends below its length. Sides
    are rounded half up (docs/method.md 10.1). Boxes follow both sides separately.

    Args:
        shortest_edge: pixels of the shorter side.
        longest_edge: largest number of pixels of the longer side.
    """

    def __init__(self, shortest_edge: int, longest_edge: int) -> None:
        super().__init__()
        if not 0 < shortest_edge <= longest_edge:
            raise ValueError(
                f"ResizeShortestEdge: shortest_edge is {shortest_edge} and longest_edge {longest_edge}: "
                "give pixels above 0, the longest edge at least as long as the shortest"
            )
        self.shortest_edge = shortest_edge
        self.longest_edge = longest_edge

    def ratio(self, height: int, width: int) -> Fraction:
        """Pixels after per pixel before."""
        short, long = min(height, width), max(height, width)
        return min(Fraction(self.shortest_edge, short), Fraction(self.longest_edge, long))


@register
class RandomShortestSize(KeepAspect):
    """ResizeShortestEdge to a length drawn for every image (multi-scale training of DETR, arXiv 2005.12872).

    Args:
        min_size: pixels of the shorter side, each as likely as it is frequent.
        max_size: largest number of pixels of the longer side; None: no limit.
    """

    def __init__(self, min_size: list[int], max_size: int | None = None) -> None:
        super().__init__()
        if not min_size:
            raise ValueError("RandomShortestSize: min_size is empty: give lengths in pixels, e.g. [480, 512, 544]")
        self.options = [ResizeShortestEdge(edge, max_size or _NO_LIMIT) for edge in min_size]

    def drawn(self) -> ResizeShortestEdge:
        """The resize of one image, drawn as torchvision's class of this name draws it."""
        return self.options[int(torch.randint(len(self.options), ()))]

    def ratio(self, height: int, width: int) -> Fraction:
        """Pixels after per pixel before at the largest length: what memory and limits on boxes go by."""
        return max(option.ratio(height, width) for option in self.options)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """A drawn size, for v2.Transform."""
        return self.drawn().make_params(flat_inputs)


@register
class ResizeToFit(KeepAspect):
    """Make an image as large as fits into ``size``, its aspect ratio kept. Bilinear, antialiased.

    Args:
        size: (height, width) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = _pair("ResizeToFit", size)

    def ratio(self, height: int, width: int) -> Fraction:
        """Pixels after per pixel before."""
        return min(Fraction(self.size[0], height), Fraction(self.size[1], width))


@register
class RandomCrop(v2.RandomCrop):
    """Cut a random window out of the image: SanitizeBoundingBoxes must follow.

    Args:
        size: (height, width) of the window.
        padding: pixels added on every side before, one number or left, top, right, bottom.
        pad_if_needed: enlarge images that are smaller than the window; otherwise they are an error.
        fill: pixel value 0..255 of what is added.
        padding_mode: ``constant``, ``edge``, ``reflect`` or ``symmetric``.
    """

    def __init__(
        self,
        size: tuple[int, int],
        padding: int | list[int] | None = None,
        pad_if_needed: bool = False,
        fill: int = 0,
        padding_mode: str = "constant",
    ) -> None:
        super().__init__(list(_pair("RandomCrop", size)), padding, pad_if_needed, fill, padding_mode)


@register
class RandomSizeCrop(v2.Transform):
    """Cut a window of random size and place out of the image (DETR): SanitizeBoundingBoxes must follow.

    Args:
        min_size, max_size: range of both sides in pixels; a side of the image that is shorter stays whole.
    """

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        if not 0 < min_size <= max_size:
            raise ValueError(
                f"RandomSizeCrop: min_size is {min_size} and max_size {max_size}: give pixels above 0, the largest "
                "side at least as long as the smallest"
            )
        self.min_size, self.max_size = min_size, max_size

    def window(self, height: int, width: int) -> dict[str, int]:
        """Draw ``top``, ``left``, ``height`` and ``width`` of the window in an image of this size."""
        rows, columns = self._side(height), self._side(width)
        top, left = (int(torch.randint(room + 1, ())) for room in (height - rows, width - columns))
        return {"top": top, "left": left, "height": rows, "width": columns}

    def _side(self, length: int) -> int:
        return int(torch.randint(min(self.min_size, length), min(self.max_size, length) + 1, ()))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The window of a sample, for v2.Transform."""
        image = next(value for value in flat_inputs if isinstance(value, (PILImage, tv_tensors.Image)))
        return self.window(*F.get_size(image))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut one entry of the sample, for v2.Transform."""
        return F.crop(inpt, **params) if isinstance(inpt, (PILImage, tv_tensors.TVTensor)) else inpt


@register
class PadToSize(v2.Transform):
    """Add a border at the right and at the bottom.

    ``orig_size`` of the target grows in proportion, so that detections, which are fractions of the padded image, still
    come out in pixels of the original one.

    Args:
        size: (height, width) after padding; a larger image is an error.
        fill: pixel value 0..255 of the border.
        padding_mode: ``constant``, ``edge``, ``reflect`` or ``symmetric``.
    """

    def __init__(self, size: tuple[int, int], fill: int = 0, padding_mode: str = "constant") -> None:
        super().__init__()
        self.size = _pair("PadToSize", size)
        self.fill = fill
        self.padding_mode = padding_mode

    def forward(self, *inputs: Any) -> Any:
        """(image, target) -> the same, padded."""
        image, target = inputs if len(inputs) > 1 else inputs[0]
        height, width = F.get_size(image)
        if height > self.size[0] or width > self.size[1]:
            raise DataError(
                f"PadToSize: an image of height, width {(height, width)} does not fit into {self.size}: "
                "put a Resize before it, or enlarge size"
            )
        border = [0, 0, self.size[1] - width, self.size[0] - height]
        image, target = v2.Pad(border, fill=self.fill, padding_mode=self.padding_mode)(image, target)
        if "orig_size" in target:
            growth = torch.tensor(self.size, dtype=torch.float64) / torch.tensor((height, width))
            target = {**target, "orig_size": (target["orig_size"] * growth).round().to(torch.int64)}
        return image, target


@register
class RandomChoice(nn.Module):
    """Apply one of several lists of ops.

    Args:
        transforms: the lists.
        p: how likely each is, in any unit; None: all alike.

    Raises:
        ValueError: fewer than two lists, other weights than one above or equal to 0 for each, or an op that converts
            images or boxes, which every sample needs alike.
    """

    def __init__(self, transforms: list[list[nn.Module]], p: list[float] | None = None) -> None:
        super().__init__()
        weights = [1.0] * len(transforms) if p is None else p
        if len(transforms) < 2 or len(weights) != len(transforms) or min(weights) < 0 or not sum(weights):
            raise ValueError(
                f"RandomChoice: {len(transforms)} lists in transforms and p {p}: give two lists or more, and for each "
                "a weight of at least 0 (or p: ~)"
            )
        every = [op for ops in transforms for op in ops]
        if converting := [type(op).__name__ for op in every if isinstance(op, (ConvertPILImage, ConvertBoxes))]:
            raise ValueError(f"RandomChoice: {converting[0]} in one of the lists: move it behind the choice")
        self.lists = [list(ops) for ops in transforms]
        self.p = torch.tensor(weights)

    def drawn(self) -> list[nn.Module]:
        """The ops for one sample, drawn as torchvision's class of this name draws them."""
        return self.lists[int(torch.multinomial(self.p, 1))]

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """(image, target) -> the same after the ops of one list."""
        for op in self.drawn():
            image, target = op(image, target)
        return image, target


def paths(ops: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Every list of ops that may run: one for each way through the choices."""
    ways: list[list[nn.Module]] = [[]]
    for op in ops:
        rest = [way for own in op.lists for way in paths(own)] if type(op) is RandomChoice else [[op]]
        ways = [[*way, *more] for way in ways for more in rest]
    return ways


Sizing = Resize | RandomCrop | RandomSizeCrop | PadToSize | KeepAspect
"""Ops that set the size of images."""


def sizing(ops: Iterable[nn.Module]) -> list[Sizing]:
    """The last op that sets a size, on every way through the choices on which there is one."""
    setting = [[op for op in way if isinstance(op, Sizing)] for way in paths(ops)]
    return [way[-1] for way in setting if way]


def sizes_after(op: Sizing, sizes: Ints) -> Ints:
    """(n, 2) height, width of images (n, 2) after an op; the largest where it draws them."""
    if isinstance(op, KeepAspect):
        return np.array([op.size_of(*size) for size in sizes.tolist()]).reshape(-1, 2)
    if isinstance(op, RandomSizeCrop):
        return np.minimum(sizes, op.max_size)
    return np.broadcast_to(np.array(op.size), sizes.shape)


def final_sizes(ops: Iterable[nn.Module], sizes: Ints) -> Ints:
    """(m, 2) the largest sizes that images (n, 2) may leave with: the last op on a way decides.

    A crop of random size may have any shape within its limits, also one that no image has.
    """
    ends = []
    for way in paths(ops):
        setting = [op for op in way if isinstance(op, Sizing)]
        crops = [(op.min_size, op.max_size) for op in setting if isinstance(op, RandomSizeCrop)]
        shapes = np.concatenate([sizes, *(np.array([crop, crop[::-1]]) for crop in crops)])
        ends.append(sizes_after(setting[-1], shapes) if setting else sizes)
    return np.concatenate(ends)


def _pair(name: str, size: Any) -> tuple[int, int]:
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not all(type(value) is int and value > 0 for value in size)
    ):
        raise ValueError(f"{name}: size is {size!r}: give [height, width] in pixels")
    return size[0], size[1]

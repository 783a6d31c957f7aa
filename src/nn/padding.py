# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which part of a padded canvas is image: what keeps predictions independent of the padding (docs/method.md 10.2).

A convolution reads zeros beyond the border of its map. Where the cells beyond the image hold zeros as well, the
image cannot tell its own end from the end of the canvas. So every operation that reads neighbours
(kernel > 1) gets a cleared map, and the results do not depend on how much padding there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = "image_size"
"""Target entry: (2,) height and width of an image inside its padded canvas, in pixels of the canvas."""


@dataclass(frozen=True, eq=False)
class Padding:
    """Contents at the top left of the canvases of a batch; the rest, right and below, is padding.

    Raises:
        ValueError: sizes of another shape or type, or (only where they are on the CPU, so that nothing waits for a
            device) outside the canvas.
    """

    image_sizes: Tensor
    """(B, 2) height and width in pixels of the canvas; fractions of a pixel are fine (a batch that was resized)."""
    canvas: tuple[int, int]
    """(height, width) in pixels."""
    whole_cells: bool = False
    """Whether ratios and centres count the cells that are not masked, instead of the image's pixels (Zhu et al.,
    Deformable DETR, arXiv:2010.04159)."""
    visible: bool = False
    """Whether backbones and projections may read what stands in padded cells (:func:`cleared` leaves it), and masks are
    nearest interpolations of the canvas': so does the published code of the DETR family, whose predictions depend on
    the padding."""
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)
    _factors: dict[tuple[int, int, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.image_sizes.dim() != 2 or self.image_sizes.shape[1] != 2 or self.image_sizes.is_complex():
            raise ValueError(
                f"image sizes have the shape {tuple(self.image_sizes.shape)}: give (B, 2), a (height, width) per image"
            )
        if self.image_sizes.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_inside(self.image_sizes, self.canvas)

    def mask(self, size: tuple[int, int]) -> Tensor:
        """(B, 1, h, w) bool: True in the cells of a map of this (height, width) that hold nothing of the image."""
        if size not in self._masks:
            rows, columns = self._beyond(0, size), self._beyond(1, size)
            self._masks[size] = rows[:, None, :, None] | columns[:, None, None, :]
        return self._masks[size]

    def clear(self, maps: Tensor) -> Tensor:
        """Zero the padded cells of (B, D, h, w)."""
        height, width = maps.shape[-2:]
        key = (height, width, maps.dtype)
        if key not in self._factors:
            self._factors[key] = (~self.mask((height, width))).to(maps.dtype)
        return maps * self._factors[key]  # a factor of the same type: one pass, and autocast keeps half precision

    def centres(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """Cell centres of the levels of a pyramid, fine to coarse, as fractions of the image.

        Returns: y (B, h) and x (B, w) per level, above 1 in padded cells.
        """
        if self.whole_cells:
            return [
                (self._numbers(h) / self._kept(0, (h, w)), self._numbers(w) / self._kept(1, (h, w))) for h, w in sizes
            ]
        # The same float32 numbers whatever the canvas: both factors are exact, the division rounds once.
        return [
            (self._centres(0, height, stride), self._centres(1, width, stride))
            for (height, width), stride in zip(sizes, self.level_strides(sizes))
        ]

    def valid_ratios(self, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(B, levels, 2) x and y: how much of each map (height, width) the image spans, as a fraction of the map.

        The maps are the levels of a pyramid, fine to coarse.
        """
        if self.whole_cells:
            return torch.stack(
                [torch.cat((self._kept(1, (h, w)) / w, self._kept(0, (h, w)) / h), dim=-1) for h, w in sizes], dim=1
            )
        spans = [(stride * h, stride * w) for (h, w), stride in zip(sizes, self.level_strides(sizes))]
        # Filled element by element from Python numbers: a tensor made from a list would be copied to the device.
        sides = self.image_sizes.float()
        return torch.stack([torch.stack((sides[:, 1] / w, sides[:, 0] / h), dim=-1) for h, w in spans], dim=1)

    def stride(self, size: tuple[int, int]) -> int:
        """Pixels per cell: the power of two that gave a map of this (height, width).

        Not canvas / cells: halving rounds up, so the last cell of a coarse map may reach beyond the canvas. One cell is
        left however often a side is halved, so the side with more cells decides; for one cell in all it is the least.
        """
        return 1 << max(math.ceil(math.log2(side / cells)) for side, cells in zip(self.canvas, size))

    def level_strides(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Pixels per cell of the levels of a pyramid, fine to coarse; levels of one cell double the last one."""
        strides: list[int] = []
        for size in sizes:
            one_cell = strides and max(size) == 1
            strides.append(max(self.stride(size), 2 * strides[-1]) if one_cell else self.stride(size))
        return strides

    def _centres(self, axis: int, cells: int, stride: int) -> Tensor:
        return self._numbers(cells) * stride / self._sides(axis)

    def _numbers(self, cells: int) -> Tensor:
        """(cells,) centres, counted in cells."""
        return torch.arange(cells, dtype=torch.float32, device=self.image_sizes.device) + 0.5

    def _beyond(self, axis: int, size: tuple[int, int]) -> Tensor:
        """(B, cells) bool: which rows (axis 0) or columns of a map (height, width) hold nothing of the image."""
        cells, device = size[axis], self.image_sizes.device
        if self.visible:
            pixels = torch.arange(self.canvas[axis], dtype=torch.float32, device=device)
            firsts = F.interpolate(pixels[None, None], size=cells)[0, 0]
        else:
            firsts = torch.arange(cells, device=device) * self.stride(size)
        return firsts >= self._sides(axis)

    def _kept(self, axis: int, size: tuple[int, int]) -> Tensor:
        """(B, 1) float32: how many rows or columns hold something of it."""
        return (~self._beyond(axis, size)).sum(dim=1, keepdim=True).float()

    def _sides(self, axis: int) -> Tensor:
        """(B, 1) heights (axis 0) or widths."""
        return self.image_sizes[:, axis : axis + 1].float()


def cleared(maps: Tensor, padding: Padding | None) -> Tensor:
    """``maps`` (B, D, h, w) with zeros in the padded cells; the very same tensor without padding, or a visible one."""
    return maps if padding is None or padding.visible else padding.clear(maps)


@contextmanager
def cleared_reads(network: nn.Module, padding: Padding) -> Iterator[None]:
    """Let every convolution and pooling layer inside a network that reads neighbours read cleared maps.

    For networks that know nothing of padding: inside this context, those made of such layers and of operations on
    single cells treat the end of the image like the end of the canvas (maximum pooling: of values that are not
    negative). What reads a whole map (squeeze and excitation, attention), and pooling that is no layer, still sees the
    canvas.
    """

    def clear(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return cleared(inputs[0], padding), *inputs[1:]

    hooks = [layer.register_forward_pre_hook(clear) for layer in network.modules() if _reads_neighbours(layer)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _reads_neighbours(layer: nn.Module) -> bool:
    if not isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        return False
    sides = (layer.kernel_size,) if isinstance(layer.kernel_size, int) else layer.kernel_size
    return max(sides) > 1


def image_sizes_of(targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What a padded batch adds to the arguments of a model: ``{"image_sizes": (B, 2)}``, or nothing without padding.

    Args:
        targets: B dicts; all hold ``image_size`` (2,) or none does.

    Raises:
        ValueError: some targets hold an image size and others do not.
    """
    sizes = [target[IMAGE_SIZE] for target in targets if IMAGE_SIZE in target]
    if not sizes:
        return {}
    if len(sizes) != len(targets):
        raise ValueError(
            f"{len(sizes)} of {len(targets)} targets hold {IMAGE_SIZE}: give it for all images of a batch or for none"
        )
    return {"image_sizes": torch.stack(sizes)}


def _check_inside(image_sizes: Tensor, canvas: tuple[int, int]) -> None:
    for number, (height, width) in enumerate(image_sizes.tolist()):
        if not (0 < height <= canvas[0] and 0 < width <= canvas[1]):
            raise ValueError(
                f"image {number} is {height} x {width} (height x width) pixels, but its canvas has "
                f"{canvas[0]} x {canvas[1]}: are height and width swapped, or was the batch resized without its sizes?"
            )

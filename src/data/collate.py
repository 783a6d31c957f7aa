# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Samples to batches, and the size that each batch gets."""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import DataError
from ..core.registry import REGISTRY, register
from ..nn.padding import IMAGE_SIZE

STRIDE = 32
"""Sides are multiples of this: the coarsest feature map of the backbones."""


IMAGENET_MEAN = (124, 116, 104)
"""Red, green, blue of the average photo, 0..255: zero for backbones that normalise."""

Samples = Sequence[tuple[Any, dict[str, Tensor]]]
Batch = tuple[Tensor, list[dict[str, Tensor]]]
Size = tuple[int, int]
"""Height and width in pixels."""


class CollateFunction(ABC):
    """What a loader needs to make batches.

    Args:
        stop_epoch, ema_restart_decay, restart: the two stages of a training, which official files describe here. They
            are handed on to the solver, whose ``StagePlan`` says what they mean; nothing here reads them.
    """

    takes_any_size = False
    """Whether the images of a batch may differ in size, and have sides that are no multiples of 32."""
    stride = 1
    """The sides of images that are padded to one size are multiples of this."""
    multi_scale = True
    """Whether the sizes of batches are drawn; the loop turns it off for the second stage."""

    def __init__(self, stop_epoch: int | None, ema_restart_decay: float | None, *, restart: bool = True) -> None:
        if stop_epoch is not None and stop_epoch < 0:
            raise ValueError(f"stop_epoch is {stop_epoch}: give 0 or more, or ~ for one stage only")
        if not 0 <= (ema_restart_decay or 0.0) < 1:  # the second stage would find it, days later
            raise ValueError(f"ema_restart_decay is {ema_restart_decay}: give at least 0 and below 1, e.g. 0.9999")
        self.stop_epoch = stop_epoch
        self.ema_restart_decay = ema_restart_decay
        self.restart = restart

    @abstractmethod
    def __call__(self, samples: Samples) -> Batch:
        """B samples -> images (B, 3, H, W) in the samples' type, and their targets as plain tensors."""

    @abstractmethod
    def sizes_of(self, canvas: Size | None) -> Sequence[Size]:
        """(height, width) that a batch of size ``canvas`` may get, each as likely as it is frequent; empty: its own."""

    def size_at(self, seed: int, epoch: int, batch_index: int, canvas: Size | None = None) -> Size | None:
        """(height, width) that a batch of size ``canvas`` gets, one choice for every rank; None = it keeps its own."""
        sizes = self.sizes_of(canvas) if self.multi_scale else ()
        if not sizes:
            return None
        digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, batch_index), digest_size=8, person=b"multiscale")
        return sizes[int.from_bytes(digest.digest(), "little") % len(sizes)]

    @staticmethod
    def resize(images: Tensor, size: Size | None) -> Tensor:
        """Nearest-neighbour resize of a batch, as the published weights were trained (docs/method.md 8.6)."""
        if size is None or tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size=size, mode="nearest")


@register
class BatchImageCollateFunction(CollateFunction):
    """Stack images of one size; draw the multi-scale size of each batch.

    Args:
        base_size: side in pixels, or (height, width); multiples of 32.
        base_size_repeat: how often the base size stands among the sizes drawn from; None = images keep their size.
        stop_epoch: from this epoch on images keep their size; the solver's second stage begins there. None = never.
        ema_restart_decay: EMA decay of the second stage: official files say it here; the solver reads it. None = the
            decay of the first stage.
        scales: the sizes themselves, sides of squares or (height, width), in place of base_size_repeat (RT-DETR).
        restart: whether the second stage starts from the best weights so far with a new EMA (D-FINE); False: training
            goes on as it was (RT-DETR).
    """

    def __init__(
        self,
        base_size: int | Size = 640,
        base_size_repeat: int | None = None,
        stop_epoch: int | None = None,
        ema_restart_decay: float | None = 0.9999,
        scales: Sequence[int | Size] | None = None,
        *,
        restart: bool = True,
    ) -> None:
        super().__init__(stop_epoch, ema_restart_decay, restart=restart)
        self.base_size = (base_size, base_size) if isinstance(base_size, int) else (base_size[0], base_size[1])
        listed = [(size, size) if isinstance(size, int) else (size[0], size[1]) for size in scales or ()]
        for name, value, sizes in (("base_size", base_size, [self.base_size]), ("scales", scales, listed)):
            if any(side <= 0 or side % STRIDE for size in sizes for side in size):
                raise ValueError(f"{name} is {value}: every side must be a multiple of {STRIDE} above 0")
        if scales is not None and base_size_repeat is not None:
            raise ValueError(f"scales and base_size_repeat {base_size_repeat} both give sizes: keep one of the two")
        if base_size_repeat is not None and not 1 <= base_size_repeat <= 1000:
            raise ValueError(f"base_size_repeat is {base_size_repeat}: give 1 to 1000, or ~ for one size only")
        self.sizes = tuple(listed) if base_size_repeat is None else multiscale_sizes(self.base_size, base_size_repeat)

    def __call__(self, samples: Samples) -> Batch:
        """B samples -> images (B, 3, H, W) in the samples' type, and their targets as plain tensors.

        Raises:
            DataError: images that are no tensors, or of several sizes.
        """
        images = _images(samples)
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise DataError(
                f"images of one batch have {len(sizes)} sizes (height, width): {', '.join(map(str, sizes[:5]))}: "
                "add Resize or PadToSize to transforms.ops, use collate_fn: {type: PaddedBatchCollateFunction}, or use "
                "total_batch_size: 1"
            )
        return _stacked(images), _targets(samples)

    def sizes_of(self, canvas: Size | None) -> Sequence[Size]:
        """The sizes drawn from, whatever the canvas."""
        return self.sizes


for _name in ("BatchImageCollateFuncion", "default_collate_fn"):  # RT-DETR's second repository, and its first
    REGISTRY.alias(_name, BatchImageCollateFunction)


@register
class PaddedBatchCollateFunction(CollateFunction):
    """Stack images of several sizes at the top left of the smallest canvas that holds them all.

    Every target gets ``image_size`` (2,): height and width of its image inside the canvas. Boxes stay fractions of
    the image (docs/method.md 10.2).

    Args:
        stride: the sides of a canvas are the smallest multiples of this, itself a multiple of 32.
        fill: pixel value 0..255 of the padding, or ``mean``: the average colour of photos, which backbones that
            normalise see as 0. Models clear the padding where they can (HGNetv2 does); then the value has no effect.
        scales: factors on the size of a batch, one drawn per batch, equally likely and the same on every rank; None
            = images keep their size. Sides of the scaled canvas are rounded to multiples of ``stride``.
        stop_epoch, ema_restart_decay: as in ``BatchImageCollateFunction``.
    """

    takes_any_size = True

    def __init__(
        self,
        stride: int = STRIDE,
        fill: int | Literal["mean"] = "mean",
        scales: Sequence[float] | None = None,
        stop_epoch: int | None = None,
        ema_restart_decay: float | None = 0.9999,
    ) -> None:
        super().__init__(stop_epoch, ema_restart_decay)
        if stride < 1 or stride % STRIDE:
            raise ValueError(f"PaddedBatchCollateFunction: stride is {stride}: give a multiple of {STRIDE} above 0")
        if fill != "mean" and not (type(fill) is int and 0 <= fill <= 255):
            raise ValueError(f"PaddedBatchCollateFunction: fill is {fill!r}: give a pixel value 0..255, or mean")
        if scales is not None and not (scales and all(scale > 0 for scale in scales)):
            raise ValueError(
                f"PaddedBatchCollateFunction: scales is {list(scales)}: give factors above 0, or ~ for one size only"
            )
        self.stride = stride
        self.fill = IMAGENET_MEAN if fill == "mean" else (fill,) * 3
        self.scales = tuple(scales or ())

    def __call__(self, samples: Samples) -> Batch:
        """B samples -> images (B, 3, H, W) in the samples' type, and their targets as plain tensors.

        Raises:
            DataError: images that are no tensors.
        """
        images = _images(samples)
        largest = (max(image.shape[axis] for image in images) for axis in (-2, -1))
        height, width = (-(-side // self.stride) * self.stride for side in largest)
        fill = torch.tensor(self.fill, dtype=images[0].dtype)[:, None, None]
        canvas = fill.expand(len(images), 3, height, width).clone()
        for place, image in zip(canvas, images):
            place[:, : image.shape[-2], : image.shape[-1]] = image
        sizes = (torch.tensor(image.shape[-2:]) for image in images)
        return canvas, [{**target, IMAGE_SIZE: size} for target, size in zip(_targets(samples), sizes)]

    def sizes_of(self, canvas: Size | None) -> Sequence[Size]:
        """The canvas times each factor."""
        if self.scales and canvas is None:
            raise ValueError(
                "PaddedBatchCollateFunction: the size of a batch depends on its canvas: give (height, width)"
            )
        height, width = canvas or (0, 0)
        return [(_scaled(height, scale, self.stride), _scaled(width, scale, self.stride)) for scale in self.scales]

    @staticmethod
    def resize(images: Tensor, size: Size | None) -> Tensor:
        """Bilinear with antialiasing: nearest neighbour drops whole strokes of text, a quarter of them at 3/4."""
        if size is None or tuple(images.shape[-2:]) == size:
            return images
        resized = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        return resized if images.is_floating_point() else resized.round().to(images.dtype)


def scaled_sizes(sizes: Tensor, canvas: Size, size: Size) -> Tensor:
    """Content sizes (B, 2) in a canvas that is resized to ``size``: float32, exact to its last digit."""
    return (sizes.double() * torch.tensor(size) / torch.tensor(canvas)).float()


def padded_share(sizes: Tensor, canvas: Size) -> float:
    """Fraction of a batch's pixels that are padding, from the image sizes (B, 2) in one canvas."""
    return 1 - float(sizes.double().prod(dim=1).mean()) / (canvas[0] * canvas[1])


def _images(samples: Samples) -> list[Tensor]:
    wrong = next((image for image, _ in samples if not isinstance(image, Tensor)), None)
    if wrong is not None:
        raise DataError(f"samples hold a {type(wrong).__name__}, not a tensor: add ConvertPILImage to transforms.ops")
    return [image.as_subclass(Tensor) for image, _ in samples]


def _stacked(images: list[Tensor]) -> Tensor:
    """(B, 3, H, W); the values of a pixel lie side by side where they do in every image: that copies images whole."""
    by_pixel = [image.permute(1, 2, 0) for image in images]
    if all(image.is_contiguous() for image in by_pixel):
        return torch.stack(by_pixel).permute(0, 3, 1, 2)
    return torch.stack(images)


def _targets(samples: Samples) -> list[dict[str, Tensor]]:
    return [{name: value.as_subclass(Tensor) for name, value in target.items()} for _, target in samples]


def multiscale_sizes(base_size: Size, repeat: int) -> tuple[Size, ...]:
    """The official list for a square base: smaller sizes up, the base ``repeat`` times, larger sizes down.

    Sizes lie between 3/4 and 5/4 of the base in steps of 32. For a rectangle the longer side follows the list and the
    shorter one keeps the proportion, to the nearest multiple of 32.

    Returns:
        (height, width) pairs, each as likely as it is frequent.
    """
    base = max(base_size)
    lowest, highest = int(base * 0.75 / STRIDE) * STRIDE, int(base * 1.25 / STRIDE) * STRIDE
    steps = (base - lowest) // STRIDE
    longer = [lowest + STRIDE * step for step in range(steps)] + [base] * repeat
    longer += [highest - STRIDE * step for step in range(steps)]
    return tuple((_scaled(base_size[0], side / base), _scaled(base_size[1], side / base)) for side in longer)


def _scaled(side: int, factor: float, stride: int = STRIDE) -> int:
    return max(stride, round(side * factor / stride) * stride)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Samples to batches, and the size that each batch gets."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import DataError
from ..core.registry import register

STRIDE = 32
"""Sides are multiples of this: the coarsest feature map of the backbones."""


@register
class BatchImageCollateFunction:
    """Stack images of one size; draw the multi-scale size of each batch.

    Args:
        base_size: side in pixels, or (height, width); multiples of 32.
        base_size_repeat: how often the base size stands among the sizes drawn from; None = images keep their size.
        stop_epoch: from this epoch on images keep their size; the solver's second stage begins there. None = never.
        ema_restart_decay: EMA decay of the second stage: official files say it here; the solver reads it.
    """

    def __init__(
        self,
        base_size: int | tuple[int, int] = 640,
        base_size_repeat: int | None = None,
        stop_epoch: int | None = None,
        ema_restart_decay: float | None = None,
    ) -> None:
        self.base_size = (base_size, base_size) if isinstance(base_size, int) else (base_size[0], base_size[1])
        if any(side <= 0 or side % STRIDE for side in self.base_size):
            raise ValueError(f"base_size is {base_size}: every side must be a multiple of {STRIDE} above 0")
        if base_size_repeat is not None and base_size_repeat < 1:
            raise ValueError(f"base_size_repeat is {base_size_repeat}: give 1 or more, or ~ for one size only")
        self.sizes = () if base_size_repeat is None else multiscale_sizes(self.base_size, base_size_repeat)
        self.stop_epoch = stop_epoch
        self.ema_restart_decay = ema_restart_decay

    def __call__(self, samples: Sequence[tuple[Any, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """B samples -> images (B, 3, H, W) in the samples' type, and their targets as plain tensors.

        Raises:
            DataError: images that are no tensors, or of several sizes.
        """
        images = [image for image, _ in samples]
        wrong = next((image for image in images if not isinstance(image, Tensor)), None)
        if wrong is not None:
            raise DataError(
                f"samples hold a {type(wrong).__name__}, not a tensor: add ConvertPILImage to transforms.ops"
            )
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise DataError(
                f"images of one batch have {len(sizes)} sizes (height, width): {', '.join(map(str, sizes[:5]))}: "
                "add Resize or PadToSize to transforms.ops, or use total_batch_size: 1"
            )
        targets = [{name: value.as_subclass(Tensor) for name, value in target.items()} for _, target in samples]
        return torch.stack([image.as_subclass(Tensor) for image in images]), targets

    def size_at(self, seed: int, epoch: int, batch_index: int) -> tuple[int, int] | None:
        """(height, width) of a batch, the same on every rank; None = the images keep theirs."""
        if not self.sizes or (self.stop_epoch is not None and epoch >= self.stop_epoch):
            return None
        digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, batch_index), digest_size=8, person=b"multiscale")
        return self.sizes[int.from_bytes(digest.digest(), "little") % len(self.sizes)]

    @staticmethod
    def resize(images: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Nearest-neighbour resize of a batch, as the published weights were trained (spec/dfine.md section 12)."""
        if size is None or tuple(images.shape[-2:]) == size:
            return images
        return F.interpolate(images, size=size, mode="nearest")


def multiscale_sizes(base_size: tuple[int, int], repeat: int) -> tuple[tuple[int, int], ...]:
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


def _scaled(side: int, factor: float) -> int:
    return max(STRIDE, round(side * factor / STRIDE) * STRIDE)

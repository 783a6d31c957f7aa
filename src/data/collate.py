# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From samples to a batch, and the sizes of multi-scale training."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ConfigError, DataError
from ..core.registry import register

STRIDE = 32


def multi_scale_sizes(base: int, repeat: int) -> list[int]:
    """Side lengths to choose from, in the official order: below the base, the base ``repeat`` times, above it.

    Multiples of 32 from 0.75 base up and from 1.25 base down (spec/dfine.md section 12).

    >>> multi_scale_sizes(640, 1)
    [480, 512, 544, 576, 608, 640, 800, 768, 736, 704, 672]
    """
    low, high = int(base * 0.75 / STRIDE) * STRIDE, int(base * 1.25 / STRIDE) * STRIDE
    return [*range(low, base, STRIDE), *[base] * repeat, *range(high, base, -STRIDE)]


@register
class BatchImageCollateFunction:
    """Stack uint8 images, list targets; choose the batch's size in multi-scale training.

    Args:
        base_size: [height, width] in pixels, or one number for a square as in official files.
        base_size_repeat: how often the base stands among the sizes; None: always the images' own size.
        stop_epoch: first epoch (0-based) without multi-scale; also where the solver begins stage two.
        ema_restart_decay: EMA decay of stage two; read by the solver only.
    """

    def __init__(
        self,
        base_size: int | Sequence[int] = 640,
        base_size_repeat: int | None = None,
        stop_epoch: int | None = None,
        ema_restart_decay: float | None = None,
    ) -> None:
        height, width = (base_size, base_size) if isinstance(base_size, int) else base_size
        if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
            raise ConfigError(f"base_size is {base_size}: give [height, width] in pixels, multiples of {STRIDE}")
        if base_size_repeat is not None and base_size_repeat < 0:
            raise ConfigError(f"base_size_repeat is {base_size_repeat}: give 0 or more, or null for a single size")
        self.base_size = (height, width)
        self.stop_epoch = stop_epoch
        self.ema_restart_decay = ema_restart_decay
        self.sizes: list[tuple[int, int]] = []
        if base_size_repeat is not None:
            longer = max(height, width)
            self.sizes = [
                (scaled(height, side / longer), scaled(width, side / longer))
                for side in multi_scale_sizes(longer, base_size_repeat)
            ]

    def __call__(self, samples: Sequence[tuple[Any, dict[str, Any]]]) -> tuple[Tensor, list[dict[str, Any]]]:
        """B samples -> (B, 3, H, W) uint8 and B targets."""
        shapes = {tuple(image.shape[-2:]) for image, _ in samples if isinstance(image, Tensor)}
        if len(shapes) != 1:
            found = sorted(shapes) or "PIL images"
            raise DataError(
                f"a batch holds images of the sizes (height, width) {found}: end the transforms with Resize or PadToSize "
                "and ConvertPILImage"
            )
        images = torch.stack([image.as_subclass(Tensor) for image, _ in samples])
        return images, [{key: plain(value) for key, value in target.items()} for _, target in samples]

    def size_at(self, seed: int, epoch: int, batch: int) -> tuple[int, int] | None:
        """(height, width) of a batch, the same on every rank; None to keep the images' own size."""
        if not self.sizes or (self.stop_epoch is not None and epoch >= self.stop_epoch):
            return None
        return random.Random(f"{seed}/{epoch}/{batch}").choice(self.sizes)


def scaled(side: int, factor: float) -> int:
    """A side times a factor, to the nearest multiple of 32."""
    return max(STRIDE, round(side * factor / STRIDE) * STRIDE)


def plain(value: Any) -> Any:
    """A tensor without torchvision's subclass."""
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value


def resize_batch(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(B, 3, H, W) to another (height, width) by nearest neighbour, as the official collate does."""
    if size is None or size == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, size=size)

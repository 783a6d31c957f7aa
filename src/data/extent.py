# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How large the batches of a loader get, known before the first one is made."""

from __future__ import annotations

import numpy as np

from .collate import BatchImageCollateFunction, PaddedBatchCollateFunction
from .loader import DataLoader
from .transforms.ops import KeepAspect, PadToSize, RandomCrop, Resize

Size = tuple[int, int]


def batch_sizes(loader: DataLoader) -> list[Size]:
    """(height, width) of the batches, each as often as it is drawn; of a padded batch the largest canvas there can be.

    Multi-scale sizes come first, the size of batches without it last.
    """
    collate = loader.collate_fn
    plain = _without_scales(loader)
    if isinstance(collate, BatchImageCollateFunction):
        return [*collate.sizes, plain]
    if isinstance(collate, PaddedBatchCollateFunction):
        return [*(_rounded(plain, collate.stride, scale) for scale in collate.scales), plain]
    return [plain]


def largest_size(loader: DataLoader) -> Size:
    """The size with the most pixels."""
    return max(batch_sizes(loader), key=lambda size: size[0] * size[1])


def _without_scales(loader: DataLoader) -> Size:
    collate, sizes = loader.collate_fn, loader.dataset.annotations.sizes
    ops = loader.dataset.transforms.ops
    setting = [op for op in ops if isinstance(op, (Resize, RandomCrop, PadToSize, KeepAspect))]
    last = setting[-1] if setting else None
    if last is not None and not isinstance(last, KeepAspect):
        height, width = last.size
    else:
        shapes = np.unique(sizes, axis=0).tolist()
        shapes = [last.size_of(*shape) for shape in shapes] if last is not None else shapes
        height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    stride = collate.stride if isinstance(collate, PaddedBatchCollateFunction) else 1
    return -(-height // stride) * stride, -(-width // stride) * stride


def _rounded(size: Size, stride: int, scale: float) -> Size:
    height, width = (max(stride, round(side * scale / stride) * stride) for side in size)
    return height, width

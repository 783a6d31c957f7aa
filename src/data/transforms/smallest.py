# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How small a box may be to survive a list of ops, worked out from sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from . import ops as T
from .fused.decisions import DECISIONS


def smallest_kept(ops: Iterable[nn.Module], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The smallest boxes that SanitizeBoundingBoxes keeps, as if no random op did anything.

    A crop may show a box larger, and a zoom smaller, than this: a box below the limit is lost wherever neither happens,
    in the last epochs of a recipe (whose policy stops them) and from the point of view of an evaluation.

    Args:
        ops: as in ``Compose``; what comes behind an op that is not known here is not looked at.
        sizes: (n, 2) height, width of the images in pixels.

    Returns:
        (n, 3) smallest height, width and area in pixels of the original image; 0 where nothing is dropped.
    """
    limits = np.zeros((len(sizes), 3))
    size, ratio = sizes.astype(np.float64), np.ones((len(sizes), 2))
    for op in ops:
        if isinstance(op, (T.Resize, T.KeepAspect)):
            new = _resized(op, size)
            size, ratio = new, ratio * new / size
        elif isinstance(op, (T.PadToSize, T.RandomCrop)):
            size = np.broadcast_to(np.array(op.size, np.float64), size.shape)
        elif type(op) is T.SanitizeBoundingBoxes:
            here = np.column_stack([op.min_size / ratio, op.min_area / ratio.prod(axis=1)])
            limits = np.maximum(limits, here)
        elif type(op) not in DECISIONS:
            break
    return limits


def _resized(op: T.Resize | T.KeepAspect, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(op, T.Resize):
        return np.broadcast_to(np.array(op.size, np.float64), sizes.shape)
    return np.array([op.size_of(int(height), int(width)) for height, width in sizes], np.float64).reshape(-1, 2)


def describe_limits(ops: Sequence[nn.Module]) -> str:
    """What ``smallest_kept`` goes by, in words: ``SanitizeBoundingBoxes (min_size 1) after Resize to 640 x 640``."""
    sanitize = [op for op in ops if type(op) is T.SanitizeBoundingBoxes]
    resize = [op for op in ops if isinstance(op, (T.Resize, T.KeepAspect))]
    if not sanitize:
        return ""
    text = f"SanitizeBoundingBoxes (min_size {max(op.min_size for op in sanitize):g} pixels)"
    if not resize:
        return text
    last = resize[-1]
    size = f" to {last.size[0]} x {last.size[1]}" if isinstance(last, (T.Resize, T.ResizeToFit)) else ""
    return f"{text} at the size after {type(last).__name__}{size}"

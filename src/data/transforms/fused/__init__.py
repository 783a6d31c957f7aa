# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The ordinary augmentations as one step: decisions on the boxes first, then every pixel once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision import tv_tensors

from .. import ops as T
from .decisions import DECISIONS, RANDOM, decide, fill_of, tensors
from .rendering import Read, render

_GEOMETRY = (T.RandomZoomOut, T.RandomIoUCrop)
_RESIZES = (T.Resize, T.KeepAspect)


class Fused:
    """A list of ops for which ``obstacle`` finds none."""

    def __init__(self, ops: Sequence[nn.Module]) -> None:
        self.ops = tuple(ops)

    def __call__(self, size: tuple[int, int], target: dict[str, Any], read: Read) -> tuple[Tensor, dict[str, Tensor]]:
        """Make a sample.

        Args:
            size: (height, width) of the image.
            target: as ``DetectionDataset`` has it, with boxes (n, 4) as float32 xyxy pixels; arrays or tensors.
            read: decodes the image.

        Returns:
            As the ops would: uint8 image (3, H, W) and the target.
        """
        decision = decide(self.ops, size, target["boxes"])
        return tv_tensors.Image(render(decision, read)), tensors(decision, target)


def is_random(ops: Sequence[nn.Module]) -> bool:
    """Whether there is an augmentation: without one the ops are an evaluation, whose pixels must not change at all."""
    return any(isinstance(op, RANDOM) for op in ops)


def obstacle(ops: Sequence[nn.Module]) -> str | None:
    """Why a list of ops cannot run fused, in words; None if it can."""
    unknown = [type(op).__name__ for op in ops if type(op) not in DECISIONS]
    if unknown:
        return f"{', '.join(unknown)} must see the image"
    if not is_random(ops):
        return "nothing is random"
    last = type(ops[-1]).__name__
    if not isinstance(ops[-1], T.ConvertBoxes) or not ops[-1].normalize or _count(ops, T.ConvertBoxes) > 1:
        return f"the last op is {last}, not ConvertBoxes with normalize: True"
    if _count(ops, T.ConvertPILImage) != 1 or not isinstance(ops[-2], T.ConvertPILImage):
        return "ConvertPILImage is not the last op but one"
    if _count(ops, _RESIZES) != 1:
        return f"{_count(ops, _RESIZES)} ops resize, not one"
    resize = next(place for place, op in enumerate(ops) if isinstance(op, _RESIZES))
    late = [type(op).__name__ for op in ops[resize:] if isinstance(op, (*_GEOMETRY, T.RandomPhotometricDistort))]
    if late:
        return f"{', '.join(late)} comes after {type(ops[resize]).__name__}"
    return _obstacle_of_order(ops)


def _obstacle_of_order(ops: Sequence[nn.Module]) -> str | None:
    colours = [place for place, op in enumerate(ops) if isinstance(op, T.RandomPhotometricDistort)]
    if len(colours) > 1:
        return "RandomPhotometricDistort occurs twice"
    if colours and any(isinstance(op, _GEOMETRY) for op in ops[: colours[0]]):
        return "RandomPhotometricDistort comes after a crop or a zoom"
    borders = [op for op in ops if isinstance(op, T.RandomZoomOut)]
    if len({fill_of(op) for op in borders}) > 1:
        return "RandomZoomOut occurs with several colours"
    return None


def _count(ops: Sequence[nn.Module], kind: type | tuple[type, ...]) -> int:
    return sum(isinstance(op, kind) for op in ops)

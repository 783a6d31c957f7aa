# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where the memories of teacher and student differ, cell by cell, and the masks of LCMD on the same cells: for
pictures, and no part of a loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn.capture import check_taps
from ..nn.types import DetectorOutput
from .adapters import level_pairs, resized
from .boxmask import box_cells, valid_cells, whole_canvas
from .features import levels_of, maps_of
from .methods.fgd import FGD, map_attention
from .methods.lcmd import LCMD
from .teacher import Teacher

MEMORY = frozenset({"memory"})
TEMPERATURE = FGD().temperature


class MemoryLevel(NamedTuple):
    """Two levels that are compared: the memories' maps of one stride."""

    student: int
    """Number of the level, 0 is the finest."""
    teacher: int
    stride: int
    """Pixels of the student's input per cell."""
    same_width: bool
    """Whether both have the same number of channels."""


class LevelDifference(NamedTuple):
    """One level, in the teacher's cells, (B, H, W) each."""

    difference: Tensor
    """float32, NaN in padding. Equal widths: 1 - cosine of both cells' features, 0 to 2. Else the teacher's attention
    minus the student's, as FGD has it: 1 is that of a mean cell."""
    location: Tensor
    """bool, LCMD's location mask: cells of a ground-truth box."""
    scale: Tensor
    """LCMD's scale mask: 1 / cells of the same box, or 1 / cells of none; 0 in padding."""


def memory_levels(student: nn.Module, teacher: Teacher) -> list[MemoryLevel]:
    """The levels that both memories have, by stride.

    Raises:
        ValueError: a model without the tap ``memory`` or its strides, or no stride in common.
    """
    for model in (student, teacher.model):
        check_taps(model, MEMORY)
    mine, theirs = (
        levels_of("a picture", role, model, "memory")
        for role, model in (("student", student), ("teacher", teacher.model))
    )
    pairs = level_pairs([stride for _, stride in mine], [stride for _, stride in theirs])
    return [MemoryLevel(ours, other, mine[ours][1], mine[ours][0] == theirs[other][0]) for ours, other in pairs]


@torch.no_grad()
def memory_differences(
    levels: list[MemoryLevel],
    student: DetectorOutput,
    teacher: DetectorOutput,
    boxes: Tensor,
    canvas: tuple[int, int],
    image_sizes: Tensor | None = None,
) -> list[LevelDifference]:
    """Compare what both say of a batch; one entry per level.

    Args:
        levels: see :func:`memory_levels`.
        student, teacher: with the tap ``memory``.
        boxes: (B, T, 4) cxcywh fractions of the images, T may be 0.
        canvas: (height, width) of the batch in pixels.
        image_sizes: (B, 2) height and width in pixels of each image inside its canvas; None where it is filled.
    """
    if not levels:
        return []
    mine, theirs, method = maps_of(student, "memory"), maps_of(teacher, "memory"), LCMD()
    place = canvas, whole_canvas(canvas, len(boxes), boxes.device) if image_sizes is None else image_sizes
    present = boxes.new_ones(boxes.shape[:2], dtype=torch.bool)
    compared = []
    for level in levels:
        target = theirs[level.teacher].float()
        size = (target.shape[-2], target.shape[-1])
        own, valid = resized(mine[level.student].float(), size), valid_cells(size, *place)
        if level.same_width:
            difference = 1 - F.cosine_similarity(own, target, dim=1)
        else:
            attention, expected = (map_attention(side, valid, TEMPERATURE).cells for side in (own, target))
            difference = expected - attention
        masks = method.masks(box_cells(boxes, present, size, *place, unit=method.unit, rounding=method.rounding))
        compared.append(LevelDifference(difference.masked_fill(~valid, torch.nan), *masks))
    return compared

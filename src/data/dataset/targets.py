# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is left of a data set to learn from: counted when it is opened, and said before hours are spent on nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ...core.errors import DataError
from .. import Flags, Floats, Ints
from ..transforms import ops as T
from ..transforms import sizes as S
from ..transforms.decisions import DECISIONS
from .annotations import Annotations, clipped_corners, has_area
from .box_format import other_format, some_corners

logger = logging.getLogger(__name__)

MOST = 0.5
"""Share of the boxes above which what is left out is worth a warning (CrowdHuman ignores 0.22 of its boxes)."""
_FRACTION = 1.5
"""Largest number of a box that looks like a fraction of its image: sloppy ones go beyond 1, and below 0 as far."""
_SMALL_IMAGE = 2
"""Pixels of the shorter side up to which a box in pixels looks the same as one in fractions."""
_SOME = 0.05
"""Share of boxes within a pixel of the corner from which some of a file are taken for fractions."""
_MANY = 10


@dataclass(frozen=True)
class TargetCounts:
    """Images and boxes of a data set, and why boxes are no training targets; each box has one reason at most."""

    images: int
    empty_images: int
    """Without a target."""
    boxes: int
    crowd: int
    without_area: int
    """Nothing inside their image."""
    too_small: int
    """Below what the transforms keep: see ``smallest_kept``."""
    fractions: int
    """Boxes (of any kind) that look like fractions of their image."""
    format: str
    """What boxes look like that seem to be in another format than they were read in; empty for sound ones."""
    corners: str
    """The same of some of them."""
    limits: str
    """What ``too_small`` goes by."""

    @property
    def targets(self) -> int:
        """Boxes to learn from."""
        return self.boxes - self.crowd - self.without_area - self.too_small

    def __str__(self) -> str:
        reasons = {
            "crowd or ignored": self.crowd,
            "without area in their image": self.without_area,
            f"too small for {self.limits}": self.too_small,
        }
        left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count) or "nothing"
        return (
            f"{self.images} images ({self.empty_images} without a target), {self.boxes} boxes, {self.targets} targets; "
            f"left out: {left_out}"
        )


def count_targets(data: Annotations, ops: Sequence[nn.Module] = ()) -> TargetCounts:
    """Count what ``Annotations.training_rows`` and then the ops leave, without making samples.

    Args:
        data: n images with A boxes.
        ops: the transforms of the data set.
    """
    _, first, shape_of = np.unique(data.sizes[:, 0] << 32 | data.sizes[:, 1], return_index=True, return_inverse=True)
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    boxes_xyxy = clipped_corners(data.boxes_xywh_px, data.sizes[owners])
    width, height = boxes_xyxy[:, 2] - boxes_xyxy[:, 0], boxes_xyxy[:, 3] - boxes_xyxy[:, 1]
    limits = smallest_kept(ops, data.sizes[first])[shape_of[owners]]
    small = (height < limits[:, 0]) | (width < limits[:, 1]) | (height * width < limits[:, 2])
    inside = ~data.crowd & has_area(boxes_xyxy)
    with_target = np.bincount(owners[inside & ~small], minlength=len(data)) > 0
    no_crowd = data.boxes_xywh_px[~data.crowd], data.sizes[owners[~data.crowd]]
    once = _told_once(data, owners)
    return TargetCounts(
        images=len(data),
        empty_images=int(np.count_nonzero(~with_target)),
        boxes=int(np.count_nonzero(once)),
        crowd=int(np.count_nonzero(data.crowd & once)),
        without_area=int(np.count_nonzero(~inside & ~data.crowd)),
        too_small=int(np.count_nonzero(inside & small)),
        fractions=_fractions(data.boxes_xywh_px[once], data.sizes.min(axis=1)[owners[once]]),
        format=other_format(*no_crowd),
        corners=some_corners(*no_crowd),
        limits=describe_limits(ops),
    )


def _told_once(data: Annotations, owners: Ints) -> Flags:
    """(A,) without rows that repeat the region before them for another class: to a person that is one region."""
    once = np.ones(len(owners), bool)
    same = data.crowd[1:] & data.crowd[:-1] & (owners[1:] == owners[:-1]) & (data.labels[1:] != data.labels[:-1])
    once[1:] = ~(same & (data.boxes_xywh_px[1:] == data.boxes_xywh_px[:-1]).all(axis=1))
    return once


def _fractions(boxes_xywh_px: Floats, shorter_side: Ints) -> int:
    """How many boxes have four numbers in 0..1; 0 where these may as well be pixels."""
    narrow = (boxes_xywh_px[:, 2] <= _FRACTION) & (shorter_side > _SMALL_IMAGE)  # next to none, where boxes are pixels
    some = boxes_xywh_px[narrow]
    some = some[np.abs(some - 0.5).max(axis=1, initial=0) <= _FRACTION - 0.5]
    some = some[(some > 0).any(axis=1)]  # four zeros are no box in either
    sure = len(some) >= _MANY or (some % 1 != 0).any()  # one box of one pixel is made of whole numbers too
    return len(some) if sure else 0


def shortages(counts: TargetCounts) -> Iterator[tuple[str, str]]:
    """What a person has to know: (kind of finding of isdfine data, text); nothing for a sound data set.

    Nothing is left to learn from, or much is missing, or the boxes are in doubt, and why.
    """
    boxes = counts.boxes
    if not boxes:
        yield (
            "no boxes",
            f"none of the {counts.images} images has a box: the label files, or the list of annotations, are empty",
        )
        return
    if counts.fractions == boxes:
        yield (
            "normalised boxes",
            f"all {boxes} boxes lie in 0..1 or near it: these are fractions of the image, and pixels are wanted: "
            "multiply x and width by the image's width, y and height by its height",
        )
        return
    if counts.fractions > _SOME * boxes:
        yield (
            "some normalised boxes",
            f"{counts.fractions} of {boxes} boxes lie in 0..1 or near it and look like fractions of the image: "
            "give all boxes in pixels",
        )
    if counts.format:
        yield ("other box format", f"{counts.format}: convert them, or correct the export")
    elif counts.corners:
        yield ("some boxes as corners", f"{counts.corners}: convert these, or correct the export")
    if not counts.targets:
        yield ("no targets", _why_none(counts))
    elif counts.crowd > MOST * boxes:
        yield ("mostly crowd", f"{counts.crowd} of {boxes} boxes are {_CROWD}")
    elif counts.too_small > MOST * boxes:
        yield ("boxes below min_size", f"{counts.too_small} of {boxes} boxes are {_small(counts)}")


_CROWD = (
    "crowd regions or marked to be ignored (iscrowd: 1), and so no training targets; annotation tools such as CVAT "
    "write brush masks so: export them as boxes or polygons, or set iscrowd to 0"
)


def _small(counts: TargetCounts) -> str:
    return (
        f"too small for {counts.limits}, and so dropped by the recipe: train at a larger size, cut the images into "
        "tiles, or lower min_size"
    )


def _why_none(counts: TargetCounts) -> str:
    if counts.crowd == counts.boxes:
        return f"all {counts.boxes} boxes are {_CROWD}"
    if counts.too_small == counts.boxes:
        return f"all {counts.boxes} boxes are {_small(counts)}"
    return f"none of the {counts.boxes} boxes is a target: {str(counts).rsplit('left out: ', 1)[1]}"


def report_targets(data: Annotations, ops: Sequence[nn.Module], *, training: bool, allowed: bool) -> None:
    """Log what an opened data set holds, and warn of what is missing.

    Args:
        data: the images in use.
        ops: the transforms of the data set.
        training: whether a model learns from it; else it is evaluated on it.
        allowed: go on without targets, with a warning.

    Raises:
        DataError: no target to learn from, or boxes that are fractions of their image throughout.
    """
    counts = count_targets(data, ops)
    logger.info("%s: %s", data.place, counts)
    for kind, text in shortages(counts):
        if kind == "normalised boxes" or (kind in ("no boxes", "no targets") and training):
            if not allowed:
                raise DataError(
                    f"{data.place}: {text} (to go on nevertheless: allow_no_targets: True in the dataset section)"
                )
        elif kind in ("no boxes", "no targets"):
            text += "; the metrics on this data will be '-'"
        logger.warning("%s: %s", data.place, text)


def smallest_kept(ops: Iterable[nn.Module], sizes: Ints) -> Floats:
    """The smallest boxes that SanitizeBoundingBoxes keeps, as if no random op did anything.

    A crop may show a box larger, and a zoom smaller, than this: a box below the limit is lost wherever neither happens,
    in the last epochs of a recipe (whose policy stops them) and from the point of view of an evaluation. Where ops
    choose, it is lost if every choice loses it, at the largest size that is drawn.

    Args:
        ops: as in ``Compose``; what comes behind an op that is not known here is not looked at.
        sizes: (n, 2) height, width of the images in pixels.

    Returns:
        (n, 3) smallest height, width and area in pixels of the original image; 0 where nothing is dropped.
    """
    limits: Floats = np.min([_limits(way, sizes) for way in S.paths(ops)], axis=0)
    return limits


def _limits(ops: Iterable[nn.Module], sizes: Ints) -> Floats:
    limits, ratio = np.zeros((len(sizes), 3)), np.ones((len(sizes), 2))
    for op in ops:
        if isinstance(op, (S.Resize, S.KeepAspect)):
            new = S.sizes_after(op, sizes)
            sizes, ratio = new, ratio * new / sizes
        elif isinstance(op, S.Sizing):
            sizes = S.sizes_after(op, sizes)
        elif type(op) is T.SanitizeBoundingBoxes:
            here = np.column_stack([op.min_size / ratio, op.min_area / ratio.prod(axis=1)])
            limits = np.maximum(limits, here)
        elif type(op) not in DECISIONS:
            break
    return limits


def describe_limits(ops: Sequence[nn.Module]) -> str:
    """What ``smallest_kept`` goes by, in words: ``SanitizeBoundingBoxes (min_size 1) after Resize to 640 x 640``."""
    every = [op for way in S.paths(ops) for op in way]
    sanitize = [op for op in every if type(op) is T.SanitizeBoundingBoxes]
    resize = [op for op in every if isinstance(op, (S.Resize, S.KeepAspect))]
    if not sanitize:
        return ""
    text = f"SanitizeBoundingBoxes (min_size {max(op.min_size for op in sanitize):g} pixels)"
    if not resize:
        return text
    last = resize[-1]
    size = f" to {last.size[0]} x {last.size[1]}" if isinstance(last, (S.Resize, S.ResizeToFit)) else ""
    return f"{text} at the size after {type(last).__name__}{size}"

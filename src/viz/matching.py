# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which detection found which object, by COCO's rule at one IoU, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IOU = 0.5
"""Overlap from which a detection counts as having found an object."""
MAX_DETECTIONS = 100
"""Detections per class and image that COCO counts."""
_NOBODY = -1


@dataclass(frozen=True, eq=False)
class JudgedImage:
    """T annotated boxes and K detections of one image."""

    name: str
    truth_xyxy_px: NDArray[np.float64]
    """(T, 4) as annotated, not cut to the image."""
    truth_labels: NDArray[np.int64]
    """(T,) contiguous class index."""
    crowd: NDArray[np.bool_]
    """(T,) regions of many objects: what is found in them is neither right nor wrong."""
    boxes_xyxy_px: NDArray[np.float64]
    """(K, 4)"""
    labels: NDArray[np.int64]
    """(K,) contiguous class index."""
    scores: NDArray[np.float64]
    """(K,) in [0, 1], in any order."""


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of the K detections of one image."""

    truth: NDArray[np.int64]
    """(K,) index of the object of the same class that a detection found, -1 for none."""
    ignored: NDArray[np.bool_]
    """(K,) neither right nor wrong: in a crowd region, or beyond the counted number."""


def pairwise_overlap(
    boxes_xyxy_px: NDArray[np.float64], truth_xyxy_px: NDArray[np.float64], crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """IoU (K, T) of boxes (K, 4) and truth (T, 4); with a crowd region the share of the box that lies inside it."""
    low = np.maximum(boxes_xyxy_px[:, None, :2], truth_xyxy_px[None, :, :2])
    high = np.minimum(boxes_xyxy_px[:, None, 2:], truth_xyxy_px[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)  # (K, T)
    own = np.clip(boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2], 0, None).prod(axis=-1)[:, None]
    other = np.clip(truth_xyxy_px[:, 2:] - truth_xyxy_px[:, :2], 0, None).prod(axis=-1)[None]
    union = own + other - shared
    if crowd is not None:
        union = np.where(crowd[None], own, union)
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def match(image: JudgedImage, *, iou: float = IOU, max_detections: int = MAX_DETECTIONS) -> Matches:
    """COCO's assignment: class by class, the surest detection first takes the free object that it overlaps most.

    Because a detection depends on surer ones only, the matches above any score threshold are those of all detections
    cut off there.

    Args:
        image: truth and detections.
        iou: least overlap in (0, 1].
        max_detections: per class; the least sure beyond it are ignored.
    """
    overlap = pairwise_overlap(image.boxes_xyxy_px, image.truth_xyxy_px, image.crowd)
    truth = np.full(len(image.labels), _NOBODY, dtype=np.int64)
    ignored = np.zeros(len(image.labels), dtype=bool)
    for label in np.unique(image.labels).tolist():
        own = np.flatnonzero(image.labels == label)
        own = own[np.argsort(-image.scores[own], kind="stable")]
        ignored[own[max_detections:]] = True
        objects = np.flatnonzero((image.truth_labels == label) & ~image.crowd)
        crowds = np.flatnonzero((image.truth_labels == label) & image.crowd)
        free = np.ones(len(objects), dtype=bool)
        for detection in own[:max_detections].tolist():
            place = best_free(overlap[detection, objects], free, iou)
            if place != _NOBODY:
                truth[detection] = objects[place]
                free[place] = False
            elif (overlap[detection, crowds] >= iou).any():
                ignored[detection] = True
    return Matches(truth, ignored)


def best_free(overlaps: NDArray[np.float64], free: NDArray[np.bool_], iou: float) -> int:
    """Index of the highest of the (T,) overlaps that is at least ``iou`` and free, -1 for none; of equals the last."""
    allowed = np.where(free, overlaps, -1.0)
    if not allowed.size or allowed.max() < min(iou, 1 - 1e-10):
        return _NOBODY
    return len(allowed) - 1 - int(allowed[::-1].argmax())


def match_all(
    images: Sequence[JudgedImage], *, iou: float = IOU, max_detections: int = MAX_DETECTIONS
) -> list[Matches]:
    """:func:`match` for every image."""
    return [match(image, iou=iou, max_detections=max_detections) for image in images]

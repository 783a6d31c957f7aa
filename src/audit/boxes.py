# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with boxes: in themselves, against their image, and against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..data.dataset.annotations import clipped_corners, has_area
from ..data.dataset.targets import count_targets, shortages
from .findings import Finding, Split

EDGE_PX = 1.0
"""Pixels that a box may reach out of its image: rounding and 1-based corners stay below."""
TINY_PX = 2.0
SAME_PX = 0.5
"""Pixels between the edges of boxes that count as the same."""
NEAR_IOU = 0.9
_PAIRWISE = 512
"""Boxes compared at once: an image with more is done in strips, to bound the memory."""


def check_boxes(split: Split) -> Iterator[Finding]:
    """Everything wrong with the boxes of a split; crowd regions are judged for size and place only."""
    kinds, owners, data = box_kinds(split), split.owners, split.annotations
    for row in np.flatnonzero(kinds != ""):
        index = int(owners[row])
        height, width = data.sizes[index].tolist()
        box = ", ".join(f"{value:g}" for value in data.boxes_xywh_px[row])
        text = f"box x, y, width, height = {box} in an image of {width} x {height} (width x height)"
        yield split.finding(str(kinds[row]), text, index, int(row))
    for index in range(len(data)):
        yield from _repeated(split, index)


def check_targets(split: Split) -> Iterator[Finding]:
    """Whether there is anything to learn from, as the data set of a run finds it when it is opened."""
    for kind, text in shortages(count_targets(split.annotations, split.ops)):
        kind = "nothing to evaluate" if kind == "no boxes" and split.is_evaluation else kind
        yield split.finding(kind, text)


def check_ids(split: Split) -> Iterator[Finding]:
    """Annotation ids that occur twice: tools that look annotations up by id take one for the other."""
    data = split.annotations
    if split.format not in ("coco", "objects365"):  # the other formats have none
        return
    owners = split.owners
    _, firsts, which = np.unique(data.ids, return_index=True, return_inverse=True)
    for row in np.flatnonzero(repeated_ids(data.ids)):
        first, index = int(firsts[which[row]]), int(owners[row])
        text = f"has the id of an annotation of {data.file_names[owners[first]]}: ids must be unique"
        yield split.finding("duplicate annotation id", text, index, int(row))


def repeated_ids(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(A,) whether an earlier one is the same."""
    again = np.ones(len(ids), dtype=bool)
    again[np.unique(ids, return_index=True)[1]] = False
    return again


def box_kinds(split: Split) -> NDArray[np.str_]:
    """(A,) the worst thing about each box alone, empty for a good one."""
    data = split.annotations
    sizes = split.sizes_of_boxes
    x, y, width, height = data.boxes_xywh_px.T
    inside = has_area(clipped_corners(data.boxes_xywh_px, sizes))
    beyond = np.max([-x, -y, x + width - sizes[:, 1], y + height - sizes[:, 0]], axis=0, initial=-np.inf)
    conditions = [
        ("inverted box", (width < 0) | (height < 0)),
        ("empty box", (width == 0) | (height == 0)),
        ("box outside", ~inside),
        ("box beyond edge", beyond > EDGE_PX),
        ("tiny box", (np.minimum(width, height) <= TINY_PX) & ~data.crowd),
    ]
    kinds = np.full(len(x), "", dtype="U32")
    for kind, holds in reversed(conditions):
        kinds[holds] = kind
    return kinds


def repeated_rows(split: Split, index: int) -> list[tuple[int, int, float]]:
    """Pairs of boxes of one image that are the same, or of one class and nearly so.

    Returns:
        (first row, later row, IoU); an IoU of exactly 1 stands for edges at most ``SAME_PX`` apart.
    """
    data = split.annotations
    rows = np.arange(data.offsets[index], data.offsets[index + 1])
    rows = rows[~data.crowd[rows] & (data.boxes_xywh_px[rows, 2:] > 0).all(axis=1)]
    if len(rows) < 2:
        return []
    rows = rows[np.argsort(data.boxes_xywh_px[rows, 0], kind="stable")]  # boxes that are alike begin near each other
    boxes = data.boxes_xywh_px[rows].copy()
    reach = boxes[:, 0] + (1 / NEAR_IOU - 1) * boxes[:, 2] / NEAR_IOU + SAME_PX
    boxes[:, 2:] += boxes[:, :2]
    pairs = []
    for start in range(0, len(rows), _PAIRWISE):
        strip = slice(start, start + _PAIRWISE)
        ahead = slice(start, int(np.searchsorted(boxes[:, 0], reach[strip].max(), side="right")))
        same = np.abs(boxes[strip, None] - boxes[None, ahead]).max(axis=-1) <= SAME_PX
        iou = np.where(same, 1.0, np.minimum(_pairwise_iou(boxes[strip], boxes[ahead]), 1 - 1e-9))
        alike = (iou == 1) | ((iou >= NEAR_IOU) & (data.labels[rows[strip], None] == data.labels[None, rows[ahead]]))
        for row, other in zip(*np.nonzero(np.triu(alike, 1))):
            first, later = sorted((int(rows[start + row]), int(rows[start + other])))
            pairs.append((first, later, float(iou[row, other])))
    return sorted(pairs)


def _pairwise_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) for corner boxes (n, 4) and (m, 4) of positive area."""
    overlap = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    inter = np.clip(overlap, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    ratio: NDArray[np.float64] = inter / (areas[0][:, None] + areas[1][None] - inter)
    return ratio


def _repeated(split: Split, index: int) -> Iterator[Finding]:
    data, seen = split.annotations, set[int]()
    labels = data.labels
    pairs = sorted(repeated_rows(split, index), key=lambda pair: bool(labels[pair[0]] != labels[pair[1]]))
    for first, later, iou in pairs:  # those of one class first: they say more
        if later in seen:  # the third of three equal boxes repeats the first and the second
            continue
        seen.add(later)
        label_first, label_later = (int(labels[row]) for row in (first, later))
        same = label_first == label_later
        kind = "near-duplicate box" if iou < 1 else "duplicate box" if same else "box of two classes"
        how = "the same box as" if iou == 1 else f"IoU {iou:.3f} with"
        whose = "of the same class" if same else f"which is {data.label_space.names[label_first]}"
        yield split.finding(kind, f"{how} {split.number_of(index, first)}, {whose}", index, later)

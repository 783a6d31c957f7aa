# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a corrected copy of a data set holds, and what was changed for it. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..dataset.annotations import clipped_corners
from .boxes import EDGE_PX, box_kinds, repeated_rows
from .edit import keep_rows, with_one_class_list
from .findings import Finding, Split
from .pictures import sizes_that_fit
from .pixels import Pixels

_DROPPED_IMAGES = ("missing image", "unreadable image", "duplicate image", "image in two splits")
_DROPPED_BOXES = ("inverted box", "empty box", "box outside")


def corrected(
    splits: Sequence[Split], findings: Sequence[Finding], pixels: Mapping[Path, Pixels]
) -> tuple[list[Split], list[str]]:
    """The splits with everything put right that can be.

    Args:
        findings: of ``check_with`` for these splits.
        pixels: the image files.

    Returns:
        The corrected splits (without those that have no image left), and one line for every change.
    """
    changes = [f"left out: {problem}" for split in splits for problem in split.problems]
    result = []
    for split in splits:
        own = [one for one in findings if one.split == split.name]
        images, done = _correct_images(split, own, pixels)
        boxes, more = _correct_boxes(images)
        changes += [*done, *more]
        if len(boxes.annotations):
            result.append(replace(boxes, problems=()))
        else:
            changes.append(f"left out: split {split.name}: no image of it is left")
    if not result:
        return [], changes
    result, remarks = with_one_class_list(result)
    return result, [*changes, *remarks]


def _correct_images(
    split: Split, findings: Sequence[Finding], pixels: Mapping[Path, Pixels]
) -> tuple[Split, list[str]]:
    """Without entries that cannot be used; sizes as the files have them."""
    data, changes = split.annotations, []
    sizes, dropped = data.sizes.copy(), set[int]()
    for finding in findings:
        if finding.index is None or finding.index in dropped:
            continue
        boxes = int(np.diff(data.offsets)[finding.index])
        if finding.kind in _DROPPED_IMAGES:
            dropped.add(finding.index)
            changes.append(f"left out with its {boxes} boxes: {finding.place}: {finding.kind}: {finding.text}")
        elif finding.kind == "wrong size":
            size = sizes_that_fit(split, pixels[split.path(finding.index)])[0]
            if _all_inside(split, finding.index, size):
                sizes[finding.index] = size
                changes.append(f"size corrected (all {boxes} boxes fit): {finding.place}: {finding.text}")
            else:
                dropped.add(finding.index)
                changes.append(f"left out: {finding.place}: {finding.text}, and its {boxes} boxes do not fit the file")
    kept = np.array([index for index in range(len(data)) if index not in dropped], dtype=np.int64)
    return replace(split, annotations=replace(data, sizes=sizes).take(kept)), changes


def _all_inside(split: Split, index: int, size: tuple[int, int]) -> bool:
    x, y, width, height = split.annotations.boxes_xywh_px[split.annotations.rows(index)].T
    edges = [x, y, size[1] - x - width, size[0] - y - height]
    return all(bool((edge >= -EDGE_PX).all()) for edge in edges)


def _correct_boxes(split: Split) -> tuple[Split, list[str]]:
    """Without boxes that cover nothing or repeat another; the others cut to their image."""
    data, kinds = split.annotations, box_kinds(split)
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    keep, changes = ~np.isin(kinds, _DROPPED_BOXES), []
    boxes, area = data.boxes_xywh_px.copy(), data.area_px.copy()
    for row in np.flatnonzero(~keep):
        place = split.place_of(int(owners[row]), int(row))
        changes.append(f"box left out: {place}: {kinds[row]} {_numbers(boxes[row])}")
    for row in np.flatnonzero(kinds == "box beyond edge"):
        corners = clipped_corners(boxes[row : row + 1], data.sizes[owners[row]])[0]
        cut = np.concatenate([corners[:2], corners[2:] - corners[:2]])
        if np.isclose(area[row], boxes[row, 2] * boxes[row, 3], rtol=1e-3, atol=1.0):  # not the area of a mask
            area[row] = cut[2] * cut[3]
        place = split.place_of(int(owners[row]), int(row))
        changes.append(f"box cut to the image: {place}: {_numbers(boxes[row])} is now {_numbers(cut)}")
        boxes[row] = cut
    edited = replace(split, annotations=replace(data, boxes_xywh_px=boxes, area_px=area))
    for index in range(len(data)):
        for first, later, iou in repeated_rows(edited, index):
            if iou == 1 and data.labels[first] == data.labels[later] and keep[later] and keep[first]:
                keep[later] = False
                place = edited.place_of(index, later)
                changes.append(f"box left out: {place}: repeats {edited.number_of(index, first)}")
    return replace(split, annotations=keep_rows(edited.annotations, keep)), changes


def _numbers(box: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a format cannot hold of a split, in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ..data.dataset.annotations import clipped_corners, has_area
from ..data.dataset.yolo import label_files
from .edit import keep_rows
from .findings import Split

T = TypeVar("T")


class SourceObjects(Generic[T]):
    """What a source says about the objects of an image beyond class and box; each entry is given out once.

    Args:
        size: (height, width) of the image: an object is known again also where its box was cut to it.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = np.array(size)
        self._entries: dict[tuple[Any, ...], list[T]] = {}

    def add(self, entry: T, box_xywh_px: Sequence[float], label: str = "") -> None:
        """An object of the source."""
        self._entries.setdefault(self._key(box_xywh_px, label), []).append(entry)

    def take(self, box_xywh_px: Sequence[float], label: str = "") -> T | None:
        """What was said about an object of this box and class."""
        entries = self._entries.get(self._key(box_xywh_px, label))
        return entries.pop(0) if entries else None

    def _key(self, box_xywh_px: Sequence[float], label: str) -> tuple[Any, ...]:
        corners = clipped_corners(np.array([box_xywh_px]), self.size)[0]
        return (label, *(round(value, 3) for value in corners.tolist()))


def lost_in(split: Split, crowd: str, *, kept: str = "") -> list[str]:
    """Crowd regions, masks and flags that a format of boxes cannot hold.

    Args:
        crowd: what becomes of crowd regions.
        kept: the format whose files are carried over with all they say.
    """
    data, remarks = split.annotations, [] if split.format == kept else lost_of_source(split)
    if data.crowd.any():
        remarks.append(f"{split.name}: {int(data.crowd.sum())} crowd regions are {crowd}")
    width, height = data.boxes_xywh_px[:, 2:].T
    other = ~np.isclose(data.area_px, width * height, rtol=1e-3, atol=0.5) & ~data.crowd & (width > 0) & (height > 0)
    if other.any():
        remarks.append(f"{split.name}: areas (and masks) of {int(other.sum())} objects are not kept, only their boxes")
    return remarks


def lost_of_source(split: Split) -> list[str]:
    """A line about what the files of a split say and our arrays do not hold, whatever it is written as."""
    data, text = split.annotations, ""
    if split.format == "voc":
        text = "difficult, truncated and pose of VOC are not kept"
    elif split.format == "kitti":
        text = "truncation, occlusion and boxes in three dimensions of KITTI are not kept"
    elif split.format == "crowdhuman":
        text = "visible boxes and head boxes of CrowdHuman are not kept, only the full bodies"
    elif split.format == "coco" and not Path(data.place).is_file():
        text = "masks and other fields than boxes are not kept, because it comes from several files"
    elif split.format == "yolo" and _has_polygons(split):
        text = "polygons are written as the boxes around them"
    return [f"{split.name}: {text}"] if text else []


def _has_polygons(split: Split) -> bool:
    files = label_files([split.path(index).absolute() for index in range(len(split.annotations))])
    lines = (line for file in files if file.is_file() for line in file.read_text(errors="replace").splitlines())
    return any(len(line.split()) > 6 for line in lines)


def inside_boxes(split: Split) -> tuple[Split, list[str]]:
    """A split whose boxes lie in their images, for formats that allow no others."""
    data = split.annotations
    corners = clipped_corners(data.boxes_xywh_px, split.sizes_of_boxes)
    keep = has_area(corners)
    cut = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    changed = keep & (np.abs(cut - data.boxes_xywh_px) > 1e-6).any(axis=1)
    boxes = np.where(changed[:, None], cut, data.boxes_xywh_px)
    remarks = []
    if not keep.all():
        remarks.append(f"{split.name}: {int((~keep).sum())} boxes that cover nothing of their image are left out")
    if changed.any():
        remarks.append(f"{split.name}: {int(changed.sum())} boxes that reach out of their image are cut to it")
    return replace(split, annotations=keep_rows(replace(data, boxes_xywh_px=boxes), keep)), remarks


def plain(value: float) -> int | float:
    """A number as people write it: whole where it is whole."""
    number = float(value)
    return int(number) if number.is_integer() else number

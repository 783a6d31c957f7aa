# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a corrected copy of a data set holds, what was changed for it, and what it lost. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..core.errors import DataError
from ..data.dataset.annotations import clipped_corners
from ..data.dataset.problems import Losses
from .boxes import EDGE_PX, box_kinds, repeated_rows
from .edit import keep_rows, merge_images, with_one_class_list
from .findings import KINDS, Finding, Split
from .pictures import sizes_that_fit
from .pixels import FilePixels

_DROPPED_IMAGES = ("missing image", "unreadable image", "image in two splits")
_IN_DOUBT = ("normalised boxes", "some normalised boxes", "other box format", "some boxes as corners")
"""What makes boxes other ones than they were read as: whatever is cut or left out then may be a good object."""
_SAID = ("bad annotation id", "bad class", "wrong area", "rotated box")
"""Kept entries that are not simply put right."""
_DROPPED_BOXES = ("inverted box", "empty box", "box outside")


@dataclass(frozen=True)
class Toll:
    """What the copy of one split lost. What is there once more (a repeated box or image) is not lost."""

    split: str
    images: int
    """In the source."""
    boxes: int
    """In the source."""
    losses: Losses
    doubt: str = ""
    """Why the boxes may be others than they were read as."""

    @property
    def share(self) -> float:
        """The largest of three: boxes left out, images left out, images that lose all their boxes; 1 in doubt."""
        if self.doubt:
            return 1.0
        pairs = [
            (self.losses.boxes.total(), self.boxes),
            (self.losses.images.total(), self.images),
            (self.losses.emptied, self.images),
        ]
        return max(lost / max(whole, 1) for lost, whole in pairs)

    def __str__(self) -> str:
        parts = [
            f"{sum(counts.values()):,} of {whole:,} {noun} left out ({_reasons(counts)})"
            for counts, whole, noun in (
                (self.losses.boxes, self.boxes, "boxes"),
                (self.losses.images, self.images, "images"),
            )
            if sum(counts.values())
        ]
        if self.losses.emptied:
            parts.append(f"{self.losses.emptied:,} of {self.images:,} images lose all their boxes")
        if self.doubt:
            parts.append(f"all boxes are in doubt ({self.doubt})")
        return f"{self.split}: {'; '.join(parts) or 'no box is left out'}"


def _reasons(counts: Mapping[str, int]) -> str:
    ordered = sorted((item for item in counts.items() if item[1]), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


class TooMuchLost(DataError):
    """A copy would lack more of a data set than was allowed."""


class Corrected(NamedTuple):
    """A data set with everything put right that can be."""

    splits: list[Split]
    """Without those that have no image left."""
    changes: list[str]
    """A line for every change."""
    tolls: list[Toll]
    """One per split of the source."""

    def check_losses(self, allowed: float) -> None:
        """See that not too much is lost.

        Args:
            allowed: share of the boxes, and of the images, of each split that may be left out.

        Raises:
            TooMuchLost: more is, or no box is left of some.
        """
        if not self.splits:
            raise TooMuchLost("nothing usable would be left of the data set: nothing is written")
        if any(toll.boxes for toll in self.tolls) and not any(len(split.annotations.ids) for split in self.splits):
            raise TooMuchLost("no box would be left: nothing is written; see above why each is left out")
        worst = max(self.tolls, key=lambda toll: toll.share)
        if worst.share > allowed:
            raise TooMuchLost(
                f"{worst}: {worst.share:.1%} is more than --allow-loss {allowed:g}, so nothing is written: mend what "
                "is listed above, or allow it"
            )


def corrected(splits: Sequence[Split], findings: Sequence[Finding], pixels: Mapping[Path, FilePixels]) -> Corrected:
    """The splits with everything put right that can be.

    Args:
        findings: of ``check_with`` for these splits.
        pixels: the image files.
    """
    changes, tolls, result = [], [], []
    for split in splits:
        for problem in split.problems:
            done = KINDS[problem.kind].fix if problem.kind in _SAID else "put right" if problem.kept else "left out"
            changes.append(f"{done}: {problem}")
        own = [finding for finding in findings if finding.split == split.name]
        losses = deepcopy(split.losses)
        images_before = len(split.annotations) + losses.images.total()
        boxes_before = len(split.annotations.ids) + losses.boxes.total()
        changes += _renumbered(own)
        for orphan in [finding for finding in own if finding.kind == "label without image"]:
            boxes = sum(bool(line.strip()) for line in Path(orphan.place).read_text(errors="replace").splitlines())
            losses.add(orphan.kind, boxes=boxes, images=1)
            images_before, boxes_before = images_before + 1, boxes_before + boxes
        images, done_to_images = _correct_images(split, own, pixels, losses)
        boxes_too, done_to_boxes = _correct_boxes(images, losses)
        changes += [*done_to_images, *done_to_boxes]
        doubt = next((finding.text for finding in own if finding.kind in _IN_DOUBT), "")
        tolls.append(Toll(split.name, images_before, boxes_before, losses, doubt))
        if len(boxes_too.annotations):
            result.append(replace(boxes_too, problems=(), losses=Losses()))
        else:
            changes.append(f"left out: split {split.name}: no image of it is left")
    if not result:
        return Corrected([], changes, tolls)
    result, remarks = with_one_class_list(result)
    return Corrected(result, [*changes, *remarks], tolls)


def _renumbered(findings: Sequence[Finding]) -> list[str]:
    again = [finding for finding in findings if finding.kind == "duplicate annotation id"]
    return [f"{KINDS[finding.kind].fix}: {finding.place}: {finding.text}" for finding in again]


def _correct_images(
    split: Split, findings: Sequence[Finding], pixels: Mapping[Path, FilePixels], losses: Losses
) -> tuple[Split, list[str]]:
    """Without entries that cannot be used; sizes as the files have them; the boxes of one file in one entry."""
    data, changes = split.annotations, []
    sizes, counts, dropped = data.sizes.copy(), np.diff(data.offsets), set[int]()

    def drop(index: int, reason: str, text: str) -> None:
        dropped.add(index)
        losses.add(reason, images=1, boxes=int(counts[index]))
        changes.append(text)

    for finding in findings:
        if finding.index is None or finding.index in dropped:
            continue
        boxes = int(counts[finding.index])
        if finding.kind in _DROPPED_IMAGES:
            text = f"left out with its {boxes} boxes: {finding.place}: {finding.kind}: {finding.text}"
            drop(finding.index, finding.kind, text)
        elif finding.kind == "wrong size":
            size = sizes_that_fit(split, pixels[split.path(finding.index)])[0]
            if _all_inside(split, finding.index, size):
                sizes[finding.index] = size
                changes.append(f"size corrected (all {boxes} boxes fit): {finding.place}: {finding.text}")
            else:
                text = f"left out: {finding.place}: {finding.text}, and its {boxes} boxes do not fit the file"
                drop(finding.index, finding.kind, text)
    into = _repeated_images(split, sizes, dropped, pixels)
    for finding in findings:
        if finding.kind == "duplicate image" and finding.index in into:
            index = finding.index
            boxes = int(counts[index])
            first = data.file_names[into[index]]
            changes.append(f"left out, its {boxes} boxes go to {first}: {finding.place}: {finding.text}")
    merged = merge_images(replace(data, sizes=sizes), into)
    kept = np.array([index for index in range(len(data)) if index not in dropped | into.keys()], dtype=np.int64)
    return replace(split, annotations=merged.take(kept)), changes


def _repeated_images(
    split: Split, sizes: np.ndarray, dropped: set[int], pixels: Mapping[Path, FilePixels]
) -> dict[int, int]:
    """By position of an entry, that of an earlier one of the same bytes and size."""
    first: dict[tuple[bytes, ...], int] = {}
    into = {}
    for index in range(len(sizes)):
        if index not in dropped:
            key = (pixels[split.path(index)].digest, sizes[index].tobytes())
            other = first.setdefault(key, index)
            if other != index:
                into[index] = other
    return into


def _all_inside(split: Split, index: int, size: tuple[int, int]) -> bool:
    x, y, width, height = split.annotations.boxes_xywh_px[split.annotations.rows(index)].T
    edges = [x, y, size[1] - x - width, size[0] - y - height]
    return all(bool((edge >= -EDGE_PX).all()) for edge in edges)


def _correct_boxes(split: Split, losses: Losses) -> tuple[Split, list[str]]:
    """Without boxes that cover nothing or repeat another; the others cut to their image."""
    data, kinds = split.annotations, box_kinds(split)
    owners = split.owners
    keep, changes = ~np.isin(kinds, _DROPPED_BOXES), []
    boxes, area = data.boxes_xywh_px.copy(), data.area_px.copy()
    for row in np.flatnonzero(~keep):
        place = split.place_of(int(owners[row]), int(row))
        losses.add(str(kinds[row]), boxes=1)
        changes.append(f"box left out: {place}: {kinds[row]} {_numbers(boxes[row])}")
    before, after = (np.bincount(some, minlength=len(data)) for some in (owners, owners[keep]))
    losses.add("", emptied=int(np.count_nonzero((before > 0) & (after == 0))))
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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO JSON to flat arrays, read piece by piece and checked completely when it is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..label_space import MSCOCO, LabelSpace
from .annotations import Annotations
from .areas import sound_areas
from .coco_categories import categories_space, warn_of_groups, warn_of_other_names
from .coco_fields import (
    LARGEST,
    Entry,
    ImageIds,
    are_int64,
    box_numbers,
    entry_objects,
    finite_number,
    fits_int64,
    flag,
    is_box,
    is_rotated,
    report_rotated,
    short,
    whole_number,
    whole_numbers,
)
from .json_stream import read_lists
from .problems import Problems

logger = logging.getLogger(__name__)

UNKNOWN_SIZE = (0, 0)
"""Of an image whose entry has none, where problems are collected: whoever knows the folder reads it from the file."""


def parse_coco(
    path: str | Path,
    *,
    remap_mscoco_category: bool = False,
    classes: Sequence[str] | None = None,
    crowd_keys: Sequence[str] = ("iscrowd",),
    problems: Problems | None = None,
) -> Annotations:
    """Open a COCO detection file.

    Args:
        path: the JSON file.
        remap_mscoco_category: use COCO's 80 classes, also where the file lists fewer.
        classes: class names in the order that labels shall have; categories that it leaves out must have no boxes.
            None: all categories in the order of the ids.
        crowd_keys: an annotation with one of these keys set is a region that is neither a target nor counted.
        problems: where to report what is wrong with entries; None raises at once. A file that is no COCO JSON at all
            raises in any case: there is nothing to go on with.

    Raises:
        DataError: anything in the file that training or evaluation would trip over later.
    """
    place = str(path)
    problems = problems or Problems()
    numbers = ImageIds()
    images, objects = _Images(place, problems, numbers), _Objects(place, problems, tuple(crowd_keys), numbers)
    categories: list[Any] = []
    receivers = {
        "images": images.receive,
        "annotations": objects.receive,
        "categories": lambda batch, _: categories.extend(batch),
    }
    read_lists(path, receivers, skip="segmentation")
    space = categories_space(categories, place, remap_mscoco_category, classes, problems)
    if remap_mscoco_category:
        warn_of_other_names(LabelSpace.from_coco({"categories": categories}, place, Problems(collect=True)), place)
    report_rotated(objects.rotated, place, problems)
    if not images.file_names:
        problems.report("missing image", place, "the list of images is empty: nothing to train or evaluate on")
    found = objects.annotations(space, images)
    if not remap_mscoco_category:
        warn_of_groups(categories, found)
    return found


class _Images:
    """Receives image entries."""

    def __init__(self, place: str, problems: Problems, numbers: ImageIds) -> None:
        self.place, self.problems, self.numbers = place, problems, numbers
        self.ids: list[NDArray[np.int64]] = []
        self.sizes: list[tuple[int, int]] = []
        self.file_names: list[str] = []
        self.reported: dict[int, str] = {}
        """Ids of entries that were left out, with the kind of problem: their boxes go with them."""

    def receive(self, batch: list[Any], first: int) -> None:
        images = entry_objects(batch, first, "images", self.place, self.problems)
        keep = np.ones(len(images), dtype=bool)
        ids = whole_numbers(images, keep, "id", first, self.place, self.problems, self.numbers.number)
        for index in np.flatnonzero(keep).tolist():
            image = images[index]
            name, size = image.get("file_name"), (image.get("height"), image.get("width"))
            if not isinstance(name, str) or not name:
                text = f"image {ids[index]} has no file_name: every image entry needs one"
                self.problems.report("bad entry", self.place, text, images=1)
                self.reported[int(ids[index])] = "bad entry"
                keep[index] = False
                continue
            if not all(fits_int64(side) and side > 0 for side in size):
                shown = f"image {ids[index]} ({name}) has height, width {short(size)}"
                text = (
                    f"{shown}: give whole numbers above 0, in pixels (tools/dataset.py check --fix writes a copy with "
                    "those of the files)"
                )
                sides = [whole_number(side) or 0 for side in size]
                if min(sides) > 0:
                    self.problems.mend("odd entry", self.place, text)
                    size = (sides[0], sides[1])
                else:
                    self.problems.report("bad size", self.place, text, kept=True)
                    size = UNKNOWN_SIZE
            self.file_names.append(name)
            self.sizes.append(size)
        self.ids.append(ids[keep])

    def unique(self) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
        """Ids (n,), sizes (n, 2) as (height, width), file names; of entries with one id and one file the first."""
        ids = np.concatenate([np.zeros(0, np.int64), *self.ids])
        sizes = np.array(self.sizes, dtype=np.int64).reshape(-1, 2)
        unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
        wrong, by_id, ends = [], np.argsort(ids, kind="stable"), np.cumsum(counts)
        for which in np.flatnonzero(counts > 1):
            number, count = int(unique[which]), int(counts[which])
            names = [self.file_names[index] for index in by_id[ends[which] - count : ends[which]]]
            shown = ", ".join(names[:5])
            text = f"image id {self.numbers.shown(number)} occurs {count} times ({shown}): ids must be unique"
            same = len(set(names)) == 1
            self.problems.report("duplicate id", self.place, text, kept=same, images=0 if same else count)
            if not same:  # nobody can say whose the boxes are
                wrong.append(number)
                self.reported[number] = "duplicate id"
        kept = np.sort(first[~np.isin(unique, wrong)])
        return ids[kept], sizes[kept], tuple(self.file_names[index] for index in kept.tolist())


class _Objects:
    """Receives annotation entries; keeps numbers only."""

    def __init__(self, place: str, problems: Problems, crowd_keys: tuple[str, ...], numbers: ImageIds) -> None:
        self.place, self.problems, self.crowd_keys, self.numbers = place, problems, crowd_keys, numbers
        self.columns: list[tuple[NDArray[Any], ...]] = []
        self.largest, self.unnumbered = 0, 0
        self.rotated: list[Any] = []
        """Ids of boxes that belong to rotated rectangles."""
        self.left_out: list[NDArray[np.int64]] = []
        """Image ids of entries that were left out."""

    def receive(self, batch: list[Any], first: int) -> None:
        entries = entry_objects(batch, first, "annotations", self.place, self.problems)
        keep = np.ones(len(entries), dtype=bool)
        ids, missing = self._ids(entries, first)
        owners = whole_numbers(
            entries, keep, "image_id", first, self.place, self.problems, self.numbers.number, boxes=1
        )
        has_owner = keep.copy()
        crowd = self._crowd(entries, keep, first)
        categories = self._categories(entries, keep, ids)
        boxes = self._boxes(entries, keep, ids)
        areas = self._areas(entries, ids)
        self._count_rotated(entries)
        self.left_out.append(owners[has_owner & ~keep])
        self.columns.append(tuple(one[keep] for one in (ids, missing, owners, categories, boxes, areas, crowd)))

    def annotations(self, space: LabelSpace, images: _Images) -> Annotations:
        """The entries sorted by image, with labels instead of category ids."""
        image_ids, sizes, names = images.unique()
        empty = tuple(np.zeros(shape, kind) for shape, kind in _EMPTY)
        columns = (np.concatenate(one) for one in zip(empty, *self.columns))
        ids, missing, wanted, categories, boxes, areas, crowd = columns
        self.columns = []
        owners, known_image = _positions(wanted, image_ids)
        reported = ~known_image & np.isin(wanted, list(images.reported))
        for number in wanted[reported].tolist():
            self.problems.losses.add(images.reported[number], boxes=1)
        self._unknown_images(ids, wanted, ~known_image & ~reported)
        labels, known_class = _positions(categories, np.array(space.category_ids))
        for row in np.flatnonzero(~known_class):
            self._unknown_category(ids[row], int(categories[row]), space, boxes=int(known_image[row]))
        keep = known_image & known_class
        order = np.flatnonzero(keep)[np.argsort(owners[keep], kind="stable")]
        counts = np.bincount(owners[order], minlength=len(image_ids))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        areas = self._sound(areas, boxes, ids)
        touched = np.isin(image_ids, np.concatenate([wanted[~keep], *self.left_out]))
        self.problems.losses.add("", emptied=int(np.count_nonzero(touched & (counts == 0))))
        ids = np.where(missing > 0, self.largest + missing, ids)
        return Annotations(
            space, self.place, names, self.numbers.numbered(image_ids), sizes, offsets,
            boxes[order], labels[order], areas[order], crowd[order], ids[order],
        )  # fmt: skip

    def _ids(self, entries: Sequence[Entry], first: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(A,) the ids, 0 where there is none that can be used; and those numbered from 1, 0 for the others.

        Nothing depends on these numbers but how a message calls an annotation.
        """
        values: list[Any] = [entry.get("id") for entry in entries]
        missing = np.zeros(len(values), dtype=np.int64)
        if not are_int64(values):
            for index, value in enumerate(values):
                if fits_int64(value):
                    continue
                values[index] = number = whole_number(value)
                if number is None:
                    values[index] = 0
                    self.unnumbered += 1
                    missing[index] = self.unnumbered
                if value is not None:  # none at all is as good as any
                    text = f"entry {first + index} has id {short(value)}, not a whole number: it is given one"
                    self.problems.mend("bad annotation id", self.place, text)
        ids = np.array(values, dtype=np.int64)
        self.largest = max(self.largest, int(ids.max(initial=0)))
        return ids, missing

    def _unknown_images(self, ids: NDArray[np.int64], wanted: NDArray[np.int64], foreign: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(foreign)
        _, which, counts = np.unique(wanted[rows], return_inverse=True, return_counts=True)
        for row, count in zip(rows.tolist(), counts[which].tolist()):
            text = (
                f"annotation {ids[row]} has image_id {self.numbers.shown(int(wanted[row]))}, which no image has "
                f"({count} such annotations): add the image or remove them"
            )
            self.problems.report("unknown image", self.place, text, boxes=1)

    def _unknown_category(self, number: int, category: int, space: LabelSpace, boxes: int) -> None:
        hint = "; set remap_mscoco_category: False for own classes" if space is MSCOCO else ""
        self.problems.report(
            "unknown category",
            self.place,
            f"annotation {number} has category_id {category}, not one of the {len(space)} categories: "
            f"{space.describe()}{hint}",
            boxes=boxes,
        )

    def _crowd(self, entries: Sequence[Entry], keep: NDArray[np.bool_], first: int) -> NDArray[np.bool_]:
        crowd = np.zeros(len(entries), dtype=bool)
        for key in self.crowd_keys:
            values: list[Any] = [entry.get(key, 0) for entry in entries]
            if are_int64(values):
                crowd |= np.array(values, dtype=np.int64) != 0
                continue
            for index in np.flatnonzero(keep).tolist():
                if values[index] is None:
                    text = f"entry {first + index} has {key}: null: read as 0"
                    self.problems.mend("odd entry", self.place, text)
            values = [0 if value is None else value for value in values]
            marked = whole_numbers(entries, keep, key, first, self.place, self.problems, flag, values=values, boxes=1)
            crowd |= marked.astype(bool)
        return crowd

    def _categories(
        self, entries: Sequence[Entry], keep: NDArray[np.bool_], ids: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        values: list[Any] = [entry.get("category_id") for entry in entries]
        if are_int64(values):
            return np.array(values, dtype=np.int64)
        values = [int(one) if type(one) is float and one.is_integer() else one for one in values]  # some write 2.0
        mended = self._check(
            values, keep, ids, fits_int64, whole_number, "unknown category", "category_id", "not a whole number"
        )
        return np.array([0 if one is None else one for one in mended], dtype=np.int64)

    def _boxes(self, entries: Sequence[Entry], keep: NDArray[np.bool_], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(A, 4)"""
        values = [entry.get("bbox") for entry in entries]
        try:
            boxes = np.array(values)
        except ValueError:  # rows of unequal length
            boxes = np.array(None)
        if boxes.dtype.kind in "iuf" and boxes.shape == (len(values), 4) and (np.abs(boxes) <= LARGEST).all():
            return boxes.astype(np.float64)
        mended = self._check(
            values, keep, ids, is_box, box_numbers, "bad box", "bbox", "expected 4 finite numbers x, y, width, height"
        )
        return np.array([[0] * 4 if one is None else one for one in mended], dtype=np.float64).reshape(-1, 4)

    def _areas(self, entries: Sequence[Entry], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """(A,) as the file has them, NaN where it gives none that can be read."""

        def fits(value: object) -> bool:
            return value is None or (type(value) is float and value == value) or fits_int64(value)

        values: list[Any] = [entry.get("area") for entry in entries]
        if set(map(type, values)) == {float} and not np.isnan(areas := np.array(values)).any():
            return areas
        always = np.ones(len(values), dtype=bool)  # no box is left out for its area
        expected = "expected a number of pixels, or no area"
        found = self._check(values, always, ids, fits, finite_number, "wrong area", "area", expected, needed=False)
        return np.array([np.nan if one is None else one for one in found], dtype=np.float64)

    def _sound(
        self, areas: NDArray[np.float64], boxes: NDArray[np.float64], ids: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(A,) the areas, the box's own where there is none or the file's cannot be true, which is said."""
        sound, reasons = sound_areas(areas, boxes)
        for reason, rows in reasons.items():
            first = np.flatnonzero(rows)[0]
            width, height = boxes[first, 2:].tolist()
            text = (
                f"{np.count_nonzero(rows)} of {len(areas)} areas are {reason}, for example {areas[first]:g} of "
                f"annotation {ids[first]}, whose box is {width:g} x {height:g}: the boxes' own are used in their place"
            )
            self.problems.mend("wrong area", self.place, text)
        return sound

    def _count_rotated(self, entries: Sequence[Entry]) -> None:
        """CVAT writes the rectangle before its rotation as bbox, and the rotation beside it."""
        for entry in entries:
            attributes = entry.get("attributes")
            degrees = attributes.get("rotation") if attributes and type(attributes) is dict else None
            if degrees and is_rotated(degrees):
                self.rotated.append(entry.get("id"))

    def _check(
        self,
        values: Sequence[Any],
        keep: NDArray[np.bool_],
        ids: NDArray[np.int64],
        fits: Callable[[object], bool],
        read: Callable[[object], Any],
        kind: str,
        key: str,
        expected: str,
        *,
        needed: bool = True,
    ) -> list[Any]:
        """The values; those that do not fit as ``read`` understands them, else None, and where needed not kept."""
        mended = list(values)
        for index, value in enumerate(values):
            if not fits(value):
                mended[index] = read(value)
                kept = not needed or mended[index] is not None
                text = f"annotation {ids[index]} has {key} {short(value)}: {expected}"
                if kept:
                    self.problems.mend(kind if mended[index] is None else "odd entry", self.place, text)
                else:
                    self.problems.report(kind, self.place, text, boxes=int(keep[index]))
                keep[index] &= kept
        return mended


_EMPTY: tuple[tuple[Any, type], ...] = (
    (0, np.int64), (0, np.int64), (0, np.int64), (0, np.int64), ((0, 4), np.float64), (0, np.float64), (0, np.bool_)
)  # fmt: skip
"""Shapes and types of the columns that ``_Objects`` collects."""


def _positions(wanted: NDArray[Any], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position (A,) of each wanted number among ``ids`` (n,), and whether it is there."""
    if not ids.size:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(ids)
    nearest = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    positions: NDArray[np.int64] = order[nearest]
    return positions, ids[positions] == wanted

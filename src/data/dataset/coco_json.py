# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO JSON to flat arrays, read piece by piece and checked completely when it is opened."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.class_rows import squeezed
from ..label_space import MSCOCO, LabelSpace
from .annotations import Annotations
from .json_stream import read_list, read_lists
from .problems import Problems

logger = logging.getLogger(__name__)

_INT64 = 2**63
Entry = Mapping[str, Any]


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
        classes: all class names in the order that labels shall have; None: the order of the ids.
        crowd_keys: an annotation with one of these keys set is a region that is neither a target nor counted.
        problems: where to report what is wrong with entries; None raises at once. A file that is no COCO JSON at all
            raises in any case: there is nothing to go on with.

    Raises:
        DataError: anything in the file that training or evaluation would trip over later.
    """
    place = str(path)
    problems = problems or Problems()
    images, objects = _Images(place, problems), _Objects(place, problems, tuple(crowd_keys))
    categories: list[Any] = []
    receivers = {
        "images": images.receive,
        "annotations": objects.receive,
        "categories": lambda batch, _: categories.extend(batch),
    }
    read_lists(path, receivers, skip="segmentation")
    space = _space(categories, place, remap_mscoco_category, classes, problems)
    if remap_mscoco_category:
        _warn_of_other_names(LabelSpace.from_coco({"categories": categories}, place, Problems(collect=True)), place)
    if not images.file_names:
        problems.report("missing image", place, "the list of images is empty: nothing to train or evaluate on")
    if not objects.count:
        logger.warning("%s: the list of annotations is empty: no image of it has a box", place)
    return objects.annotations(space, images)


def coco_label_space(
    path: str | Path, *, remap_mscoco_category: bool = False, classes: Sequence[str] | None = None
) -> LabelSpace:
    """The classes of a COCO file alone: see ``parse_coco``."""
    return _space(read_list(path, "categories"), str(path), remap_mscoco_category, classes, Problems())


def _space(
    categories: list[Any], place: str, remap: bool, classes: Sequence[str] | None, problems: Problems
) -> LabelSpace:
    space = LabelSpace.from_coco({"categories": categories}, place, problems)
    if remap:
        foreign = [
            f"{one}={name}" for one, name in zip(space.category_ids, space.names) if one not in MSCOCO.category_ids
        ]
        if foreign:
            problems.report(
                "bad class",
                place,
                f"categories {', '.join(foreign[:5])} are not among COCO's 80: "
                "set remap_mscoco_category: False for a data set with classes of its own",
            )
        space = MSCOCO
    return space if classes is None else space.in_order(classes, place, problems)


def _warn_of_other_names(own: LabelSpace, place: str) -> None:
    """Say where a file with COCO's ids has other classes: a forgotten setting, which would misname them everywhere."""
    coco = dict(zip(MSCOCO.category_ids, MSCOCO.names))
    named = [(one, name, coco[one]) for one, name in zip(own.category_ids, own.names) if one in coco]
    other = [f"{one}={name} is {theirs}" for one, name, theirs in named if squeezed(name) != squeezed(theirs)]
    if 2 * len(other) > len(named):  # single names are spelled in many ways: motorbike, tvmonitor
        logger.warning(
            "%s: with remap_mscoco_category: True the classes bear COCO's names, but those of this file are others "
            "(%s): if they are classes of your own, set remap_mscoco_category: False",
            place, ", ".join([*other[:5], *(["..."] if len(other) > 5 else [])]),
        )  # fmt: skip


class _Images:
    """Receives image entries."""

    def __init__(self, place: str, problems: Problems) -> None:
        self.place, self.problems = place, problems
        self.ids: list[NDArray[np.int64]] = []
        self.sizes: list[tuple[int, int]] = []
        self.file_names: list[str] = []
        self.reported: list[int] = []
        """Ids of entries that were reported and left out: their boxes go with them."""

    def receive(self, batch: list[Any], first: int) -> None:
        images = _objects(batch, first, "images", self.place, self.problems)
        ids, keep = _numbers(images, "id", first, self.place, self.problems)
        for index in np.flatnonzero(keep).tolist():
            image = images[index]
            name, size = image.get("file_name"), (image.get("height"), image.get("width"))
            if not isinstance(name, str) or not name:
                text = f"image {ids[index]} has no file_name: every image entry needs one"
                self._leave_out(ids, keep, index, "bad entry", text)
            elif not all(type(side) is int and 0 < side < _INT64 for side in size):
                shown = f"image {ids[index]} ({name}) has height, width {_short(size)}"
                text = f"{shown}: give whole numbers above 0, in pixels"
                self._leave_out(ids, keep, index, "bad size", text)
            else:
                self.file_names.append(name)
                self.sizes.append(size)
        self.ids.append(ids[keep])

    def _leave_out(self, ids: NDArray[np.int64], keep: NDArray[np.bool_], index: int, kind: str, text: str) -> None:
        self.problems.report(kind, self.place, text)
        self.reported.append(int(ids[index]))
        keep[index] = False

    def unique(self) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
        """Ids (n,), sizes (n, 2) as (height, width), file names; of images with one id the first."""
        ids = np.concatenate([np.zeros(0, np.int64), *self.ids])
        sizes = np.array(self.sizes, dtype=np.int64).reshape(-1, 2)
        unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
        for number, count in zip(unique[counts > 1], counts[counts > 1]):
            names = ", ".join(self.file_names[index] for index in np.flatnonzero(ids == number)[:5])
            text = f"image id {number} occurs {count} times ({names}): ids must be unique"
            self.problems.report("duplicate id", self.place, text)
        kept = np.sort(first)
        return ids[kept], sizes[kept], tuple(self.file_names[index] for index in kept.tolist())


class _Objects:
    """Receives annotation entries; keeps numbers only."""

    def __init__(self, place: str, problems: Problems, crowd_keys: tuple[str, ...]) -> None:
        self.place, self.problems, self.crowd_keys = place, problems, crowd_keys
        self.count = 0
        self.columns: list[tuple[NDArray[Any], ...]] = []

    def receive(self, batch: list[Any], first: int) -> None:
        entries = _objects(batch, first, "annotations", self.place, self.problems)
        ids, keep = _numbers(entries, "id", first, self.place, self.problems, default=0)
        owners, good = _numbers(entries, "image_id", first, self.place, self.problems)
        keep &= good
        crowd = np.zeros(len(entries), dtype=bool)
        for key in self.crowd_keys:
            marked, good = _numbers(entries, key, first, self.place, self.problems, default=0)
            crowd, keep = crowd | marked.astype(bool), keep & good
        categories, good = self._categories(entries, ids)
        keep &= good
        boxes, good = self._boxes(entries, ids)
        keep &= good
        areas, good = self._areas(entries, boxes, ids)
        keep &= good
        self.count += len(batch)
        self.columns.append(tuple(one[keep] for one in (ids, owners, categories, boxes, areas, crowd)))

    def annotations(self, space: LabelSpace, images: _Images) -> Annotations:
        """The entries sorted by image, with labels instead of category ids."""
        image_ids, sizes, names = images.unique()
        empty = tuple(np.zeros(shape, kind) for shape, kind in _EMPTY)
        ids, wanted, categories, boxes, areas, crowd = (np.concatenate(one) for one in zip(empty, *self.columns))
        self.columns = []
        owners, known_image = _positions(wanted, image_ids)
        self._unknown_images(ids, wanted, ~known_image & ~np.isin(wanted, images.reported))
        labels, known_class = _positions(categories, np.array(space.category_ids))
        for row in np.flatnonzero(~known_class):
            self._unknown_category(ids[row], int(categories[row]), space)
        keep = known_image & known_class
        order = np.flatnonzero(keep)[np.argsort(owners[keep], kind="stable")]
        counts = np.bincount(owners[order], minlength=len(image_ids))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Annotations(
            space, self.place, names, image_ids, sizes, offsets,
            boxes[order], labels[order], areas[order], crowd[order], ids[order],
        )  # fmt: skip

    def _unknown_images(self, ids: NDArray[np.int64], wanted: NDArray[np.int64], foreign: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(foreign)
        _, which, counts = np.unique(wanted[rows], return_inverse=True, return_counts=True)
        for row, count in zip(rows.tolist(), counts[which].tolist()):
            text = (
                f"annotation {ids[row]} has image_id {wanted[row]}, which no image has "
                f"({count} such annotations): add the image or remove them"
            )
            self.problems.report("unknown image", self.place, text)

    def _unknown_category(self, number: int, category: int, space: LabelSpace) -> None:
        hint = "; set remap_mscoco_category: False for own classes" if space is MSCOCO else ""
        self.problems.report(
            "unknown category",
            self.place,
            f"annotation {number} has category_id {category}, not one of the {len(space)} categories: "
            f"{space.describe()}{hint}",
        )

    def _categories(self, entries: Sequence[Entry], ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        def fits(value: object) -> bool:  # some tools write 2.0
            return _fits_int64(int(value) if type(value) is float and value.is_integer() else value)

        values: list[Any] = [entry.get("category_id") for entry in entries]
        if _are_int64(values):
            return np.array(values, dtype=np.int64), np.ones(len(values), dtype=bool)
        keep = self._check(values, ids, fits, "unknown category", "category_id", "not a whole number")
        return np.array([int(value) if ok else 0 for value, ok in zip(values, keep.tolist())], dtype=np.int64), keep

    def _boxes(self, entries: Sequence[Entry], ids: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(A, 4); numbers and nothing else, so text that looks like a number is refused."""
        values = [entry.get("bbox") for entry in entries]
        try:
            boxes = np.array(values)
        except ValueError:  # rows of unequal length
            boxes = np.array(None)
        if boxes.dtype.kind in "iuf" and boxes.shape == (len(values), 4) and np.isfinite(boxes).all():
            return boxes.astype(np.float64), np.ones(len(values), dtype=bool)
        keep = self._check(values, ids, _is_box, "bad box", "bbox", "expected 4 finite numbers x, y, width, height")
        boxes = np.array([value if ok else [0] * 4 for value, ok in zip(values, keep.tolist())], dtype=np.float64)
        return boxes.reshape(-1, 4), keep

    def _areas(
        self, entries: Sequence[Entry], boxes: NDArray[np.float64], ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(A,) the file's areas; the box's own where the file gives none."""

        def fits(value: object) -> bool:
            return value is None or type(value) is float or _fits_int64(value)

        values = [entry.get("area") for entry in entries]
        if set(map(type, values)) == {float}:
            given = np.array(values, dtype=np.float64)
            return np.where(np.isnan(given), boxes[:, 2] * boxes[:, 3], given), np.ones(len(values), dtype=bool)
        keep = self._check(values, ids, fits, "bad entry", "area", "expected a number of pixels, or no area")
        numbers = [np.nan if value is None or not ok else value for value, ok in zip(values, keep.tolist())]
        given = np.array(numbers, dtype=np.float64)
        return np.where(np.isnan(given), boxes[:, 2] * boxes[:, 3], given), keep

    def _check(
        self,
        values: Sequence[object],
        ids: NDArray[np.int64],
        fits: Callable[[object], bool],
        kind: str,
        key: str,
        expected: str,
    ) -> NDArray[np.bool_]:
        keep = np.array([fits(value) for value in values], dtype=bool)
        for index in np.flatnonzero(~keep).tolist():
            self.problems.report(
                kind, self.place, f"annotation {ids[index]} has {key} {_short(values[index])}: {expected}"
            )
        return keep


_EMPTY: tuple[tuple[Any, type], ...] = (
    (0, np.int64), (0, np.int64), (0, np.int64), ((0, 4), np.float64), (0, np.float64), (0, np.bool_)
)  # fmt: skip
"""Shapes and types of the columns that ``_Objects`` collects."""


def _objects(batch: list[Any], first: int, key: str, place: str, problems: Problems) -> list[Entry]:
    if set(map(type, batch)) == {dict}:
        return batch
    for index, entry in enumerate(batch, first):
        if type(entry) is not dict:
            text = f"{key}[{index}] is {_short(entry)}, not an object: not COCO detection JSON"
            problems.report("broken json", place, text)
    return [entry for entry in batch if type(entry) is dict]


def _numbers(
    entries: Sequence[Entry], key: str, first: int, place: str, problems: Problems, default: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """One whole number per entry, ``default`` where the key is absent; and which entries have one."""
    values = [entry.get(key, default) for entry in entries]
    keep = np.ones(len(values), dtype=bool)
    if _are_int64(values):
        return np.array(values, dtype=np.int64), keep  # the usual case, many times as fast
    for index, value in enumerate(values):
        if type(value) in (int, bool) and -_INT64 <= value < _INT64:
            continue
        which = f"entry {first + index} has {key} {_short(value)}"
        if type(value) in (int, bool):
            text = f"{which}, which does not fit into 64 bits: renumber"
        else:
            text = f"{which}, not a whole number: {_short(entries[index])}"
        problems.report("bad entry", place, text)
        values[index], keep[index] = 0, False
    return np.array(values, dtype=np.int64), keep


def _positions(wanted: NDArray[Any], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position (A,) of each wanted number among ``ids`` (n,), and whether it is there."""
    if not ids.size:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(ids)
    nearest = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    positions: NDArray[np.int64] = order[nearest]
    return positions, ids[positions] == wanted


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all((type(one) is float and math.isfinite(one)) or _fits_int64(one) for one in value)
    )


def _fits_int64(value: object) -> bool:
    return type(value) is int and -_INT64 <= value < _INT64


def _are_int64(values: Sequence[Any]) -> bool:
    """Whether there is nothing to object to in some whole numbers: many times as fast as one by one."""
    return set(map(type, values)) == {int} and -_INT64 <= min(values) <= max(values) < _INT64


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."

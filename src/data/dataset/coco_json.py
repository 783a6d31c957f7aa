# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO JSON to flat arrays, checked completely when it is opened.

Entries as they should be are decoded into ``Image`` and ``Box`` many at a time. What does not fit is read again, one by
one, by whoever knows in which other forms files have the same thing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import Flags, Floats, Ints
from ..label_space import MSCOCO, LabelSpace
from .annotations import Annotations
from .box_format import sound_areas
from .coco_fields import LARGEST, ImageIds, OddEntry, fits_int64, is_rotated, short, whole_number
from .json_lists import check_keys, load_all
from .problems import Problems

logger = logging.getLogger(__name__)

UNKNOWN_SIZE = (0, 0)
"""Of an image whose entry has none, where problems are collected: whoever knows the folder reads it from the file."""
_BATCH = 1_000
"""Entries that are objects at a time."""
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Pixels = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
_Flag = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
_NO_FLAG = -1
_COLON = ord(":")


class Image(msgspec.Struct, gc=False):
    """An entry of the list of images as it should be."""

    id: _Int64
    file_name: Annotated[str, msgspec.Meta(min_length=1)]
    height: _Pixels
    width: _Pixels


class _Mask(msgspec.Struct, gc=False):
    """A mask as run lengths, unread."""

    counts: msgspec.Raw
    size: msgspec.Raw


class _Attributes(msgspec.Struct, gc=False):
    """What CVAT writes beside a box."""

    rotation: float | None = None


class Box(msgspec.Struct, gc=False):
    """An entry of the list of annotations as it should be."""

    image_id: _Int64
    category_id: _Int64
    bbox: tuple[_Number, _Number, _Number, _Number]
    id: _Int64 | None = None
    area: float | None = None
    iscrowd: _Flag = _NO_FLAG
    isfake: _Flag = _NO_FLAG
    segmentation: list[msgspec.Raw] | _Mask | None = None
    attributes: _Attributes | None = None


_Entry = TypeVar("_Entry", Image, Box)


class _Collector(Protocol[_Entry]):
    """Takes the entries of one list."""

    place: str
    kind: type[_Entry]

    def receive(self, entries: Sequence[_Entry], /) -> int:
        """Keep what is needed of some entries; returns how many keys they have at least."""

    def mended(self, number: int, value: Any) -> _Entry | None:
        """What an entry in another form than it should have means; None, reported, where that is not clear."""


def read_entries(texts: Sequence[msgspec.Raw], key: str, collector: _Collector[_Entry]) -> None:
    """Hand the entries of a list to whoever collects them.

    Raises:
        DataError: an entry with a key twice, or that cannot be read.
    """
    decoder, place = msgspec.json.Decoder(collector.kind), collector.place
    for first in range(0, len(texts), _BATCH):
        batch = texts[first : first + _BATCH]
        joined = b"\n".join(batch)
        try:
            keys = collector.receive(decoder.decode_lines(joined))
            if np.count_nonzero(np.frombuffer(joined, np.uint8) == _COLON) > keys:
                check_keys(batch, key, place, first)
        except (msgspec.DecodeError, RecursionError):
            check_keys(batch, key, place, first)
            entries: list[_Entry] = []
            for number, text in enumerate(batch, first):
                try:
                    entries.append(decoder.decode(text))
                except (msgspec.DecodeError, RecursionError):
                    entry = collector.mended(number, *load_all([text], key, place, number))
                    entries += [entry] if entry is not None else []
            collector.receive(entries)


class ImageEntries:
    """Collects image entries."""

    kind = Image

    def __init__(self, place: str, problems: Problems, numbers: ImageIds) -> None:
        self.place, self.problems, self.numbers = place, problems, numbers
        self.ids: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.file_names: list[str] = []
        self.left_out: dict[int, str] = {}
        """Ids of entries that were left out, with the kind of problem: their boxes go with them."""

    def receive(self, images: Sequence[Image]) -> int:
        self.ids += [image.id for image in images]
        self.sizes += [(image.height, image.width) for image in images]
        self.file_names += [image.file_name for image in images]
        return 4 * len(images)

    def mended(self, number: int, value: Any) -> Image | None:
        entry = OddEntry.of(value, number, "images", self.place, self.problems)
        image_id = entry.whole("id", self.numbers.number) if entry else 0
        if entry is None or not entry.kept:
            return None
        name = entry.fields.get("file_name")
        size: tuple[Any, Any] = (entry.fields.get("height"), entry.fields.get("width"))
        if not isinstance(name, str) or not name:
            entry.leave_out("bad entry", f"image {image_id} has no file_name: every image entry needs one")
            self.left_out[image_id] = "bad entry"
            return None
        if all(fits_int64(side) and side > 0 for side in size):
            return Image(image_id, name, *size)
        text = (
            f"image {image_id} ({name}) has height, width {short(size)}: give whole numbers above 0, in pixels "
            "(isdfine data check --fix writes a copy with those of the files)"
        )
        height, width = (whole_number(side) or 0 for side in size)
        if min(height, width) > 0:
            self.problems.mend("odd entry", self.place, text)
            return Image(image_id, name, height, width)
        self.problems.report("bad size", self.place, text, kept=True)
        return Image(image_id, name, *UNKNOWN_SIZE)

    def unique(self) -> tuple[Ints, Ints, tuple[str, ...]]:
        """Ids (n,), sizes (n, 2) as (height, width), file names; of entries with one id and one file the first."""
        ids = np.array(self.ids, dtype=np.int64)
        sizes = np.array(self.sizes, dtype=np.int64).reshape(-1, 2)
        unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
        if len(unique) == len(ids):
            return ids, sizes, tuple(self.file_names)
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
                self.left_out[number] = "duplicate id"
        kept = np.sort(first[~np.isin(unique, wrong)])
        return ids[kept], sizes[kept], tuple(self.file_names[index] for index in kept.tolist())


class BoxEntries:
    """Collects annotation entries; keeps numbers only."""

    kind = Box

    def __init__(self, place: str, problems: Problems, crowd_keys: tuple[str, ...], numbers: ImageIds) -> None:
        self.place, self.problems, self.crowd_keys, self.numbers = place, problems, crowd_keys, numbers
        self.columns: list[tuple[NDArray[Any], ...]] = []
        self.rotated: list[Any] = []
        """Ids of boxes that belong to rotated rectangles."""
        self.left_out: list[int] = []
        """Image ids of entries that were left out."""

    def receive(self, boxes: Sequence[Box]) -> int:
        count = len(boxes)
        if not count:
            return 0
        owners, categories, corners, ids, areas, *flags, masks, attributes = zip(*map(msgspec.structs.astuple, boxes))
        crowd = np.zeros(count, dtype=bool)
        for key, values in zip(("iscrowd", "isfake"), flags):
            crowd |= (key in self.crowd_keys) & (np.array(values, dtype=np.int64) > 0)
        if attributes.count(None) < count:
            self.rotated += [box.id for box in boxes if box.attributes and is_rotated(box.attributes.rotation)]
        unnumbered = np.array([number is None for number in ids], dtype=bool)
        self.columns.append((
            np.array([number or 0 for number in ids] if unnumbered.any() else ids, dtype=np.int64),
            unnumbered,
            np.array(owners, dtype=np.int64),
            np.array(categories, dtype=np.int64),
            np.fromiter(chain.from_iterable(corners), np.float64, 4 * count).reshape(-1, 4),
            np.array(areas, dtype=np.float64),  # NaN for None
            crowd,
        ))  # fmt: skip
        absent = sum(values.count(None) for values in (ids, areas, masks)) + sum(v.count(_NO_FLAG) for v in flags)
        return 8 * count - absent + 2 * list(map(type, masks)).count(_Mask)

    def mended(self, number: int, value: Any) -> Box | None:
        entry = OddEntry.of(value, number, "annotations", self.place, self.problems)
        if entry is None:
            return None
        box_id = entry.annotation_id()
        image_id = entry.whole("image_id", self.numbers.number)
        has_image = entry.kept
        crowd = [entry.flag(key) for key in self.crowd_keys]
        category = entry.category_id()
        box = entry.box()
        area = entry.area()
        attributes = entry.fields.get("attributes")
        degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
        if degrees and is_rotated(degrees):
            self.rotated.append(entry.fields.get("id"))
        if entry.kept:
            return Box(image_id, category, box, box_id, area, iscrowd=int(any(crowd)))
        self.left_out += [image_id] if has_image else []
        return None

    def annotations(self, space: LabelSpace, images: ImageEntries) -> Annotations:
        """The entries sorted by image, with labels instead of category ids."""
        image_ids, sizes, names = images.unique()
        empty = tuple(np.zeros(shape, kind) for shape, kind in _EMPTY)
        columns = (np.concatenate(parts) for parts in zip(empty, *self.columns))
        ids, unnumbered, wanted, categories, boxes, areas, crowd = columns
        self.columns = []
        owners, known_image = _positions(wanted, image_ids)
        reported = ~known_image & np.isin(wanted, list(images.left_out))
        for number in wanted[reported].tolist():
            self.problems.losses.add(images.left_out[number], boxes=1)
        self._unknown_images(ids, wanted, ~known_image & ~reported)
        labels, known_class = _positions(categories, np.array(space.category_ids))
        for row in np.flatnonzero(~known_class):
            self._unknown_category(ids[row], int(categories[row]), space, boxes=int(known_image[row]))
        keep = known_image & known_class
        order = np.flatnonzero(keep)[np.argsort(owners[keep], kind="stable")]
        counts = np.bincount(owners[order], minlength=len(image_ids))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        areas = self._sound(areas, boxes, ids)
        touched = np.isin(image_ids, np.concatenate([wanted[~keep], np.array(self.left_out, dtype=np.int64)]))
        self.problems.losses.add("", emptied=int(np.count_nonzero(touched & (counts == 0))))
        ids = np.where(unnumbered, ids.max(initial=0) + np.cumsum(unnumbered), ids)
        return Annotations(
            space, self.place, names, self.numbers.numbered(image_ids), sizes, offsets,
            boxes[order], labels[order], areas[order], crowd[order], ids[order],
        )  # fmt: skip

    def _unknown_images(self, ids: Ints, wanted: Ints, foreign: Flags) -> None:
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

    def _sound(self, areas: Floats, boxes: Floats, ids: Ints) -> Floats:
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


_EMPTY: tuple[tuple[Any, type], ...] = (
    (0, np.int64), (0, np.bool_), (0, np.int64), (0, np.int64), ((0, 4), np.float64), (0, np.float64), (0, np.bool_)
)  # fmt: skip
"""Shapes and types of the columns that ``BoxEntries`` collects."""
_DENSE = 16
"""Numbers in the range of ids for each of them up to which a table of the range is made."""


def _positions(wanted: Ints, ids: Ints) -> tuple[Ints, Flags]:
    """Position (A,) of each wanted number among ``ids`` (n,), and whether it is there."""
    if not ids.size:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    low, high = int(ids.min()), int(ids.max())
    if high - low < _DENSE * len(ids):  # a table of the range is many times as fast as searching
        table = np.full(high - low + 1, -1)
        table[ids - low] = np.arange(len(ids))
        positions: Ints = table[np.clip(wanted, low, high) - low]
        return np.maximum(positions, 0), ids[positions] == wanted
    order = np.argsort(ids)
    nearest = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    positions = order[nearest]
    return positions, ids[positions] == wanted

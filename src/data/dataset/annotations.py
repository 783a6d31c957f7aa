# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO JSON as a few flat arrays, checked when it is opened: a worker gets arrays at once, dictionaries slowly."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import DataError
from ..label_space import MSCOCO, LabelSpace

logger = logging.getLogger(__name__)

_INT64 = 2**63
_KEYS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Annotations:
    """n images and A boxes. The boxes of image i are rows ``offsets[i]:offsets[i + 1]``, in file order."""

    label_space: LabelSpace
    place: str
    """The file they came from."""
    file_names: tuple[str, ...]
    """Relative to the image folder."""
    image_ids: NDArray[np.int64]
    """(n,)"""
    sizes: NDArray[np.int64]
    """(n, 2) height, width in pixels."""
    offsets: NDArray[np.int64]
    """(n + 1,)"""
    boxes_xywh_px: NDArray[np.float64]
    """(A, 4) x, y, width, height exactly as in the file: evaluation needs them unclipped."""
    labels: NDArray[np.int64]
    """(A,) contiguous index."""
    area_px: NDArray[np.float64]
    """(A,) as in the file (of the object's mask, where it has one), else width * height."""
    crowd: NDArray[np.bool_]
    """(A,) a region of many objects: no training target; evaluation ignores detections inside."""
    ids: NDArray[np.int64]
    """(A,) annotation ids of the file."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows that belong to image ``index``."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def training_boxes(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Corner boxes (T, 4) of one image, cut to it, and which of them (T,) are training targets."""
        rows = self.rows(index)
        boxes_xyxy_px = clipped_corners(self.boxes_xywh_px[rows], self.sizes[index])
        return boxes_xyxy_px, ~self.crowd[rows] & has_area(boxes_xyxy_px)

    def without_area(self) -> NDArray[np.int64]:
        """Annotations (rows) that are no crowd and have nothing inside their image: empty, inverted, or outside."""
        sizes = np.repeat(self.sizes, np.diff(self.offsets), axis=0)
        rows: NDArray[np.int64] = np.flatnonzero(~has_area(clipped_corners(self.boxes_xywh_px, sizes)) & ~self.crowd)
        return rows


def clipped_corners(boxes_xywh_px: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corner boxes (A, 4) cut to images of ``sizes`` (A, 2) or (2,) as (height, width)."""
    x, y, w, h = boxes_xywh_px.T
    height, width = sizes.T
    corners = (np.clip(x, 0, width), np.clip(y, 0, height), np.clip(x + w, 0, width), np.clip(y + h, 0, height))
    return np.stack(corners, axis=-1)


def has_area(boxes_xyxy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(A,) whether the corners are in order and apart."""
    ordered: NDArray[np.bool_] = np.all(boxes_xyxy_px[:, 2:] > boxes_xyxy_px[:, :2], axis=1)
    return ordered


def read_json(path: str | Path) -> dict[str, Any]:
    """Parse a COCO detection file and check that it is one.

    Raises:
        DataError: missing, not JSON, or without images, annotations and categories.
    """
    path = Path(path)
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects and no garbage among them: collecting would double the time
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: the annotation file cannot be opened ({error.strerror}): check ann_file") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error}): ann_file must be COCO detection JSON") from error
    finally:
        if collecting:
            gc.enable()
    missing = [key for key in _KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(f"{path}: not COCO detection JSON: no list called {', '.join(missing)} at the top level")
    return content


def parse_coco(path: str | Path, *, remap_mscoco_category: bool = False) -> Annotations:
    """Open a COCO detection file.

    Args:
        path: the JSON file.
        remap_mscoco_category: use COCO's 80 classes, also where the file lists fewer.

    Raises:
        DataError: anything in the file that training or evaluation would trip over later.
    """
    place, content = str(path), read_json(path)
    space = LabelSpace.from_coco(content, place)
    _check_objects(content, place)
    if remap_mscoco_category:
        space = _as_mscoco(space, place)
    images, annotations = content["images"], content["annotations"]
    if not annotations:
        logger.warning("%s: the list of annotations is empty: no image of it has a box", place)
    image_ids, sizes, names = _images(images, place)
    ids = _numbers(annotations, "id", place, default=0)
    owners = _owners(annotations, image_ids, ids, place)
    order = np.argsort(owners, kind="stable")
    boxes = _boxes(annotations, ids, place)
    labels = _labels(annotations, ids, space, place)
    areas = _areas(annotations, boxes, ids, place)
    crowd = _numbers(annotations, "iscrowd", place, default=0).astype(bool)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(images)))]).astype(np.int64)
    return Annotations(
        space, place, names, image_ids, sizes, offsets,
        boxes[order], labels[order], areas[order], crowd[order], ids[order],
    )  # fmt: skip


def check_files(folder: str | Path, file_names: Sequence[str], place: str) -> None:
    """See that every image is there, by one listing per folder: much cheaper than a question per file.

    Raises:
        DataError: the folder or images are missing; the first few are named.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: no such image folder (for {place}): check img_folder")
    present: dict[str, set[str]] = {}
    missing = []
    for name in file_names:
        parent, base = os.path.split(name)
        if parent not in present:
            directory = root / parent
            with os.scandir(directory) if directory.is_dir() else _Nothing() as entries:
                present[parent] = {entry.name for entry in entries}
        if base not in present[parent]:
            missing.append(name)
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{root}: {len(missing)} of {len(file_names)} images that {place} lists are missing: {shown}; "
            "check img_folder, or remove their entries"
        )


class _Nothing:
    """An empty listing."""

    def __enter__(self) -> tuple[os.DirEntry[str], ...]:
        return ()

    def __exit__(self, *_: object) -> None:
        return None


def _check_objects(content: Mapping[str, Any], place: str) -> None:
    for key in ("images", "annotations"):
        for index, entry in enumerate(content[key]):
            if type(entry) is not dict:
                raise DataError(f"{place}: {key}[{index}] is {entry!r}, not an object: not COCO detection JSON")
    if not content["images"]:
        raise DataError(f"{place}: the list of images is empty: nothing to train or evaluate on")


def _as_mscoco(space: LabelSpace, place: str) -> LabelSpace:
    foreign = [f"{one}={name}" for one, name in zip(space.category_ids, space.names) if one not in MSCOCO.category_ids]
    if foreign:
        raise DataError(
            f"{place}: categories {', '.join(foreign[:5])} are not among COCO's 80: "
            "set remap_mscoco_category: False for a data set with classes of its own"
        )
    return MSCOCO


def _images(
    images: Sequence[Mapping[str, Any]], place: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Ids (n,), sizes (n, 2) as (height, width), file names."""
    ids = _numbers(images, "id", place)
    for index, image in enumerate(images):
        size = (image.get("height"), image.get("width"))
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(f"{place}: image {ids[index]} has no file_name: every image entry needs one")
        if not all(type(side) is int and 0 < side < _INT64 for side in size):
            raise DataError(
                f"{place}: image {ids[index]} ({image['file_name']}) has height, width {_short(size)}: "
                "give whole numbers above 0, in pixels"
            )
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{place}: image id {unique[counts > 1][0]} occurs {counts.max()} times: ids must be unique")
    sizes = np.array([(image["height"], image["width"]) for image in images], dtype=np.int64)
    return ids, sizes, tuple(image["file_name"] for image in images)


def _numbers(
    entries: Sequence[Mapping[str, Any]], key: str, place: str, default: int | None = None
) -> NDArray[np.int64]:
    """One whole number per entry; ``default`` where the key is absent."""
    values = [entry.get(key, default) for entry in entries]
    for index, value in enumerate(values):
        if type(value) not in (int, bool):
            raise DataError(
                f"{place}: entry {index} has {key} {_short(value)}, not a whole number: {_short(entries[index])}"
            )
        if not -_INT64 <= value < _INT64:
            raise DataError(
                f"{place}: entry {index} has {key} {_short(value)}, which does not fit into 64 bits: renumber"
            )
    return np.array(values, dtype=np.int64)


def _owners(
    annotations: Sequence[Mapping[str, Any]], image_ids: NDArray[np.int64], ids: NDArray[np.int64], place: str
) -> NDArray[np.int64]:
    """(A,) position of each annotation's image."""
    wanted = _numbers(annotations, "image_id", place)
    order = np.argsort(image_ids)
    position = np.minimum(np.searchsorted(image_ids, wanted, sorter=order), len(image_ids) - 1)
    owners: NDArray[np.int64] = order[position]
    if (bad := np.flatnonzero(image_ids[owners] != wanted)).size:
        raise DataError(
            f"{place}: annotation {ids[bad[0]]} has image_id {wanted[bad[0]]}, which no image has "
            f"({bad.size} such annotations): add the image or remove them"
        )
    return owners


def _labels(
    annotations: Sequence[Mapping[str, Any]], ids: NDArray[np.int64], space: LabelSpace, place: str
) -> NDArray[np.int64]:
    """(A,) contiguous index of each annotation's category."""
    known = {one: index for index, one in enumerate(space.category_ids)}
    labels = np.zeros(len(annotations), dtype=np.int64)
    for index, entry in enumerate(annotations):
        number = entry.get("category_id")
        if type(number) not in (int, float):
            raise DataError(f"{place}: annotation {ids[index]} has category_id {_short(number)}, not a whole number")
        if number not in known:
            raise DataError(
                f"{place}: annotation {ids[index]} has category_id {_short(number)}, not one of the {len(space)} "
                f"categories: {space.describe()}"
                + ("; set remap_mscoco_category: False for own classes" if space is MSCOCO else "")
            )
        labels[index] = known[number]
    return labels


def _boxes(annotations: Sequence[Mapping[str, Any]], ids: NDArray[np.int64], place: str) -> NDArray[np.float64]:
    """(A, 4); numbers and nothing else, so text that looks like a number is refused."""
    values = [entry.get("bbox") for entry in annotations]
    if not values:
        return np.zeros((0, 4))
    try:
        boxes = np.array(values)
    except ValueError:  # rows of unequal length
        boxes = np.array(None)
    if boxes.dtype.kind in "iuf" and boxes.shape == (len(values), 4) and np.isfinite(boxes).all():
        return boxes.astype(np.float64)
    bad = next((index for index, value in enumerate(values) if not _is_box(value)), 0)
    raise DataError(
        f"{place}: annotation {ids[bad]} has bbox {_short(values[bad])}: expected 4 finite numbers x, y, width, height"
    )


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all((type(one) is float and math.isfinite(one)) or _fits_int64(one) for one in value)
    )


def _fits_int64(value: object) -> bool:
    return type(value) is int and -_INT64 <= value < _INT64


def _areas(
    annotations: Sequence[Mapping[str, Any]], boxes: NDArray[np.float64], ids: NDArray[np.int64], place: str
) -> NDArray[np.float64]:
    """(A,) the file's areas; the box's own where the file gives none."""
    values = [entry.get("area") for entry in annotations]
    for index, value in enumerate(values):
        if value is not None and type(value) is not float and not _fits_int64(value):
            raise DataError(
                f"{place}: annotation {ids[index]} has area {_short(value)}: expected a number of pixels, or no area"
            )
    given = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.where(np.isnan(given), boxes[:, 2] * boxes[:, 3], given)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."

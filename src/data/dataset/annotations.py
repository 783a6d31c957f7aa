# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Annotated images as a few flat arrays, whatever format they came in: a worker gets arrays at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.errors import DataError
from ...core.files import check_regular
from .. import Flags, Floats, Ints
from ..label_space import LabelSpace
from .layout import UnlistedImages
from .problems import Problems


@dataclass(frozen=True)
class TrainingRows:
    """The boxes that are training targets, in flat arrays: those of image i are rows ``offsets[i]:offsets[i + 1]``."""

    offsets: Ints
    """(n + 1,)"""
    boxes_xyxy_px: NDArray[np.float32]
    """(K, 4) cut to their image."""
    labels: Ints
    """(K,)"""
    area_px: NDArray[np.float32]
    """(K,)"""


@dataclass(frozen=True)
class Annotations:
    """n images and A boxes. The boxes of image i are rows ``offsets[i]:offsets[i + 1]``, in file order."""

    label_space: LabelSpace
    place: str
    """The file they came from."""
    file_names: tuple[str, ...]
    """Relative to the image folder."""
    image_ids: Ints
    """(n,)"""
    sizes: Ints
    """(n, 2) height, width in pixels."""
    offsets: Ints
    """(n + 1,)"""
    boxes_xywh_px: Floats
    """(A, 4) x, y, width, height exactly as in the file: evaluation needs them unclipped."""
    labels: Ints
    """(A,) contiguous index."""
    area_px: Floats
    """(A,) as in the file (of the object's mask, where it has one), else width * height."""
    crowd: Flags
    """(A,) a region of many objects: no training target; evaluation ignores detections inside."""
    ids: Ints
    """(A,) annotation ids of the file."""
    folder: str = ""
    """What file names are relative to, where the format says it; else whoever opens the file must."""
    upright: bool = False
    """Boxes and sizes refer to the image as viewers turn it by its EXIF orientation, not to the stored pixels."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """The rows that belong to image ``index``."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def training_rows(self) -> TrainingRows:
        """The training targets of all images: boxes that are no crowd, cut to their image, with area left."""
        counts = np.diff(self.offsets)
        boxes_xyxy_px = clipped_corners(self.boxes_xywh_px, np.repeat(self.sizes, counts, axis=0))
        kept = ~self.crowd & has_area(boxes_xyxy_px)
        offsets = offsets_of(kept)[self.offsets]
        boxes, areas = boxes_xyxy_px[kept].astype(np.float32), self.area_px[kept].astype(np.float32)
        return TrainingRows(offsets, boxes, self.labels[kept], areas)

    def take(self, indices: ArrayLike) -> Annotations:
        """Those images, in the given order, with their boxes."""
        chosen = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[chosen]
        offsets = offsets_of(counts)
        rows = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        names = tuple(self.file_names[index] for index in chosen.tolist())
        columns = {name: getattr(self, name)[chosen] for name in PER_IMAGE}
        columns |= {name: getattr(self, name)[rows] for name in PER_BOX}
        return replace(self, file_names=names, offsets=offsets, **columns)

    def without_area(self) -> Ints:
        """Annotations (rows) that are no crowd and have nothing inside their image: empty, inverted, or outside."""
        sizes = np.repeat(self.sizes, np.diff(self.offsets), axis=0)
        # A box that begins inside and has a pixel need not be cut to see it: that leaves next to none.
        begins, sides = self.boxes_xywh_px[:, :2], self.boxes_xywh_px[:, 2:]
        plain = ((begins >= 0) & (begins <= sizes[:, ::-1] - 1) & (sides >= 1)).all(axis=1)
        rows: Ints = np.flatnonzero(~plain & ~self.crowd)
        return rows[~has_area(clipped_corners(self.boxes_xywh_px[rows], sizes[rows]))]


PER_IMAGE, PER_BOX = ("image_ids", "sizes"), ("boxes_xywh_px", "labels", "area_px", "crowd", "ids")
"""Arrays of ``Annotations`` with one row per image, and per box."""


def offsets_of(counts: ArrayLike) -> Ints:
    """(n + 1,) where the rows of each image begin, from their numbers (n,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def clipped_corners(boxes_xywh_px: Floats, sizes: Ints) -> Floats:
    """Corner boxes (A, 4) cut to images of ``sizes`` (A, 2) or (2,) as (height, width)."""
    x, y, w, h = boxes_xywh_px.T
    height, width = sizes.T
    corners = (np.clip(x, 0, width), np.clip(y, 0, height), np.clip(x + w, 0, width), np.clip(y + h, 0, height))
    return np.stack(corners, axis=-1)


def has_area(boxes_xyxy_px: Floats) -> Flags:
    """(A,) whether the corners are in order and apart."""
    ordered: Flags = np.all(boxes_xyxy_px[:, 2:] > boxes_xyxy_px[:, :2], axis=1)
    return ordered


@dataclass
class Collected:
    """Annotations in the making, for formats that tell them image by image."""

    images: list[tuple[str, int, tuple[int, int]]] = field(default_factory=list)
    """File name, id, (height, width)."""
    boxes: list[tuple[Floats, Ints, Flags]] = field(default_factory=list)
    """Boxes xywh (T, 4), labels (T,), crowd (T,) of each image."""

    def add(
        self,
        file_name: str,
        image_id: int,
        size: tuple[int, int],
        boxes_xywh_px: ArrayLike = (),
        labels: ArrayLike = (),
        crowd: ArrayLike | None = None,
    ) -> None:
        """One image: size (height, width), boxes (T, 4), labels (T,), and which (T,) are crowd regions (None: none)."""
        classes = np.asarray(labels, dtype=np.int64)
        regions = np.zeros(len(classes), bool) if crowd is None else np.asarray(crowd, dtype=bool)
        self.images.append((file_name, image_id, size))
        self.boxes.append((np.asarray(boxes_xywh_px, dtype=np.float64).reshape(-1, 4), classes, regions))

    def annotations(self, space: LabelSpace, place: str, folder: str, *, upright: bool = False) -> Annotations:
        """What was added, with boxes numbered from 1 in that order."""
        empty = (np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
        boxes, labels, crowd = (np.concatenate(column) for column in zip(empty, *self.boxes))
        names, ids, sizes = zip(*self.images) if self.images else ((), (), ())
        return Annotations(
            space, place, names, np.array(ids, dtype=np.int64), np.array(sizes, dtype=np.int64).reshape(-1, 2),
            offsets_of([len(labels) for _, labels, _ in self.boxes]), boxes, labels, boxes[:, 2] * boxes[:, 3], crowd,
            np.arange(1, len(boxes) + 1), folder, upright,
        )  # fmt: skip


def check_files(folder: str | Path, file_names: Sequence[str], place: str, problems: Problems | None = None) -> Flags:
    """See that every image is there, by one listing per folder: much cheaper than a question per file.

    Args:
        folder: what the names are relative to; names may also be absolute.
        file_names: of n images.
        place: who lists them, for messages.
        problems: where to report each missing one; None raises one error for all.

    Returns:
        (n,) which are there.

    Raises:
        DataError: the folder or images are missing; the first few are named.
    """
    root = Path(folder)
    problems = problems or Problems()
    if not root.is_dir():
        problems.report("missing image", root, f"no such image folder (for {place}): check img_folder")
    present = files_present(root, file_names)
    unlisted = UnlistedImages(root, [name for name, there in zip(file_names, present.tolist()) if there])
    missing = [file_names[index] for index in np.flatnonzero(~present).tolist()]
    if missing and not problems.collect:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{root}: {len(missing)} of {len(file_names)} images that {place} lists are missing: {shown}; "
            f"check img_folder, or remove their entries{unlisted.hint(missing[0])}{_other_hint(root, missing)}"
        )
    for name in missing:
        hint = unlisted.hint(name) + _other_hint(root, [name])
        text = f"not there, but {place} lists it: add it or remove its entry{hint}"
        problems.report("missing image", str(root / name), text, images=1)
    return present


def _other_hint(root: Path, names: Sequence[str]) -> str:
    """What stands in the place of an image, where something does."""
    name = next((name for name in names if os.path.lexists(root / name)), None)
    if name is None:
        return ""
    try:
        check_regular(root / name)
    except FileNotFoundError:
        return f" ({name} is a link to nothing)"
    except OSError as error:
        return f" ({name}: {error.strerror})"
    return ""


def files_present(folder: str | Path, file_names: Sequence[str]) -> Flags:
    """Which (n,) of the names are files, relative to ``folder`` or absolute; a link to nothing is none."""
    split = [os.path.split(name) for name in file_names]
    listings = {parent: _listing(Path(folder, parent)) for parent in {parent for parent, _ in split}}
    return np.array([base in listings[parent] for parent, base in split], dtype=bool)


def _listing(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file(follow_symlinks=False) or os.path.isfile(entry)}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI's object benchmark: a folder of images, and a text file of rows per image."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...core.errors import ConfigError
from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations, Collected, check_files
from .frame import Upright
from .images import SUFFIXES, image_sizes, list_images
from .layout import text_lines
from .prepare import PreparedDataset, Subset
from .problems import Problems

logger = logging.getLogger(__name__)

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
"""The classes of the benchmark; ``DontCare`` is a region, no class."""
Part = Literal["train", "val", "all"]
Regions = Literal["ignore", "drop"]
_DONT_CARE = "DontCare"
_IMAGES, _LABELS, _TRAINING = "image_2", "label_2", "training"
_COLUMNS = 15


@register
class KittiDetection(PreparedDataset):
    """Images of streets as KITTI's object benchmark lays them out: ``training/image_2`` and ``training/label_2``.

    A row is ``type truncated occluded alpha left top right bottom`` and seven numbers in three dimensions, of which
    type and box are used: truncated and occluded objects are objects like others. A 16th number, the score of a
    detection, is passed over with a warning. Every image has a label file; an empty one says that nothing is there.

    The benchmark has no validation part: the images are divided by ``val_share`` and ``split_seed`` and their names
    alone, so a part holds the same images on every machine. For a list of others, such as an ``ImageSets/train.txt``,
    ``split: all`` and ``subset`` with that file.

    Args:
        root: the folder with ``training``, or with ``image_2`` and ``label_2``.
        split: ``train``, ``val``, or ``all``, which is both.
        transforms: applied to (image, target).
        val_share: share of the images that are validation data, above 0 and below 1.
        split_seed: of the draw that divides the images.
        classes: types in the order of the labels; None: the 8 of the benchmark. Objects of its other types are left
            out and counted in the log: naming 7 without ``Misc`` gives the usual 7 classes.
        merge: types that count as another one, before ``classes`` is looked at: ``{Person_sitting: Pedestrian}`` gives
            7 classes as well, ``{Van: Car}`` one of the benchmark's kinds.
        dont_care: ``ignore``: evaluation does not count detections of any class inside ``DontCare`` areas, as the
            benchmark does: they are one crowd region of every class. ``drop``: they are left out and counted in the
            log, as in COCO files made of KITTI; what is found there is then wrong. No targets in both cases.
        options: see ``PreparedDataset``; ``subset`` is one of the chosen part. Its images are looked at only.

    Raises:
        ConfigError: a share outside (0, 1), an unknown type in merge.
    """

    def __init__(
        self,
        root: str,
        split: Part = "train",
        transforms: Compose | None = None,
        *,
        val_share: float = 0.2,
        split_seed: int = 0,
        classes: list[str] | None = None,
        merge: dict[str, str] | None = None,
        dont_care: Regions = "ignore",
        **options: Any,
    ) -> None:
        parse = partial(parse_kitti, root, split, val_share=val_share, split_seed=split_seed, classes=classes,
                        merge=merge, dont_care=dont_care)  # fmt: skip
        super().__init__(parse, transforms, **options)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The types of ``classes`` without merged ones: see ``DetectionDataset.label_space_of``."""
        return kitti_label_space(section.get("classes"), section.get("merge"))


def parse_kitti(
    root: str | Path,
    split: Part = "train",
    *,
    val_share: float = 0.2,
    split_seed: int = 0,
    classes: Sequence[str] | None = None,
    merge: Mapping[str, str] | None = None,
    dont_care: Regions = "ignore",
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open a KITTI data set; for the rules see ``KittiDetection``.

    Args:
        subset: images of the part to open; the others are not looked at.
        problems: where to report what is wrong; None raises at once.

    Raises:
        DataError: with file and line: rows of other columns, unknown types; no images, images without label file.
        ConfigError: see ``KittiDetection``.
    """
    problems = problems or Problems()
    space = kitti_label_space(classes, merge)
    folder = _part_folder(Path(root))
    images, labels = folder / _IMAGES, folder / _LABELS
    place = f"{folder} ({split})"
    names = _image_names(images, labels, problems)
    drawn = _division(split, val_share, split_seed).indices(names, None, place)
    chosen = drawn[(subset or Subset()).indices([names[index] for index in drawn.tolist()], None, place)].tolist()
    files = [labels / f"{os.path.splitext(names[index])[0]}.txt" for index in chosen]
    reader = _Reader(space, merge or {}, dont_care, problems)
    labelled = _present(files, labels, problems)
    pictured = check_files(images, [names[index] for index in chosen], place, problems).tolist() if chosen else []
    paths = [images / names[index] for index, there in zip(chosen, pictured) if there]
    sizes = iter(image_sizes(paths, upright=bool(upright), problems=problems))
    collected = Collected()
    for index, file, has_label, has_image in zip(chosen, files, labelled, pictured):
        rows = reader.read(file) if has_label else None
        size = next(sizes) if has_image else None
        if rows is not None and size is not None:
            numbers, boxes, crowd = zip(*rows) if rows else ((), (), ())
            collected.add(names[index], index, size, boxes, numbers, crowd)
        else:
            # Files that are missing were counted when they were looked for.
            reason = "broken line" if rows is None else "unreadable image" if has_image else "missing image"
            problems.losses.add(reason, images=int(has_label and has_image), boxes=len(rows or ()))
    reader.say(place)
    return collected.annotations(space, place, str(images), upright=bool(upright))


def kitti_label_space(classes: Sequence[str] | None, merge: Mapping[str, str] | None) -> LabelSpace:
    """The classes that are left of the listed ones, or of KITTI's, once some are merged into others.

    Raises:
        ConfigError: merge with a type that is not listed, or that is merged itself; DontCare as a class.
        DataError: an empty list, or a name twice.
    """
    merged = merge or {}
    listed = TYPES if classes is None else tuple(classes)
    names = [name for name in listed if name not in merged]
    wrong = [name for name in merged if name not in (*TYPES, *listed)]
    wrong += [to for to in merged.values() if to not in names]
    if wrong:
        raise ConfigError(f"merge: {wrong[0]!r} is none of the classes {', '.join(names)}: write {{Van: Car}}")
    if _DONT_CARE in names:
        raise ConfigError(f"classes: {_DONT_CARE} marks areas that nobody annotated, and is no class: remove it")
    return LabelSpace.from_names(names, "classes")


def is_kitti(folder: Path) -> bool:
    """Whether a folder holds images and labels as the benchmark calls them."""
    return (folder / _IMAGES).is_dir() and (folder / _LABELS).is_dir()


def kitti_label_file(image: Path) -> Path:
    """The labels of an image."""
    return image.parent.parent / _LABELS / f"{image.stem}.txt"


def _part_folder(root: Path) -> Path:
    return root if (root / _IMAGES).is_dir() else root / _TRAINING


def _division(split: str, share: float, seed: int) -> Subset:
    if split == "all":
        return Subset()
    if not 0 < share < 1:
        raise ConfigError(f"val_share is {share}: give a share above 0 and below 1, or split: all")
    if split not in ("train", "val"):
        raise ConfigError(f"split is {split!r}: KITTI is divided into train and val; all is both")
    return Subset((0.0, share) if split == "val" else (share, 1.0), seed)


def _image_names(images: Path, labels: Path, problems: Problems) -> list[str]:
    """What either folder has: an image that is lost would else not be missed, and another draw divide the rest."""
    if not images.is_dir():
        text = f"no such folder: root is to hold {_TRAINING}/{_IMAGES}, or {_IMAGES} and {_LABELS}"
        problems.report("missing image", images, text)
        return []
    names = list_images(images, recursive=False)
    stems = {os.path.splitext(name)[0] for name in names}
    names += [f"{file.stem}.png" for file in labels.glob("[!.]*.txt") if file.stem not in stems]
    if not names:
        problems.report("missing image", images, f"no image in this folder ({', '.join(SUFFIXES)}): check root")
    return sorted(names)


def _present(files: Sequence[Path], folder: Path, problems: Problems) -> list[bool]:
    """Which label files are there. A missing one is a mistake: KITTI has a file for every image, also an empty one."""
    if files and not folder.is_dir():
        text = f"no such folder of label files for {len(files)} images: check root (the testing part has no labels)"
        problems.report("missing annotation", folder, text, images=len(files))
        return [False] * len(files)
    there = [os.path.lexists(file) for file in files]
    for file in (file for file, is_there in zip(files, there) if not is_there):
        text = (
            f"no such label file ({there.count(False)} of {len(files)} images have none): add it, empty for an image "
            "without objects, or take the image away"
        )
        problems.report("missing annotation", file, text, images=1)
    return there


class _BadRow(Exception):
    """Kind of problem, and what is wrong with a row."""


class _Reader:
    """Reads label files, and counts what is left out over all of them."""

    def __init__(self, space: LabelSpace, merge: Mapping[str, str], dont_care: Regions, problems: Problems) -> None:
        self.labels = {name: label for label, name in enumerate(space.names)}
        self.labels |= {name: self.labels[to] for name, to in merge.items()}
        self.regions = range(len(space)) if dont_care == "ignore" else ()
        self.problems = problems
        self.left_out: Counter[str] = Counter()
        self.scored = 0

    def read(self, file: Path) -> list[tuple[int, list[float], bool]] | None:
        """(label, x, y, width and height in pixels, whether it is an ignored region) of the objects of an image.

        Returns:
            None where the file was reported and nobody knows what is in it.
        """
        rows: list[tuple[int, list[float], bool]] = []
        reported = len(self.problems.found)
        lines = text_lines(file, self.problems)
        if len(self.problems.found) > reported:
            return None
        for place, line in lines:
            try:
                kind, box = self._row(line.split())
            except _BadRow as error:
                problem, text = error.args
                self.problems.report(problem, place, text, boxes=1)
                continue
            if kind == _DONT_CARE:
                rows += [(label, box, True) for label in self.regions]
            elif kind in self.labels:
                rows.append((self.labels[kind], box, False))
            if kind not in self.labels and (kind != _DONT_CARE or not self.regions):
                self.left_out[kind] += 1
        if len(self.problems.found) > reported and not rows:
            self.problems.losses.add("", emptied=1)
        return rows

    def _row(self, columns: Sequence[str]) -> tuple[str, list[float]]:
        kind, count = columns[0], len(columns)
        if count not in (_COLUMNS, _COLUMNS + 1):
            text = f"{count} columns, expected {_COLUMNS}: type, truncated, occluded, alpha, 4 of the box, 7 in 3D"
            raise _BadRow("broken line", text)
        try:
            numbers = [float(column) for column in columns[1:]]
        except ValueError as error:
            text = f"{' '.join(columns)[:80]!r} holds something that is no number after its type"
            raise _BadRow("broken line", text) from error
        if not all(map(math.isfinite, numbers)):
            raise _BadRow("broken line", f"{' '.join(columns)[:80]!r} holds a number that is not finite")
        known = dict.fromkeys((*self.labels, *TYPES, _DONT_CARE))
        if kind not in known:
            text = f"type {kind[:80]!r} is none of {', '.join(known)}: correct it, or list your own types in classes"
            raise _BadRow("unknown category", text)
        self.scored += count > _COLUMNS
        left, top, right, bottom = numbers[3:7]
        return kind, [left, top, right - left, bottom - top]

    def say(self, place: str) -> None:
        """Log what was passed over."""
        if self.left_out:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))
            logger.info("%s: left out: %s", place, counts)
        if self.scored:
            text = (
                f"{self.scored} rows have a 16th number, the score of a detection: passed over; are these predictions?"
            )
            self.problems.mend("odd entry", place, text)

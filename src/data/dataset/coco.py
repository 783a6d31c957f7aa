# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO JSON, also in several files, and with file names that need not be where the files are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...core.registry import register
from ..classes import squeezed
from ..label_space import MSCOCO, LabelSpace
from ..transforms.compose import Compose
from .annotations import PER_BOX, Annotations, files_present, offsets_of
from .coco_fields import ImageIds, report_rotated
from .coco_json import BoxEntries, ImageEntries, read_entries
from .frame import Upright, settled
from .json_lists import load_all, no_collection, read_list, read_lists
from .prepare import PreparedDataset, Subset
from .problems import Problems

logger = logging.getLogger(__name__)

_SHOWN = 300
"""Characters of a list of names."""
_WAYS: dict[str, int] = {"as they are": 0, "by their last two parts": 2, "by their base names": 1}
"""How file names are looked for: parts of the path that count, 0 for all."""


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
        crowd_keys: an annotation with one of these keys set is a region that is neither a target nor counted
            (``iscrowd``, ``isfake``).
        problems: where to report what is wrong with entries; None raises at once. A file that is no COCO JSON at all
            raises in any case: there is nothing to go on with.

    Raises:
        DataError: anything in the file that training or evaluation would trip over later.
    """
    place = str(path)
    problems = problems or Problems()
    numbers = ImageIds()
    images, boxes = ImageEntries(place, problems, numbers), BoxEntries(place, problems, tuple(crowd_keys), numbers)
    with no_collection():
        image_texts, box_texts, category_texts = read_lists(path, ("images", "annotations", "categories"))
        read_entries(image_texts, "images", images)
        read_entries(box_texts, "annotations", boxes)
        categories = load_all(category_texts, "categories", path)
    space = categories_space(categories, place, remap_mscoco_category, classes, problems)
    if remap_mscoco_category:
        warn_of_other_names(LabelSpace.from_coco({"categories": categories}, place, Problems(collect=True)), place)
    report_rotated(boxes.rotated, place, problems)
    if not images.file_names:
        problems.report("missing image", place, "the list of images is empty: nothing to train or evaluate on")
    annotations = boxes.annotations(space, images)
    if not remap_mscoco_category:
        warn_of_groups(categories, annotations)
    return annotations


def open_coco(
    img_folder: str | Path | Sequence[str],
    ann_file: str | Path | Sequence[str],
    *,
    remap_mscoco_category: bool = False,
    classes: Sequence[str] | None = None,
    keep_fake: bool = True,
    search: bool = False,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open one or more COCO files together with the folders of their images; see ``parse_coco``, ``PreparedDataset``.

    Args:
        img_folder: image folder, or one per annotation file.
        ann_file: one file, or several with the same categories.
        keep_fake: see ``Objects365Detection``.
        search: look for images under shorter names, too: see there.

    Raises:
        DataError: see ``parse_coco``; files with different categories.
        ConfigError: folders and files do not pair up.
    """
    problems = problems or Problems()
    folders, files = _listed(img_folder), _listed(ann_file)
    if not files or len(folders) not in (1, len(files)):
        raise ConfigError(f"{len(folders)} img_folder for {len(files)} ann_file: give one folder, or one per file")
    folders = folders * len(files) if len(folders) == 1 else folders
    crowd_keys, remap = ("iscrowd",) if keep_fake else ("iscrowd", "isfake"), remap_mscoco_category
    parts = [
        parse_coco(file, remap_mscoco_category=remap, classes=classes, crowd_keys=crowd_keys, problems=problems)
        for file in files
    ]
    parts = [_resolved(part, folder) for part, folder in zip(parts, folders)] if search else parts
    return (subset or Subset()).of(settled(_merged(parts, folders, problems), upright, problems))


parse_objects365 = partial(open_coco, search=True)


@register
class CocoDetection(PreparedDataset):
    """A folder of images and a COCO JSON file, checked completely before the first sample is made.

    Training targets follow the official recipe: crowd regions are left out, boxes are cut to the image, and boxes that
    then cover nothing are left out. Evaluation reads the unchanged boxes from ``annotations``.

    Args:
        img_folder: folder that the file names in the JSON are relative to.
        ann_file: the JSON file.
        transforms: applied to (image, target).
        return_masks: must be False; masks are not supported.
        remap_mscoco_category: label 0..79 are COCO's 80 classes, also where the file lists fewer. Otherwise the labels
            are the file's own categories in id order, which for a complete COCO file is the same.
        classes: class names of the file in the order that labels shall have; None: all, in the order of the ids.
            Categories that are left out must have no boxes: that is meant for groups, such as Roboflow's first one.
        num_classes and further options: see ``PreparedDataset``.

    Raises:
        ValueError: ``return_masks`` is True.
    """

    def __init__(
        self,
        img_folder: str,
        ann_file: str,
        transforms: Compose | None = None,
        return_masks: bool = False,
        remap_mscoco_category: bool = False,
        num_classes: int | None = None,
        *,
        classes: list[str] | None = None,
        **options: Any,
    ) -> None:
        if return_masks:
            raise ValueError(f"return_masks is {return_masks}: masks are not supported, set return_masks: False")
        remap = remap_mscoco_category
        parse = partial(open_coco, img_folder, ann_file, remap_mscoco_category=remap, classes=classes)
        super().__init__(parse, transforms, remap or classes is not None, num_classes=num_classes, **options)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The categories of the file, or COCO's 80: see ``DetectionDataset.label_space_of``."""
        remap, classes = bool(section.get("remap_mscoco_category")), section.get("classes")
        if remap and classes is None:
            return MSCOCO
        if not section.get("ann_file"):
            return None
        return coco_label_space(section["ann_file"], remap_mscoco_category=remap, classes=classes)


@register
class Objects365Detection(PreparedDataset):
    """Objects365, or other COCO JSON with names such as ``images/v1/patch8/objects365_v1_00420917.jpg``.

    Files are looked for under the name as it is, then under its last two parts (``patch8/...``), then under its base
    name; the first way that finds all of them is used and said. Several annotation files are one data set: the official
    recipe moves the validation images after the first 5000 into training.

    Args:
        img_folder: image folder, or one per annotation file.
        ann_file: COCO JSON file, or several with the same categories. Image ids that occur in more than one are
            renumbered.
        transforms: applied to (image, target).
        keep_fake: objects marked ``isfake`` (drawings, screens) are targets like others, as in the official recipe.
            False: they are no targets, and evaluation neither counts them nor what is detected there.
        classes: as for ``CocoDetection``.
        options: see ``PreparedDataset``. Official configs say ``num_classes: 366`` for ids 1..365: then the ids are the
            labels.

    Raises:
        ConfigError: folders and files do not pair up.
    """

    def __init__(
        self,
        img_folder: str | list[str],
        ann_file: str | list[str],
        transforms: Compose | None = None,
        *,
        keep_fake: bool = True,
        classes: list[str] | None = None,
        **options: Any,
    ) -> None:
        parse = partial(parse_objects365, img_folder, ann_file, keep_fake=keep_fake, classes=classes)
        super().__init__(parse, transforms, classes is not None, **options)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The categories of the first file: see ``DetectionDataset.label_space_of``."""
        files = _listed(section.get("ann_file") or [])
        return coco_label_space(files[0], classes=section.get("classes")) if files else None


def coco_label_space(
    path: str | Path, *, remap_mscoco_category: bool = False, classes: Sequence[str] | None = None
) -> LabelSpace:
    """The classes of a COCO file alone: see ``parse_coco``."""
    return categories_space(read_list(path, "categories"), str(path), remap_mscoco_category, classes, Problems())


def categories_space(
    categories: list[Any], place: str, remap: bool, classes: Sequence[str] | None, problems: Problems
) -> LabelSpace:
    """The classes of a file with these categories: see ``parse_coco``."""
    space = LabelSpace.from_coco({"categories": categories}, place, problems)
    if remap:
        foreign = [
            f"{number}={name}"
            for number, name in zip(space.category_ids, space.names)
            if number not in MSCOCO.category_ids
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


def warn_of_other_names(own: LabelSpace, place: str) -> None:
    """Say where a file with COCO's ids has other classes: a forgotten setting, which would misname them everywhere."""
    coco = dict(zip(MSCOCO.category_ids, MSCOCO.names))
    named = [(number, name, coco[number]) for number, name in zip(own.category_ids, own.names) if number in coco]
    other = [f"{number}={name} is {theirs}" for number, name, theirs in named if squeezed(name) != squeezed(theirs)]
    if 2 * len(other) > len(named):  # single names are spelled in many ways: motorbike, tvmonitor
        logger.warning(
            "%s: with remap_mscoco_category: True the classes bear COCO's names, but those of this file are others "
            "(%s): if they are classes of your own, set remap_mscoco_category: False",
            place, ", ".join([*other[:5], *(["..."] if len(other) > 5 else [])]),
        )  # fmt: skip


def groups_of(categories: Sequence[Any]) -> set[str]:
    """Names that categories of a file give as the group they belong to (``supercategory``)."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    return {
        str(entry["supercategory"]) for entry in entries if entry.get("supercategory") not in (None, entry.get("name"))
    }


def warn_of_groups(categories: Sequence[Any], data: Annotations) -> None:
    """Say where a category stands for a group of others, as Roboflow's first one does: its output is never used."""
    groups = groups_of(categories)
    names, used = data.label_space.names, set(data.labels.tolist())
    unused = [name for label, name in enumerate(names) if name in groups and label not in used]
    if unused:
        others = ", ".join(name for name in names if name not in unused)
        logger.warning(
            "%s: the category %s is the group of others and has no box: it gets an output that is never used; leave "
            "it out with classes: [%s]",
            data.place, ", ".join(map(repr, unused)), others if len(others) <= _SHOWN else f"{others[:_SHOWN]}, ...",
        )  # fmt: skip


def _listed(value: str | Path | Sequence[str]) -> list[str]:
    return [str(value)] if isinstance(value, (str, Path)) else [str(item) for item in value]


def _resolved(annotations: Annotations, folder: str) -> Annotations:
    """With the names under which the files are; as they are where no way finds more."""
    best, most = annotations, -1
    for way, parts in _WAYS.items():
        names = tuple("/".join(name.split("/")[-parts:]) for name in annotations.file_names)
        present = int(files_present(folder, names).sum())
        if present > most:
            best, most, held = replace(annotations, file_names=names), present, way
        if most == len(annotations):
            break
    if most and best.file_names != annotations.file_names:
        logger.info("%s: %d of %d files are found %s in %s", annotations.place, most, len(annotations), held, folder)
    return best


def _merged(parts: Sequence[Annotations], folders: Sequence[str], problems: Problems) -> Annotations:
    """One data set of several files, each with its image folder."""
    first, folder = parts[0], folders[0]
    for part in parts[1:]:
        if part.label_space != first.label_space:
            text = (
                f"has the classes {part.label_space.describe()}, but {first.place} has {first.label_space.describe()}: "
                "files of one data set must list the same categories"
            )
            problems.report("bad class", part.place, text)
    if len(parts) == 1:
        return replace(first, folder=folder)
    if len(set(folders)) > 1:
        absolute = [os.path.abspath(folder) for folder in folders]
        folder = os.path.commonpath(absolute)
        parts = [
            replace(part, file_names=tuple(os.path.join(own, name) for name in part.file_names))
            for own, part in zip(absolute, parts)
        ]
    image_ids = np.concatenate([part.image_ids for part in parts])
    if len(np.unique(image_ids)) < len(image_ids):
        logger.info("image ids of %s overlap: images are numbered anew", ", ".join(part.place for part in parts))
        image_ids = np.arange(len(image_ids))
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("sizes", *PER_BOX)
    }
    return replace(
        first,
        place=", ".join(part.place for part in parts),
        file_names=tuple(name for part in parts for name in part.file_names),
        image_ids=image_ids,
        offsets=offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        folder=folder,
        **columns,
    )

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...core.checkpoint.classes import squeezed
from ...core.registry import register
from ..label_space import MSCOCO, LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations
from .coco_fields import ImageIds, report_rotated
from .coco_json import BoxEntries, ImageEntries, read_entries
from .frame import Upright, settled
from .json_lists import load_all, no_collection, read_list, read_lists
from .prepare import PreparedDataset, Subset
from .problems import Problems

logger = logging.getLogger(__name__)

_SHOWN = 300
"""Characters of a list of names."""


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
    img_folder: str | Path,
    ann_file: str | Path,
    *,
    remap_mscoco_category: bool = False,
    classes: Sequence[str] | None = None,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open a COCO file together with the folder of its images; see ``parse_coco`` and ``PreparedDataset``."""
    parsed = parse_coco(ann_file, remap_mscoco_category=remap_mscoco_category, classes=classes, problems=problems)
    annotations = settled(replace(parsed, folder=str(img_folder)), upright, problems)
    return (subset or Subset()).of(annotations)


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


def warn_of_groups(categories: Sequence[Any], data: Annotations) -> None:
    """Say where a category stands for a group of others, as Roboflow's first one does: its output is never used."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    groups = {
        str(entry["supercategory"]) for entry in entries if entry.get("supercategory") not in (None, entry.get("name"))
    }
    names, used = data.label_space.names, set(data.labels.tolist())
    unused = [name for label, name in enumerate(names) if name in groups and label not in used]
    if unused:
        others = ", ".join(name for name in names if name not in unused)
        logger.warning(
            "%s: the category %s is the group of others and has no box: it gets an output that is never used; leave "
            "it out with classes: [%s]",
            data.place, ", ".join(map(repr, unused)), others if len(others) <= _SHOWN else f"{others[:_SHOWN]}, ...",
        )  # fmt: skip

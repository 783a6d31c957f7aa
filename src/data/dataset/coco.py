# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...core.registry import register
from ..label_space import MSCOCO, LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations
from .coco_categories import coco_label_space
from .coco_json import parse_coco
from .frame import Upright, settled
from .prepare import PreparedDataset, Subset
from .problems import Problems


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

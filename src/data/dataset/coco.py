# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core.registry import register
from ..label_space import MSCOCO, LabelSpace
from ..transforms.compose import Compose
from .coco_categories import coco_label_space
from .coco_json import parse_coco
from .detection import DetectionDataset
from .frame import Upright, settled
from .prepare import Subset, prepare


@register
class CocoDetection(DetectionDataset):
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
        num_classes: class count to check against; None takes the data's. The largest id + 1 is taken as official files
            mean it: see ``with_class_count``.
        invalid_boxes: ``error`` stops on boxes that are inverted (negative width or height) or wholly outside their
            image, which are mistakes of a conversion; ``drop`` leaves them out with a warning, as the official recipe
            does in silence. Boxes of zero width or height are left out with a warning in both cases.
        allow_no_targets: train (with a warning) although no box is left to learn from: all are crowd regions, fractions
            of their image or too small, or there is none. Otherwise that stops a training before it begins.
        subset: part of the images: a fraction in (0, 1], a list of file names or ids (as text: YAML reads 000012 as
            another number), or a text file with one per line.
        subset_seed: of a fraction's draw; with one seed a smaller fraction is part of every larger one.
        classes: class names of the file in the order that labels shall have; None: all, in the order of the ids.
            Categories that are left out must have no boxes: that is meant for groups, such as Roboflow's first one.
        upright: whether boxes belong to pictures as EXIF turns them and viewers show them (True), or as they are stored
            (False). ``auto``: what the sizes of images on their side say of the file; without such images, True.

    Raises:
        DataError: see ``parse_coco`` and ``prepare``.
        ValueError: ``return_masks`` is True.
        ConfigError: a fraction outside (0, 1].
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
        invalid_boxes: Literal["error", "drop"] = "error",
        allow_no_targets: bool = False,
        subset: float | str | list[str] | None = None,
        subset_seed: int = 0,
        classes: list[str] | None = None,
        upright: Upright = "auto",
    ) -> None:
        if return_masks:
            raise ValueError(f"return_masks is {return_masks}: masks are not supported, set return_masks: False")
        chosen = Subset(subset, subset_seed)
        parsed = parse_coco(ann_file, remap_mscoco_category=remap_mscoco_category, classes=classes)
        annotations = prepare(
            settled(parsed, img_folder, upright),
            img_folder,
            num_classes=num_classes,
            subset=chosen,
            invalid_boxes=invalid_boxes,
            fixed_labels=remap_mscoco_category or classes is not None,
        )
        super().__init__(annotations, img_folder, transforms, allow_no_targets=allow_no_targets)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The categories of the file, or COCO's 80: see ``DetectionDataset.label_space_of``."""
        remap, classes = bool(section.get("remap_mscoco_category")), section.get("classes")
        if remap and classes is None:
            return MSCOCO
        if not section.get("ann_file"):
            return None
        return coco_label_space(section["ann_file"], remap_mscoco_category=remap, classes=classes)

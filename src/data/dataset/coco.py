# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in COCO JSON."""

from __future__ import annotations

from typing import Literal

from ...core.registry import register
from ..transforms.compose import Compose
from .annotations import check_files, parse_coco
from .detection import DetectionDataset, check_class_count, report_boxes_without_area


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
        num_classes: class count to check against; None takes the data's.
        invalid_boxes: ``error`` stops on boxes that are inverted (negative width or height) or wholly outside their
            image, which are mistakes of a conversion; ``drop`` leaves them out with a warning, as the official recipe
            does in silence. Boxes of zero width or height are left out with a warning in both cases.

    Raises:
        DataError: see ``parse_coco``, ``check_files``; or a class count that is not the data's.
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
        invalid_boxes: Literal["error", "drop"] = "error",
    ) -> None:
        if return_masks:
            raise ValueError(f"return_masks is {return_masks}: masks are not supported, set return_masks: False")
        annotations = parse_coco(ann_file, remap_mscoco_category=remap_mscoco_category)
        super().__init__(annotations, img_folder, transforms)
        check_class_count(self, num_classes)
        check_files(img_folder, annotations.file_names, ann_file)
        report_boxes_without_area(annotations, invalid_boxes)

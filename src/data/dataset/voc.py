# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in the form of Pascal VOC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .detection import DetectionDataset
from .frame import Upright
from .prepare import prepare
from .problems import Problems
from .subset import Subset
from .voc_files import parse_voc, voc_label_space


@register
class VOCDetection(DetectionDataset):
    """Images with one XML file each, in the official list form, in the layout of the VOC devkit, or in plain folders.

    A line of the list file is ``relative/image.jpg relative/annotation.xml`` (relative to ``root``), or the stem of an
    image in ``JPEGImages`` (or ``images``) whose annotation is in ``Annotations``. Without a list (LabelImg, Kaggle,
    Roboflow) ``ann_file`` is a folder of XML files: their images lie beside them, or in ``images`` beside that folder.

    Args:
        root: folder of the data set.
        ann_file: list file, in ``root`` or in its ``ImageSets/Main``; or a folder of XML files in ``root``.
        label_file: class names in ``root``, one per line; the line is the label. Not read where ``classes`` is given;
            where there is no such file, the classes of all XML files below ``root`` are taken in alphabetical order,
            with a warning.
        transforms: applied to (image, target).
        num_classes: class count to check against; None takes the data's.
        classes: class names in label order, in place of the label file.
        one_based: coordinates count pixels from 1 and the last pixel belongs to the box, as the VOC devkit defines;
            one is taken from xmin and ymin. False uses the numbers as they are, as official configs expect.
        keep_difficult: objects marked difficult are targets like others, as in the official recipe. False: they are no
            targets, and evaluation neither counts them nor what is detected there (as crowd regions of COCO).
        size_from_image: read the size from the image where an XML file has none; False: that is an error.
        invalid_boxes, allow_no_targets, subset, subset_seed, upright: as for ``CocoDetection``.
            Images of the subset are read only.

    Raises:
        DataError: see ``parse_voc`` and ``prepare``.
        ConfigError: a fraction outside (0, 1].
    """

    def __init__(
        self,
        root: str,
        ann_file: str = "trainval.txt",
        label_file: str | None = "label_list.txt",
        transforms: Compose | None = None,
        *,
        num_classes: int | None = None,
        classes: list[str] | None = None,
        one_based: bool = False,
        keep_difficult: bool = True,
        size_from_image: bool = False,
        invalid_boxes: Literal["error", "drop"] = "error",
        allow_no_targets: bool = False,
        subset: float | str | list[str] | None = None,
        subset_seed: int = 0,
        upright: Upright = "auto",
    ) -> None:
        parsed = parse_voc(
            root,
            ann_file,
            label_file,
            classes=classes,
            one_based=one_based,
            keep_difficult=keep_difficult,
            size_from_image=size_from_image,
            subset=Subset(subset, subset_seed),
            upright=upright,
        )
        annotations = prepare(parsed, root, num_classes=num_classes, invalid_boxes=invalid_boxes)
        super().__init__(annotations, root, transforms, allow_no_targets=allow_no_targets)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The names of ``classes`` or of the label file: see ``DetectionDataset.label_space_of``."""
        if not section.get("root"):
            return None
        label_file = section.get("label_file", "label_list.txt")
        return voc_label_space(Path(section["root"]), label_file, section.get("classes"), Problems())

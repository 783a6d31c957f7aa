# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in the form that YOLO tools use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .detection import DetectionDataset
from .frame import Upright
from .prepare import prepare
from .subset import Subset
from .yolo_files import parse_yolo, yolo_label_space


@register
class YoloDetection(DetectionDataset):
    """Images and text files as a ``data.yaml`` names them.

    The YAML file has ``path`` (relative to it, or to where the program runs; else its folder), per split a folder, a
    text file with one image per line, or a list of these, ``names`` (list or mapping) and ``nc``. ``download`` is not
    followed. In its place stand Darknet's ``obj.data`` (CVAT), a list of class names beside ``images`` and ``labels``
    (Label Studio, LabelImg), or a folder that has one of these. The labels of ``.../images/a/b.jpg`` are in
    ``.../labels/a/b.txt``, or beside the image where there is no such folder; an image without that file has no
    objects. Rows are ``class cx cy w h`` as fractions of the image, or ``class x1 y1 x2 y2 x3 y3 ...``: a polygon,
    of which the box around it is used. Key points behind a box, which ``kpt_shape`` announces, are passed over. Sizes
    come from the image headers, turned by their EXIF orientation, because YOLO tools decode images that way.

    Args:
        data: the YAML file, or what stands in its place.
        split: ``train``, ``val``, ``test``, or another key of the file; ``valid`` and ``validation`` are ``val``, where
            one of them alone is there.
        transforms: applied to (image, target).
        num_classes: class count to check against; None takes the data's.
        invalid_boxes, allow_no_targets, subset, subset_seed: as for ``CocoDetection``.
            Images of the subset are looked at only.
        upright: ``auto`` is True here; False: sizes and boxes belong to the pictures as stored.

    Raises:
        DataError: see ``parse_yolo`` and ``prepare``.
        ConfigError: a fraction outside (0, 1].
    """

    def __init__(
        self,
        data: str,
        split: str = "train",
        transforms: Compose | None = None,
        *,
        num_classes: int | None = None,
        invalid_boxes: Literal["error", "drop"] = "error",
        allow_no_targets: bool = False,
        subset: float | str | list[str] | None = None,
        subset_seed: int = 0,
        upright: Upright = "auto",
    ) -> None:
        parsed = parse_yolo(data, split, subset=Subset(subset, subset_seed), upright=upright)
        annotations = prepare(parsed, parsed.folder, num_classes=num_classes, invalid_boxes=invalid_boxes)
        super().__init__(annotations, parsed.folder, transforms, allow_no_targets=allow_no_targets)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The names in the YAML file: see ``DetectionDataset.label_space_of``."""
        return yolo_label_space(section["data"]) if section.get("data") else None

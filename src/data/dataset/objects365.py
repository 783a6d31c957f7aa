# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Objects365: COCO JSON whose file names need not be where the files are, in several parts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import PER_BOX, Annotations, files_present, offsets_of
from .coco import coco_label_space, parse_coco
from .frame import Upright, settled
from .prepare import PreparedDataset, Subset
from .problems import Problems

logger = logging.getLogger(__name__)

_WAYS: dict[str, int] = {"as they are": 0, "by their last two parts": 2, "by their base names": 1}
"""How file names are looked for: parts of the path that count, 0 for all."""


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


def parse_objects365(
    img_folder: str | Sequence[str],
    ann_file: str | Sequence[str],
    *,
    keep_fake: bool = True,
    classes: Sequence[str] | None = None,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open one or more files; for the arguments see ``Objects365Detection``.

    Raises:
        DataError: see ``parse_coco``; files with different categories.
        ConfigError: folders and files do not pair up.
    """
    problems = problems or Problems()
    folders, files = _listed(img_folder), _listed(ann_file)
    if not files or len(folders) not in (1, len(files)):
        raise ConfigError(f"{len(folders)} img_folder for {len(files)} ann_file: give one folder, or one per file")
    folders = folders * len(files) if len(folders) == 1 else folders
    crowd_keys = ("iscrowd",) if keep_fake else ("iscrowd", "isfake")
    parts = []
    for folder, file in zip(folders, files):
        part = parse_coco(file, classes=classes, crowd_keys=crowd_keys, problems=problems)
        parts.append(_resolved(part, folder))
    root = folders[0]
    if len(set(folders)) > 1:
        absolute = [os.path.abspath(folder) for folder in folders]
        root = os.path.commonpath(absolute)
        parts = [
            replace(part, file_names=tuple(os.path.join(folder, name) for name in part.file_names))
            for folder, part in zip(absolute, parts)
        ]
    return (subset or Subset()).of(settled(_merged(parts, root, problems), upright, problems))


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


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


def _merged(parts: Sequence[Annotations], folder: str, problems: Problems) -> Annotations:
    first = parts[0]
    for part in parts[1:]:
        if part.label_space != first.label_space:
            text = (
                f"has the classes {part.label_space.describe()}, but {first.place} has {first.label_space.describe()}: "
                "files of one data set must list the same categories"
            )
            problems.report("bad class", part.place, text)
    if len(parts) == 1:
        return replace(first, folder=folder)
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

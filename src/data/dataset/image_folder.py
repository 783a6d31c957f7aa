# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images without annotations, for prediction."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations, Collected
from .frame import Upright
from .images import SUFFIXES, image_sizes, list_images
from .prepare import PreparedDataset, Subset
from .problems import Problems


@register
class ImageFolder(PreparedDataset):
    """All images in a folder and those below it, in the order of their names.

    There are no annotations: class names come with the checkpoint, and evaluation is refused.

    Args:
        img_folder: the folder.
        transforms: applied to (image, target); the target has no boxes.
        num_classes: class count of the model; its names are ``class 0``, ... until the checkpoint's are known.
        options: see ``PreparedDataset``; those about boxes change nothing. ``upright: auto`` is True here.

    Raises:
        DataError: no folder, no image in it, a file that is no image, an unknown name in the subset.
        ConfigError: a fraction outside (0, 1].
    """

    annotated: ClassVar[bool] = False

    def __init__(
        self, img_folder: str, transforms: Compose | None = None, *, num_classes: int | None = None, **options: Any
    ) -> None:
        super().__init__(partial(parse_folder, img_folder, num_classes=num_classes or 0), transforms, **options)


def parse_folder(
    img_folder: str | Path,
    *,
    num_classes: int = 0,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """The images of a folder with their sizes; see ``ImageFolder``.

    Raises:
        DataError: no folder, no image in it, or a file that is no image.
    """
    folder, problems = Path(img_folder), problems or Problems()
    if not folder.is_dir():
        problems.report("missing image", folder, "no such folder: check img_folder")
    names = list_images(folder)
    if folder.is_dir() and not names:
        problems.report("missing image", folder, f"no image in this folder ({', '.join(SUFFIXES)}): check img_folder")
    indices = (subset or Subset()).indices(names, None, str(folder)).tolist()
    sizes = image_sizes([folder / names[index] for index in indices], upright=bool(upright), problems=problems)
    collected = Collected()
    for index, size in zip(indices, sizes):
        if size:
            collected.add(names[index], index, size)
    space = LabelSpace(tuple(f"class {number}" for number in range(num_classes)), tuple(range(num_classes)))
    return collected.annotations(space, str(folder), str(folder), upright=bool(upright))

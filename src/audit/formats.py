# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Annotations of any format by its name, for tools that work on all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..data.dataset.annotations import Annotations
from ..data.dataset.coco import open_coco, parse_objects365
from ..data.dataset.crowdhuman import parse_crowdhuman
from ..data.dataset.image_folder import parse_folder
from ..data.dataset.kitti import parse_kitti
from ..data.dataset.problems import Problems
from ..data.dataset.voc import parse_voc
from ..data.dataset.yolo import parse_yolo


def read_annotations(
    format: str, where: Mapping[str, Any], problems: Problems | None = None
) -> tuple[Annotations, Path]:
    """Open annotations without making a data set of them.

    Args:
        format: one of ``FORMATS``.
        where: arguments as the data set of that format takes them (``img_folder``, ``ann_file``, ...).
        problems: where to report what is wrong with the files; None raises at once.

    Returns:
        The annotations, and the folder that their file names are relative to.

    Raises:
        DataError: an unknown format, an argument that it does not have or that is missing; what the parser reports.
    """
    if format not in FORMATS:
        raise DataError(f"format {format!r}: no such format; there are {', '.join(FORMATS)}")
    parse = FORMATS[format]
    known = inspect.signature(parse).parameters
    unknown = [name for name in where if name not in known or name == "problems"]
    missing = [name for name, parameter in known.items() if parameter.default is parameter.empty and name not in where]
    if unknown or missing:
        raise DataError(
            f"format {format}: unknown {', '.join(unknown) or 'nothing'}, missing {', '.join(missing) or 'nothing'}; "
            f"it takes {', '.join(name for name in known if name != 'problems')}"
        )
    annotations = parse(**where, problems=problems)
    return annotations, Path(annotations.folder)


FORMATS: dict[str, Callable[..., Annotations]] = {
    "coco": open_coco,
    "voc": parse_voc,
    "yolo": parse_yolo,
    "crowdhuman": parse_crowdhuman,
    "objects365": parse_objects365,
    "kitti": parse_kitti,
    "folder": parse_folder,
}
"""Parsers by format."""

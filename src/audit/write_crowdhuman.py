# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""CrowdHuman odgt: one JSON object per image, persons only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..data.dataset.coco_fields import box_numbers
from ..data.dataset.crowdhuman import read_entries
from ..data.dataset.problems import Problems
from .findings import Split
from .limits import SourceObjects, lost_in, plain
from .naming import write_text

_PERSON = "person"


def write_crowdhuman(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``annotation_SPLIT.odgt`` with full-body boxes; crowd regions are tagged ``mask`` and ignored.

    Raises:
        DataError: there is no class called person.
    """
    remarks = []
    for split, new in zip(splits, names):
        space = split.annotations.label_space
        if _PERSON not in space.names:
            raise DataError(
                f"{split.annotations.place}: CrowdHuman files hold the class person only, and there is none among "
                f"{', '.join(space.names)}: convert to another format"
            )
        label = space.names.index(_PERSON)
        source = _source(split)
        lines = [
            json.dumps(_entry(split, index, name, label, source), ensure_ascii=False) for index, name in enumerate(new)
        ]
        write_text(folder / f"annotation_{split.name}.odgt", "".join(f"{line}\n" for line in lines))
        others = int(np.count_nonzero(split.annotations.labels != label))
        if others:
            remarks.append(f"{split.name}: {others} boxes of classes other than person are left out")
        remarks += lost_in(split, "written as ignored masks", kept="crowdhuman")
    return remarks


def _source(split: Split) -> dict[str, list[dict[str, Any]]]:
    """The objects that a file of CrowdHuman lists, by image file; nothing where the split has another format."""
    by_file: dict[str, list[dict[str, Any]]] = {}
    if split.format == "crowdhuman":
        for entry in read_entries(Path(split.annotations.place), Problems(collect=True)):
            by_file.setdefault(entry.file_name, []).extend(item for item in entry.objects if isinstance(item, dict))
    return by_file


def _entry(
    split: Split, index: int, name: str, label: int, source: Mapping[str, Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    data, boxes = split.annotations, []
    height, width = data.sizes[index].tolist()
    objects = SourceObjects[dict[str, Any]]((height, width))
    for entry in source.get(data.file_names[index], ()):
        if known := box_numbers(entry.get("fbox")):
            objects.add(entry, known)
    for row in range(data.offsets[index], data.offsets[index + 1]):
        if data.labels[row] == label:
            box = [plain(value) for value in data.boxes_xywh_px[row]]
            ignored = {"extra": {"ignore": 1}} if data.crowd[row] else {}
            new = {"tag": "mask" if data.crowd[row] else _PERSON, **ignored}
            boxes.append({**(objects.take(data.boxes_xywh_px[row].tolist()) or new), "fbox": box})
    return {"ID": os.path.splitext(name)[0], "gtboxes": boxes}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO detection JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .findings import Split
from .losses import lost_of_source, plain
from .naming import write_json


def write_coco(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``annotations/SPLIT.json``, with image names relative to a folder ``SPLIT``."""
    for split, new in zip(splits, names):
        write_json(folder / "annotations" / f"{split.name}.json", coco_content(split, new))
    return [line for split in splits for line in lost_of_source(split)]


def write_coco_beside(splits: Sequence[Split], folder: Path) -> list[str]:
    """``SPLIT.json`` for images that stay where they are."""
    remarks = []
    for split in splits:
        path = folder / f"{split.name}.json"
        write_json(path, coco_content(split, split.annotations.file_names))
        where = f"{path}: its images stay in {split.img_folder} (img_folder of a config, --image-folder of this tool)"
        remarks += [*lost_of_source(split), where]
    return remarks


def coco_content(split: Split, names: Sequence[str]) -> dict[str, Any]:
    """A split as plain data. What a COCO source says beyond boxes (masks, licences, ...) is carried over.

    Args:
        names: file names of the images.
    """
    data, space = split.annotations, split.annotations.label_space
    from_coco = split.format == "coco" and Path(data.place).is_file()
    source = json.loads(Path(data.place).read_bytes()) if from_coco else {}
    known = {key: _by_id(source.get(key)) for key in ("images", "annotations", "categories")}
    images, annotations = [], []
    for index, name in enumerate(names):
        number = int(data.image_ids[index])
        height, width = data.sizes[index].tolist()
        image = {"id": number, "file_name": name, "height": height, "width": width}
        images.append({**known["images"].get(number, {}), **image})
        for row in range(data.offsets[index], data.offsets[index + 1]):
            own = {
                "id": int(data.ids[row]),
                "image_id": number,
                "category_id": space.category_ids[int(data.labels[row])],
                "bbox": [plain(value) for value in data.boxes_xywh_px[row]],
                "area": plain(data.area_px[row]),
                "iscrowd": int(data.crowd[row]),
            }
            annotations.append({**known["annotations"].get(int(data.ids[row]), {}), **own})
    classes = zip(space.category_ids, space.names)
    categories = [{**known["categories"].get(one, {}), "id": one, "name": name} for one, name in classes]
    rest = {key: value for key, value in source.items() if key not in known}
    return {**rest, "images": images, "annotations": annotations, "categories": categories}


def _by_id(entries: Any) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            found.setdefault(entry["id"], entry)
    return found

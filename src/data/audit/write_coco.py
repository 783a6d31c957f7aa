# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO detection JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import repeated_ids
from .findings import Split
from .losses import lost_of_source, plain
from .naming import write_json


def write_coco(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``annotations/SPLIT.json``, with image names relative to a folder ``SPLIT``."""
    for split, new in zip(splits, names):
        write_json(folder / "annotations" / f"{split.name}.json", coco_content(split, new))
    return [line for split in splits for line in (*lost_of_source(split), *_renumbered(split))]


def write_coco_beside(splits: Sequence[Split], folder: Path) -> list[str]:
    """``SPLIT.json`` for images that stay where they are."""
    remarks = []
    for split in splits:
        path = folder / f"{split.name}.json"
        write_json(path, coco_content(split, split.annotations.file_names))
        where = f"{path}: its images stay in {split.img_folder} (img_folder of a config, --image-folder of this tool)"
        remarks += [*lost_of_source(split), *_renumbered(split), where]
    return remarks


def coco_content(split: Split, names: Sequence[str]) -> dict[str, Any]:
    """A split as plain data. What a COCO source says beyond boxes (masks, licences, ...) is carried over.

    Args:
        names: file names of the images.
    """
    data, space = split.annotations, split.annotations.label_space
    from_coco = split.format == "coco" and Path(data.place).is_file()
    source = json.loads(Path(data.place).read_bytes()) if from_coco else {}
    known = _Source(source)
    ids = data.ids.copy()
    again = repeated_ids(ids)
    ids[again] = ids.max(initial=0) + 1 + np.arange(np.count_nonzero(again))
    images, annotations = [], []
    for index, name in enumerate(names):
        number = int(data.image_ids[index])
        height, width = data.sizes[index].tolist()
        image = {"id": number, "file_name": name, "height": height, "width": width}
        images.append({**known.image(number), **image})
        for row in range(data.offsets[index], data.offsets[index + 1]):
            own = {
                "id": int(ids[row]),
                "image_id": number,
                "category_id": space.category_ids[int(data.labels[row])],
                "bbox": [plain(value) for value in data.boxes_xywh_px[row]],
                "area": plain(data.area_px[row]),
                "iscrowd": int(data.crowd[row]),
            }
            annotations.append({**known.annotation(int(data.ids[row]), number), **own})
    classes = zip(space.category_ids, space.names)
    categories = [{**known.category(name), "id": one, "name": name} for one, name in classes]
    rest = {key: value for key, value in source.items() if key not in ("images", "annotations", "categories")}
    return {**rest, "images": images, "annotations": annotations, "categories": categories}


class _Source:
    """What a COCO file says about an entry, by what names it; nothing where that is not one entry alone."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._images = _by_key(content.get("images"), "id")
        self._annotations = _by_key(content.get("annotations"), "id", "image_id")
        self._categories = _by_key(content.get("categories"), "name")  # splits may have other ids for one name

    def image(self, number: int) -> dict[str, Any]:
        return (self._images.get((number,)) or [{}])[0]

    def annotation(self, number: int, image: int) -> dict[str, Any]:
        found = self._annotations.get((number, image), [])
        return found[0] if len(found) == 1 else {}

    def category(self, name: str) -> dict[str, Any]:
        return (self._categories.get((name,)) or [{}])[0]


def _by_key(entries: Any, *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and all(isinstance(entry.get(key), (int, str)) for key in keys):
            found.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return found


def _renumbered(split: Split) -> list[str]:
    count = int(np.count_nonzero(repeated_ids(split.annotations.ids)))
    return [f"{split.name}: {count} boxes without an id of their own get a new one"] if count else []

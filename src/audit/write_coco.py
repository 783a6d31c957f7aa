# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""COCO detection JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset.coco_fields import whole_number
from .boxes import repeated_ids
from .findings import Split
from .limits import lost_of_source, plain
from .naming import write_json


def write_coco(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``annotations/SPLIT.json``, with image names relative to a folder ``SPLIT``."""
    remarks = []
    for split, new in zip(splits, names):
        source = _source_of(split)
        write_json(folder / "annotations" / f"{split.name}.json", coco_content(split, new, source))
        remarks += [*lost_of_source(split), *_renumbered(split, source)]
    return remarks


def write_coco_beside(splits: Sequence[Split], folder: Path) -> list[str]:
    """``SPLIT.json`` for images that stay where they are."""
    remarks = []
    for split in splits:
        path, source = folder / f"{split.name}.json", _source_of(split)
        write_json(path, coco_content(split, split.annotations.file_names, source))
        where = (
            f"{path.name}: its images stay in {split.img_folder} (img_folder of a config, --image-folder of this tool)"
        )
        remarks += [*lost_of_source(split), *_renumbered(split, source), where]
    return remarks


def _source_of(split: Split) -> dict[str, Any]:
    """The COCO file of a split, empty where there is no one such file."""
    from_coco = split.format == "coco" and Path(split.annotations.place).is_file()
    return json.loads(Path(split.annotations.place).read_bytes()) if from_coco else {}


def coco_content(split: Split, names: Sequence[str], source: Mapping[str, Any]) -> dict[str, Any]:
    """A split as plain data. What a COCO source says beyond boxes (masks, licences, ...) is carried over.

    Args:
        names: file names of the images.
        source: the COCO file they come from, or nothing.
    """
    data, space = split.annotations, split.annotations.label_space
    known = _Source(source)
    ids = data.ids.copy()
    again = repeated_ids(ids)
    ids[again] = ids.max(initial=0) + 1 + np.arange(np.count_nonzero(again))
    images, annotations = [], []
    for index, name in enumerate(names):
        number = int(data.image_ids[index])
        height, width = data.sizes[index].tolist()
        image = {"id": number, "file_name": name, "height": height, "width": width}
        old = data.file_names[index]
        images.append({**known.image(old), **image})
        for row in range(data.offsets[index], data.offsets[index + 1]):
            own = {
                "id": int(ids[row]),
                "image_id": number,
                "category_id": space.category_ids[int(data.labels[row])],
                "bbox": [plain(value) for value in data.boxes_xywh_px[row]],
                "area": plain(data.area_px[row]),
                "iscrowd": int(data.crowd[row]),
            }
            annotations.append({**known.annotation(int(data.ids[row]), old), **own})
    classes = zip(space.category_ids, space.names)
    categories = [{**known.category(name), "id": number, "name": name} for number, name in classes]
    rest = {key: value for key, value in source.items() if key not in ("images", "annotations", "categories")}
    return {**rest, "images": images, "annotations": annotations, "categories": categories}


class _Source:
    """What a COCO file says about an entry, by what names it; nothing where that is not one entry alone."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        images, annotations, categories = (_entries(content, key) for key in ("images", "annotations", "categories"))
        names = {_key(image.get("id")): image.get("file_name") for image in images}
        self._images = _grouped((image.get("file_name"), image) for image in images)
        ids = _annotation_ids(annotation.get("id") for annotation in annotations)
        owners = [names.get(_key(annotation.get("image_id"))) for annotation in annotations]
        self._annotations = _grouped(zip(zip(ids, owners), annotations))
        # By name, because ids may differ between splits.
        self._categories = _grouped((category.get("name"), category) for category in categories)

    def image(self, name: str) -> dict[str, Any]:
        return (self._images.get(name) or [{}])[0]

    def annotation(self, number: int, image: str) -> dict[str, Any]:
        entries = self._annotations.get((number, image), [])
        return entries[0] if len(entries) == 1 else {}

    def category(self, name: str) -> dict[str, Any]:
        return (self._categories.get(name) or [{}])[0]


def _annotation_ids(values: Iterable[object]) -> list[int]:
    """Whole numbers as they are; the others, in their order, those that follow the largest."""
    known = [whole_number(value) for value in values]
    largest, numbers, missing = max((number for number in known if number is not None), default=0), [], 0
    for number in known:
        missing += number is None
        numbers.append(max(largest, 0) + missing if number is None else number)
    return numbers


def _key(number: object) -> int | str:
    """An id of an image, however it is written."""
    known = whole_number(number)
    return str(number) if known is None else known


def _entries(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _grouped(pairs: Iterable[tuple[Any, dict[str, Any]]]) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for key, entry in pairs:
        if not isinstance(key, (list, dict)):
            groups.setdefault(key, []).append(entry)
    return groups


def _renumbered(split: Split, source: Mapping[str, Any]) -> list[str]:
    missing = sum(whole_number(annotation.get("id")) is None for annotation in _entries(source, "annotations"))
    count = missing + int(np.count_nonzero(repeated_ids(split.annotations.ids)))
    return [f"{split.name}: {count} boxes without an id of their own get a new one"] if count else []

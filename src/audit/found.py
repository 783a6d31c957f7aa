# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of data as the config values that train on it: format, parts and classes are found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..data import Ints
from ..data.dataset.coco import categories_space, groups_of
from ..data.dataset.json_lists import read_list
from ..data.dataset.layout import SPLITS, role_of
from ..data.dataset.prepare import Subset
from ..data.dataset.problems import Problems
from .configured import FORMAT_OF
from .folders import find_images, odgt_names
from .formats import read_annotations
from .sources import Source, discover, other_formats, unread_json

VAL_SHARE = 0.2
"""Share of the images that become validation data where there is none."""
_TITLES = {"coco": "COCO JSON", "voc": "Pascal VOC", "yolo": "YOLO", "crowdhuman": "CrowdHuman", "kitti": "KITTI"}
_TYPES = {format: name for name, format in FORMAT_OF.items()}
_SHOWN = 20
"""Classes that a line lists."""


@dataclass(frozen=True)
class FoundData:
    """What was found in a folder of data."""

    overrides: dict[str, Any]
    """Values by dotted key of a config: with them any config trains and is judged on this data."""
    lines: tuple[str, ...]
    """For a person: format, parts with their images and where they are from, classes, and what is not used."""


@dataclass(frozen=True)
class _Part:
    """Training or validation data, of which little more than lists of images and classes was read."""

    place: str
    section: Mapping[str, Any]
    """``dataset`` of a loader."""
    folder: Path
    images: tuple[str, ...]
    classes: tuple[str, ...]
    idle: frozenset[str] = frozenset()
    """Classes without a box that are groups of others, such as Roboflow's first one."""

    @property
    def paths(self) -> set[str]:
        return {os.path.normpath(self.folder / name) for name in self.images}

    def drawn(self, begin: float, end: float, seed: int) -> _Part:
        """The images in a stretch of the draw."""
        chosen = Subset((begin, end), seed).indices(self.images, None, self.place).tolist()
        section = {**self.section, "subset": [begin, end], "subset_seed": seed}
        return replace(self, section=section, images=tuple(self.images[index] for index in chosen))


@dataclass(frozen=True)
class _Listing(Subset):
    """Notes all images and chooses none, so that a parser opens none."""

    images: list[str] = field(default_factory=list)

    def indices(self, file_names: Sequence[str], image_ids: Sequence[int] | None, place: str) -> Ints:
        self.images.extend(file_names)
        return np.zeros(0, np.int64)


def find_data(folder: str | Path, *, seed: int = 0) -> FoundData:
    """What a config has to say to train on a folder, whatever its layout.

    Validation data is the part that is called so, else the test part, else a fifth of the images, drawn by ``seed``.
    A validation part that holds exactly the images to learn from is no part: they are divided too.

    Args:
        folder: a data set in any layout that ``isdfine data check`` finds, or its ``data.yaml``, JSON or list file.
        seed: of the draw.

    Raises:
        DataError: nothing known there, several parts that could be meant, no images, parts with different classes.
    """
    if not str(folder):
        raise DataError("the folder of the data is an empty text: name it")
    sources = discover(folder)
    chosen = _chosen(sources, folder)
    train = _opened(chosen["train"])
    held_out = chosen.get("val") or chosen.get("test")
    val = _opened(held_out, train) if held_out else None
    shared = val.paths & train.paths if val else set()
    if val is None or len(shared) == len(train.paths | val.paths):
        reason = f"{val.place} holds the images of training" if val else "there is no validation part"
        if val is None and (unread := unread_json(Path(folder), "val")):
            reason += f" ({', '.join(unread)}: no COCO detection JSON, or damaged)"
        if len(train.images) < 2:
            raise DataError(f"{train.place}: {reason}, and one image cannot be divided: add validation data")
        train, val = train.drawn(VAL_SHARE, 1.0, seed), train.drawn(0.0, VAL_SHARE, seed)
        note = f", drawn with seed {seed} and left out of training: {reason}"
    else:
        note = "" if "val" in chosen else ": there is no validation part"
        note += f"; {len(shared)} OF THEM ARE IN TRAINING AS WELL: isdfine data check names them" if shared else ""
    classes = _classes(train, val, folder)
    shown = ", ".join(classes[:_SHOWN]) + (f", ... ({len(classes) - _SHOWN} more)" if len(classes) > _SHOWN else "")
    lines = [
        f"{folder}: {_TITLES[sources[0].format]}",
        f"training: {_count(train.images, 'image')} ({train.place})",
        f"validation: {_count(val.images, 'image')} ({val.place}){note}",
        f"{_count(classes, 'class')}: {shown}",
        *_left(sources, [chosen["train"], held_out], Path(folder)),
    ]
    ordered = {"classes": list(classes)} if "classes" in train.section else {}
    overrides = {
        "train_dataloader.dataset": {**train.section, **ordered},
        "val_dataloader.dataset": {**val.section, **ordered},
        "num_classes": len(classes),
        "remap_mscoco_category": False,
    }
    return FoundData(overrides, tuple(lines))


def _count(items: Sequence[str], name: str) -> str:
    return f"{len(items):,} {name}" + ("" if len(items) == 1 else "es" if name == "class" else "s")


def _chosen(sources: Sequence[Source], folder: str | Path) -> dict[str, Source]:
    """The source of each role; training data may be one that has no role by its name, or the only one there is."""
    groups: dict[str | None, list[Source]] = {}
    for source in sources:
        groups.setdefault(role_of(source.name), []).append(source)
    if "train" not in groups:
        groups["train"] = groups.get(None, []) or (groups.popitem()[1] if len(sources) == 1 else [])
    return {role: _one(groups[role], role, folder, sources) for role in ("train", "val", "test") if role in groups}


def _one(found: Sequence[Source], role: str, folder: str | Path, sources: Sequence[Source]) -> Source:
    plain = [source for source in found if source.name.lower() in SPLITS]
    if len(found) == 1 or len(plain) == 1:
        return (plain or list(found))[0]
    names = ", ".join(source.name for source in found or sources)
    text = "could each be" if found else "are there, but none of them is called"
    raise DataError(
        f"{folder}: {names} {text} {role}: name the folder or file of one, or write both into a config (docs/data.md)"
    )


def _left(sources: Sequence[Source], used: Sequence[Source | None], folder: Path) -> list[str]:
    """What else is there."""
    parts = [source.name for source in sources if source not in used]
    others = [_TITLES[name] for name in other_formats(folder, sources[0].format)] if folder.is_dir() else []
    remarks = [f"not used: {', '.join(parts)}"] if parts else []
    return remarks + [f"there is {title} too: give its folder or file to take it" for title in others]


def _opened(source: Source, train: _Part | None = None) -> _Part:
    """Read lists of images and classes; ``train`` is the part whose classes hold for all files below one root.

    Raises:
        DataError: no image, no class, or what the parser says of its files.
    """
    paths = ("root", "data") if source.format in ("voc", "kitti") else ("ann_file", "data")
    where = {key: os.path.abspath(value) if key in paths else value for key, value in source.where.items()}
    file, groups = Path(where.get("ann_file", "")), set[str]()
    if source.format == "coco":
        categories = read_list(file, "categories")
        names = categories_space(categories, str(file), False, None, Problems()).names
        groups = groups_of(categories) & set(names)
        where |= {"img_folder": "", "classes": [name for name in names if name not in groups] or list(names)}
    elif source.format == "crowdhuman":
        where["img_folder"] = str(find_images(file, odgt_names(file)).absolute())
    elif source.format == "voc" and train:
        where["classes"] = list(train.classes)
    listing, problems = _Listing(1.0), Problems(collect=True)
    annotations, folder = read_annotations(source.format, {**where, "subset": listing}, problems)
    classes = annotations.label_space.names
    if not classes or not listing.images:
        raise DataError(str(problems.found[0]) if problems.found else f"{annotations.place}: no image in it")
    if source.format == "coco":
        folder = find_images(file, listing.images).absolute()
        where["img_folder"] = str(folder)
        if any(problem.kind == "unknown category" for problem in problems.found):  # boxes of a group
            groups = set()
        classes = names
    if source.format in ("coco", "voc"):
        where["classes"] = list(classes)
    if source.format == "crowdhuman":
        where["invalid_boxes"] = "drop"  # bodies may lie wholly outside the picture
    section = {"type": _TYPES[source.format], **where, "subset": None}  # not that of a config for other data
    return _Part(annotations.place, section, folder, tuple(listing.images), classes, frozenset(groups))


def _classes(train: _Part, val: _Part, folder: str | Path) -> tuple[str, ...]:
    """The classes of both, in the order of the training data, without groups that have no box in either.

    Raises:
        DataError: lists that differ.
    """
    idle = train.idle & val.idle
    if set(train.classes) - idle != set(val.classes) - idle:
        lists = [f"{part.place} has {', '.join(part.classes[:_SHOWN])}" for part in (train, val)]
        raise DataError(
            f"{' but '.join(lists)}: both must list the same classes; isdfine data convert {folder} --to coco "
            "-o NEW_FOLDER writes both with one list"
        )
    return tuple(name for name in train.classes if name not in idle)

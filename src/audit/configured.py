# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The data sets that the config of a run names, and how many queries its model has."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.config import Config
from ..core.errors import ConfigError
from ..data.dataset.prepare import Subset
from .formats import FORMATS
from .sources import Source

FORMAT_OF = {
    "CocoDetection": "coco",
    "VOCDetection": "voc",
    "YoloDetection": "yolo",
    "CrowdHumanDetection": "crowdhuman",
    "Objects365Detection": "objects365",
    "KittiDetection": "kitti",
}
"""Format by the class of a data set."""
_SHARED = ("remap_mscoco_category",)


def sources_of(config: Config) -> list[Source]:
    """Training and validation data of a run, whole: without its ``subset``, unless that divides one data set.

    Raises:
        ConfigError: no loader with a data set, or a data set without boxes.
    """
    sources = []
    for name, loader in (("train", "train_dataloader"), ("val", "val_dataloader")):
        section = config.get(f"{loader}.dataset")
        if not isinstance(section, Mapping):
            continue
        kind = str(section.get("type"))
        if kind not in FORMAT_OF:
            raise ConfigError(
                f"{config.path}: {loader}.dataset.type: {kind} has no annotations that could be looked at; known: "
                f"{', '.join(FORMAT_OF)}"
            )
        known = inspect.signature(FORMATS[FORMAT_OF[kind]]).parameters
        shared = {key: config.shared(key) for key in _SHARED if key in known and config.shared(key) is not None}
        where = {key: value for key, value in {**shared, **section}.items() if key in known and key != "subset"}
        part = Subset(section.get("subset"), section.get("subset_seed", 0))
        if isinstance(part.chosen, list) and part.stretch:
            where["subset"] = part
        ops = config.build(f"{loader}.dataset.transforms.ops") or ()
        sources.append(Source(name, FORMAT_OF[kind], where, ops))
    if not sources:
        raise ConfigError(
            f"{config.path}: no train_dataloader.dataset and no val_dataloader.dataset: nothing to look at"
        )
    return sources


def queries_of(config: Config) -> int | None:
    """The smallest ``num_queries`` in a config, None where it has none."""
    return min(_values(config.data, "num_queries"), default=None)


def _values(tree: Any, key: str) -> Iterator[int]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name == key and isinstance(value, int):
                yield value
            else:
                yield from _values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)

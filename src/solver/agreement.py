# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""See at the start that all ranks do the same: one that differs would train another model in silence."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core import dist
from ..core.config import Config
from ..data.dataset.annotations import Annotations
from ..data.dataset.detection import DetectionDataset


def compare_configs(config: Config, command: str = "") -> None:
    """Resolved config, version of the code and command, of all ranks. Paths of data may differ: their content is
    compared when it has been read.

    Raises:
        ConfigError: on every rank, naming rank and keys.
    """
    if dist.world_size() == 1:
        return
    facts = {key: value for key, value in _leaves(config.data, "") if not _is_data_path(key, value)}
    code = 0
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        code = zlib.crc32(file.read_bytes(), code)
    dist.require_same(
        {**facts, "command": command, "isdfine's code": f"{code:08x}", "torch": torch.__version__}, "configuration"
    )


def compare_data(name: str, dataset: DetectionDataset) -> None:
    """Classes, images and boxes of all ranks.

    Raises:
        ConfigError: on every rank, naming rank and what differs.
    """
    if dist.world_size() == 1:
        return
    facts = {
        f"{name}: classes": dataset.label_space.describe(),
        f"{name}: all classes": f"{zlib.crc32(repr(dataset.label_space).encode()):08x}",
        f"{name}: images": len(dataset),
        f"{name}: annotations (checksum)": f"{_sum(dataset.annotations):08x}",
    }
    dist.require_same(facts, "data set")


def _sum(annotations: Annotations) -> int:
    total = 0
    for array in (annotations.image_ids, annotations.offsets, annotations.labels, annotations.boxes_xywh_px):
        total = zlib.crc32(array.tobytes(), total)
    return total


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, object]]:
    """Dotted keys of a config and their values; lists stay whole."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))


def _is_data_path(key: str, value: object) -> bool:
    return ".dataset." in key and isinstance(value, str) and ("/" in value or "\\" in value)

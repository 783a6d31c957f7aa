# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of ``transformers``: ``config.json``, weights in one file or in shards, preprocessor settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.checkpoint import read_checkpoint
from ...core.checkpoint.card import Card, save_weights, write_text
from ...core.errors import CheckpointError
from .families import WEIGHTS_ONLY, check_model_type

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_NAMES = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What a folder holds."""

    config: dict[str, Any]
    """``config.json``."""
    weights: dict[str, Tensor]
    """Tensors under transformers' names, on the CPU."""
    weights_file: Path
    """The file they come from; of shards, the index."""
    image_size: tuple[int, int]
    """(height, width) in pixels that its preprocessor resizes to, or its shorter and longer side where it keeps the
    aspect ratio; 640 x 640 where it has none."""


def is_huggingface(path: str | PathLike[str]) -> bool:
    """Whether a path is a folder with a ``config.json``, or a weights file of transformers in one."""
    path = Path(path)
    if path.is_dir():
        return (path / CONFIG).is_file() or any((path / name).is_file() for name in WEIGHTS_NAMES)
    return path.name in WEIGHTS_NAMES and (path.parent / CONFIG).is_file()


def read_folder(path: str | PathLike[str]) -> HuggingFaceFolder:
    """Read a folder that ``save_pretrained`` of D-FINE, RT-DETR or Deformable DETR wrote.

    Args:
        path: the folder, or its weights file.

    Raises:
        CheckpointError: no ``config.json`` or no weights, another architecture, a truncated file, a missing shard.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no {CONFIG} in it: give a folder that transformers' save_pretrained wrote, with its weights; "
            "of a run's folder give one checkpoint, such as best.pth"
        )
    config = _read_json(folder / CONFIG)
    check_model_type(config, str(folder / CONFIG), WEIGHTS_ONLY)
    file = path if path.is_file() else _weights_file(folder)
    weights = _read_shards(file) if file.suffix == ".json" else read_checkpoint(file)
    return HuggingFaceFolder(config, _only_tensors(weights, file), file, _image_size(folder))


def write_folder(
    folder: str | PathLike[str],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    card: Card,
    *,
    image_size: Sequence[int],
) -> None:
    """Write a folder for ``from_pretrained``; every file is replaced whole or not at all.

    Args:
        folder: made where it does not exist.
        config: ``config.json`` (``config_to_huggingface``).
        weights: tensors under transformers' names, layout ``file``.
        card: our card; it lies beside the weights and does not disturb transformers.
        image_size: (height, width) in pixels.

    Raises:
        CheckpointError: a file cannot be written.
    """
    folder = Path(folder)
    write_text(folder / CONFIG, json.dumps(dict(config), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / PREPROCESSOR, json.dumps(_preprocessor(image_size), indent=2) + "\n")
    save_weights(weights, folder / WEIGHTS, card)


def _preprocessor(image_size: Sequence[int]) -> dict[str, Any]:
    """``preprocessor_config.json``: resize to (height, width), divide by 255, nothing else."""
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": int(image_size[0]), "width": int(image_size[1])},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_annotations": True,
        "do_pad": False,
        "format": "coco_detection",
    }


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: no weights in it: expected one of {', '.join(WEIGHTS_NAMES)}")


def _read_shards(index: Path) -> dict[str, Any]:
    """All tensors of the files that an index names."""
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: no weight_map in it: it is not an index of shards; copy or download it again")
    weights: dict[str, Any] = {}
    for name in sorted(set(map(str, places.values()))):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names the shard {name!r}, which is not a file of this folder")
        shard = index.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{shard}: this shard is missing: {index.name} names it; copy or download it")
        weights.update(read_checkpoint(shard))
    if missing := [key for key in places if key not in weights]:
        raise CheckpointError(
            f"{index}: its shards lack {len(missing)} tensors, for example {missing[0]}: download again"
        )
    return weights


def _only_tensors(weights: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file}: not the weights of a transformers model: it holds something else than tensors")
    return dict(weights)


def _image_size(folder: Path) -> tuple[int, int]:
    """Two sides of ``preprocessor_config.json``; a single number there stands for a square."""
    if not (folder / PREPROCESSOR).is_file():
        return 640, 640
    size = _read_json(folder / PREPROCESSOR).get("size")
    if isinstance(size, int):
        return size, size
    for sides in (("height", "width"), ("shortest_edge", "longest_edge")):
        if isinstance(size, Mapping) and set(sides) <= set(size):
            return int(size[sides[0]]), int(size[sides[1]])
    raise CheckpointError(
        f"{folder / PREPROCESSOR}: size is {size!r}, expected height and width: images are resized to a fixed size"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not JSON ({error}): the file is truncated or damaged; download it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected an object with named entries")
    return content

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Write data sets in any format: COCO JSON, Pascal VOC, YOLO, CrowdHuman."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .edit import with_one_class_list
from .findings import Split
from .naming import Transfer, new_names, transfer
from .orientation import as_upright
from .pixels import Progress, silent
from .write_coco import write_coco, write_coco_beside
from .write_crowdhuman import write_crowdhuman
from .write_voc import write_voc
from .write_yolo import write_yolo

_STANDARD = ("train", "val", "test")


class _Writer(NamedTuple):
    write: Callable[[Sequence[Split], Sequence[Sequence[str]], Path], list[str]]
    images: str
    """Folder of the images of a split."""


_WRITERS: dict[str, _Writer] = {
    "coco": _Writer(write_coco, "{split}"),
    "voc": _Writer(write_voc, "JPEGImages"),
    "yolo": _Writer(write_yolo, "images/{split}"),
    "crowdhuman": _Writer(write_crowdhuman, "Images/{split}"),
}


def write_dataset(
    splits: Sequence[Split], folder: Path, format: str, *, images: Transfer = "copy", progress: Progress = silent
) -> list[str]:
    """Write splits into an empty folder, laid out so that ``discover`` finds them again.

    Args:
        splits: checked annotations with their image folders.
        format: coco, voc, yolo or crowdhuman.
        images: what happens to the image files.
        progress: wraps the loop over images.

    Returns:
        Remarks: what the format could not hold, what was renamed, what is left to do.

    Raises:
        DataError: images that are missing, classes the format does not know.
    """
    splits, remarks = with_one_class_list(splits)
    splits = [replace(split, name=split.name.replace("/", "_")) for split in splits]
    framed = [
        _kept(split) if split.format == format else as_upright(split)
        for split in splits  # in its own format a picture stays as it is, and with it the masks of COCO
    ]
    splits = [split for split, _ in framed]
    remarks += [line for _, lines in framed for line in lines]
    if format == "coco" and images == "none":
        return [*remarks, *write_coco_beside(splits, folder)]
    if format == "yolo":
        splits = _with_standard_names(splits)
    suffix = ".jpg" if format == "crowdhuman" else None
    names = list(new_names(splits, per_split=format != "voc", suffix=suffix, stems=format == "voc"))
    remarks += _renamed(splits, names)
    writer = _WRITERS[format]
    remarks += writer.write(splits, names, folder)
    jobs = [
        (split.path(index), folder / writer.images.format(split=split.name) / name)
        for split, new in zip(splits, names)
        for index, name in enumerate(new)
    ]
    if images == "none":
        return [
            *remarks,
            f"images were not written: bring them to {writer.images.format(split='<split>')} in the folder",
        ]
    for source, target in progress(jobs, len(jobs), "images"):
        transfer(source, target, images)
    return remarks


def _kept(split: Split) -> tuple[Split, list[str]]:
    """A split whose boxes stay where they are; a part of a file may lack what told to which pictures they belong."""
    said = f"{split.name}: boxes belong to the pictures as stored: say upright: False in its dataset section"
    return split, [said] if not split.annotations.upright and as_upright(split)[1] else []


def _with_standard_names(splits: Sequence[Split]) -> list[Split]:
    """``train2017`` as ``train``: the keys that every YOLO program reads; a lone split of any name is ``train``."""
    short = {split.name: next((name for name in _STANDARD if split.name.startswith(name)), "") for split in splits}
    if len(splits) == 1:
        return [replace(splits[0], name=short[splits[0].name] or "train")]
    single = [name for name in short.values() if name and list(short.values()).count(name) == 1]
    return [replace(split, name=short[split.name] if short[split.name] in single else split.name) for split in splits]


def _renamed(splits: Sequence[Split], names: Sequence[Sequence[str]]) -> list[str]:
    pairs = [(a, b) for split, new in zip(splits, names) for a, b in zip(split.annotations.file_names, new)]
    other = [(a, b) for a, b in pairs if os.path.basename(a) != os.path.basename(b)]
    if not other:
        return []
    return [f"{len(other)} images get new names (equal names, or a suffix): {other[0][0]} is now {other[0][1]}"]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Find the image folder that belongs to an annotation file, by looking where its images are."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ..core.errors import DataError
from ..core.files import file_bytes
from ..data.dataset.images import walk
from ..data.dataset.json_lists import read_lists
from ..data.dataset.layout import UnlistedImages, files_below
from ..data.dataset.problems import TOOLS, other_tool
from ..data.dataset.yolo_data import has_labels

_SAMPLES = 20
"""Names that are looked for in a folder: some may be missing, that is what a check finds out."""
_DEPTH = 3
_KINDS = 6
"""Kinds of files that a message lists."""
_MOST_FOLDERS = 1000
"""Folders that are counted; one given by mistake may hold any number."""


def find_images(file: Path, names: Sequence[str]) -> Path:
    """The folder that the file names of an annotation file are relative to.

    Args:
        file: ``annotations/train.json`` of a folder with ``train``, ``images/train`` or ``images``, or a file beside
            its images; else every folder up to three levels below the data set is tried.
        names: file names as in it.

    Raises:
        DataError: no folder holds any of them.
    """
    if not names:
        return file.parent
    step = max(1, len(names) // _SAMPLES)
    samples = list(names[::step])
    folders = list(dict.fromkeys(_candidates(file)))
    # Also of names that no file can have, which pathlib would raise at.
    best = _best(folders, lambda folder: sum(os.path.isfile(folder / name) for name in samples), len(samples))
    if best is None:  # names of another system, which a check can still tell from missing files
        best = _best(folders, lambda folder: _meant_in(folder, samples), len(samples))
    if best is None:
        raise DataError(
            f"{file}: no folder near it holds its images (for example {names[0]}): "
            "say where they are with --image-folder, or img_folder in a config"
        )
    return best


def _best(folders: Sequence[Path], count: Callable[[Path], int], most: int) -> Path | None:
    """The first folder with the highest count; None where all are 0."""
    best, highest = None, 0
    for folder in folders:
        if (number := count(folder)) > highest:
            best, highest = folder, number
        if highest == most:
            break
    return best


def _meant_in(folder: Path, names: Sequence[str]) -> int:
    unlisted = UnlistedImages(folder)
    return sum(unlisted.meant(name) is not None for name in names)


def why_not_found(folder: Path) -> str:
    """What is in a folder without a data set that can be read, and what to do about it."""
    for suffix in TOOLS:
        for parent, names in files_below(folder, suffix, _DEPTH):
            for file in (parent / name for name in names[:_SAMPLES]):
                if said := other_tool(file):
                    return f"{file.relative_to(folder)} is {said}"
    if has_labels(folder):
        return (
            "there are label files of YOLO and no class names: write a file classes.txt with one name per line, in the "
            "order of the class numbers"
        )
    if (folder / "ImageSets").is_dir():
        return "there are lists in ImageSets and no XML files in Annotations: export Pascal VOC with its annotations"
    for file in (file for place in ("*.json", "annotations/*.json", "*/*.json") for file in sorted(folder.glob(place))):
        if file.is_file() and not file.name.startswith("."):
            try:
                read_lists(file, ("images", "annotations", "categories"))
            except DataError as error:
                return f"{error}, or name the annotation file itself"
    if contents := _contents(folder):
        return f"there are {contents}: name its annotation file itself"
    return "there is no file in it: check the path"


def _contents(folder: Path) -> str:
    """Kinds of files in a folder and those below it, the most frequent first; empty where there is no file."""
    kinds = Counter(
        os.path.splitext(name)[1].lower() or "without suffix"
        for _, names in islice(walk(folder, _DEPTH), _MOST_FOLDERS)
        for name in names
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_KINDS))


def odgt_names(file: Path) -> list[str]:
    """File names of the images in a CrowdHuman file; lines that cannot be read are passed over.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = file_bytes(file).decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{file}: cannot be opened ({error.strerror})") from error
    matches = (re.search(r'"ID"\s*:\s*"([^"]+)"', line) for line in lines)
    return [f"{match.group(1)}.jpg" for match in matches if match]


def _candidates(file: Path) -> Iterator[Path]:
    here, name = file.parent, file.stem.removeprefix("instances_").removeprefix("annotation_")
    root = here.parent if here.name.lower() in ("annotations", "annotation", "labels") else here
    for base in dict.fromkeys((root, here)):
        for folder in (name, f"images/{name}", f"{name}/images", f"Images/{name}", "images", "Images", ""):
            if (base / folder).is_dir():
                yield base / folder
    yield from _below(root, _DEPTH)


def _below(root: Path, depth: int) -> Iterator[Path]:
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if os.path.isdir(entry.path) and os.access(entry.path, os.R_OK | os.X_OK):  # no loop of links, nothing closed
            yield Path(entry.path)
            if depth > 1:
                yield from _below(Path(entry.path), depth - 1)

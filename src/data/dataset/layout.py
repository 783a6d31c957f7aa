# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How the folders of a data set are called: tools and people write them in many ways."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

IMAGES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "frames")
"""Folders of images, in small letters."""
XML = ("annotations", "annotation", "labels", "label", "xmls", "xml")
"""Folders of XML files beside them."""
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
SPLITS = (*TRAIN, *VAL, *TEST)
"""Names of parts, in small letters and in order."""


def subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The sub-folder of the first of these names (in small letters) that there is, however it is capitalised."""
    there = {one.name.lower(): one for one in folders_in(folder)}
    return next((there[name] for name in names if name in there), None)


def folders_in(folder: Path) -> list[Path]:
    """Sub-folders in an order in which a name in small letters comes last; empty where there is no such folder."""
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []


def beside(folder: Path, own: Sequence[str], other: Sequence[str]) -> list[Path]:
    """Folders that may hold what belongs to the files in one, the likeliest first: images of XML files, or the reverse.

    For ``annotations/a`` these are ``images/a`` and ``annotations/a`` itself, then ``images``, ``a``, and the folder
    that holds ``annotations``.

    Args:
        own: names of the folder or of one above it, in small letters.
        other: names of the folder beside that one.
    """
    first, later = [], []
    for up in (folder, *list(folder.parents)[:3]):
        inside = folder.relative_to(up).parts
        is_own = bool(inside) and inside[0].lower() in own
        rest = inside[1:] if is_own else inside
        there = [one for one in folders_in(up) if one.name.lower() in other]
        there.sort(key=lambda one: other.index(one.name.lower()))
        first += [one.joinpath(*rest) for one in there]
        later += [*there, up.joinpath(*rest), up] if is_own else []
    return [one for one in dict.fromkeys([*first, folder, *later]) if one.is_dir()]


def split_of(path: Path) -> str | None:
    """Which part of a data set a folder holds, by the last of its names that says one, in small letters."""
    return next((one.lower() for one in reversed(path.parts) if one.lower() in SPLITS), None)


def files_below(root: Path, suffix: str, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Folders down to a depth that hold files of a suffix, with the names of these; links are followed once."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        level = len(Path(parent).relative_to(root).parts)
        folders[:] = sorted(one for one in folders if not one.startswith(".")) if level < depth else []
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        if found := sorted(one for one in names if one.lower().endswith(suffix) and not one.startswith(".")):
            yield Path(parent), found

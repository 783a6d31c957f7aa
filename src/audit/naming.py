# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Output folders, file names that do not collide, and images that are copied or linked into them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ..core.errors import DataError
from ..core.files import check_regular, file_bytes, whole_file
from ..data.dataset.images import SUFFIXES
from .findings import Split

_UNFINISHED = ".unfinished"
Transfer = Literal["copy", "link", "none"]
"""copy: own files; link: symbolic links to the originals; none: only annotations are written."""
_OF_CHECK, _OF_STATS = {"findings", "severities"}, {"box_side_px", "images_without_boxes"}
"""Entries by which a report of this tool is known."""


def new_folder(folder: str | Path, option: str, splits: Sequence[Split] = ()) -> Path:
    """Make an output folder; an existing one must be empty.

    Args:
        option: how the user named it, for messages.
        splits: what is read: nothing is written below their image folders.

    Raises:
        DataError: it exists and holds something, or is a file, cannot be made, or lies in a source.
    """
    path = Path(folder)
    for split in splits:
        if path.resolve().is_relative_to(split.img_folder.resolve()):
            raise DataError(f"{option} {path}: lies in {split.img_folder}, which is read: give a folder elsewhere")
    if (path / _UNFINISHED).exists():
        raise DataError(
            f"{option} {path}: holds {_UNFINISHED}, which an interrupted run left: remove it, or give another"
        )
    if path.is_dir() and any(path.iterdir()):
        raise DataError(f"{option} {path}: the folder is not empty, and nothing is ever overwritten: give a new one")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{option} {path}: cannot be made ({error.strerror}): give a folder that can") from error
    return path


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Fill a folder of ``new_folder``, in one step: half a data set looks like a whole one.

    The block writes below a folder in it, whose content moves up when the block ends well. What an error or Ctrl-C left
    is removed; a killed process leaves that inner folder and nothing else.

    Raises:
        DataError: something in the block could not be written.
    """
    inner = folder / _UNFINISHED
    try:
        inner.mkdir()
        yield inner
        for entry in sorted(inner.iterdir()):
            entry.replace(folder / entry.name)
        inner.rmdir()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            text = f"cannot be written ({error.strerror or error}): free space or choose another folder"
            raise DataError(f"{error.filename or folder}: {text}") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: it is there completely or not at all.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with whole_file(path, durable=False) as partial:
            partial.write_bytes(text.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}): free space or choose another folder") from error
    except UnicodeEncodeError as error:
        name = text[max(0, error.start - 20) : error.end + 20]
        raise DataError(f"{path}: would hold {name!r}, of a file whose name is not UTF-8: rename that file") from error


def check_report(path: str | Path) -> None:
    """See that a report may be written there: no file that somebody else made is replaced, above all no source.

    Raises:
        DataError: it exists and is no report of this tool.
    """
    file = Path(path)
    if not file.exists():
        return
    try:
        content = json.loads(file_bytes(file))
    except (OSError, ValueError):
        content = None
    parts = [content, *content.values()] if isinstance(content, dict) else []
    if not any(isinstance(part, dict) and (set(part) >= _OF_CHECK or set(part) >= _OF_STATS) for part in parts):
        raise DataError(f"--json {file}: exists and is no earlier report of this tool: nothing is written over it")


def write_json(path: Path, content: Any) -> None:
    """``write_text`` of JSON."""
    write_text(path, json.dumps(content, ensure_ascii=False))


def transfer(source: Path, target: Path, how: Transfer) -> None:
    """Bring one image to its new place; the source is only read.

    Raises:
        DataError: the source is missing, or the target cannot be written.
    """
    if how == "none":
        return
    try:
        check_regular(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            target.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        remedy = "free space or choose another folder"
        if not source.is_file():
            remedy = "run check --fix first, which leaves out images that are missing"
        raise DataError(f"{source}: cannot be brought to {target} ({error.strerror}): {remedy}") from error


def new_names(
    splits: Sequence[Split], *, per_split: bool, suffix: str | None = None, stems: bool = False
) -> Iterator[list[str]]:
    """File names for the images of each split, relative to its folder of images.

    Names are kept, less the folders that all images of a split share. Where two images would share the file that holds
    their boxes (equal up to the suffix), the later one gets the name of its split or a number added. A name that leads
    out of its folder loses the folders.

    Args:
        per_split: every split has a folder of its own.
        suffix: the only one that the format knows; None keeps them.
        stems: the format knows images by the stem alone: no blanks around it, and nothing in it like a suffix.
    """
    taken: set[str] = set()
    for split in splits:
        if per_split:
            taken = set()
        names = []
        for name in _inside(split.annotations.file_names):
            stem, own = os.path.splitext(name)
            if stems:
                stem = _plain_stem(stem)
            tries = [stem, *([] if per_split else [f"{stem}_{split.name}"])]
            free = next((name for name in tries if name.lower() not in taken), None)
            number = 2
            while free is None:
                free = f"{stem}_{number}" if f"{stem}_{number}".lower() not in taken else None
                number += 1
            taken.add(free.lower())
            names.append(free + (suffix or own))
        yield names


def _plain_stem(stem: str) -> str:
    stem = stem.strip()
    inner = os.path.splitext(stem)[1].lower()
    return stem.replace(".", "_") if inner in (*SUFFIXES, ".xml") else stem


def _inside(names: Sequence[str]) -> list[str]:
    """Names that stay in their folder, without the parents that they have in common."""
    clean = [os.path.normpath(name) for name in names]
    clean = [os.path.basename(name) if os.path.isabs(name) or name.startswith("..") else name for name in clean]
    parents = {os.path.dirname(name) for name in clean}
    shared = os.path.commonpath(parents) if parents and "" not in parents else ""
    return [os.path.relpath(name, shared) if shared else name for name in clean]

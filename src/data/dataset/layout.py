# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How data sets lie on disk: how folders and files are called, which differs between tools and people; list files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from ...core.files import MAX_BYTES, check_regular
from .images import SUFFIXES, walk
from .problems import Problems

IMAGES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "frames")
"""Folders of images, in small letters."""
XML = ("annotations", "annotation", "labels", "label", "xmls", "xml")
"""Folders of XML files beside them."""
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
SPLITS = (*TRAIN, *VAL, *TEST)
"""Names of parts, in small letters and in order."""
_ROLES = {"train": (*TRAIN, "trainval"), "val": VAL, "test": TEST}


def role_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where a word of the name is such a part: ``train2017``, ``Validation``."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((role for role, names in _ROLES.items() if any(word in names for word in words)), None)


def subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The sub-folder of the first of these names (in small letters) that there is, however it is capitalised."""
    there = {path.name.lower(): path for path in folders_in(folder)}
    return next((there[name] for name in names if name in there), None)


def folders_in(folder: Path) -> list[Path]:
    """Sub-folders in an order in which a name in small letters comes last; empty where there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
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
        there = [path for path in folders_in(up) if path.name.lower() in other]
        there.sort(key=lambda path: other.index(path.name.lower()))
        first += [path.joinpath(*rest) for path in there]
        later += [*there, up.joinpath(*rest), up] if is_own else []
    return [path for path in dict.fromkeys([*first, folder, *later]) if path.is_dir()]


def files_below(root: Path, suffix: str | tuple[str, ...], depth: int | None) -> Iterator[tuple[Path, list[str]]]:
    """Folders down to a depth that hold files of a suffix, with the names of these: see ``walk``."""
    for parent, names in walk(root, depth):
        if files := [name for name in names if name.lower().endswith(suffix)]:
            yield parent, files


_MOST = 500_000
"""Files that are looked at; a folder given by mistake may hold any number."""
_ADDRESS = re.compile(r"^.*\?d=|^[a-z]+://", re.IGNORECASE)
"""What programs put before a path: ``/data/local-files/?d=`` of Label Studio, ``file://``."""
_DRIVE = re.compile(r"^[A-Za-z]:(?=[\\/])")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
_STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("an address", lambda name: _ADDRESS.sub("", name)),
    ("percent-encoding", unquote),
    ("paths of Windows: write / for \\", lambda name: _DRIVE.sub("", name).replace("\\", "/")),
    ("another Unicode form", lambda name: unicodedata.normalize("NFC", name)),
    ("upper and lower case", str.casefold),
    ("blanks around it", lambda name: "/".join(part.strip() for part in name.split("/"))),
)
"""What programs do to names, and what undoes it."""
_ENDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", lambda base: base),
    ("a prefix of Label Studio", lambda base: _UPLOADED.sub("", base)),
    ("another suffix", lambda base: os.path.splitext(base)[0]),
)
"""What else may differ, in the last part of a path, once the steps are taken; the first that helps counts."""


class Meant(NamedTuple):
    """The file that a name stands for."""

    name: str
    """Relative to the folder."""
    why: str
    """How both differ."""

    def __str__(self) -> str:
        return f"did you mean {self.name!r}? ({self.why})"


class UnlistedImages:
    """The images of a folder and those below it that nothing lists: one of them may be what a missing name means.

    Args:
        folder: is looked into on the first question.
        listed: names that are listed, relative to it.
    """

    def __init__(self, folder: str | Path, listed: Iterable[str] = ()) -> None:
        self._folder = Path(folder)
        self._names = listed

    def meant(self, name: str) -> Meant | None:
        """The one file that a name can stand for; None where there is none, or several."""
        wanted = _plain(name)
        for (why, end), known in zip(_ENDS, self._by_end):
            files = [file for file in known.get(end(_base(wanted)), ()) if _same_folders(wanted, _plain(file))]
            if len(files) == 1 and os.path.isfile(self._folder / files[0]):  # no folder, no link to nothing
                reasons = _reasons(name, files[0], end)
                return Meant(files[0], ", ".join([*reasons, *([why] if why else [])]) or "another folder")
        return None

    def hint(self, name: str) -> str:
        """What to say of a missing file beyond that: ``; did you mean 'b.jpg'? (...)``, or nothing."""
        meant = self.meant(name)
        return f"; {meant}" if meant else ""

    @cached_property
    def _by_end(self) -> list[dict[str, list[str]]]:
        listed = {os.path.normpath(name) for name in self._names}
        by_end: list[dict[str, list[str]]] = [defaultdict(list) for _ in _ENDS]
        folders = files_below(self._folder, SUFFIXES, None)
        inside = ((os.path.relpath(parent, self._folder), names) for parent, names in folders)
        files = (os.path.normpath(os.path.join(parent, name)) for parent, names in inside for name in names)
        for name in islice(files, _MOST):
            if name not in listed:
                base = _base(_plain(name))
                for (_, end), known in zip(_ENDS, by_end):
                    known[end(base)].append(name)
        return by_end


def _plain(name: str, without: str = "") -> str:
    for why, step in _STEPS:
        if why != without:
            name = step(name)
    return name


def _reasons(name: str, file: str, end: Callable[[str], str]) -> list[str]:
    """The steps that are needed to make two paths alike, as far as the shorter one goes."""
    reasons = []
    for why, _ in _STEPS:
        paths = [_plain(path, why) for path in (name, file)]
        ends = [end(_base(path)) for path in paths]
        if ends[0] != ends[1] or not _same_folders(*paths):
            reasons.append(why)
    return reasons


def _same_folders(name: str, file: str) -> bool:
    """Whether one path goes on where the other begins: ``a/b.jpg`` is not ``c/b.jpg``, but may be ``b.jpg``."""
    pairs = zip(reversed(_parents(name)), reversed(_parents(file)))
    return all(value == other for value, other in pairs)


def _parents(path: str) -> list[str]:
    return [part for part in path.split("/")[:-1] if part not in ("", ".", "..")]


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def placed_lines(path: Path, *, empty: bool = False) -> list[tuple[str, str]]:
    """(``file:line``, text without spaces around it) of every line.

    Args:
        empty: with lines that hold nothing, which are left out else.

    Raises:
        OSError: missing, not readable, or no regular file.
        UnicodeDecodeError: no text.
    """
    check_regular(path, max_bytes=MAX_BYTES)
    lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split at form feeds and others
    return [(f"{path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if empty or line.strip()]


def text_lines(path: Path, problems: Problems, *, empty: bool = False) -> list[tuple[str, str]]:
    """``placed_lines`` of an annotation file, empty where it cannot be read and problems are collected.

    Raises:
        DataError: missing, or no text.
    """
    try:
        return placed_lines(path, empty=empty)
    except OSError as error:
        problems.report("missing annotation", path, f"cannot be opened ({error.strerror}): check the path")
    except UnicodeDecodeError as error:
        problems.report("broken line", path, f"not a text file ({error}): save it as UTF-8")
    return []

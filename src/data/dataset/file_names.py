# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Images that are there under another name than the listed one: paths of Windows, other case, percent-encoding, ..."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from .images import SUFFIXES

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
        found = self.meant(name)
        return f"; {found}" if found else ""

    @cached_property
    def _by_end(self) -> list[dict[str, list[str]]]:
        listed = {os.path.normpath(name) for name in self._names}
        found: list[dict[str, list[str]]] = [defaultdict(list) for _ in _ENDS]
        for name in islice(_images_below(self._folder), _MOST):
            if name not in listed:
                base = _base(_plain(name))
                for (_, end), known in zip(_ENDS, found):
                    known[end(base)].append(name)
        return found


def _images_below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES):
                yield os.path.relpath(os.path.join(parent, name), folder)


def _plain(name: str, without: str = "") -> str:
    for why, step in _STEPS:
        if why != without:
            name = step(name)
    return name


def _reasons(name: str, file: str, end: Callable[[str], str]) -> list[str]:
    """The steps that are needed to make two paths alike, as far as the shorter one goes."""
    found = []
    for why, _ in _STEPS:
        paths = [_plain(path, why) for path in (name, file)]
        ends = [end(_base(path)) for path in paths]
        if ends[0] != ends[1] or not _same_folders(*paths):
            found.append(why)
    return found


def _same_folders(name: str, file: str) -> bool:
    """Whether one path goes on where the other begins: ``a/b.jpg`` is not ``c/b.jpg``, but may be ``b.jpg``."""
    pairs = zip(reversed(_parents(name)), reversed(_parents(file)))
    return all(one == other for one, other in pairs)


def _parents(path: str) -> list[str]:
    return [part for part in path.split("/")[:-1] if part not in ("", ".", "..")]


def _base(path: str) -> str:
    return path.rpartition("/")[2]

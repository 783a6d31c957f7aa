# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where pictures come from: files, folders, patterns, videos, cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Protocol

from PIL import Image

from ..core.errors import ConfigError, DataError
from ..data.dataset.images import SUFFIXES, list_images
from ..deploy.pictures import read_rgb

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
"""Files that are opened as videos."""


@dataclass(frozen=True)
class Clip:
    """A video or camera that frames belong to."""

    name: str
    """Its own among all sources of a command, without suffix."""
    rate: Fraction
    """Frames per second."""


@dataclass(frozen=True)
class InputImage:
    """One picture."""

    name: str
    """Relative path with suffix, its own among all pictures of a command: what outputs are called."""
    image: Image.Image
    """RGB, upright."""
    clip: Clip | None = None
    number: int = 0
    """Of a clip's frame, from 0."""
    seconds: float | None = None
    """Time of a clip's frame, where the file says it."""


@dataclass(frozen=True)
class Skipped:
    """A picture or the rest of a video that could not be used."""

    name: str
    reason: str
    """One line that names the file."""


class ImageSource(Protocol):
    """Pictures one after another."""

    @property
    def count(self) -> int | None:
        """How many there are, where that is known before."""

    @property
    def clip(self) -> bool:
        """Whether it is a video or a camera."""

    def __iter__(self) -> Iterator[InputImage | Skipped]: ...


@dataclass(frozen=True)
class ImageFiles:
    """Image files, decoded one at a time.

    Args:
        root: folder that all of them lie below.
        names: their paths relative to it.
    """

    root: Path
    names: Sequence[str]
    clip = False

    @property
    def count(self) -> int:
        """Number of files."""
        return len(self.names)

    def __iter__(self) -> Iterator[InputImage | Skipped]:
        for name in self.names:
            if not _is_utf8(name):  # JSON and CSV files could not hold it
                yield Skipped(name, f"{str(self.root / name)!a}: its name is not UTF-8: rename the file")
                continue
            try:
                yield InputImage(name, read_rgb(self.root / name))
            except DataError as error:
                yield Skipped(name, str(error))


def open_sources(specs: Sequence[str], *, recursive: bool = False, every: int = 1) -> list[ImageSource]:
    """Find out what each text means.

    Args:
        specs: image files, video files, folders of images, patterns with ``*``, ``?`` or ``[...]`` (``**`` for all
            folders below), camera numbers (unless a file or folder has that name), addresses of streams
            (``rtsp://...``).
        recursive: of folders, take those below too.
        every: of videos and cameras, use each n-th frame.

    Returns: all image files as one source, then each video.

    Raises:
        ConfigError: a text that means nothing here: no such file, a pattern without matches, a folder without images.
    """
    from .video import Video  # it needs the types above

    images: list[Path] = []
    videos: list[str] = []
    for spec in specs:
        places = [spec] if _is_stream(spec) else [str(path) for path in _files_of(spec, recursive)]
        for place in places:
            if _is_stream(place) or place.lower().endswith(VIDEO_SUFFIXES):
                videos.append(place)
            else:
                images.append(Path(os.path.abspath(place)))
    sources: list[ImageSource] = []
    taken: set[str] = set()
    if images:
        root = Path(os.path.commonpath([path.parent for path in images]))
        names = [os.path.relpath(path, root) for path in dict.fromkeys(images)]
        taken = {PurePath(name).parts[0] for name in names}
        sources.append(ImageFiles(root, names))
    for video in videos:
        if not _is_utf8(video):
            raise ConfigError(f"{video!a}: the name of this video is not UTF-8: rename the file")
        name = _own_name("camera" + video if video.isdigit() else Path(video).stem or "stream", taken)
        taken.add(name)
        sources.append(Video(video, name, every=every))
    return sources


def _is_utf8(name: str) -> bool:
    """Python keeps bytes of a file name that are no UTF-8 as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_stream(spec: str) -> bool:
    return "://" in spec or (spec.isascii() and spec.isdigit() and not os.path.exists(spec))


def _files_of(spec: str, recursive: bool) -> list[Path]:
    path = Path(spec)
    if path.is_dir():
        names = list_images(path, recursive=recursive)
        if not names:
            hint = "" if recursive else ", or --recursive for the folders below"
            raise ConfigError(
                f"{spec}: no image in this folder ({', '.join(SUFFIXES)}){hint}; videos are given by name or pattern"
            )
        return [path / name for name in names]
    if path.is_file():
        return [path]
    if any(sign in spec for sign in "*?["):
        matches = sorted(Path(match) for match in glob.iglob(spec, recursive=True) if os.path.isfile(match))
        if not matches:
            raise ConfigError(f"{spec}: no file matches this pattern")
        return matches
    raise ConfigError(f"{spec}: no such file or folder: give images, folders, patterns, videos, or a camera's number")


def _own_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name

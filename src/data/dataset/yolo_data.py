# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a YOLO data set says of itself: ``data.yaml``, Darknet's ``obj.data``, or class names beside the images."""

from __future__ import annotations

import logging
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config.node import read_yaml
from ...core.errors import ConfigError
from ..label_space import LabelSpace
from .layout import IMAGES, SPLITS, TEST, TRAIN, VAL, XML, files_below, folders_in, role_of, subfolder, text_lines
from .problems import Problems

logger = logging.getLogger(__name__)

_YAML = (".yaml", ".yml")
CLASS_LISTS = ("classes.txt", "obj.names", "labels.txt")
"""Lists of class names as Label Studio, LabelImg, CVAT and others write them."""
_NAMES_KEY = re.compile(r"^\s*[\"']?names[\"']?\s*:", re.MULTILINE)
_ROW = re.compile(r"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*", re.IGNORECASE)
_DEPTH = 3
_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxstring, _short.maxother = 2, 5, 5, 80, 80


@dataclass(frozen=True)
class YoloData:
    """The keys of a ``data.yaml``, whatever file they were read from."""

    file: Path
    content: Mapping[str, Any]

    @classmethod
    def open(cls, given: str | Path, problems: Problems) -> YoloData:
        """Read a data file.

        Args:
            given: ``data.yaml``; ``obj.data`` of Darknet and CVAT; a list of class names with folders of images and
                labels beside it, as Label Studio and LabelImg write; or a folder with one of these.
            problems: where to report what is wrong; then the content is empty.
        """
        file = Path(given)
        if file.is_dir():
            data = find_data(file) or broken_data(file)
            if data is None:
                text = (
                    "no data.yaml, obj.data, or classes.txt with images in this folder: write a data.yaml with the "
                    "lines path: . and train: images and names: [first class, second class]"
                )
                problems.report("missing annotation", file, text)
                return cls(file, {})
            file = data
        if file.suffix.lower() == ".data":
            return cls(file, _darknet(file, problems))
        if file.suffix.lower() in (".txt", ".names"):
            return cls(file, _beside(file, problems))
        return cls(file, _yaml(file, problems))

    @property
    def root(self) -> Path:
        """``path``: absolute, or relative to the file, or to where the program runs; else the file's folder."""
        given = self.content.get("path")
        if not given:
            return self.file.parent
        places = [self.file.parent / str(given), Path(str(given))]
        return next((path for path in places if os.path.isdir(path)), places[0])

    def splits(self) -> list[str]:
        """Keys that name images: train, val, test, then others whose images are there."""
        known = [key for key, value in self.content.items() if key.lower() in SPLITS and value not in (None, "", [])]
        others = [
            key for key, value in self.content.items()
            if key.lower() not in SPLITS and key not in ("path", "names", "download")
            and _names_images(value) and all(self.places(path) for path in _sources(value))
        ]  # fmt: skip
        return [*sorted(known, key=lambda key: SPLITS.index(key.lower())), *others]

    def sources(self, split: str, problems: Problems) -> list[str]:
        """Folders or lists of a split; for ``val`` also of ``valid`` or ``validation``, whichever is there."""
        alike = next((group for group in (TRAIN, VAL, TEST) if split.lower() in group), ())
        keys = [split, *(key for name in alike for key in self.content if key.lower() == name)]
        value = next((self.content[key] for key in keys if _names_images(self.content.get(key))), None)
        if value is None:
            known = ", ".join(self.splits()) or "none"
            text = (
                f"{split} is {_short.repr(self.content.get(split))}: name a folder, a text file or a list of them "
                f"(there is: {known})"
            )
            problems.report("missing image", self.file, text)
            return []
        return _sources(value)

    def places(self, source: str) -> list[Path]:
        """Where a path that the file names may be, of those that exist.

        Exports that say ``../train/images`` (Roboflow) or ``data/train.txt`` (CVAT) mean the folder of the file.
        """
        head, _, rest = source.partition("/")
        tries = [source, *([rest] if rest and head in ("..", "data") else [])]
        return [self.root / name for name in tries if os.path.exists(self.root / name)]

    def space(self, problems: Problems) -> LabelSpace:
        """The classes."""
        names, place = self.content.get("names"), str(self.file)
        if isinstance(names, dict) and {str(name) for name in names} == {str(number) for number in range(len(names))}:
            names = [name for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]
        if not isinstance(names, list) or not names:
            text = f"names is {_short.repr(names)}: give a list of class names, or a mapping from 0, 1, ... to names"
            problems.report("bad class", place, text)
            return LabelSpace((), ())
        if wrong := [name for name in names if type(name) not in (str, int) or not str(name).strip()]:
            text = (
                f"names holds {_short.repr(wrong[0])}, not text: write it in quotes (YAML reads yes, no, on, off as "
                "True, False)"
            )
            problems.report("bad class", place, text)
        count = self.content.get("nc", len(names))
        if str(count) != str(len(names)):
            shown = ", ".join(str(name)[:40] for name in names[:5])
            text = f"nc is {_short.repr(count)}, but names has {len(names)} classes ({shown}): correct one"
            problems.report("bad class", place, text)
        return LabelSpace.from_names([str(name) for name in names], place, problems)


def find_data(folder: Path) -> Path | None:
    """The data file in a folder; YAML files about other things, and broken ones, are passed over."""
    quiet = Problems(collect=True)
    opened = [YoloData(file, _yaml(file, quiet)) for file in _yaml_files(folder)]
    if usable := [data for data in opened if "names" in data.content and data.splits()]:
        first, *others = usable
        if any(data.content != first.content for data in others) and first.file.stem.lower() != "data":
            names = ", ".join(data.file.name for data in others)
            logger.warning("%s is taken, but %s could be meant as well: name the file", first.file, names)
        return first.file
    darknet = [path for path in sorted(folder.glob("*.data")) if "names" in _darknet(path, quiet)]
    if not darknet and has_labels(folder):
        places = [folder, *(path for path in folders_in(folder) if path.name.lower() in XML)]
        return next((path / name for path in places for name in CLASS_LISTS if (path / name).is_file()), None)
    return next(iter(darknet), None)


def broken_data(folder: Path) -> Path | None:
    """A file that would be a ``data.yaml`` if it could be read: opening it says what is wrong."""
    broken = (path for path in _yaml_files(folder) if not _yaml(path, Problems(collect=True)))
    return next(
        (path for path in broken if _NAMES_KEY.search(path.read_text(errors="replace").replace("\0", ""))), None
    )


def _yaml_files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix.lower() in _YAML and path.is_file()]
    return sorted(files, key=lambda path: (path.stem.lower() != "data", path.name))


def has_labels(folder: Path) -> bool:
    """Whether there are text files below with rows as YOLO writes them."""
    for parent, names in files_below(folder, ".txt", _DEPTH):
        for name in (name for name in names[:5] if (parent / name).is_file()):
            with open(parent / name, errors="replace") as file:
                if _ROW.fullmatch(file.readline(1 << 16)):
                    return True
    return False


def _names_images(value: Any) -> bool:
    return bool(value) and all(
        isinstance(path, str) and path for path in (value if isinstance(value, list) else [value])
    )


def _sources(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _yaml(file: Path, problems: Problems) -> dict[str, Any]:
    try:
        content = read_yaml(file).plain()
    except ConfigError as error:
        line, _, text = str(error).removeprefix(str(file)).partition(": ")
        problems.report("broken line" if file.exists() else "missing annotation", f"{file}{line}", text)
    else:
        if isinstance(content, dict):
            return {str(key): value for key, value in content.items()}
        problems.report("broken line", file, "not a YOLO data file: it needs the keys names, train and val")
    return {}


def _darknet(file: Path, problems: Problems) -> dict[str, Any]:
    """``key = value`` lines; the value of ``names`` is a file, and paths are relative to the folder of the program."""
    pairs = [line.partition("=") for _, line in text_lines(file, problems)]
    content: dict[str, Any] = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    listing = content.pop("names", None)
    if listing is None:
        problems.report("bad class", file, "no line names = FILE: add one, with a class name per line in that file")
        return {}
    places = [*YoloData(file, {}).places(listing), file.parent / listing]
    names = _class_names(places[0], problems)
    images = {key: value for key, value in content.items() if key.lower() in SPLITS}
    return {"names": names, "nc": content.get("classes", len(names)), **images}


def _beside(file: Path, problems: Problems) -> dict[str, Any]:
    """A list of class names in the folder of the data, or in its ``labels``; images in ``images``, or beside it."""
    base = file.parent.parent if file.parent.name.lower() in XML else file.parent
    images = subfolder(base, IMAGES) or base
    parts = _parts(images) or _parts(base) or [("train", images)]
    return {"names": _class_names(file, problems), **{name: str(folder.absolute()) for name, folder in parts}}


def _parts(folder: Path) -> Sequence[tuple[str, Path]]:
    return [(path.name.lower(), path) for path in folders_in(folder) if role_of(path.name)]


def _class_names(file: Path, problems: Problems) -> list[str]:
    """One name per line; an empty line among them would move the classes behind it."""
    lines = text_lines(file, problems, empty=True)
    while lines and not lines[-1][1]:
        lines.pop()
    if gap := next((place for place, line in lines if not line), None):
        problems.report("bad class", gap, "an empty line among the class names: name the class, or remove the line")
    return [line for _, line in lines if line]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of XML files without a list, as LabelImg, Kaggle and Roboflow have them, and their images."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .images import SUFFIXES
from .layout import IMAGES, XML, beside, files_below
from .problems import Problems
from .voc_xml import VocFile

logger = logging.getLogger(__name__)

DEPTH = 5
"""Levels of folders below the root of a data set in which XML files are looked for."""
_ELEMENT = re.compile(rb"<([^\s?!>][^\s>]*)")


class Item(NamedTuple):
    """An image of a data set and its XML file; paths relative to the root."""

    image: str
    xml: str
    place: str
    """Who names them, for messages."""


def folder_items(root: Path, folder: Path, problems: Problems) -> list[Item]:
    """The XML files in a folder and those below it, with the image of each.

    An image has the name of its XML file, or the one that stands in the file, and lies beside it, or in a folder such
    as ``images`` beside that of the XML files.
    """
    items, unused = [], []
    for parent, names in files_below(folder, ".xml", DEPTH):
        places = [(place, images_in(place)) for place in beside(parent, XML, IMAGES)]
        for name in (name for name in names if _is_voc(parent / name)):
            image = _image_of(parent / name, places)
            items.append(Item(os.path.relpath(image, root), os.path.relpath(parent / name, root), str(folder)))
        stems = {os.path.splitext(name)[0] for name in names}
        if places and places[0][1]:  # not a folder that other folders of XML files share
            unused += [str(places[0][0] / name) for stem, name in places[0][1].items() if stem not in stems]
    if not items:
        problems.report("missing annotation", str(folder), "no XML file in this folder: check root and ann_file")
    if unused:
        logger.warning(
            "%s: %d images have no XML file and are left out, for example %s", folder, len(unused), min(unused)
        )
    return items


def xml_folders(root: Path) -> list[Path]:
    """Folders below the root that hold annotation files of Pascal VOC; other XML files do not count."""
    return [
        parent
        for parent, names in files_below(root, ".xml", DEPTH)
        if any(_is_voc(parent / name, empty=False) for name in names[:20])
    ]


def xml_files(root: Path) -> Iterator[Path]:
    """All XML files below the root."""
    return (parent / name for parent, names in files_below(root, ".xml", DEPTH) for name in names)


def xml_file(image: Path) -> Path:
    """The XML file of an image: what ``folder_items`` looks for, backwards."""
    places = [folder / f"{image.stem}.xml" for folder in beside(image.parent, IMAGES, XML)]
    return next((path for path in places if path.is_file()), image.with_suffix(".xml"))


def images_in(folder: Path) -> dict[str, str]:
    """Image of each stem in a folder; of several the first in the alphabet, on every machine."""
    names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."}


def _image_of(file: Path, places: list[tuple[Path, dict[str, str]]]) -> Path:
    found = next((folder / names[file.stem] for folder, names in places if file.stem in names), None)
    if found is None:
        opened = VocFile.open(file, "", Problems(collect=True))
        said = re.split(r"[\\/]", (opened.root.findtext("filename") or "").strip())[-1] if opened else ""
        stem = os.path.splitext(said)[0]
        found = next((folder / names[stem] for folder, names in places if stem in names), None)
    return found or file.with_suffix(".jpg")  # which is reported as missing


def _is_voc(file: Path, *, empty: bool = True) -> bool:
    """Whether the first element is that of VOC.

    Args:
        empty: the answer for a file without any, which may be one that was not written to its end, or a pipe.
    """
    if not file.is_file():
        return empty
    with open(file, "rb") as opened:
        found = _ELEMENT.search(opened.read(1 << 12).replace(b"\0", b""))  # also in UTF-16
    return found[1].lower() == b"annotation" if found else empty

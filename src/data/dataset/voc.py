# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: list files, one XML file per image, a list of class names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations, Collected
from .coco_fields import report_rotated
from .frame import Upright, is_upright
from .images import SUFFIXES, image_sizes
from .layout import IMAGES, XML, beside, files_below, subfolder, text_lines
from .prepare import PreparedDataset, Subset
from .problems import Problems
from .voc_xml import VocFile

logger = logging.getLogger(__name__)

PAIR = re.compile(rf"(.+(?:{'|'.join(map(re.escape, SUFFIXES))}))\s+(\S.*\.xml)", re.IGNORECASE)
_OF_ONE_CLASS = re.compile(r"\S+\s+(-1|0|1)")
_IMAGES, _ANNOTATIONS, _LISTS = "JPEGImages", "Annotations", "ImageSets/Main"


def parse_voc(
    root: str | Path,
    ann_file: str = "trainval.txt",
    label_file: str | None = "label_list.txt",
    *,
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    keep_difficult: bool = True,
    size_from_image: bool = False,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open a Pascal VOC data set; for the arguments see ``VOCDetection``.

    Args:
        subset: images to open; the others' files are not read.
        problems: where to report what is wrong; None raises at once.

    Raises:
        DataError: files that are missing or cannot be parsed, objects without class or box, unknown classes.
    """
    root, problems = Path(root), problems or Problems()
    listing = find_list(root, ann_file, problems)
    items = _items(root, listing, problems) if listing else []
    indices = (subset or Subset()).indices([item.image for item in items], None, str(listing or root))
    items = [items[index] for index in indices.tolist()]
    space = voc_label_space(root, label_file, classes, problems)
    names = {name: label for label, name in enumerate(space.names)}
    collected, waiting = Collected(), []
    for index, item in zip(indices.tolist(), items):
        file = VocFile.open(root / item.xml, f"{item.place} names it", problems)
        image = file and file.read(names, one_based=one_based, needs_size=not size_from_image, problems=problems)
        if image:
            waiting.append((index, item, image))
    rotated = [f"{number} of {item.xml}" for _, item, image in waiting for number in image.rotated]
    report_rotated(rotated, str(listing or root), problems)
    sized = {item.image: image.size for _, item, image in waiting if image.size}
    turned = is_upright(root, list(sized), list(sized.values()), str(listing or root), upright, quiet=problems.collect)
    without = [root / item.image for _, item, image in waiting if image.size is None]
    measured = iter(image_sizes(without, upright=turned, problems=problems))
    for index, item, image in waiting:
        if size := image.size or next(measured):
            crowd = image.difficult if not keep_difficult else None
            collected.add(item.image, index, size, image.boxes_xywh_px, image.labels, crowd)
        else:
            problems.losses.add("unreadable image", images=1, boxes=len(image.labels))
    return collected.annotations(space, str(listing or root), str(root), upright=turned)


def find_list(root: Path, ann_file: str, problems: Problems) -> Path | None:
    """The list file: beside the folders, or where the VOC layout keeps it; or a folder of XML files."""
    places = [root / ann_file, root / _LISTS / ann_file]
    listing = next((path for path in places if path.is_file()), None)
    if listing is None and places[0].is_dir():
        return places[0]
    # Whoever reads something that is no file says what it is.
    listing = listing or next((path for path in places if os.path.lexists(path)), None)
    if listing is None:
        lists = sorted(file.name for folder in (root, root / _LISTS) for file in folder.glob("*.txt"))
        folders = [os.path.relpath(path, root) for path in xml_folders(root)] if root.is_dir() else []
        hints = ["there are " + ", ".join(lists[:8])] if lists else []
        hints += [f"XML files are in {', '.join(folders[:4])}: ann_file: {folders[0]} takes them"] if folders else []
        hint = "; ".join(hints) or "write one image per line into it"
        text = f"no such list of images, nor {places[1]}: check root and ann_file ({hint})"
        problems.report("missing annotation", places[0], text)
    return listing


def voc_label_space(
    root: Path, label_file: str | None, classes: Sequence[str] | None, problems: Problems
) -> LabelSpace:
    """Classes in the order of ``classes`` or of the label file, else those of all XML files below the root, sorted."""
    if classes is not None:
        return LabelSpace.from_names(list(classes), f"{root} (classes)", problems)
    path = root / (label_file or "label_list.txt")
    if label_file and os.path.lexists(path):
        return LabelSpace.from_names([line for _, line in text_lines(path, problems)], str(path), problems)
    quiet = Problems(collect=True)
    paths = (parent / name for parent, names in files_below(root, ".xml", DEPTH) for name in names)
    opened = [VocFile.open(path, "", quiet) for path in paths]
    names = sorted({name for file in opened if file for name in file.names()})
    if names:
        text = (
            f"no such list of class names; those of the XML files are taken in this order: {', '.join(names)}. Write "
            "one per line into that file, or give classes: [...], to fix the order"
        )
        problems.mend("no class list", path, text)
    else:
        cause = f"; {quiet.found[0]}" if quiet.found else ""
        text = f"no such list of class names, and none of {len(opened)} XML files names a class: check root{cause}"
        problems.report("bad class", path, text)
    return LabelSpace(tuple(names), tuple(range(len(names))))


def _items(root: Path, listing: Path, problems: Problems) -> list[Item]:
    if listing.is_dir():
        return folder_items(root, listing, problems)
    items = []
    images, annotations = _folder(root, _IMAGES, IMAGES), _folder(root, _ANNOTATIONS, XML)
    there: dict[str, dict[str, str]] = {}
    for place, line in text_lines(listing, problems):
        if pair := PAIR.fullmatch(line):
            items.append(Item(pair[1], pair[2].strip(), place))
            continue
        given = Path(line)
        stem = line[: -len(given.suffix)] if given.suffix.lower() in (*SUFFIXES, ".xml") else line
        parent, base = os.path.split(stem)
        if parent not in there:
            there[parent] = images_in(root / images / parent)
        if _OF_ONE_CLASS.fullmatch(line) and line not in there[parent]:
            text = f"{line!r} is a line of a list for one class: use the list of all images, such as {_LISTS}/train.txt"
            problems.report("broken line", place, text)
            continue
        name = base + given.suffix if given.suffix.lower() in SUFFIXES else there[parent].get(base, f"{base}.jpg")
        items.append(Item(os.path.join(images, parent, name), f"{annotations}/{stem}.xml", place))
    if not items and not problems.found:
        problems.report("missing image", listing, "the list of images is empty: nothing to train or evaluate on")
    return items


def _folder(root: Path, name: str, others: Sequence[str]) -> str:
    """The devkit's folder, or the one that is there in its place."""
    other = None if (root / name).is_dir() else subfolder(root, others)
    return other.name if other else name


@register
class VOCDetection(PreparedDataset):
    """Images with one XML file each, in the official list form, in the layout of the VOC devkit, or in plain folders.

    A line of the list file is ``relative/image.jpg relative/annotation.xml`` (relative to ``root``), or the stem of an
    image in ``JPEGImages`` (or ``images``) whose annotation is in ``Annotations``. Without a list (LabelImg, Kaggle,
    Roboflow) ``ann_file`` is a folder of XML files: their images lie beside them, or in ``images`` beside that folder.

    Args:
        root: folder of the data set.
        ann_file: list file, in ``root`` or in its ``ImageSets/Main``; or a folder of XML files in ``root``.
        label_file: class names in ``root``, one per line; the line is the label. Not read where ``classes`` is given;
            where there is no such file, the classes of all XML files below ``root`` are taken in alphabetical order,
            with a warning.
        transforms: applied to (image, target).
        classes: class names in label order, in place of the label file.
        one_based: coordinates count pixels from 1 and the last pixel belongs to the box, as the VOC devkit defines;
            one is taken from xmin and ymin. False uses the numbers as they are, as official configs expect.
        keep_difficult: objects marked difficult are targets like others, as in the official recipe. False: they are no
            targets, and evaluation neither counts them nor what is detected there (as crowd regions of COCO).
        size_from_image: read the size from the image where an XML file has none; False: that is an error.
        options: see ``PreparedDataset``. Images of the subset are read only.
    """

    def __init__(
        self,
        root: str,
        ann_file: str = "trainval.txt",
        label_file: str | None = "label_list.txt",
        transforms: Compose | None = None,
        *,
        classes: list[str] | None = None,
        one_based: bool = False,
        keep_difficult: bool = True,
        size_from_image: bool = False,
        **options: Any,
    ) -> None:
        parse = partial(parse_voc, root, ann_file, label_file, classes=classes, one_based=one_based,
                        keep_difficult=keep_difficult, size_from_image=size_from_image)  # fmt: skip
        super().__init__(parse, transforms, **options)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The names of ``classes`` or of the label file: see ``DetectionDataset.label_space_of``."""
        if not section.get("root"):
            return None
        label_file = section.get("label_file", "label_list.txt")
        return voc_label_space(Path(section["root"]), label_file, section.get("classes"), Problems())


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
        problems.report("missing annotation", folder, "no XML file in this folder: check root and ann_file")
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


def images_in(folder: Path) -> dict[str, str]:
    """Image of each stem in a folder; of several the first in the alphabet, on every machine."""
    names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
    return {os.path.splitext(name)[0]: name for name in names if name.lower().endswith(SUFFIXES) and name[0] != "."}


def _image_of(file: Path, places: list[tuple[Path, dict[str, str]]]) -> Path:
    image = next((folder / names[file.stem] for folder, names in places if file.stem in names), None)
    if image is None:
        opened = VocFile.open(file, "", Problems(collect=True))
        said = re.split(r"[\\/]", (opened.root.findtext("filename") or "").strip())[-1] if opened else ""
        stem = os.path.splitext(said)[0]
        image = next((folder / names[stem] for folder, names in places if stem in names), None)
    return image or file.with_suffix(".jpg")  # which is reported as missing


def _is_voc(file: Path, *, empty: bool = True) -> bool:
    """Whether the first element is that of VOC.

    Args:
        empty: the answer for a file without any, which may be one that was not written to its end, or a pipe.
    """
    if not file.is_file():
        return empty
    with open(file, "rb") as opened:
        element = _ELEMENT.search(opened.read(1 << 12).replace(b"\0", b""))  # also in UTF-16
    return element[1].lower() == b"annotation" if element else empty

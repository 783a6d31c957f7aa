# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: list files, one XML file per image, a list of class names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..label_space import LabelSpace
from .annotations import Annotations, Collected
from .coco_fields import report_rotated
from .frame import Upright, is_upright
from .images import SUFFIXES, image_sizes
from .layout import IMAGES, XML, subfolder
from .problems import Problems
from .subset import Subset
from .text_lines import class_names, text_lines
from .voc_folder import Item, folder_items, images_in, xml_files, xml_folders
from .voc_xml import VocFile, VocImage

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
    for (index, item, image), size in zip(waiting, _sizes(root, waiting, turned, problems)):
        if size:
            crowd = image.difficult if not keep_difficult else None
            collected.add(item.image, index, size, image.boxes_xywh_px, image.labels, crowd)
        else:
            problems.losses.add("unreadable image", images=1, boxes=len(image.labels))
    return collected.annotations(space, str(listing or root), str(root), upright=turned)


def find_list(root: Path, ann_file: str, problems: Problems) -> Path | None:
    """The list file: beside the folders, or where the VOC layout keeps it; or a folder of XML files."""
    places = [root / ann_file, root / _LISTS / ann_file]
    found = next((one for one in places if one.is_file()), None)
    if found is None and places[0].is_dir():
        return places[0]
    found = found or next((one for one in places if os.path.lexists(one)), None)  # whoever reads it says what it is
    if found is None:
        lists = sorted(one.name for folder in (root, root / _LISTS) for one in folder.glob("*.txt"))
        folders = [os.path.relpath(one, root) for one in xml_folders(root)] if root.is_dir() else []
        hints = ["there are " + ", ".join(lists[:8])] if lists else []
        hints += [f"XML files are in {', '.join(folders[:4])}: ann_file: {folders[0]} takes them"] if folders else []
        hint = "; ".join(hints) or "write one image per line into it"
        text = f"no such list of images, nor {places[1]}: check root and ann_file ({hint})"
        problems.report("missing annotation", str(places[0]), text)
    return found


def voc_label_space(
    root: Path, label_file: str | None, classes: Sequence[str] | None, problems: Problems
) -> LabelSpace:
    """Classes in the order of ``classes`` or of the label file, else those of all XML files below the root, sorted."""
    if classes is not None:
        return LabelSpace.from_names(list(classes), f"{root} (classes)", problems)
    path = root / (label_file or "label_list.txt")
    if label_file and os.path.lexists(path):
        return LabelSpace.from_names(class_names(path, problems), str(path), problems)
    quiet = Problems(collect=True)
    opened = [VocFile.open(one, "", quiet) for one in xml_files(root)]
    names = sorted({name for one in opened if one for name in one.names()})
    if names:
        text = (
            f"no such list of class names; those of the XML files are taken in this order: {', '.join(names)}. Write "
            "one per line into that file, or give classes: [...], to fix the order"
        )
        problems.mend("no class list", str(path), text)
    else:
        cause = f"; {quiet.found[0]}" if quiet.found else ""
        text = f"no such list of class names, and none of {len(opened)} XML files names a class: check root{cause}"
        problems.report("bad class", str(path), text)
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
        problems.report("missing image", str(listing), "the list of images is empty: nothing to train or evaluate on")
    return items


def _folder(root: Path, name: str, others: Sequence[str]) -> str:
    """The devkit's folder, or the one that is there in its place."""
    found = None if (root / name).is_dir() else subfolder(root, others)
    return found.name if found else name


def _sizes(
    root: Path, waiting: Sequence[tuple[int, Item, VocImage]], upright: bool, problems: Problems
) -> list[tuple[int, int] | None]:
    """The sizes of the XML files; where they have none, those of the images."""
    without = [root / item.image for _, item, image in waiting if image.size is None]
    measured = iter(image_sizes(without, upright=upright, problems=problems))
    return [image.size or next(measured) for _, _, image in waiting]

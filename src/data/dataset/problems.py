# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong in an annotation file: raised at once for training, collected for a check."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import DataError, printable

logger = logging.getLogger(__name__)

KINDS: dict[str, str] = {
    "broken json": "a file or line that is not JSON, or not of the format that was asked for",
    "broken xml": "an XML file that cannot be parsed, or lacks what an annotation needs",
    "broken line": "a line of a text file that cannot be read (columns, numbers)",
    "bad entry": "an entry without an id, a class, or another field that it must have",
    "bad box": "a box that is no four finite numbers, or has no area inside its image",
    "bad size": "an image without width and height above zero",
    "bad class": "a class list that cannot be used: empty, ids or names twice",
    "unknown category": "an annotation whose class is not in the list of classes",
    "unknown image": "an annotation that belongs to no image",
    "duplicate id": "an id that occurs twice",
    "missing image": "an image that is listed but not there, or an empty folder",
    "wrong name": "an image that is listed under another name than its file has (training stops)",
    "missing annotation": "an image whose annotation file is not there",
    "unreadable image": "a file that is no image, or is cut off",
    "bad annotation id": "an annotation id that is no whole number (training does without it)",
    "box beyond edge": "a box that reaches more than 1 pixel (YOLO: a thousandth) out of its image",
    "wrong area": "areas that cannot be those of their boxes (training and metrics take width * height in their place)",
    "rotated box": "boxes with a rotation beside them, which do not bound the rotated object (training takes the box)",
    "no class list": "a list of class names that is not there: the order of the labels is that of the alphabet",
    "odd entry": "a field in another form than it should have, whose meaning is clear (training reads it)",
}
"""Every kind that a parser reports, with what it means."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: one of ``KINDS``.
        place: the file, with ``:line`` where there is one.
        text: what is wrong and what to do.
        kept: the entry is read all the same: what it means is clear, and a copy has it as it should be.
    """

    kind: str
    place: str
    text: str
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass
class Losses:
    """What is left out of a data set, by reason; an image that is left out takes its boxes along."""

    boxes: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    emptied: int = 0
    """Images that are kept and lose all their boxes: they turn into images of background."""

    def add(self, reason: str, *, boxes: int = 0, images: int = 0, emptied: int = 0) -> None:
        """Count some more."""
        self.boxes[reason] += boxes
        self.images[reason] += images
        self.emptied += emptied


class Problems:
    """Where parsers report what is wrong.

    Args:
        collect: keep a list, so that the parser skips or mends the entry and goes on; else the first report raises.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.found: list[Problem] = []
        self.losses = Losses()
        self._warned: set[tuple[str, str]] = set()

    def report(
        self, kind: str, place: object, text: str, *, kept: bool = False, boxes: int = 0, images: int = 0
    ) -> None:
        """Note one problem.

        Args:
            kind: one of ``KINDS``.
            place: the file, with ``:line`` where there is one.
            text: what is wrong and what to do.
            kept: see ``Problem``.
            boxes, images: that are left out because of it.

        Raises:
            DataError: ``{place}: {text}``, unless problems are collected.
            ValueError: ``kind`` is not one of ``KINDS``.
        """
        problem = _problem(kind, place, text, kept)
        if not self.collect:
            raise DataError(str(problem))
        self.found.append(problem)
        self.losses.add(kind, boxes=boxes, images=images)

    def mend(self, kind: str, place: object, text: str) -> None:
        """Note an entry of which nothing is lost, however it is written: training reads it too, with a warning.

        Raises:
            ValueError: ``kind`` is not one of ``KINDS``.
        """
        problem = _problem(kind, place, text, True)
        if self.collect:
            self.found.append(problem)
        elif (kind, problem.place) not in self._warned:  # the first of a file stands for the others
            self._warned.add((kind, problem.place))
            logger.warning("%s (isdfine data check lists all such entries)", problem)


def _problem(kind: str, place: object, text: str, kept: bool) -> Problem:
    if kind not in KINDS:
        raise ValueError(f"problem kind {kind!r} is not one of {', '.join(KINDS)}")
    return Problem(kind, printable(str(place)), printable(text), kept)


_READ = 1 << 20
"""Bytes at the start of a file in which marks are looked for."""
_LABEL_STUDIO = "Label Studio's own JSON: export COCO, YOLO or Pascal VOC XML there"
_CVAT = "CVAT's own XML: export COCO 1.0, YOLO 1.1 or Pascal VOC 1.1 from CVAT"
TOOLS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    ".json": (
        (('"shapes"', '"imagePath"'), "LabelMe's own format: convert its folder with labelme2coco"),
        (("_via_img_metadata",), "a project of VIA: choose Annotation > Export Annotations (COCO format) there"),
        (('"shape_attributes"',), "the own format of VIA and makesense: export COCO JSON there"),
        (('"vid_list"', '"fid_list"'), "a project of VIA 3: export COCO there"),
        (('"from_name"', '"to_name"'), _LABEL_STUDIO),
        (('"original_width"', '"rectanglelabels"'), _LABEL_STUDIO),
        (('"classTitle"',), "Supervisely's own format: run its app Export to COCO"),
        (('"projectType"', '"classes"'), "Supervisely's own format: run its app Export to COCO"),
        (('"dm_format_version"',), "Datumaro's own format: export COCO 1.0 from CVAT, or datum convert -f coco"),
        (('"items"', '"categories"', '"labels"'), "Datumaro's own format: export COCO 1.0 from CVAT"),
        (('"schema_ref"', "darwin"), "V7's own format: export COCO there, or darwin convert coco"),
        (('"segments_info"',), "COCO panoptic JSON, which has no boxes of objects: take the instances_*.json"),
        (('"coordinates"', '"label"', '"image"'), "CreateML's JSON: export COCO in its place"),
        (('"data_row"',), "Labelbox' own format: export COCO there"),
    ),
    ".xml": ((("<annotations>", "<image"), _CVAT),
             (("<annotations>", "<track"), _CVAT)),
    ".csv": ((("xmin",), "boxes as CSV: export COCO JSON in its place (Roboflow and others write it)"),),
    ".tfrecord": (((), "a TFRecord: export COCO JSON in its place (Roboflow and others write it)"),),
}  # fmt: skip
"""Suffix, the texts that together are its mark, and what the file is with what to do."""


def other_tool(file: Path) -> str | None:
    """What a file is that another tool can export better; None where that is not known."""
    tools = TOOLS.get(file.suffix.lower(), ())
    if not tools or not file.is_file():
        return None
    with open(file, errors="replace") as opened:
        text = opened.read(_READ)
    return next((said for marks, said in tools if all(mark in text for mark in marks)), None)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a check of a data set can find: the kinds, how bad each is, and what a corrected copy does about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..core.errors import printable
from ..data.dataset import problems
from ..data.dataset.annotations import Annotations
from ..data.dataset.kitti import kitti_label_file
from ..data.dataset.layout import IMAGES, XML, beside
from ..data.dataset.problems import Losses
from ..data.dataset.yolo import label_files

Severity = Literal["error", "warning", "note"]
"""error: training stops, or evaluation is wrong; warning: a person should look; note: good to know."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    severity: Severity
    meaning: str
    fix: str = "left as it is"
    """What ``--fix`` does about it in the copy."""


_MENDED = {
    "bad annotation id": Kind("warning", "", "gets a new id"),
    "box beyond edge": Kind("warning", "", "cut to the image"),
    "no class list": Kind("warning", "", "written"),
    "odd entry": Kind("warning", "", "written as it should be"),
    "wrong area": Kind("warning", "", "gets width * height of the box"),
    "rotated box": Kind("warning", "", "left as it is"),
    "wrong name": Kind("error", "", "gets the name of the file"),
    "duplicate id": Kind("error", "", "left out, unless both name one file"),
    "bad size": Kind("error", "", "taken from the file"),
    "bad class": Kind("error", "", "read where its meaning is clear, else left out"),
    "bad entry": Kind("error", "", "put right where nothing is lost by it, else left out"),
    "bad box": Kind("error", "", "put right where nothing is lost by it, else left out"),
    "unknown category": Kind("error", "", "put right where nothing is lost by it, else left out"),
}
"""What becomes of the problems of parsers that are not simply errors whose entry is left out."""


def _parse_kinds() -> dict[str, Kind]:
    usual = Kind("error", "", "left out")
    return {name: replace(_MENDED.get(name, usual), meaning=meaning) for name, meaning in problems.KINDS.items()}


KINDS: dict[str, Kind] = {
    **_parse_kinds(),
    "missing image": Kind("error", "an image that is listed but not there", "its entry is left out"),
    "unreadable image": Kind("error", "a file that is no image, or is cut off", "its entry is left out"),
    "dark image": Kind("warning", "a picture that is black as training reads it"),
    "wrong size": Kind(
        "error",
        "the file has another height or width than its entry says",
        "the entry gets the file's size where all its boxes fit, else it is left out",
    ),
    "no boxes": Kind("error", "a split of images without any box (training stops: allow_no_targets lets it go on)"),
    "no targets": Kind("error", "boxes, none of which is a training target: nothing can be learnt from this split"),
    "normalised boxes": Kind("error", "boxes that are fractions of their image, where pixels are wanted"),
    "some normalised boxes": Kind("warning", "some boxes look like fractions of their image, where pixels are wanted"),
    "other box format": Kind(
        "error",
        "boxes reach out of their images, and fit if their numbers are corners, or centres, or the other way round",
    ),
    "some boxes as corners": Kind("warning", "some boxes reach out of their images, and fit if they are corners"),
    "mostly crowd": Kind("warning", "more than half of the boxes are crowd regions or ignored: no training targets"),
    "boxes below min_size": Kind("warning", "more than half of the boxes are dropped by the transforms of the config"),
    "nothing to evaluate": Kind("warning", "an evaluation split without any box: its metrics are undefined"),
    "mixed orientation": Kind("error", "sizes of turned pictures in one file and of stored ones, or not as it is read"),
    "unclear orientation": Kind("warning", "EXIF turns pictures, and no size tells to which the boxes belong"),
    "inverted box": Kind("error", "a box of negative width or height", "left out"),
    "box outside": Kind("error", "a box wholly outside its image", "left out"),
    "duplicate annotation id": Kind("error", "an annotation with the id of another one", "gets a new id"),
    "empty box": Kind("warning", "a box of width or height 0 (training leaves it out)", "left out"),
    "tiny box": Kind("warning", "a box whose shorter side is 2 pixels or less: nothing to see after resizing"),
    "duplicate box": Kind("warning", "a box that repeats one of its class (half a pixel apart at most)", "left out"),
    "box of two classes": Kind("warning", "the same box twice, of two classes: which one is it?"),
    "near-duplicate box": Kind("warning", "two boxes of one class with IoU of at least 0.9: one object marked twice?"),
    "duplicate image": Kind(
        "warning", "a file with exactly the bytes of another one of its split", "left out, its boxes go to that one"
    ),
    "near-duplicate image": Kind("note", "two images of a split that look the same"),
    "image in two splits": Kind(
        "error", "a file with exactly the bytes of one in another split", "kept in the evaluation split only"
    ),
    "near-duplicate in two splits": Kind("warning", "an image that looks like one in another split"),
    "too many objects": Kind("error", "an image with more objects than queries: raise num_queries"),
    "many objects": Kind("warning", "an image with more objects than 0.8 times the queries"),
    "different class lists": Kind("error", "splits that do not have the same classes under the same ids"),
    "classes alike": Kind("warning", "class names that differ in case or spaces only: two classes, or one?"),
    "class without boxes": Kind("warning", "a class of the list that no split has a box of"),
    "class not in training": Kind("warning", "a class that is evaluated but cannot be learnt"),
    "class not in evaluation": Kind("note", "a class of the training split that another split never asks for"),
    "class imbalance": Kind("warning", "the most frequent class has 50 times the boxes of the rarest, or more"),
    "unlisted file": Kind("warning", "an image file in the folder that no entry names", "not copied"),
    "label without image": Kind("warning", "a YOLO label file whose image is not there", "not copied"),
    "image without boxes": Kind("note", "images without any object: fine as negatives, wrong if they were forgotten"),
    "turned image": Kind("note", "EXIF turns the picture: do its boxes belong to what viewers show?"),
}
"""Every kind by name, those of the parsers included."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found, and where."""

    kind: str
    """One of ``KINDS``."""
    split: str
    """Name of the split; empty where it concerns several."""
    place: str
    """File (with line or annotation) that a person has to open."""
    text: str
    """What is wrong there, with the values."""
    image: str = ""
    """File name of the image, where it is about one."""
    index: int | None = None
    """Position of the image in its split."""
    row: int | None = None
    """Position of the box in its split's arrays."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"finding kind {self.kind!r} is not one of {', '.join(KINDS)}")
        for name in ("place", "text"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def severity(self) -> Severity:
        """How bad its kind is."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the JSON report."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "split": self.split,
            "place": self.place,
            "image": self.image,
            "text": self.text,
            "fix": KINDS[self.kind].fix,
        }


@dataclass(frozen=True)
class Split:
    """One part of a data set as its parser delivered it."""

    name: str
    format: str
    """coco, voc, yolo, crowdhuman or kitti."""
    annotations: Annotations
    img_folder: Path
    problems: tuple[problems.Problem, ...] = ()
    """What the parser left out or mended."""
    losses: Losses = field(default_factory=Losses)
    """How much it left out."""
    ops: Sequence[nn.Module] = ()
    """The transforms of the run, where its config was given."""

    @property
    def is_training(self) -> bool:
        """Whether its name says that a model learns from it."""
        return self.name.lower().startswith("train")

    @property
    def is_evaluation(self) -> bool:
        """Whether its name says that no model learns from it."""
        return self.name.lower().startswith(("val", "test"))

    @property
    def owners(self) -> NDArray[np.int64]:
        """(A,) position of the image that each box belongs to."""
        return np.repeat(np.arange(len(self.annotations)), np.diff(self.annotations.offsets))

    @property
    def sizes_of_boxes(self) -> NDArray[np.int64]:
        """(A, 2) height and width of the image that each box belongs to."""
        return self.annotations.sizes[self.owners]

    def finding(self, kind: str, text: str, index: int | None = None, row: int | None = None) -> Finding:
        """A finding about the whole split, one of its images, or one of its boxes."""
        if index is None:
            return Finding(kind, self.name, self.annotations.place, text)
        image = self.annotations.file_names[index]
        return Finding(kind, self.name, self.place_of(index, row), text, image, index, row)

    def path(self, index: int) -> Path:
        """Image file of an entry."""
        return self.img_folder / self.annotations.file_names[index]

    def place_of(self, index: int, row: int | None = None) -> str:
        """Where a person finds an entry: the file to open, the image, the annotation."""
        data = self.annotations
        name = data.file_names[index]
        where = f"{data.place}: {name}"
        if self.format == "voc":
            where = str(xml_file(self.path(index)))
        elif self.format == "yolo":
            where = str(label_files([self.path(index).absolute()])[0])
        elif self.format == "kitti":
            where = str(kitti_label_file(self.path(index)))
        if row is None:
            return where if name in where else f"{where} ({name})"
        return f"{where}: {self.number_of(index, row)} ({data.label_space.names[int(data.labels[row])]})"

    def number_of(self, index: int, row: int) -> str:
        """How its file counts a box: by an id, or from 1 within the image."""
        if self.format in ("coco", "objects365"):
            return f"annotation {self.annotations.ids[row]}"
        kind = "object" if self.format == "voc" else "box"
        return f"{kind} {row - self.annotations.offsets[index] + 1}"


def xml_file(image: Path) -> Path:
    """The XML file of an image of Pascal VOC: what ``folder_items`` looks for, backwards."""
    places = [folder / f"{image.stem}.xml" for folder in beside(image.parent, IMAGES, XML)]
    return next((path for path in places if path.is_file()), image.with_suffix(".xml"))

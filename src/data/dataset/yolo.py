# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Detection data in the form that YOLO tools use: a data set, and a text file of rows per image."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations, Collected
from .frame import Upright
from .images import SUFFIXES, image_sizes, list_images
from .layout import UnlistedImages, subfolder, text_lines
from .prepare import PreparedDataset, Subset
from .problems import Problems
from .yolo_data import YoloData

TOLERANCE = 1e-3
"""Coordinates may pass the image's edge by this much, for tools that round."""
_BEYOND = 0.5
"""Coordinates that pass it by up to this much are still fractions: the box is cut, with a warning."""
_BOX, _SHORTEST_POLYGON = 5, 7

Row = tuple[int, float, float, float, float]
"""Class, centre x, centre y, width, height; fractions of the image."""


def parse_rows(path: Path, space: LabelSpace, problems: Problems, *, keypoints: int = 0) -> list[Row] | None:
    """Boxes of a label file; a polygon becomes the box around it.

    Args:
        path: rows ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...``.
        space: the classes.
        problems: where to report rows that cannot be used.
        keypoints: numbers that follow a box in files with key points; they are passed over.

    Returns:
        None where the file was reported and nobody knows what is in it.

    Raises:
        DataError: with file and line: other column counts, no numbers, an unknown class, values outside [0, 1].
    """
    rows: list[Row] = []
    reported = len(problems.found)
    lines = text_lines(path, problems)
    if len(problems.found) > reported:
        return None
    for place, line in lines:
        try:
            row, beyond = _row(line.split(), space, keypoints)
        except _BadRow as error:
            kind, text = error.args
            problems.report(kind, place, text, boxes=1)
            continue
        if beyond and (cut := _inside(row)):
            problems.mend("box beyond edge", place, f"{beyond:g} is outside 0..1: the box is cut to the image")
            row = cut
        rows.append(row)
    if lines and not rows:
        problems.losses.add("", emptied=1)
    return rows


def _inside(row: Row) -> Row | None:
    """The part of the box within the image, None where there is none."""
    number, cx, cy, w, h = row
    x0, x1, y0, y1 = (min(max(value, 0.0), 1.0) for value in (cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2))
    return (number, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None


class _BadRow(Exception):
    """Kind of problem, and what is wrong with a row."""


def _row(columns: Sequence[str], space: LabelSpace, keypoints: int) -> tuple[Row, float | None]:
    """The row, and the first of its values that lies outside the image."""
    if keypoints and len(columns) not in (_BOX, _BOX + keypoints):
        text = f"{len(columns)} columns, expected class cx cy w h and {keypoints} numbers of key points (kpt_shape)"
        raise _BadRow("broken line", text)
    columns = columns[:_BOX] if keypoints else columns
    count = len(columns)
    if count == _BOX + 1:
        text = "6 columns, expected class cx cy w h: a sixth may be the confidence of a prediction: remove it"
        raise _BadRow("broken line", text)
    if count != _BOX and (count < _SHORTEST_POLYGON or count % 2 == 0):
        text = f"{count} columns, expected class cx cy w h, or class and x y of at least 3 points of a polygon"
        raise _BadRow("broken line", text)
    number, *values = _finite(columns)
    if number not in range(len(space)):
        known = f"the {len(space)} classes 0..{len(space) - 1}: {space.describe()}"
        raise _BadRow("unknown category", f"class {columns[0]} is not one of {known}")
    outside = [value for value in values if not -TOLERANCE <= value <= 1 + TOLERANCE]
    beyond = outside[0] if outside else None
    sizes = values[2:] if count == _BOX else [0.0]
    wrong = [value for value in outside if not -_BEYOND <= value <= 1 + _BEYOND] or [
        value for value in sizes if value < -TOLERANCE
    ]
    if wrong:
        text = f"{wrong[0]:g} is outside 0..1: coordinates must be fractions of the image's width and height"
        raise _BadRow("bad box", text)
    if count == _BOX:
        cx, cy, w, h = values
        return (int(number), cx, cy, w, h), beyond
    x, y = values[0::2], values[1::2]
    x0, x1, y0, y1 = min(x), max(x), min(y), max(y)
    return (int(number), (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), beyond


def _finite(columns: Sequence[str]) -> list[float]:
    try:
        numbers = [float(column) for column in columns]
    except ValueError as error:
        raise _BadRow("broken line", f"{' '.join(columns)[:80]!r} holds something that is no number") from error
    if not all(map(math.isfinite, numbers)):
        raise _BadRow("broken line", f"{' '.join(columns)[:80]!r} holds a number that is not finite")
    return numbers


logger = logging.getLogger(__name__)

_LONGEST = 4096
"""Characters of a path, on Linux."""
_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"


def parse_yolo(
    data: str | Path,
    split: str = "train",
    *,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open a YOLO data set; for the rules see ``YoloDetection``.

    Args:
        data: the YAML file, or another way to say what it says: see ``YoloData.open``.
        split: its key that names the images.
        subset: images to open; the others are not looked at.
        problems: where to report what is wrong; None raises at once.

    Raises:
        DataError: a YAML file without usable classes or images, label rows that cannot be read, missing images.
    """
    problems = problems or Problems()
    source = YoloData.open(data, problems)
    space = source.space(problems) if source.content or not problems.found else LabelSpace((), ())
    root = source.root
    place = f"{source.file} ({split})"
    names = [_relative(path, root) for path in _images(source, split, problems)] if source.content else []
    indices = (subset or Subset()).indices(names, None, place)
    paths = [Path(os.path.abspath(root / names[index])) for index in indices.tolist()]
    labels = label_files(paths)
    _warn_of_shared_labels(paths, labels, place)
    keypoints = _keypoint_columns(source, problems)
    there = _present(labels, place, problems)
    collected = Collected()
    sizes = image_sizes(paths, upright=bool(upright), problems=problems)
    for index, size, file, is_there in zip(indices.tolist(), sizes, labels, there):
        rows = parse_rows(file, space, problems, keypoints=keypoints) if is_there else []
        if rows is None or size is None:
            reason = "broken line" if rows is None else "unreadable image"
            problems.losses.add(reason, images=1, boxes=len(rows or ()))
        else:
            height, width = size
            boxes = [[(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height] for _, cx, cy, w, h in rows]
            collected.add(names[index], index, size, boxes, [int(row[0]) for row in rows])
    return collected.annotations(space, place, str(root), upright=bool(upright))


def yolo_label_space(data: str | Path, problems: Problems | None = None) -> LabelSpace:
    """The classes of the data file alone."""
    problems = problems or Problems()
    return YoloData.open(data, problems).space(problems)


def standard_label_file(image: Path) -> Path:
    """Where YOLO tools look for the labels of an image: ``labels`` for the last ``images`` of its path."""
    return Path(_LABELS.join(str(image.with_suffix(".txt")).rsplit(_IMAGES, 1)))


def label_files(images: Sequence[Path]) -> list[Path]:
    """Where the labels of images are: see ``standard_label_file``.

    Where that folder is not there, in one that is called ``Labels``, or else beside the images.
    """
    stems: dict[Path, set[str]] = {}
    for image in images:
        stems.setdefault(image.parent, set()).add(image.stem)
    folders = {parent: _label_folder(parent, some) for parent, some in stems.items()}
    return [folders[image.parent] / f"{image.stem}.txt" for image in images]


def _label_folder(parent: Path, stems: Set[str]) -> Path:
    folder = standard_label_file(parent / "any.jpg").parent
    if folder != parent and folder.is_dir():
        return folder
    parts = parent.parts
    for index in range(len(parts) - 1, 0, -1):
        if parts[index].lower() == "images" and (other := subfolder(Path(*parts[:index]), ("labels",))):
            return other.joinpath(*parts[index + 1 :])
    return parent if any(path.stem in stems for path in parent.glob("*.txt")) else folder


def _present(labels: Sequence[Path], place: str, problems: Problems) -> list[bool]:
    """Which label files are there; an image without one has no objects, but images without any are a mistake."""
    there = [file.is_file() for file in labels]
    for file, is_there in zip(labels, there):
        if not is_there and os.path.lexists(file):  # reading it says what it is, and does not wait for a pipe
            text_lines(file, problems)
    if labels and not any(there):
        text = (
            f"none of the {len(labels)} images has a label file, for example {labels[0]}: the text files belong "
            "into a folder labels beside images"
        )
        problems.report("missing annotation", place, text)
    elif not all(there):
        background = len(there) - sum(there)
        logger.info("%s: %d of %d images have no label file: images without objects", place, background, len(there))
        parents = {file.parent for file, is_there in zip(labels, there) if not is_there}
        for folder in sorted(folder for folder in parents if not folder.is_dir()):
            logger.warning("%s: there is no folder %s: none of its images has objects", place, folder)
    return there


def _warn_of_shared_labels(paths: Sequence[Path], labels: Sequence[Path], place: str) -> None:
    """Images that differ in their suffix only have one label file, which is rarely meant."""
    images: dict[Path, set[str]] = {}
    for path, file in zip(paths, labels):
        images.setdefault(file, set()).add(str(path))
    shared = {file: sorted(names) for file, names in images.items() if len(names) > 1}
    if shared:
        file, names = next(iter(shared.items()))
        logger.warning(
            "%s: %d label files belong to several images, for example %s to %s: their boxes count for each of them; "
            "rename images that differ in their suffix only", place, len(shared), file, ", ".join(names),
        )  # fmt: skip


def _keypoint_columns(data: YoloData, problems: Problems) -> int:
    """How many numbers of key points follow a box."""
    shape = data.content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(value) is int and value > 0 for value in shape):
        text = f"kpt_shape is {shape!r}: give the number of key points and the numbers of each, such as [17, 3]"
        problems.report("bad entry", data.file, text)
        return 0
    return int(shape[0] * shape[1])


def _images(data: YoloData, split: str, problems: Problems) -> list[Path]:
    paths: list[Path] = []
    for source in data.sources(split, problems):
        place = next(iter(data.places(source)), None)
        if place is None:
            problems.report("missing image", data.file, f"{split}: {_missing(data, source, split)}")
        elif place.is_dir():
            listed = [place / name for name in list_images(place)]
            if not listed:
                text = f"{split}: no image in {place} ({', '.join(SUFFIXES)}): check path and {split}"
                problems.report("missing image", data.file, text)
            paths += listed
        else:
            paths += _listed(place, data, problems)
    return paths


def _missing(data: YoloData, source: str, split: str) -> str:
    """What to do about a folder or list that is not there."""
    text = f"{data.root / source} does not exist: check path and {split}"
    if (data.file.parent / source).exists():
        text += f" (there is {data.file.parent / source}: remove path, which says {data.content['path']!r})"
    else:
        parts = re.split(r"[\\/]+", source)
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        if end := next((end for end in ends if end and os.path.exists(data.root / end)), None):  # of another machine
            text += f" (there is {data.root / end}: write {split}: {end})"
    if data.content.get("download"):
        text += "; its download: entry is not followed, so fetch the data first"
    return text


def _listed(listing: Path, data: YoloData, problems: Problems) -> list[Path]:
    """Images of a text file: absolute, or relative to it, or to the root."""
    lines = text_lines(listing, problems)
    if not lines:
        problems.report("missing image", listing, "the list of images is empty: write one image per line")
    paths, unlisted = [], UnlistedImages(data.root, (line for _, line in lines))
    for place, line in lines:
        places = [listing.parent / line, data.root / line, *data.places(line)]
        # os.path, because a line of a file that is no list may be too long for a name, at which pathlib raises.
        image = next((path for there in (os.path.isfile, os.path.lexists) for path in places if there(path)), None)
        if image is None and len(line) > _LONGEST:
            text = f"a line of {len(line)} characters: this file is no list of images, one per line"
            problems.report("broken line", place, text)
        elif image is None:
            text = f"no image {places[0]}" + (f", nor {places[1]}" if places[0] != places[1] else "")
            text += f": add it or remove the line{unlisted.hint(line)}"
            problems.report("missing image", place, text, images=1)
        else:
            paths.append(image)
    return paths


def _relative(path: Path, root: Path) -> str:
    """As seen from the root where it is below it, else absolute."""
    whole, base = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(whole, base) if whole.startswith(base + os.sep) else whole


@register
class YoloDetection(PreparedDataset):
    """Images and text files as a ``data.yaml`` names them.

    The YAML file has ``path`` (relative to it, or to where the program runs; else its folder), per split a folder, a
    text file with one image per line, or a list of these, ``names`` (list or mapping) and ``nc``. ``download`` is not
    followed. In its place stand Darknet's ``obj.data`` (CVAT), a list of class names beside ``images`` and ``labels``
    (Label Studio, LabelImg), or a folder that has one of these. The labels of ``.../images/a/b.jpg`` are in
    ``.../labels/a/b.txt``, or beside the image where there is no such folder; an image without that file has no
    objects. Rows are ``class cx cy w h`` as fractions of the image, or ``class x1 y1 x2 y2 x3 y3 ...``: a polygon,
    of which the box around it is used. Key points behind a box, which ``kpt_shape`` announces, are passed over. Sizes
    come from the image headers, turned by their EXIF orientation, because YOLO tools decode images that way.

    Args:
        data: the YAML file, or what stands in its place.
        split: ``train``, ``val``, ``test``, or another key of the file; ``valid`` and ``validation`` are ``val``, where
            one of them alone is there.
        transforms: applied to (image, target).
        options: see ``PreparedDataset``. Images of the subset are looked at only; ``upright: auto`` is True here.
    """

    def __init__(self, data: str, split: str = "train", transforms: Compose | None = None, **options: Any) -> None:
        super().__init__(partial(parse_yolo, data, split), transforms, **options)

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """The names in the YAML file: see ``DetectionDataset.label_space_of``."""
        return yolo_label_space(section["data"]) if section.get("data") else None

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""YOLO: a ``data.yaml``, images in ``images``, one text file per image in ``labels``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..label_space import LabelSpace
from .annotations import Annotations, Collected
from .images import SUFFIXES, image_sizes, list_images
from .problems import Problems
from .subset import Subset
from .text_lines import text_lines
from .yolo_rows import parse_rows

logger = logging.getLogger(__name__)

_LONGEST = 4096
"""Characters of a path, on Linux."""
_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"


def parse_yolo(
    data: str | Path, split: str = "train", *, subset: Subset | None = None, problems: Problems | None = None
) -> Annotations:
    """Open a YOLO data set; for the rules see ``YoloDetection``.

    Args:
        data: the YAML file.
        split: its key that names the images: ``train``, ``val`` or ``test``.
        subset: images to open; the others are not looked at.
        problems: where to report what is wrong; None raises at once.

    Raises:
        DataError: a YAML file without usable classes or images, label rows that cannot be read, missing images.
    """
    data, problems = Path(data), problems or Problems()
    content = _read_yaml(data, problems)
    space = _space(content, data, problems)
    root = _root(content, data)
    place = f"{data} ({split})"
    names = [_relative(path, root) for path in _images(content, split, root, data, problems)]
    indices = (subset or Subset()).indices(names, None, place)
    paths = [Path(os.path.abspath(root / names[index])) for index in indices.tolist()]
    labels = [label_file(path) for path in paths]
    _warn_of_shared_labels(paths, labels, place)
    keypoints = _keypoint_columns(content, data, problems)
    there = _present(labels, place, problems)
    collected = Collected()
    sizes = image_sizes(paths, upright=True, problems=problems)
    for index, size, file, is_there in zip(indices.tolist(), sizes, labels, there):
        rows = parse_rows(file, space, problems, keypoints=keypoints) if is_there else []
        if size:
            height, width = size
            boxes = [[(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height] for _, cx, cy, w, h in rows]
            collected.add(names[index], index, size, boxes, [int(row[0]) for row in rows])
    return collected.annotations(space, place, str(root), upright=True)


def yolo_label_space(data: str | Path, problems: Problems | None = None) -> LabelSpace:
    """The classes of the YAML file alone."""
    problems = problems or Problems()
    return _space(_read_yaml(Path(data), problems), Path(data), problems)


def label_file(image: Path) -> Path:
    """Where the labels of an image are: ``labels`` for the last ``images`` of its path, and ``.txt``."""
    return Path(_LABELS.join(str(image.with_suffix(".txt")).rsplit(_IMAGES, 1)))


def _present(labels: Sequence[Path], place: str, problems: Problems) -> list[bool]:
    """Which label files are there; an image without one has no objects, but images without any are a mistake."""
    there = [one.is_file() for one in labels]
    if labels and not any(there):
        text = (
            f"none of the {len(labels)} images has a label file, for example {labels[0]}: the text files belong "
            "into a folder labels beside images"
        )
        problems.report("missing annotation", place, text)
    elif not all(there):
        background = len(there) - sum(there)
        logger.info("%s: %d of %d images have no label file: images without objects", place, background, len(there))
        parents = {one.parent for one, is_there in zip(labels, there) if not is_there}
        for folder in sorted(one for one in parents if not one.is_dir()):
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


def _keypoint_columns(content: Mapping[str, Any], path: Path, problems: Problems) -> int:
    """How many numbers of key points follow a box."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(one) is int and one > 0 for one in shape):
        text = f"kpt_shape is {shape!r}: give the number of key points and the numbers of each, such as [17, 3]"
        problems.report("bad entry", str(path), text)
        return 0
    return int(shape[0] * shape[1])


def _read_yaml(path: Path, problems: Problems) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.report("missing annotation", str(path), f"cannot be opened ({error.strerror}): check data")
        return {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that there is not
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problems.report("broken line", place, f"not a YAML file ({getattr(error, 'problem', error)})")
        return {}
    if not isinstance(content, dict):
        problems.report("broken line", str(path), "not a YOLO data file: it needs the keys names, train and val")
        return {}
    return content


def _space(content: Mapping[str, Any], path: Path, problems: Problems) -> LabelSpace:
    names = content.get("names")
    if isinstance(names, dict) and {str(one) for one in names} == {str(one) for one in range(len(names))}:
        names = [name for _, name in sorted(names.items(), key=lambda pair: int(pair[0]))]
    if not isinstance(names, list) or not names:
        text = f"names is {names!r}: give a list of class names, or a mapping from 0, 1, ... to names"
        problems.report("bad class", str(path), text)
        return LabelSpace((), ())
    if wrong := [one for one in names if type(one) not in (str, int)]:
        text = f"names holds {wrong[0]!r}, not text: write it in quotes (YAML reads yes, no, on, off as True, False)"
        problems.report("bad class", str(path), text)
    count = content.get("nc", len(names))
    if count != len(names):
        text = f"nc is {count!r}, but names has {len(names)} classes ({', '.join(map(str, names[:5]))}): correct one"
        problems.report("bad class", str(path), text)
    return LabelSpace.from_names([str(one) for one in names], str(path), problems)


def _root(content: Mapping[str, Any], data: Path) -> Path:
    """``path``: absolute, or relative to the YAML file, or to where the program runs; else the YAML file's folder."""
    given = content.get("path")
    if not given:
        return data.parent
    places = [data.parent / str(given), Path(str(given))]
    return next((one for one in places if os.path.isdir(one)), places[0])


def _images(content: Mapping[str, Any], split: str, root: Path, data: Path, problems: Problems) -> list[Path]:
    sources = content.get(split)
    if not sources or not all(isinstance(one, str) for one in (sources if isinstance(sources, list) else [sources])):
        known = ", ".join(key for key in ("train", "val", "test") if content.get(key)) or "none"
        text = f"{split} is {sources!r}: name a folder, a text file or a list of them (there is: {known})"
        problems.report("missing image", str(data), text)
        return []
    paths: list[Path] = []
    for source in sources if isinstance(sources, list) else [sources]:
        places = [root / source] + ([root / source[3:]] if source.startswith("../") else [])
        found = next((one for one in places if os.path.exists(one)), None)
        if found is None:
            hint = "; its download: entry is not followed, so fetch the data first" if content.get("download") else ""
            text = f"{split}: {places[0]} does not exist: check path and {split}{hint}"
            problems.report("missing image", str(data), text)
        elif found.is_dir():
            listed = [found / name for name in list_images(found)]
            if not listed:
                text = f"{split}: no image in {found} ({', '.join(SUFFIXES)}): check path and {split}"
                problems.report("missing image", str(data), text)
            paths += listed
        else:
            paths += _listed(found, root, problems)
    return paths


def _listed(listing: Path, root: Path, problems: Problems) -> list[Path]:
    """Images of a text file: absolute, or relative to it, or to the root."""
    lines = text_lines(listing, problems)
    if not lines:
        problems.report("missing image", str(listing), "the list of images is empty: write one image per line")
    paths = []
    for place, line in lines:
        places = [listing.parent / line, root / line]
        # os.path, because a line of a file that is no list may be too long for a name, at which pathlib raises.
        found = next((one for one in places if os.path.isfile(one)), None)
        if found is None and len(line) > _LONGEST:
            text = f"a line of {len(line)} characters: this file is no list of images, one per line"
            problems.report("broken line", place, text)
        elif found is None:
            text = f"no image {places[0]}" + (f", nor {places[1]}" if places[0] != places[1] else "")
            problems.report("missing image", place, f"{text}: add it or remove the line")
        else:
            paths.append(found)
    return paths


def _relative(path: Path, root: Path) -> str:
    """As seen from the root where it is below it, else absolute."""
    whole, base = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(whole, base) if whole.startswith(base + os.sep) else whole

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From a path that a person types to the splits of a data set: which format it is, and where its images lie."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..core.errors import DataError
from ..core.files import check_regular
from ..data.dataset.annotations import Annotations, files_present
from ..data.dataset.coco_json import UNKNOWN_SIZE
from ..data.dataset.frame import settled
from ..data.dataset.images import SUFFIXES, image_sizes
from ..data.dataset.kitti import is_kitti
from ..data.dataset.layout import SPLITS, TEST, XML, UnlistedImages, folders_in, role_of, subfolder, text_lines
from ..data.dataset.problems import Problems, other_tool
from ..data.dataset.voc import PAIR, xml_folders
from ..data.dataset.yolo_data import CLASS_LISTS, YoloData, broken_data, find_data
from .findings import Split
from .folders import find_images, odgt_names, why_not_found
from .formats import read_annotations

logger = logging.getLogger(__name__)

FORMATS = ("coco", "voc", "yolo", "crowdhuman")
LABEL_LIST = "label_list.txt"
_SAMPLES = 20
"""Lines of a text file that are looked at to see whether it lists images."""
_MARKS = (b'"images"', b'"annotations"', b'"categories"')
"""What a COCO detection file has and other JSON files rarely have together."""
_CHUNK = 1 << 24
_SUFFIXES = {
    ".json": "coco",
    ".odgt": "crowdhuman",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".data": "yolo",
    ".names": "yolo",
    ".txt": "voc",
}
_NO_FORMAT = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "an archive: unpack it and give its folder"),
    **dict.fromkeys((*SUFFIXES, ".xml"), "one file of a data set: give the folder"),
}
"""What to do about files that are no list of annotations."""


@dataclass(frozen=True)
class Source:
    """One split that was found and not yet read."""

    name: str
    format: str
    where: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``read_annotations``; a missing ``img_folder`` is looked for."""
    ops: Sequence[nn.Module] = ()
    """The transforms of the run, where its config was given."""

    def read(self) -> Split:
        """Parse it, collecting what is wrong.

        Raises:
            DataError: nothing can be read of it at all, or no folder holds its images.
        """
        problems, where = Problems(collect=True), dict(self.where)
        searched = self.format in ("coco", "crowdhuman") and not where.get("img_folder")
        if searched and self.format == "crowdhuman":  # the sizes are in the images, so they are needed at once
            file = Path(where["ann_file"])
            where["img_folder"] = str(find_images(file, odgt_names(file)))
        elif searched:
            where["img_folder"] = ""
        annotations, folder = read_annotations(self.format, where, problems)
        if searched and self.format == "coco":
            folder = find_images(Path(where["ann_file"]), annotations.file_names)
        if self.format in ("coco", "objects365", "voc"):
            annotations = _with_true_names(annotations, folder, problems)
        if self.format in ("coco", "objects365"):
            annotations = settled(replace(annotations, folder=str(folder)), where.get("upright", "auto"), problems)
            annotations = _with_sizes(annotations, folder, problems)
        return Split(self.name, self.format, annotations, folder, tuple(problems.found), problems.losses, self.ops)


def _with_true_names(data: Annotations, folder: Path, problems: Problems) -> Annotations:
    """Names of the files where entries name them otherwise: their pictures and boxes can be looked at then."""
    there, names = files_present(folder, data.file_names), list(data.file_names)
    unlisted = UnlistedImages(folder, [name for name, is_there in zip(names, there.tolist()) if is_there])
    taken: set[str] = set()
    for index in np.flatnonzero(~there).tolist():
        meant = unlisted.meant(names[index])
        if meant and meant.name not in taken:
            problems.report("wrong name", f"{data.place}: {names[index]}", f"no such file; {meant}", kept=True)
            names[index] = meant.name
            taken.add(meant.name)
    return replace(data, file_names=tuple(names))


def _with_sizes(data: Annotations, folder: Path, problems: Problems) -> Annotations:
    """Sizes of the files for entries without: in the frame of the other entries, unless boxes fit the other only."""
    without = np.flatnonzero((data.sizes == UNKNOWN_SIZE).all(axis=1)).tolist()
    if not without:
        return data
    sizes, paths = data.sizes.copy(), [folder / data.file_names[index] for index in without]
    shown = image_sizes(paths, upright=True, problems=Problems(collect=True))
    for index, stored, upright in zip(without, image_sizes(paths, problems=problems), shown):
        if stored is None or upright is None:
            problems.losses.add("missing image", images=1, boxes=int(np.diff(data.offsets)[index]))
            continue
        corner = data.boxes_xywh_px[data.rows(index)]
        far = (corner[:, :2] + corner[:, 2:]).max(axis=0, initial=0)[::-1]  # y, x: as sizes are
        fits = [bool((far <= np.array(size) + 1).all()) for size in (stored, upright)]
        sizes[index] = upright if fits[1] and (data.upright or not fits[0]) else stored
    known = np.flatnonzero((sizes != UNKNOWN_SIZE).any(axis=1))
    return replace(data, sizes=sizes).take(known)


Finders = Mapping[str, Callable[[Path], list[Source]]]
"""What looks for a format in a folder, by the name of the format."""


def discover(path: str | Path, *, format: str = "auto", images: str | Path | None = None) -> list[Source]:
    """The splits under a path.

    Args:
        path: an annotation file (COCO JSON, CrowdHuman odgt, YOLO yaml, VOC list), or the folder of a data set in any
            common layout.
        format: one of ``READ``, or ``auto``.
        images: image folder, where it cannot be found (COCO and CrowdHuman only).

    Raises:
        DataError: no such path, or nothing known in it.
    """
    path = Path(path)
    if path.is_file():
        sources = _of_file(path, format)
    elif path.is_dir():
        finders = {name: finder for name, finder in _FINDERS.items() if format in ("auto", name)}
        sources = _first_found(path, finders)
        if format in ("auto", "yolo") and (broken := broken_data(path)):
            if not sources:
                return _yolo_splits(broken)  # raises, with what is wrong
            logger.warning("%s: cannot be read and is passed over, because there is other data", broken)
        _check_irregular(path, sources)
    else:
        text = "no regular file and no folder" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {text}")
    if not sources:
        wanted = "COCO JSON, YOLO data.yaml, CrowdHuman odgt, Pascal VOC, KITTI" if format == "auto" else format
        raise DataError(f"{path}: no data set found in this folder ({wanted}): {_remedy(path, finders)}")
    if images is not None and sources[0].format in ("yolo", "voc", "kitti"):
        raise DataError(
            f"--image-folder: a {sources[0].format} data set says itself where its images are; leave it out"
        )
    given = {} if images is None else {"img_folder": str(images)}
    return [Source(source.name, source.format, {**source.where, **given}) for source in sources]


def _check_irregular(root: Path, sources: Sequence[Source]) -> None:
    """See that no pipe or device has the name of an annotation file, and where nothing was found, no link to nothing.

    Raises:
        DataError: names it.
    """
    for file in (file for folder in (".", "annotations") for file in sorted((root / folder).glob("*"))):
        if file.suffix.lower() in _SUFFIXES and not file.is_dir():
            try:
                check_regular(file)
            except FileNotFoundError as error:
                if not sources:
                    raise DataError(f"{file}: a link to nothing: give the file it means") from error
            except OSError as error:
                raise DataError(f"{file}: {error.strerror}: give the file itself") from error


def _first_found(folder: Path, finders: Finders) -> list[Source]:
    return next((sources for finder in finders.values() if (sources := finder(folder))), [])


def _remedy(folder: Path, finders: Finders) -> str:
    """What to do about a folder in which nothing was found."""
    inner = next((inside for inside in folders_in(folder) if _first_found(inside, finders)), None)
    if inner:
        return f"there is one in {inner}: name that folder"
    other = _first_found(folder, _FINDERS) if len(finders) < len(_FINDERS) else []
    return f"leave --format out, it holds {other[0].format}" if other else why_not_found(folder)


def _of_file(path: Path, format: str) -> list[Source]:
    known = _SUFFIXES.get(path.suffix.lower())
    if format == "auto" and known is None:
        remedies = (text for end, text in _NO_FORMAT.items() if path.name.lower().endswith(end))
        usual = f"the suffix says no format: give --format {'|'.join(READ)}, or the folder of the data"
        raise DataError(f"{path}: {other_tool(path) or next(remedies, usual)}")
    format = known or "" if format == "auto" else format
    if path.name in CLASS_LISTS:
        format = "yolo"
    if format == "yolo":
        return _yolo_splits(path)
    if format == "voc":
        main = path.parent.name == "Main" and path.parent.parent.name == "ImageSets"
        root = path.parents[2] if main else path.parent
        return _voc_sources(root, [path])
    return [Source(split_name(path), format, {"ann_file": str(path)})]


def split_name(path: Path) -> str:
    """``train`` for train.json, ``train2017`` for instances_train2017.json, the folder for names that say nothing."""
    if path.name in ("_annotations.coco.json", "instances.json"):  # Roboflow, Supervisely
        folder = path.absolute().parent
        return folder.parent.name if folder.name.lower() in XML else folder.name
    name = path.stem.removeprefix("instances_").removeprefix("annotation_").removeprefix("annotations_")
    return name or path.stem


def _coco(root: Path) -> list[Source]:
    """COCO files in the folder, in its ``annotations``, in its sub-folders or in the ``annotations`` of these."""
    files = [file for file in _json_files(root) if _looks_like_coco(file)]
    official = [file for file in files if file.name.startswith("instances_")]  # beside captions and key points
    sources = [Source(split_name(file), "coco", {"ann_file": str(file)}) for file in official or files]
    return _in_order(sources)


def _json_files(root: Path) -> list[Path]:
    places = ("*.json", "annotations/*.json", "*/*.json", "*/annotations/*.json")
    return list(dict.fromkeys(file for place in places for file in sorted(root.glob(place))))


def unread_json(root: Path, role: str) -> list[str]:
    """JSON files whose names say that they hold a part, and that are no COCO detection files."""
    named = [file for file in _json_files(root) if role_of(split_name(file)) == role]
    return [os.path.relpath(file, root) for file in named if not _looks_like_coco(file)]


def _looks_like_coco(file: Path) -> bool:
    if not file.is_file():
        return False
    missing, tail = set(_MARKS), b""
    with open(file, "rb") as content:
        while missing and (chunk := content.read(_CHUNK)):  # a file may be larger than the memory
            missing -= {mark for mark in missing if mark in tail + chunk}
            tail = chunk[-max(map(len, _MARKS)) :]
    return not missing


def _yolo(root: Path) -> list[Source]:
    file = find_data(root)
    return _yolo_splits(file) if file else []


def _yolo_splits(file: Path) -> list[Source]:
    problems = Problems(collect=True)
    data = YoloData.open(file, problems)
    if problems.found:
        raise DataError(str(problems.found[0]))
    if "names" not in data.content or not data.splits():
        raise DataError(
            f"{data.file}: not a YOLO data.yaml: it needs names, and at least one of train, val, test "
            "(the config of a run is given with -c)"
        )
    absent = [
        key for key in data.splits() if key.lower() in TEST and not any(map(data.places, data.sources(key, problems)))
    ]
    for key in absent:  # Roboflow names it in any case
        logger.warning("%s: %s: %s is not there: passed over", data.file, key, data.content[key])
    return [
        Source(name, "yolo", {"data": str(data.file), "split": name}) for name in data.splits() if name not in absent
    ]  # fmt: skip


def _crowdhuman(root: Path) -> list[Source]:
    files = sorted([*root.glob("*.odgt"), *root.glob("*/*.odgt")])
    return _in_order([Source(split_name(file), "crowdhuman", {"ann_file": str(file)}) for file in files])


def _voc(root: Path) -> list[Source]:
    """Folders with ``Annotations``: the devkit layout, lists at the top (official D-FINE), or one level down.

    Else every folder below the root that holds XML files of VOC.
    """
    for folder in [root, *folders_in(root)]:
        annotations = subfolder(folder, XML)
        if annotations is None:
            continue
        lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
        lists = lists or sorted(path for path in folder.glob("*.txt") if _lists_images(path, annotations))
        # Lists such as cat_train.txt are of one class.
        lists = [path for path in lists if path.name != LABEL_LIST and "_" not in path.stem]
        parts = {path.stem for path in lists}
        if "train" in parts and "val" in parts:
            lists = [path for path in lists if path.stem != "trainval"]
        if lists:
            return _in_order(_voc_sources(folder, lists))
    return _xml_sources(root)


def _kitti(root: Path) -> list[Source]:
    """The folder that holds ``image_2`` and ``label_2``, or those in it that do."""
    folders = [root] if is_kitti(root) else [folder for folder in folders_in(root) if is_kitti(folder)]
    return _in_order([Source(folder.name, "kitti", {"root": str(folder), "split": "all"}) for folder in folders])


def _lists_images(file: Path, annotations: Path) -> bool:
    """Whether a text file names images: one of its first lines has an XML file."""
    for _, line in text_lines(file, Problems(collect=True))[:_SAMPLES]:
        pair = PAIR.fullmatch(line)
        names = [line, os.path.splitext(line)[0]]
        places = [file.parent / pair[2]] if pair else [annotations / f"{name}.xml" for name in names]
        if any(map(os.path.isfile, places)):
            return True
    return False


def _xml_sources(root: Path) -> list[Source]:
    """Folders of XML files, joined by the split that their names say; all in one where they say none."""
    groups: dict[str, list[Path]] = {}
    for folder in xml_folders(root):
        parts = [part.lower() for part in folder.relative_to(root).parts if part.lower() in SPLITS]
        groups.setdefault(parts[-1] if parts else "all", []).append(folder)
    return _in_order(
        [
            Source(name, "voc", {"root": str(root), "ann_file": os.path.relpath(os.path.commonpath(folders), root)})
            for name, folders in groups.items()
        ]
    )


def _voc_sources(root: Path, lists: Sequence[Path]) -> list[Source]:
    return [Source(path.stem, "voc", {"root": str(root), "ann_file": os.path.relpath(path, root)}) for path in lists]


def _in_order(sources: Sequence[Source]) -> list[Source]:
    """Training, validation, test, others; equal names are told apart by their folders."""
    names = [source.name for source in sources]
    named = [
        source if names.count(source.name) == 1
        else Source(f"{Path(source.where['ann_file']).parent.name}/{source.name}", source.format, source.where)
        for source in sources
    ]  # fmt: skip
    return sorted(named, key=lambda source: (_rank(source.name), source.name))


def _rank(name: str) -> int:
    return ("train", "val", "test", None).index(role_of(name))


_FINDERS: Finders = {
    "yolo": _yolo,
    "coco": _coco,
    "crowdhuman": _crowdhuman,
    "voc": _voc,
    "kitti": _kitti,
}
"""In the order in which a folder is tried."""
READ = (*FORMATS, "kitti")
"""Formats that are read; all but the last are written too."""


def other_formats(folder: Path, known: str) -> list[str]:
    """Formats, besides the one that was found, of which there is data in a folder."""
    return [name for name, finder in _FINDERS.items() if name != known and finder(folder)]


def read_all(sources: Sequence[Source]) -> list[Split]:
    """Read splits.

    Raises:
        DataError: see ``Source.read``; or two splits of one name.
    """
    names = [source.name for source in sources]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two splits are called {', '.join(sorted(repeated))}: give each a name of its own")
    return [source.read() for source in sources]


def parse_split(text: str, *, format: str = "auto") -> Source:
    """A split as typed: ``name=PATH`` or ``name=PATH:IMAGE_FOLDER``.

    Raises:
        DataError: not of that form, or a path that holds no split or several.
    """
    name, _, rest = text.partition("=")
    if not name or not rest:
        raise DataError(f"--split {text}: write NAME=PATH or NAME=PATH:IMAGE_FOLDER")
    path, _, images = rest.rpartition(":") if os.path.isdir(rest.rpartition(":")[2]) and ":" in rest else (rest, "", "")
    sources = discover(path, format=format, images=images or None)
    own = sources if len(sources) == 1 else [source for source in sources if source.name == name]
    if len(own) != 1:
        raise DataError(
            f"--split {text}: {path} holds {', '.join(source.name for source in sources)}: "
            "name the annotation file of one split"
        )
    return Source(name, own[0].format, own[0].where)

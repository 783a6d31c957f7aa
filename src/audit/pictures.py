# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with image files: missing, broken, of another size, repeated, in two splits, or named by no entry."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.dataset.frame import REMEDY, Evidence
from ..data.dataset.images import SUFFIXES, belongs_upright
from ..data.dataset.layout import UnlistedImages
from ..data.dataset.yolo import label_files
from .findings import Finding, Split
from .lookalikes import alike
from .pixels import FilePixels

_DARK = 16
"""Brightness that no photo stays below, at night either: 12 bits in a file of 16 do."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One image entry of one split; compared by identity."""

    split: Split
    index: int

    @property
    def path(self) -> Path:
        """The file it names."""
        return self.split.path(self.index)

    def finding(self, kind: str, text: str) -> Finding:
        """A finding about this entry."""
        return self.split.finding(kind, text, self.index)


def check_files(split: Split, pixels: Mapping[Path, FilePixels]) -> Iterator[Finding]:
    """Files of a split that are missing, broken, of another size than their entry, or turned."""
    yield from _check_frame(split, pixels)
    data = split.annotations
    for index in range(len(data)):
        entry = Entry(split, index)
        file = pixels[entry.path]
        if file.missing:
            yield entry.finding("missing image", f"{entry.path}: no such file")
        elif not file.good:
            yield entry.finding("unreadable image", f"{entry.path}: {file.problem}")
        else:
            yield from _check_size(entry, file)
            if file.brightest < _DARK:
                text = (
                    f"no pixel is brighter than {file.brightest} of 255: black, or with fewer bits in use than the "
                    "file has (12 of 16, or 0 and 1): scale its values"
                )
                yield entry.finding("dark image", text)


def _check_frame(split: Split, pixels: Mapping[Path, FilePixels]) -> Iterator[Finding]:
    """Whether it is known to which pictures the boxes of a file belong."""
    data = split.annotations
    headers = [pixels[split.path(index)].header for index in range(len(data))]
    sizes = [(height, width) for height, width in data.sizes.tolist()]
    evidence = Evidence.of(zip(data.file_names, sizes, headers))
    frame = "turned" if data.upright else "stored"
    if evidence.mixed or (evidence.unclear and evidence.against(data.upright)):
        text = evidence.mixed or (
            f"the size of {evidence.against(data.upright)[0]} is not that of the {frame} picture, to which the boxes "
            f"of {evidence.unclear[0]} are taken to belong"
        )
        yield split.finding("mixed orientation", f"{text}; correct it, or say {REMEDY}")
    elif evidence.missing and split.format != "yolo":
        yield split.finding("unclear orientation", f"{evidence.missing}; taken as {frame}: {REMEDY}")


def sizes_that_fit(split: Split, file: FilePixels) -> tuple[tuple[int, int], ...]:
    """The (height, width) that the entry of a file may have; the data set class accepts the same."""
    both = (file.header.upright, file.header.stored)
    return both if split.annotations.upright else both[::-1]


def with_true_sizes(split: Split, pixels: Mapping[Path, FilePixels]) -> Split:
    """The split with the sizes of its files where entries say others: boxes are judged by what is there."""
    sizes = split.annotations.sizes.copy()
    for index, own in enumerate(sizes.tolist()):
        file = pixels[split.path(index)]
        if file.good and tuple(own) not in (right := sizes_that_fit(split, file)):
            sizes[index] = right[0]
    return replace(split, annotations=replace(split.annotations, sizes=sizes))


def _check_size(entry: Entry, file: FilePixels) -> Iterator[Finding]:
    height, width = entry.split.annotations.sizes[entry.index].tolist()
    right = sizes_that_fit(entry.split, file)
    if (height, width) not in right:
        text = f"the entry says {width} x {height}, the file has {right[0][1]} x {right[0][0]} (width x height)"
        yield entry.finding("wrong size", text)
    elif file.header.orientation != 1:
        default = entry.split.annotations.upright
        upright = belongs_upright((height, width), file.header.stored, file.header.orientation, default=default)
        frame = "the picture as viewers show it" if upright else "the pixels as stored"
        text = f"EXIF orientation {file.header.orientation}: its boxes are taken to belong to {frame}"
        yield entry.finding("turned image", text)


def check_repeated(splits: Sequence[Split], pixels: Mapping[Path, FilePixels]) -> Iterator[Finding]:
    """Images that occur twice, byte by byte, within a split or in two."""
    groups: dict[bytes, list[Entry]] = defaultdict(list)
    for entry in _entries(splits):
        if pixels[entry.path].good:
            groups[pixels[entry.path].digest].append(entry)
    for group in groups.values():
        seen: dict[str, Entry] = {}
        for entry in group:
            if entry.split.name in seen:
                first = seen[entry.split.name]
                same = "names the same file as another entry" if first.path == entry.path else "has the same bytes as"
                text = f"{same}: {_name(first)}"
                yield entry.finding("duplicate image", text)
            else:
                seen[entry.split.name] = entry
        owners = sorted(seen.values(), key=lambda entry: entry.split.is_training)
        for entry in owners[1:]:  # reported where it should go: in the training split
            text = f"has the same bytes as {_name(owners[0])} of split {owners[0].split.name}: results will be too good"
            yield entry.finding("image in two splits", text)


def check_lookalikes(splits: Sequence[Split], pixels: Mapping[Path, FilePixels]) -> Iterator[Finding]:
    """Images that look the same but are different files."""
    first: dict[bytes, Entry] = {}
    for entry in _entries(splits):
        if pixels[entry.path].good:
            first.setdefault(pixels[entry.path].digest, entry)
    entries = list(first.values())
    thumbnails = [thumbnail for entry in entries if (thumbnail := pixels[entry.path].thumbnail) is not None]
    if not thumbnails:
        return
    most: dict[tuple[str, Entry], tuple[float, Entry]] = {}
    more: Counter[tuple[str, Entry]] = Counter()
    for a, b, difference in alike(np.stack(thumbnails)):
        kept, other = sorted((entries[a], entries[b]), key=lambda entry: entry.split.is_training)
        same = kept.split.name == other.split.name
        key = ("near-duplicate image" if same else "near-duplicate in two splits", other)
        most[key] = min(most.get(key, (difference, kept)), (difference, kept), key=lambda pair: pair[0])
        more[key] += 1
    for (kind, other), (difference, kept) in most.items():
        others = f", and like {more[kind, other] - 1} more" if more[kind, other] > 1 else ""
        where = "" if kept.split.name == other.split.name else f" of split {kept.split.name}"
        yield other.finding(kind, f"looks like {_name(kept)}{where} (difference {difference:.2f}){others}")


def check_unlisted(splits: Sequence[Split]) -> Iterator[Finding]:
    """Image files in the folders of the data set that no entry of any split names.

    A file that a problem of the parser is about, or that an annotation file beside the given ones names (the folder
    may be shared with splits that are not checked), is not reported.
    """
    listed = {os.path.normpath(entry.path) for entry in _entries(splits)}
    said = _said(splits)
    strangers: list[str] = []
    for root in dict.fromkeys(_image_root(split) for split in splits):
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            images = (name for name in sorted(names) if name.lower().endswith(SUFFIXES) and not name.startswith("."))
            strangers += [
                path for name in images if (path := os.path.normpath(os.path.join(folder, name))) not in listed
            ]
    strangers = [path for path in dict.fromkeys(strangers) if not said & _keys(path)]
    beside = _words("\n".join(_text_beside(splits))) if strangers else set()
    for path in strangers:
        if not beside & _keys(path):
            yield Finding("unlisted file", "", path, "an image that no entry names", os.path.basename(path))


def check_orphans(split: Split) -> Iterator[Finding]:
    """Label files of YOLO without an image: a folder of images lists itself, so a lost one is not missed."""
    if split.format != "yolo":
        return
    labels = label_files([split.path(index).absolute() for index in range(len(split.annotations))])
    known = {os.path.splitext(file)[0] for file in labels}
    said = _said([split])
    folders = {file.parent: split.path(index).parent for index, file in enumerate(labels) if file.parent.is_dir()}
    for folder, images in sorted(folders.items()):
        beside = {image.stem: image for image in images.iterdir() if image.suffix != ".txt"}
        others = UnlistedImages(images)
        for file in sorted(folder.glob("[!.]*.txt")):  # hidden ones are those of macOS
            if os.path.splitext(file)[0] not in known and not said & _keys(str(file)) and file.name != "classes.txt":
                image = beside.get(file.stem)
                text = f"no image of this name{others.hint(f'{file.stem}.jpg')}"
                if image:
                    text = f"its image {image} is of a kind that is not read: convert it"
                yield Finding("label without image", split.name, str(file), text, file.name)


def _said(splits: Sequence[Split]) -> set[str]:
    """File names that the parser's problems are about."""
    return _words("\n".join(f"{problem.place}\n{problem.text}" for split in splits for problem in split.problems))


def _words(text: str) -> set[str]:
    """File names in a text, with and without their suffix: words, and what quotes, brackets or a line hold."""
    names = re.findall(r"[^\s\"'(),\[\]{}]+", text)  # a name with blanks is none of these
    names += [*re.findall(r'"([^"\n]+)"', text), *re.findall(r"\(([^()\n]+)\)", text), *text.splitlines()]
    words = {word.split("/")[-1].split("\\")[-1].split(":")[0].strip() for word in names}
    return words | {os.path.splitext(word)[0] for word in words}


def _keys(path: str) -> set[str]:
    name = os.path.basename(path)
    return {name, os.path.splitext(name)[0]}


def _image_root(split: Split) -> str:
    """The folder that all images of a split lie in: below the data set's root where that holds other things too."""
    parents = {os.path.dirname(os.path.join(split.img_folder, name)) for name in split.annotations.file_names}
    return os.path.commonpath(parents) if parents else str(split.img_folder)


def _text_beside(splits: Sequence[Split]) -> list[str]:
    """Contents of the annotation files that lie beside those of the splits."""
    own = {Path(split.annotations.place) for split in splits}
    beside = {
        other for path in own if path.is_file() for other in path.parent.glob(f"*{path.suffix}") if other.is_file()
    }
    return [path.read_text(errors="replace") for path in sorted(beside - own)]


def _entries(splits: Sequence[Split]) -> Iterator[Entry]:
    return (Entry(split, index) for split in splits for index in range(len(split.annotations)))


def _name(entry: Entry) -> str:
    return entry.split.annotations.file_names[entry.index]

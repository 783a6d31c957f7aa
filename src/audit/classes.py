# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Class skew, and how many objects an image has against how many queries answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .findings import Finding, Split

IMBALANCE = 50
"""Boxes of the most frequent class for one of the rarest from which on training hardly sees the rare one. Between the
24 of a sound document set (doclayout-mini) and the hundreds of COCO's small samples."""
FULL = 0.8
"""Share of the queries in use from which an image is reported: matching wants some to spare."""
_SHOWN = 5


def check_objects(split: Split, queries: int) -> Iterator[Finding]:
    """Images with more objects than queries, with nearly so many, and without any."""
    data = split.annotations
    counts = objects_per_image(split)
    for index in np.flatnonzero(counts > FULL * queries):
        kind = "too many objects" if counts[index] > queries else "many objects"
        text = f"{counts[index]} objects for {queries} queries"
        yield split.finding(kind, text, int(index))
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        names = ", ".join(data.file_names[index] for index in empty[:_SHOWN])
        more = ", ..." if empty.size > _SHOWN else ""
        text = f"{empty.size} of {len(data)} images have no object to learn: {names}{more}"
        yield split.finding("image without boxes", text)


def objects_per_image(split: Split) -> NDArray[np.int64]:
    """(n,) boxes that are no crowd region."""
    return np.bincount(split.owners[~split.annotations.crowd], minlength=len(split.annotations))


def class_counts(split: Split) -> NDArray[np.int64]:
    """(C,) boxes of each class that are no crowd region."""
    data = split.annotations
    return np.bincount(data.labels[~data.crowd], minlength=len(data.label_space))


def check_classes(splits: Sequence[Split]) -> Iterator[Finding]:
    """Classes against boxes, within each split and between them."""
    first = splits[0]
    space = first.annotations.label_space
    for name, twin in space.alike():
        text = f"the classes {name!r} and {twin!r} differ in case or spaces only: rename one if they are one class"
        yield Finding("classes alike", "", first.annotations.place, text)
    for other in splits[1:]:
        theirs = other.annotations.label_space
        if theirs.names != space.names:  # ids may be numbered otherwise
            text = (
                f"{other.annotations.place} has {theirs.describe()}, but {first.annotations.place} has "
                f"{space.describe()}: give both the same list"
            )
            yield Finding("different class lists", "", other.annotations.place, text)
            return  # the counts of different lists cannot be compared
    counts = {split.name: class_counts(split) for split in splits}
    yield from _absent(splits, counts)
    for split in [split for split in splits if split.is_training] or splits[:1]:
        yield from _imbalance(split, counts[split.name])


def _absent(splits: Sequence[Split], counts: dict[str, NDArray[np.int64]]) -> Iterator[Finding]:
    """Classes that no split, no training split, or no evaluation split has."""
    names = splits[0].annotations.label_space.names
    training = [split for split in splits if split.is_training]
    evaluation = [split for split in splits if not split.is_training]
    none = np.zeros(len(names), dtype=np.int64)
    total, learnt = sum(counts.values(), none), sum((counts[split.name] for split in training), none)
    for label, name in enumerate(names):
        if name.startswith("(unused "):  # an id without a class (LabelSpace.with_unused_ids)
            continue
        if total[label] == 0:
            place = ", ".join(split.annotations.place for split in splits)
            yield Finding("class without boxes", "", place, f"class {name!r} has no box in any split")
        elif training and learnt[label] == 0:
            where = ", ".join(f"{split.name} has {counts[split.name][label]}" for split in evaluation)
            text = f"class {name!r} has no box to learn from, but {where}"
            yield training[0].finding("class not in training", text)
        elif training:
            for split in evaluation:
                if counts[split.name][label] == 0:
                    text = f"class {name!r} has no box here, but {learnt[label]} in training: its AP is undefined"
                    yield split.finding("class not in evaluation", text)


def _imbalance(split: Split, counts: NDArray[np.int64]) -> Iterator[Finding]:
    names = split.annotations.label_space.names
    present = np.flatnonzero(counts)
    if not present.size or counts.max() < IMBALANCE * counts[present].min():
        return
    rare = present[np.argsort(counts[present], kind="stable")]
    rare = rare[counts[rare] * IMBALANCE <= counts.max()]
    shown = ", ".join(f"{names[label]} {counts[label]}" for label in rare[:_SHOWN])
    text = (
        f"{names[int(counts.argmax())]} has {counts.max()} boxes, {rare.size} classes have at most 1/{IMBALANCE} of "
        f"that: {shown}{', ...' if rare.size > _SHOWN else ''}"
    )
    yield split.finding("class imbalance", text)

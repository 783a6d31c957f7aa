# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Divide a data set: by seed, in groups that stay together, with the classes in the same proportions."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DataError
from ..data.dataset.annotations import Annotations
from .classes import class_counts
from .edit import with_one_class_list
from .findings import Split
from .orientation import as_upright
from .pixels import FilePixels

_SWEEPS = 10
"""Passes over all groups that refine the shares: a few are enough, the bound is for safety."""


def parse_parts(texts: Sequence[str]) -> dict[str, float]:
    """``["train=0.8", "val=0.2"]`` as a mapping.

    Raises:
        DataError: not name=fraction, a name twice, fractions that are not above 0 or do not sum to 1.
    """
    parts: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = math.nan
        if not re.fullmatch(r"[\w.-]+", name) or not 0 < fraction < 1:
            raise DataError(f"--parts {text}: write NAME=FRACTION with a fraction between 0 and 1, such as train=0.8")
        if name in parts:
            raise DataError(f"--parts names {name} twice: every part once")
        parts[name] = fraction
    if len(parts) < 2 or abs(sum(parts.values()) - 1) > 1e-6:
        raise DataError(f"--parts {' '.join(texts)}: give two or more fractions that sum to 1 (they sum to "
                        f"{sum(parts.values()):g})")  # fmt: skip
    return parts


def merged(splits: Sequence[Split]) -> Split:
    """All splits as one; images and boxes are renumbered from 1 where there are several."""
    if len(splits) == 1:
        return splits[0]
    splits, _ = with_one_class_list(splits)
    if len({split.annotations.upright for split in splits}) > 1:
        splits = [as_upright(split)[0] for split in splits]
    data = [split.annotations for split in splits]
    root = os.path.commonpath([os.path.abspath(split.img_folder) for split in splits])
    names = tuple(
        os.path.relpath(os.path.join(os.path.abspath(split.img_folder), name), root)
        for split in splits
        for name in split.annotations.file_names
    )
    counts = np.concatenate([np.diff(part.offsets) for part in data])
    columns = ("sizes", "boxes_xywh_px", "labels", "area_px", "crowd")
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in data]) for name in columns}
    everything = replace(
        data[0],
        place=", ".join(part.place for part in data),
        file_names=names,
        image_ids=np.arange(1, len(names) + 1),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **joined,
        ids=np.arange(1, int(counts.sum()) + 1),
        folder="",
    )
    return Split("all", splits[0].format, everything, Path(root))


def groups_by_name(data: Annotations, pattern: str) -> list[str]:
    """The group of each image: what the pattern's first parenthesis (or the whole pattern) finds in its file name.

    Raises:
        DataError: not a regular expression, or one that a file name does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--group-by {pattern}: not a regular expression ({error})") from error
    groups = []
    for name in data.file_names:
        match = compiled.search(name)
        if match is None:
            raise DataError(f"--group-by {pattern}: does not match the file name {name}: widen it, or make it optional")
        groups.append((match.group(1) if compiled.groups else match.group(0)) or "")
    return groups


def groups_by_content(pixels: Mapping[Path, FilePixels], split: Split) -> list[object]:
    """The group of each image by its bytes; one that cannot be read is a group of its own."""
    files = (pixels[split.path(index)] for index in range(len(split.annotations)))
    return [file.digest if file.good else index for index, file in enumerate(files)]


def join_groups(first: Sequence[object], second: Sequence[object]) -> list[int]:
    """Groups of images that share either of two keys, directly or through others; numbered by first occurrence."""
    parent = list(range(len(first)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for keys in (first, second):
        seen: dict[object, int] = {}
        for index, key in enumerate(keys):
            parent[root(index)] = root(seen.setdefault(key, index))
    return [root(index) for index in range(len(first))]


def divide(data: Annotations, parts: Mapping[str, float], groups: Sequence[object], *, seed: int) -> NDArray[np.int64]:
    """Which part each image belongs to: iterative stratification of groups by class counts (Sechidis et al., 2011).

    Again and again the class with the fewest boxes left to give out is taken, and its groups (the largest first) go
    to the part that still wants most of that class, then most images. Groups without boxes come last. What is common
    gets the rest that way, so single groups are then moved wherever that brings all shares closer to the wanted ones.

    Args:
        data: n images.
        parts: name -> share; in total 1.
        groups: (n,) keys; images of one key stay together.
        seed: order of groups that are equal to each other; the same seed gives the same parts.

    Returns:
        (n,) position in ``parts``.

    Raises:
        DataError: fewer groups than parts.
    """
    keys = {key: number for number, key in enumerate(dict.fromkeys(groups))}
    if len(keys) < len(parts):
        raise DataError(f"{data.place}: {len(keys)} groups of images cannot be divided into {len(parts)} parts")
    member = np.array([keys[key] for key in groups])
    counts = np.zeros((len(keys), len(data.label_space) + 1))  # the last column counts images
    owners = np.repeat(member, np.diff(data.offsets))
    np.add.at(counts, (owners[~data.crowd], data.labels[~data.crowd]), 1)
    counts[:, -1] = np.bincount(member, minlength=len(keys))
    shares = np.array(list(parts.values()))
    wanted = shares[:, None] * counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(keys))
    part_of = _stratify(counts[order], wanted.copy())
    _refine(counts[order], part_of, wanted)
    result = np.empty(len(keys), dtype=np.int64)
    result[order] = part_of
    _fill_empty(result, counts[:, -1], len(shares))
    parts_of_images: NDArray[np.int64] = result[member]
    return parts_of_images


def _stratify(counts: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Part of each group (g,) from its counts (g, C + 1); ``wanted`` (parts, C + 1) is used up."""
    part_of = np.full(len(counts), -1, dtype=np.int64)
    left = counts.sum(axis=0)
    while (part_of < 0).any():
        classes = np.flatnonzero(left[:-1] > 0)
        column = int(classes[np.argmin(left[classes])]) if classes.size else len(left) - 1
        waiting = np.flatnonzero((part_of < 0) & (counts[:, column] > 0))
        for group in waiting[np.argsort(-counts[waiting, column], kind="stable")]:
            total = np.maximum(wanted[:, -1], 0)
            part = int(np.lexsort((-total, -wanted[:, column]))[0])
            part_of[group] = part
            wanted[part] -= counts[group]
            left -= counts[group]
    return part_of


def _refine(counts: NDArray[np.float64], part_of: NDArray[np.int64], wanted: NDArray[np.float64]) -> None:
    """Move groups between parts while the squared errors of all shares (a part's of each class, of images) shrink."""
    weight = 1 / np.maximum(wanted.sum(axis=0), 1)
    steps = counts * weight
    excess = -wanted * weight
    np.add.at(excess, part_of, steps)
    for _ in range(_SWEEPS):
        moved = False
        for group, step in enumerate(steps):
            own = part_of[group]
            # error after minus before = 2 |step|^2 + 2 step (excess of the new part - excess of the own one)
            change = 2 * (step @ step) + 2 * (excess - excess[own]) @ step
            change[own] = 0
            best = int(change.argmin())
            if change[best] < -1e-12:
                excess[own] -= step
                excess[best] += step
                part_of[group], moved = best, True
        if not moved:
            return


def _fill_empty(part_of: NDArray[np.int64], images: NDArray[np.float64], parts: int) -> None:
    """Give a part that got nothing the smallest group of the part with most groups."""
    for part in range(parts):
        if not (part_of == part).any():
            richest = int(np.bincount(part_of, minlength=parts).argmax())
            candidates = np.flatnonzero(part_of == richest)
            part_of[candidates[np.argmin(images[candidates])]] = part


def divided(split: Split, part_of: NDArray[np.int64], parts: Mapping[str, float]) -> list[Split]:
    """One split per part."""
    return [
        replace(split, name=name, annotations=split.annotations.take(np.flatnonzero(part_of == number)))
        for number, name in enumerate(parts)
    ]


def shares_table(splits: Sequence[Split], parts: Mapping[str, float]) -> str:
    """Images, boxes and every class with its share per part, in percent."""
    counts = np.stack([class_counts(split) for split in splits])
    names = splits[0].annotations.label_space.names
    images = np.array([len(split.annotations) for split in splits])
    width = max(len(name) for name in (*names, "images", "boxes")) + 2
    lines = [" " * width + "".join(f"{f'{name} ({share:.1%})':>22}" for name, share in parts.items())]
    rows = [("images", images), ("boxes", counts.sum(axis=1)), *zip(names, counts.T)]
    for name, values in rows:
        total = max(int(values.sum()), 1)
        lines.append(f"{name:<{width}}" + "".join(f"{f'{value} ({value / total:.1%})':>22}" for value in values))
    return "\n".join(lines)

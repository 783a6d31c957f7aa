# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Choose images to look at, and turn their boxes (the faulty ones marked) into what a drawing needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import DataError
from ..data.dataset.images import load_rgb
from .findings import Finding, Split
from .pictures import sizes_that_fit
from .pixels import read_one


@dataclass(frozen=True)
class Marked:
    """Boxes of one image with names that say what is wrong; fits ``isdfine.viz``'s Boxes and ClassNames."""

    boxes: Tensor
    """(T, 4) xyxy pixels, as annotated: not cut, corners in order."""
    labels: Tensor
    """(T,) index into ``names``."""
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One image to look at."""

    split: Split
    index: int
    findings: tuple[Finding, ...]

    def image(self) -> Image.Image | None:
        """The picture, whatever size its entry says; None where it cannot be decoded."""
        path, data = self.split.path(self.index), self.split.annotations
        file = read_one(path)
        if not file.good:
            return None
        height, width = data.sizes[self.index].tolist()
        right = sizes_that_fit(self.split, file)
        return load_rgb(path, (height, width) if (height, width) in right else right[0], upright=data.upright)

    def marked(self) -> Marked:
        """Its boxes; those with a finding are named and coloured after it."""
        data = self.split.annotations
        rows = np.arange(len(data.ids))[data.rows(self.index)]
        faults = {finding.row: finding.kind for finding in self.findings if finding.row is not None}
        names, labels = list(data.label_space.names), []
        for row in rows.tolist():
            label = int(data.labels[row])
            extra = faults.get(row) or ("crowd" if data.crowd[row] else None)
            if extra is not None:
                names.append(f"{data.label_space.names[label]}: {extra}")
                label = len(names) - 1
            labels.append(label)
        corners = data.boxes_xywh_px[rows].copy()
        corners[:, 2:] += corners[:, :2]
        ordered = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4).astype(np.float32)
        return Marked(torch.from_numpy(ordered), torch.tensor(labels, dtype=torch.int64), tuple(names))


def choose(
    splits: Sequence[Split],
    *,
    count: int,
    seed: int = 0,
    class_name: str | None = None,
    ids: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
) -> list[Sample]:
    """Images drawn by chance, in the order of the data set.

    Args:
        count: at most that many; all of ``ids`` in any case.
        seed: the same seed, the same images.
        class_name: only images with a box of this class.
        ids: image ids or file names (or their last part): only these.
        findings: only images that one of these is about; None: no matter.

    Raises:
        DataError: an unknown class or id, or no image is left.
    """
    about: dict[tuple[str, int], list[Finding]] = defaultdict(list)
    for finding in findings or ():
        if finding.index is not None:
            about[finding.split, finding.index].append(finding)
    every = [Sample(split, index, tuple(about[split.name, index])) for split in splits
             for index in range(len(split.annotations))]  # fmt: skip
    if ids:
        every = _of_ids(every, ids)
    if class_name is not None:
        every = _of_class(every, class_name)
    if findings is not None:
        every = [sample for sample in every if sample.findings]
    if not every:
        raise DataError("no image is left to show: ask for less")
    if ids or len(every) <= count:
        return every
    chosen = np.random.default_rng(seed).choice(len(every), size=count, replace=False)
    return [every[index] for index in sorted(chosen.tolist())]


def _of_ids(every: Sequence[Sample], ids: Sequence[str]) -> list[Sample]:
    chosen = []
    for wanted in ids:
        own = [sample for sample in every if wanted in _names_of(sample)]
        if not own:
            raise DataError(f"--ids {wanted}: no image has this id or file name")
        chosen += own
    return chosen


def _names_of(sample: Sample) -> tuple[str, ...]:
    data = sample.split.annotations
    name = data.file_names[sample.index]
    return str(data.image_ids[sample.index]), name, name.rsplit("/", 1)[-1]


def _of_class(every: Sequence[Sample], name: str) -> list[Sample]:
    known = dict.fromkeys(name for sample in every for name in sample.split.annotations.label_space.names)
    if name not in known:
        raise DataError(f"--class {name}: no such class; there are {', '.join(known)}")
    kept = []
    for sample in every:
        data = sample.split.annotations
        if name in data.label_space.names:
            label = data.label_space.names.index(name)
            if (data.labels[data.rows(sample.index)] == label).any():
                kept.append(sample)
    return kept

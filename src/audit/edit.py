# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Changed copies of splits: fewer boxes, other boxes, one class list for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..data.dataset.annotations import Annotations
from ..data.label_space import LabelSpace
from .findings import Split


def with_rows(data: Annotations, rows: NDArray[np.int64], owners: NDArray[np.int64]) -> Annotations:
    """The annotations with some boxes, in another order; images stay.

    Args:
        rows: (M,) of the boxes, those of one image after those of the image before.
        owners: (M,) position of the image that each then belongs to.
    """
    columns = ("boxes_xywh_px", "labels", "area_px", "crowd", "ids")
    return replace(
        data,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(data)))]).astype(np.int64),
        **{name: getattr(data, name)[rows] for name in columns},
    )


def keep_rows(data: Annotations, keep: NDArray[np.bool_]) -> Annotations:
    """The annotations without the boxes for which ``keep`` (A,) is False; images stay."""
    rows = np.flatnonzero(keep)
    return with_rows(data, rows, np.searchsorted(data.offsets, rows, side="right") - 1)


def merge_images(data: Annotations, into: Mapping[int, int]) -> Annotations:
    """The annotations with the boxes of some images given to others; images stay.

    Args:
        into: by position of an image that of the one its boxes go to.
    """
    heirs = np.array([into.get(index, index) for index in range(len(data))], dtype=np.int64)
    owners = np.repeat(heirs, np.diff(data.offsets))
    order = np.argsort(owners, kind="stable")
    return with_rows(data, order, owners[order])


def with_one_class_list(splits: Sequence[Split]) -> tuple[list[Split], list[str]]:
    """Splits whose classes are joined by name: those of the first, then what the others have more.

    Returns:
        The splits, and a remark for every one whose list was another.
    """
    first = splits[0].annotations.label_space
    names, ids = list(first.names), list(first.category_ids)
    for split in splits[1:]:
        for name in split.annotations.label_space.names:
            if name not in names:
                names.append(name)
                ids.append(max(ids) + 1)
    joined = LabelSpace(tuple(names), tuple(ids))
    changed, remarks = [], []
    for split in splits:
        data = split.annotations
        if data.label_space == joined:
            changed.append(split)
            continue
        table = np.array([names.index(name) for name in data.label_space.names], dtype=np.int64)
        changed.append(replace(split, annotations=replace(data, label_space=joined, labels=table[data.labels])))
        remarks.append(f"{data.place}: classes joined by name with those of the other splits: {joined.describe()}")
    return changed, remarks

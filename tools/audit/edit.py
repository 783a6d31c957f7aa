# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Changed copies of splits: fewer boxes, other boxes, one class list for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isdfine.data.dataset.annotations import Annotations
from isdfine.data.label_space import LabelSpace

from .findings import Split


def keep_rows(data: Annotations, keep: NDArray[np.bool_]) -> Annotations:
    """The annotations without some of their boxes.

    Args:
        keep: (A,) False drops a box; images stay.
    """
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))[keep]
    return replace(
        data,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(data)))]).astype(np.int64),
        boxes_xywh_px=data.boxes_xywh_px[keep],
        labels=data.labels[keep],
        area_px=data.area_px[keep],
        crowd=data.crowd[keep],
        ids=data.ids[keep],
    )


def merge_images(data: Annotations, into: Mapping[int, int]) -> Annotations:
    """The annotations with the boxes of some images given to others; images stay.

    Args:
        into: by position of an image that of the one its boxes go to.
    """
    owners = np.repeat(np.arange(len(data)), np.diff(data.offsets))
    owners = np.array([into.get(owner, owner) for owner in owners.tolist()], dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    return replace(
        data,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(data)))]).astype(np.int64),
        boxes_xywh_px=data.boxes_xywh_px[order],
        labels=data.labels[order],
        area_px=data.area_px[order],
        crowd=data.crowd[order],
        ids=data.ids[order],
    )


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From parsed annotations to those a run uses: class count, subset, files, boxes. Every format goes this way."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...core.errors import DataError
from ..label_space import MSCOCO
from .annotations import Annotations, check_files
from .subset import Subset

logger = logging.getLogger(__name__)


def prepare(
    annotations: Annotations,
    img_folder: str | Path,
    *,
    num_classes: int | None = None,
    subset: Subset | None = None,
    invalid_boxes: str = "error",
    fixed_labels: bool = False,
) -> Annotations:
    """Check annotations against what a config says, and take the part that is wanted.

    Args:
        annotations: as parsed.
        img_folder: what their file names are relative to.
        num_classes: class count to check against; None takes the data's. See ``with_class_count``.
        subset: images to use; None where the parser has chosen already.
        invalid_boxes: see ``report_boxes_without_area``.
        fixed_labels: the user has fixed the order of labels, so ids can not become labels.

    Raises:
        DataError: a class count that is not the data's, unknown names in the subset, missing images, invalid boxes.
    """
    annotations = with_class_count(annotations, num_classes, fixed_labels=fixed_labels)
    for one, other in annotations.label_space.alike():
        logger.warning(
            "%s: the classes %r and %r differ in case or spaces only: two classes; rename one if they are one",
            annotations.place, one, other,
        )  # fmt: skip
    if subset is not None and subset.chosen is not None:
        wanted = subset.indices(annotations.file_names, annotations.image_ids.tolist(), annotations.place)
        annotations = annotations.take(wanted)
    check_files(img_folder, annotations.file_names, annotations.place)
    twice = len(annotations) - len(set(annotations.file_names))
    if twice:
        logger.warning(
            "%s: %d of %d images are listed more than once; each entry counts, in training and in metrics",
            annotations.place, twice, len(annotations),
        )  # fmt: skip
    report_boxes_without_area(annotations, invalid_boxes)
    return annotations


def with_class_count(annotations: Annotations, num_classes: int | None, *, fixed_labels: bool = False) -> Annotations:
    """Check a configured class count; where it is the largest id + 1, the ids become the labels.

    That is how official files for Objects365 (366 for ids 1..365), CrowdHuman and many custom sets are written.

    Args:
        fixed_labels: the order of labels was given otherwise (classes, remap_mscoco_category).

    Raises:
        DataError: any other count; lists the classes of the data and the remedy.
    """
    space = annotations.label_space
    if num_classes is None or num_classes == len(space):
        return annotations
    if num_classes == max(space.category_ids) + 1 > len(space) and min(space.category_ids) >= 0 and not fixed_labels:
        logger.warning(
            "%s: num_classes is %d, the largest category id + 1, for %d classes: the ids are the labels, as in "
            "official files, and %d outputs stay unused; leave num_classes out to have one output per class",
            annotations.place, num_classes, len(space), num_classes - len(space),
        )  # fmt: skip
        labels = np.array(space.category_ids, dtype=np.int64)[annotations.labels]
        return replace(annotations, label_space=space.with_unused_ids(), labels=labels)
    if space == MSCOCO:
        raise DataError(
            f"num_classes is {num_classes}, but {annotations.place} is read with COCO's {len(space)} classes: set "
            f"remap_mscoco_category: False for classes of your own, or num_classes: {len(space)}"
        )
    raise DataError(
        f"num_classes is {num_classes}, but {annotations.place} has {len(space)} classes: {space.describe()}. "
        f"Set num_classes: {len(space)}, leave it out to have it read from the data, or correct the annotation file"
    )


def report_boxes_without_area(annotations: Annotations, rule: str) -> None:
    """Say how many boxes have nothing inside their image: empty, inverted, or outside.

    Args:
        rule: ``error``: inverted boxes and boxes outside are mistakes; ``drop``: they are left out like empty ones,
            with one warning, as the official recipe does in silence.

    Raises:
        DataError: there are inverted boxes or boxes outside, and the rule is ``error``.
    """
    rows = annotations.without_area()
    if not rows.size:
        return
    width, height = annotations.boxes_xywh_px[rows, 2:].T
    inverted, empty = (width < 0) | (height < 0), (width == 0) | (height == 0)
    counts: Mapping[str, int] = {
        "inverted": int(inverted.sum()),
        "of zero size": int((empty & ~inverted).sum()),
        "outside the image": int((~empty & ~inverted).sum()),
    }
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    owners = np.searchsorted(annotations.offsets, rows[:5], side="right") - 1
    names = ", ".join(dict.fromkeys(annotations.file_names[one] for one in owners.tolist()))
    text = (
        f"{annotations.place}: {rows.size} of {len(annotations.ids)} boxes cover nothing of their image ({kinds}), "
        f"annotation ids {', '.join(map(str, annotations.ids[rows[:5]]))}{', ...' if rows.size > 5 else ''} "
        f"(in {names})"
    )
    if rule == "error" and (inverted | ~empty).any():
        raise DataError(f"{text}: correct them, or leave them out with invalid_boxes: drop (in the dataset section)")
    logger.warning("%s: not used as training targets", text)

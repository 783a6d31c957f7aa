# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The list of categories of a COCO file: which classes it gives, and what is odd about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.checkpoint.classes import squeezed
from ..label_space import MSCOCO, LabelSpace
from .annotations import Annotations
from .json_lists import read_list
from .problems import Problems

logger = logging.getLogger(__name__)

_SHOWN = 300
"""Characters of a list of names."""


def coco_label_space(
    path: str | Path, *, remap_mscoco_category: bool = False, classes: Sequence[str] | None = None
) -> LabelSpace:
    """The classes of a COCO file alone: see ``parse_coco``."""
    return categories_space(read_list(path, "categories"), str(path), remap_mscoco_category, classes, Problems())


def categories_space(
    categories: list[Any], place: str, remap: bool, classes: Sequence[str] | None, problems: Problems
) -> LabelSpace:
    """The classes of a file with these categories: see ``parse_coco``."""
    space = LabelSpace.from_coco({"categories": categories}, place, problems)
    if remap:
        foreign = [
            f"{number}={name}"
            for number, name in zip(space.category_ids, space.names)
            if number not in MSCOCO.category_ids
        ]
        if foreign:
            problems.report(
                "bad class",
                place,
                f"categories {', '.join(foreign[:5])} are not among COCO's 80: "
                "set remap_mscoco_category: False for a data set with classes of its own",
            )
        space = MSCOCO
    return space if classes is None else space.in_order(classes, place, problems)


def warn_of_other_names(own: LabelSpace, place: str) -> None:
    """Say where a file with COCO's ids has other classes: a forgotten setting, which would misname them everywhere."""
    coco = dict(zip(MSCOCO.category_ids, MSCOCO.names))
    named = [(number, name, coco[number]) for number, name in zip(own.category_ids, own.names) if number in coco]
    other = [f"{number}={name} is {theirs}" for number, name, theirs in named if squeezed(name) != squeezed(theirs)]
    if 2 * len(other) > len(named):  # single names are spelled in many ways: motorbike, tvmonitor
        logger.warning(
            "%s: with remap_mscoco_category: True the classes bear COCO's names, but those of this file are others "
            "(%s): if they are classes of your own, set remap_mscoco_category: False",
            place, ", ".join([*other[:5], *(["..."] if len(other) > 5 else [])]),
        )  # fmt: skip


def warn_of_groups(categories: Sequence[Any], data: Annotations) -> None:
    """Say where a category stands for a group of others, as Roboflow's first one does: its output is never used."""
    entries = [entry for entry in categories if isinstance(entry, dict)]
    groups = {
        str(entry["supercategory"]) for entry in entries if entry.get("supercategory") not in (None, entry.get("name"))
    }
    names, used = data.label_space.names, set(data.labels.tolist())
    unused = [name for label, name in enumerate(names) if name in groups and label not in used]
    if unused:
        others = ", ".join(name for name in names if name not in unused)
        logger.warning(
            "%s: the category %s is the group of others and has no box: it gets an output that is never used; leave "
            "it out with classes: [%s]",
            data.place, ", ".join(map(repr, unused)), others if len(others) <= _SHOWN else f"{others[:_SHOWN]}, ...",
        )  # fmt: skip

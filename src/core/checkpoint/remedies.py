# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What to do about a checkpoint that fits a model in part, where the model knows that."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from .weights import LoadReport, Mismatch

_CLASS_HEAD = re.compile(r"score_head|(^|\.)class_embed\.")

COCO_IDS: Mapping[tuple[int, int], str] = {
    (91, 80): ", and with rows that are COCO's category ids, as published, also remap_mscoco_category: "
    "-u num_classes=91 remap_mscoco_category=False"
}
"""What is added for these numbers of classes of file and model."""


class Remedy(NamedTuple):
    """A sentence for tensors whose names begin with ``name``; a model lists some as its ``remedies``."""

    when: Literal["missing", "unexpected", "mismatched"]
    """What a load report says of them."""
    name: str
    """Dotted, in checkpoints."""
    text: str
    """What the file is, and what to do. In shapes that differ ``{file}`` and ``{model}`` are the first numbers."""


def remedies_for(model: nn.Module, report: LoadReport, file: Collection[str]) -> list[str]:
    """Sentences of the model that apply to what a file lacks, has in addition, or has in another shape.

    Parts of the model that know more from the names of the file's tensors have a method ``remedy_for``, which returns a
    sentence or None.
    """
    shapes = {misfit.name: (misfit.file_shape, misfit.model_shape) for misfit in report.mismatched}
    names: Mapping[str, list[str]] = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": [name for name, both in shapes.items() if all(both)],
    }
    sentences = []
    for when, beginning, text in getattr(model, "remedies", ()):
        concerned = [name for name in names[when] if name == beginning or name.startswith(f"{beginning}.")]
        if concerned and when == "mismatched":
            (theirs, *_), (ours, *_) = shapes[concerned[0]]
            text = text.format(file=theirs, model=ours)
        if concerned:
            sentences.append(text)
    parts = (getattr(module, "remedy_for", None) for module in model.modules())
    return [*sentences, *filter(None, (remedy_for(file) for remedy_for in parts if remedy_for))]


def class_counts(mismatched: Sequence[Mismatch]) -> tuple[int, int] | None:
    """Class counts of file and model, where a class head differs in its rows and in nothing else."""
    for misfit in mismatched:
        theirs, ours = misfit.file_shape, misfit.model_shape
        if _CLASS_HEAD.search(misfit.name) and theirs and theirs[1:] == ours[1:]:
            return theirs[0], ours[0]
    return None

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""YOLO: ``data.yaml``, and a text file per image with classes and relative boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from ..data.dataset.yolo import standard_label_file
from .findings import Split
from .limits import inside_boxes, lost_in
from .naming import write_text


def write_yolo(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``data.yaml`` and ``labels/SPLIT``; crowd regions and boxes that cover nothing are left out."""
    remarks = []
    for split, new in zip(splits, names):
        inside, cut = inside_boxes(split)
        for index, name in enumerate(new):
            lines = "".join(f"{line}\n" for line in _lines(inside, index))
            image = folder.absolute() / "images" / split.name / name
            write_text(standard_label_file(image), lines)  # where readers look: for the last folder images of the path
        remarks += [*lost_in(split, "left out"), *cut]
    content = {
        "path": ".",
        **{split.name: f"images/{split.name}" for split in splits},
        "names": dict(enumerate(splits[0].annotations.label_space.names)),
    }
    write_text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return remarks


def _lines(split: Split, index: int) -> Iterator[str]:
    """``class cx cy w h`` with 12 digits: 1e-8 of a pixel."""
    data = split.annotations
    height, width = data.sizes[index].tolist()
    for row in range(data.offsets[index], data.offsets[index + 1]):
        if not data.crowd[row]:
            x, y, w, h = data.boxes_xywh_px[row].tolist()
            box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            yield " ".join([str(int(data.labels[row])), *(f"{value:.12g}" for value in box)])

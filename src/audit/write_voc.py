# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: an XML file per image, lists of stems, a list of class names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..data.dataset.problems import Problems
from ..data.dataset.voc_xml import VocFile, corner_box
from .findings import Split, xml_file
from .limits import SourceObjects, lost_in, plain
from .naming import write_text


def write_voc(splits: Sequence[Split], names: Sequence[Sequence[str]], folder: Path) -> list[str]:
    """``Annotations``, ``ImageSets/Main`` and ``label_list.txt``; crowd regions become difficult objects.

    What files of VOC say beyond boxes (difficult, truncated, pose, ...) is carried over.
    """
    write_text(folder / "label_list.txt", "".join(f"{name}\n" for name in splits[0].annotations.label_space.names))
    for split, new in zip(splits, names):
        stems = [os.path.splitext(name)[0] for name in new]
        write_text(folder / "ImageSets" / "Main" / f"{split.name}.txt", "".join(f"{stem}\n" for stem in stems))
        for index, (name, stem) in enumerate(zip(new, stems)):
            write_text(folder / "Annotations" / f"{stem}.xml", _xml(split, index, name))
    return [line for split in splits for line in lost_in(split, "written as difficult objects", kept="voc")]


def _xml(split: Split, index: int, name: str) -> str:
    """Corners as pixel positions counted from 0, as ``parse_voc`` reads them, with all their digits."""
    data = split.annotations
    root = ElementTree.Element("annotation")
    height, width = data.sizes[index].tolist()
    _add(root, {"folder": "JPEGImages", "filename": name})
    source = _source(split, index)
    root.extend(element for element in source if element.tag not in ("folder", "filename", "path", "size", "object"))
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    objects = SourceObjects[ElementTree.Element]((height, width))
    for element in source.findall("object"):
        if box := corner_box(element.find("bndbox"), False):
            objects.add(element, box, (element.findtext("name") or "").strip())
    for row in range(data.offsets[index], data.offsets[index + 1]):
        written = ElementTree.SubElement(root, "object")
        label = data.label_space.names[int(data.labels[row])]
        x, y, w, h = data.boxes_xywh_px[row].tolist()
        _add(written, {"name": label})
        same = objects.take((x, y, w, h), label)
        written.extend(field for field in (() if same is None else same) if field.tag not in ("name", "bndbox"))
        if written.find("difficult") is None:
            _add(written, {"difficult": int(data.crowd[row])})
        corners = {"xmin": x, "ymin": y, "xmax": x + w, "ymax": y + h}
        _add(ElementTree.SubElement(written, "bndbox"), {key: plain(value) for key, value in corners.items()})
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _source(split: Split, index: int) -> ElementTree.Element:
    """The file of VOC that an image comes from; empty where it comes from another format."""
    file = None
    if split.format == "voc":
        file = VocFile.open(xml_file(split.path(index)), "", Problems(collect=True))
    return ElementTree.Element("annotation") if file is None else file.root


def _add(element: ElementTree.Element, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        ElementTree.SubElement(element, key).text = str(value)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Annotation files in the own formats of other tools, known by their marks: not read, but told what to export."""

from __future__ import annotations

from pathlib import Path

_READ = 1 << 20
"""Bytes at the start of a file in which marks are looked for."""
_LABEL_STUDIO = "Label Studio's own JSON: export COCO, YOLO or Pascal VOC XML there"
_CVAT = "CVAT's own XML: export COCO 1.0, YOLO 1.1 or Pascal VOC 1.1 from CVAT"
TOOLS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    ".json": (
        (('"shapes"', '"imagePath"'), "LabelMe's own format: convert its folder with labelme2coco"),
        (("_via_img_metadata",), "a project of VIA: choose Annotation > Export Annotations (COCO format) there"),
        (('"shape_attributes"',), "the own format of VIA and makesense: export COCO JSON there"),
        (('"vid_list"', '"fid_list"'), "a project of VIA 3: export COCO there"),
        (('"from_name"', '"to_name"'), _LABEL_STUDIO),
        (('"original_width"', '"rectanglelabels"'), _LABEL_STUDIO),
        (('"classTitle"',), "Supervisely's own format: run its app Export to COCO"),
        (('"projectType"', '"classes"'), "Supervisely's own format: run its app Export to COCO"),
        (('"dm_format_version"',), "Datumaro's own format: export COCO 1.0 from CVAT, or datum convert -f coco"),
        (('"items"', '"categories"', '"labels"'), "Datumaro's own format: export COCO 1.0 from CVAT"),
        (('"schema_ref"', "darwin"), "V7's own format: export COCO there, or darwin convert coco"),
        (('"segments_info"',), "COCO panoptic JSON, which has no boxes of objects: take the instances_*.json"),
        (('"coordinates"', '"label"', '"image"'), "CreateML's JSON: export COCO in its place"),
        (('"data_row"',), "Labelbox' own format: export COCO there"),
    ),
    ".xml": ((("<annotations>", "<image"), _CVAT),
             (("<annotations>", "<track"), _CVAT)),
    ".csv": ((("xmin",), "boxes as CSV: export COCO JSON in its place (Roboflow and others write it)"),),
    ".tfrecord": (((), "a TFRecord: export COCO JSON in its place (Roboflow and others write it)"),),
}  # fmt: skip
"""Suffix, the texts that together are its mark, and what the file is with what to do."""


def other_tool(file: Path) -> str | None:
    """What a file is that another tool can export better; None where that is not known."""
    tools = TOOLS.get(file.suffix.lower(), ())
    if not tools or not file.is_file():
        return None
    with open(file, errors="replace") as opened:
        text = opened.read(_READ)
    return next((said for marks, said in tools if all(mark in text for mark in marks)), None)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""CrowdHuman: one JSON object per line and image (odgt)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...core.errors import ConfigError
from ...core.registry import register
from ..label_space import LabelSpace
from ..transforms.compose import Compose
from .annotations import Annotations, Collected, check_files
from .coco_fields import box_numbers, flag, is_box
from .frame import Upright
from .images import image_sizes
from .json_lists import unique_keys
from .layout import text_lines
from .prepare import PreparedDataset, Subset
from .problems import Problems

BoxKind = Literal["fbox", "vbox", "hbox"]
_PERSON, _HEAD = "person", "head"


@register
class CrowdHumanDetection(PreparedDataset):
    """Persons in crowds, as the CrowdHuman annotation files describe them.

    Objects tagged ``mask`` (groups, reflections) and those with ``extra.ignore`` are crowd regions: no targets, and
    evaluation ignores what is detected in them. Sizes come from the image headers. Ids: person 1, head 2.

    Args:
        img_folder: folder of the images ``<ID>.jpg``.
        ann_file: the odgt file.
        transforms: applied to (image, target).
        boxes: ``fbox`` the full body (it may reach outside the image), ``vbox`` its visible part, ``hbox`` the head.
        heads: a second class ``head`` with the head boxes; not together with ``boxes: hbox``.
        options: see ``PreparedDataset``. Images of the subset are looked at only.

    Raises:
        ConfigError: heads twice.
    """

    def __init__(
        self,
        img_folder: str,
        ann_file: str,
        transforms: Compose | None = None,
        *,
        boxes: BoxKind = "fbox",
        heads: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            partial(parse_crowdhuman, img_folder, ann_file, boxes=boxes, heads=heads), transforms, **options
        )

    @classmethod
    def label_space_of(cls, section: Mapping[str, Any]) -> LabelSpace | None:
        """Person, head, or both: see ``DetectionDataset.label_space_of``."""
        return crowdhuman_label_space(section.get("boxes", "fbox"), bool(section.get("heads")))


def crowdhuman_label_space(boxes: str, heads: bool) -> LabelSpace:
    """Classes for a choice of boxes.

    Raises:
        ConfigError: heads are asked for twice.
    """
    if boxes == "hbox":
        if heads:
            raise ConfigError("heads is True and boxes is hbox: both mean the heads; give one of them")
        return LabelSpace((_HEAD,), (2,))
    return LabelSpace((_PERSON, _HEAD), (1, 2)) if heads else LabelSpace((_PERSON,), (1,))


def parse_crowdhuman(
    img_folder: str | Path,
    ann_file: str | Path,
    *,
    boxes: BoxKind = "fbox",
    heads: bool = False,
    subset: Subset | None = None,
    upright: Upright = "auto",
    problems: Problems | None = None,
) -> Annotations:
    """Open an odgt file; for the rules see ``CrowdHumanDetection``.

    Args:
        subset: images to open; the others are not looked at.
        problems: where to report what is wrong; None raises at once.

    Raises:
        DataError: with file and line: no JSON, no ID, objects without the wanted box; missing images; no line at all.
    """
    path, root, problems = Path(ann_file), Path(img_folder), problems or Problems()
    space = crowdhuman_label_space(boxes, heads)
    entries = read_entries(path, problems)
    names = [entry.file_name for entry in entries]
    indices = (subset or Subset()).indices(names, None, str(path)).tolist()
    present = check_files(root, [names[index] for index in indices], str(path), problems).tolist()
    paths = [root / names[index] for index, there in zip(indices, present) if there]
    sizes = iter(image_sizes(paths, upright=bool(upright), problems=problems))
    collected = Collected()
    for index, there in zip(indices, present):
        objects = _objects(entries[index], boxes, heads, problems)
        size = next(sizes) if there else None
        if size is None:
            # A missing image was counted when it was looked for.
            reason = "unreadable image" if there else "missing image"
            problems.losses.add(reason, images=int(there), boxes=len(objects))
        else:
            kinds, numbers, crowd = zip(*objects) if objects else ((), (), ())
            labels = [space.names.index(_HEAD if kind == "hbox" else _PERSON) for kind in kinds]
            collected.add(names[index], index, size, numbers, labels, crowd)
    return collected.annotations(space, str(path), str(root), upright=bool(upright))


class _Entry(NamedTuple):
    file_name: str
    objects: list[Any]
    place: str


def read_entries(path: Path, problems: Problems) -> list[_Entry]:
    """The lines of an odgt file that can be read."""
    entries = []
    for place, line in text_lines(path, problems):
        try:
            content = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            text = f"not JSON ({error}): an odgt file has one JSON object per line"
            problems.report("broken json", place, text, images=1)
            continue
        objects = content.get("gtboxes") if isinstance(content, dict) else None
        if not isinstance(objects, list) or not isinstance(content.get("ID"), str) or not content["ID"]:
            text = 'a line needs a text "ID" and a list "gtboxes": is this a CrowdHuman odgt file?'
            problems.report("bad entry", place, text, images=1)
            continue
        entries.append(_Entry(f"{content['ID']}.jpg", objects, place))
    if not entries and not problems.found:
        problems.report("missing image", path, "no image is listed: nothing to train or evaluate on")
    return entries


def _objects(entry: _Entry, boxes: BoxKind, heads: bool, problems: Problems) -> list[tuple[BoxKind, list[float], bool]]:
    """(kind of box, its numbers, whether it is a crowd region) of the objects that can be used."""
    objects = []
    for number, content in enumerate(entry.objects):
        content = content if isinstance(content, dict) else {}
        tag = content.get("tag")
        if tag not in (_PERSON, "mask"):
            text = f"gtboxes[{number}] has tag {tag!r}, expected person or mask"
            problems.report("unknown category", entry.place, text, boxes=1)
            continue
        ignored = tag == "mask" or _marked(content, "extra")
        # Groups have no head of their own: their one region counts for the class of the body.
        kinds = [boxes, "hbox"] if heads and tag == _PERSON else [boxes]
        for kind in kinds:
            given = content.get(kind, content.get("fbox") if tag == "mask" else None)
            box = box_numbers(given)
            if box is None or not is_box(given):
                text = f"gtboxes[{number}] has {kind} {given!r}: expected 4 finite numbers x, y, width, height"
                problems.report("bad box", entry.place, text, kept=box is not None, boxes=int(box is None))
            if box is None:
                continue
            objects.append((kind, box, ignored or (kind == "hbox" and _marked(content, "head_attr"))))
    if entry.objects and not objects:
        problems.losses.add("", emptied=1)
    return objects


def _marked(content: Mapping[str, Any], key: str) -> bool:
    attributes = content.get(key)
    return isinstance(attributes, dict) and bool(flag(attributes.get("ignore")))

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Lists of class names, ours and those in files, and the table of names that mean the same."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...core.checkpoint.weights import normalised
from ...core.config.node import Node, parse_yaml, read_yaml
from ...core.errors import ConfigError
from ..label_space import MSCOCO, LabelSpace

Synonyms = Mapping[str, str]
"""Name without case and separators (``squeezed``) -> a word that all names of its group share."""
_SMALL_JSON = 1 << 20
"""Bytes up to which a JSON file is read whole; a larger one can only be annotations, of which categories are read."""


BUILT_IN: dict[str, Callable[[], LabelSpace]] = {
    "coco": lambda: MSCOCO,
    "coco_91": MSCOCO.with_unused_ids,
    "objects365": lambda: _packaged("objects365.yml"),
    "objects365_366": lambda: _packaged("objects365.yml").with_unused_ids(),
    "voc": lambda: _packaged("voc.yml"),
}
"""Class lists by name. ``coco_91`` (DETR and its successors) and ``objects365_366`` (D-FINE) are those of official
checkpoints whose rows are category ids; row 0 is unused."""


def squeezed(name: str) -> str:
    """A class name without case and without separators.

    >>> squeezed("Potted Plant") == squeezed("pottedplant")
    True
    """
    return normalised(name).replace(" ", "")


def class_list(name: str | Path) -> LabelSpace:
    """Class names in the order of a checkpoint's rows.

    Args:
        name: a key of ``BUILT_IN``, or a file: text with one name a line, YAML or JSON with a list of names (at the top
            or under ``names``, also numbered from 0 as in a YOLO ``data.yaml``), or COCO JSON with ``categories``.

    Raises:
        ConfigError: neither, or the file holds no such list; with file and line.
        DataError: categories of a COCO file that cannot be used.
    """
    if str(name) in BUILT_IN:
        return BUILT_IN[str(name)]()
    path = Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(str(name), BUILT_IN, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"{str(name)!r} is no list of class names{guess}: choose {', '.join(BUILT_IN)}, or give a file with one "
            "name a line, a YAML or JSON file with names, or a COCO annotation file"
        )
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix in (".yml", ".yaml"):
        return _from_yaml(read_yaml(path), str(path))
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).splitlines(), 1)]
    return _space([Node(line, f"{path}:{number}", "") for number, line in lines if line], str(path))


def synonyms(path: str | Path | None = None) -> Synonyms:
    """The table of class names that mean the same.

    Args:
        path: YAML file with ``groups``, a list of lists of names; None = the table of the package.

    Raises:
        ConfigError: no such file, not of that form, or a name in two groups; with file and line.
    """
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"class_synonyms {path}: no such file: give a YAML file with groups of equal names, or null")
    root = _resource("synonyms.yml") if path is None else read_yaml(path)
    groups = root.value.get("groups") if isinstance(root.value, dict) else None
    if groups is None or not isinstance(groups.value, list):
        raise ConfigError(f"{root.origin}: expected groups: [[name, another name], ...], found {_short(root)}")
    table: dict[str, str] = {}
    origins: dict[str, str] = {}
    for group in groups.value:
        if not isinstance(group.value, list) or len(group.value) < 2:
            raise ConfigError(f"{group.origin}: expected a list of two or more names that mean the same")
        keys = {squeezed(_name(item)): item for item in group.value}
        for key, node in keys.items():
            if key in origins:
                raise ConfigError(
                    f"{node.origin}: {node.value!r} is in another group too ({origins[key]}): a name means one thing; "
                    "join the groups or drop it from one"
                )
            table[key], origins[key] = f"={next(iter(keys))}", node.origin
    return table


def _resource(name: str) -> Node:
    return parse_yaml(files(__package__ or __name__).joinpath(name).read_text(encoding="utf-8"), name)


def _packaged(name: str) -> LabelSpace:
    return _from_yaml(_resource(name), name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}): give a file with class names") from error


def _from_yaml(root: Node, place: str) -> LabelSpace:
    first = 0
    names = root
    if isinstance(root.value, dict):
        if "names" not in root.value:
            raise ConfigError(f"{root.origin}: expected a list of class names, or names: [...], found {_short(root)}")
        names = root.value["names"]
        start = root.value.get("first_id")
        if start is not None and (type(start.value) is not int or start.value < 0):
            raise ConfigError(f"{start.origin}: first_id is the id of the first class, 0 or more, not {start.value!r}")
        first = 0 if start is None else start.value
    if isinstance(names.value, dict):
        if list(names.value) != list(range(len(names.value))):
            raise ConfigError(f"{names.origin}: names must be numbered 0, 1, 2, ... in order: {_short(names)}")
        return _space(list(names.value.values()), place, first)
    if not isinstance(names.value, list):
        raise ConfigError(f"{names.origin}: expected a list of class names, found {_short(names)}")
    return _space(names.value, place, first)


def _from_json(path: Path) -> LabelSpace:
    from ..dataset.json_lists import read_list  # here, because data sets import label spaces

    if path.stat().st_size <= _SMALL_JSON:
        try:
            content: Any = json.loads(_text(path))
        except ValueError as error:
            raise ConfigError(f"{path}: not a JSON file ({error}): give a file with class names") from error
        if not (isinstance(content, dict) and "categories" in content):
            return _from_yaml(read_yaml(path), str(path))  # JSON is YAML, whose reader knows lines
    return LabelSpace.from_coco({"categories": read_list(path, "categories")}, str(path))


def _space(names: list[Node], place: str, first_id: int = 0) -> LabelSpace:
    if not names:
        raise ConfigError(f"{place}: the list of class names is empty: give one name per row of the class heads")
    seen: dict[str, Node] = {}
    for row in names:
        other = seen.setdefault(_name(row), row)
        if other is not row:
            raise ConfigError(
                f"{row.origin}: the class name {row.value!r} is that of another row too ({other.origin}): rename one"
            )
    return LabelSpace(tuple(_name(name) for name in names), tuple(range(first_id, first_id + len(names))))


def _name(node: Node) -> str:
    if isinstance(node.value, bool) or not isinstance(node.value, (str, int)) or not str(node.value).strip():
        raise ConfigError(f"{node.origin}: {node.value!r} is no class name: write a text, in quotes if need be")
    return str(node.value)


def _short(node: Node) -> str:
    text = repr(node.plain())
    return text if len(text) <= 80 else text[:77] + "..."

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What files of other projects say, and what that is called here: ``foreign.yml`` beside this file is the list.

It is read where a config has a word that is unknown here. Three things can become of it: another spelling of an
argument of ours (``renamed_arguments``); accepted although nothing here depends on it, with a warning (``unused``); or
an error that names our way to say the same (``instead``, ``components``). Files that are no config of a run are told by
their keys (``file_kinds``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .node import Node, read_yaml

_OTHER_MODEL = "another model than those here (docs/detr.md), which is not supported yet"


@functools.cache
def table() -> dict[str, Any]:
    """The list, read once; hints and components by their single names."""
    entries: dict[str, Any] = read_yaml(Path(__file__).with_name("foreign.yml")).plain()
    hints = {key: entry["say"] for entry in entries["instead"] for key in entry["keys"]}
    components = {name: entry for entry in entries["components"] for name in entry["names"]}
    return {**entries, "instead": hints, "components": components}


def renamed_arguments(component: str, given: Mapping[Any, Node]) -> dict[Any, Node]:
    """The arguments of one component with our spelling of their names; ours wins where both are there."""
    names = table()["renamed_arguments"].get(component, {})
    moved = {names[name]: node for name, node in given.items() if name in names}
    return moved | {name: node for name, node in given.items() if name not in names}


def unused(name: object, component: str | None = None) -> str | None:
    """Why a top-level key, or an argument of a component, changes nothing; None where it is not accepted so."""
    names = table()["unused"] if component is None else table()["unused_arguments"].get(component, {})
    reason: str | None = names.get(str(name))
    return reason


def key_hint(name: object) -> str:
    """``; ...`` with our way to say what a foreign key or ``Component.argument`` says; empty where it is unknown."""
    instead, word = table()["instead"], str(name).lower().replace("-", "_")
    if str(name) in instead:
        return f"; {instead[str(name)]}"
    return component_hint(name) or (f"; {instead[word]}" if word in instead else "")


def component_hint(name: object, ours: Iterable[str] = ()) -> str:
    """``; ...`` with the project that has the component and our name for it; empty where it is unknown.

    Args:
        ours: our components, whose names are meant where only capitals differ.
    """
    if not isinstance(name, str):
        return ""
    if name.endswith((".pt", ".pth", ".safetensors")):
        return "; weights to start from are given with tuning (-t)"
    if name in table()["models"]:
        return f"; {name} is a part of {table()['models'][name]}, {_OTHER_MODEL}"
    component = table()["components"].get(name)
    if component is None and (meant := next((our for our in ours if our.lower() == name.lower()), None)):
        return f"; did you mean {meant}?"
    if component is None:  # of a family known by its beginning: the most similar name of ours would be another model
        family = None if "." in name else re.match(table()["families"], name, re.IGNORECASE)
        return f"; {name} looks like a part of {family.group()}, {_OTHER_MODEL}" if family else ""
    project, nearest = component["of"], component.get("ours")
    if nearest is None:
        return f"; {name} of {project} is not available here yet: leave it out"
    if component.get("same"):
        return f"; did you mean {nearest}? {name} is its name in {project}"
    return f"; did you mean {nearest}? It is the nearest here: {name} of {project} is not available yet"


def refuse_other_kinds(tree: Node) -> None:
    """See that a file with unknown keys describes a run at all.

    Raises:
        ConfigError: a data set, network or argument file of Ultralytics, or a config of another framework.
    """
    for kind in table()["file_kinds"]:
        node = tree.value.get(kind["key"])
        beside, value = kind.get("beside"), {"list": list, "text": str}.get(kind.get("value", ""), object)
        if node is not None and isinstance(node.value, value) and (beside is None or set(beside) & set(tree.value)):
            raise ConfigError(f"{node.origin}: {kind['key']}: {kind['say']}")

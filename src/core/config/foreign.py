# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What files of other projects say, and what that is called here: ``foreign.yml`` beside this file is the list.

Three things can become of a foreign word: it is another spelling of a key of ours (``renamed``); it is accepted
although nothing here depends on it, and a warning says so (``unused``); or it is an error that names our way to say the
same (``instead``, ``components``). Files that are no config of a run are told by their keys (``file_kinds``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .node import Node, read_yaml

WITHOUT_EFFECT = "accepted, but without effect here: "
_OTHER_MODEL = "another model than D-FINE and RT-DETR, which is not supported yet"


@dataclass(frozen=True)
class Foreign:
    """A component that another project has."""

    of: str
    """Projects whose files use the name."""
    ours: str | None = None
    """Registered name of what does the same or comes nearest."""
    same: bool = False
    """True where ``ours`` does the same; False where it is only the nearest thing."""


@dataclass(frozen=True)
class Table:
    """``foreign.yml``, where each list is explained."""

    renamed: dict[str, str]
    renamed_arguments: dict[str, dict[str, str]]
    unused: dict[str, str]
    unused_arguments: dict[str, dict[str, str]]
    active_arguments: dict[str, dict[str, tuple[Any, str]]]
    instead: dict[str, str]
    file_kinds: list[dict[str, Any]]
    models: dict[str, str]
    families: re.Pattern[str]
    components: dict[str, Foreign]


@functools.cache
def table() -> Table:
    """The list, read once."""
    entries = read_yaml(Path(__file__).with_name("foreign.yml")).plain()
    entries["instead"] = {key: entry["say"] for entry in entries["instead"] for key in entry["keys"]}
    entries["components"] = {
        name: Foreign(**{key: value for key, value in entry.items() if key != "names"})
        for entry in entries["components"]
        for name in entry["names"]
    }
    entries["families"] = re.compile(entries["families"], re.IGNORECASE)
    return Table(**entries)


def renamed(own: Node) -> Node:
    """One file's top level with our spelling of its keys.

    Raises:
        ConfigError: a setting stands there under both names.
    """
    names = table().renamed
    for other, name in names.items():
        if other in own.value and name in own.value:
            node = own.value[other]
            raise ConfigError(f"{node.origin}: {other}: the same setting as {name}, which is there too: keep one")
    children = {
        names.get(name, name): replace(child, key=names[name]) if name in names else child
        for name, child in own.value.items()
    }
    return replace(own, value=children)


def renamed_arguments(component: str, given: Mapping[Any, Node]) -> dict[Any, Node]:
    """The arguments of one component with our spelling of their names; ours wins where both are there."""
    names = table().renamed_arguments.get(component, {})
    moved = {names[name]: node for name, node in given.items() if name in names}
    return moved | {name: node for name, node in given.items() if name not in names}


def unused_key(name: object) -> str | None:
    """Why a top-level key changes nothing; None for keys that are not accepted so."""
    return table().unused.get(str(name))


def unused_argument(component: str, argument: object) -> str | None:
    """Why an argument of a component changes nothing; None for arguments that are not accepted so."""
    return table().unused_arguments.get(component, {}).get(str(argument))


def wakes_up(component: str, argument: object, value: Any) -> str | None:
    """What an argument does here that the official code ignores; None where the value is the one that it works with."""
    official, effect = table().active_arguments.get(component, {}).get(str(argument), (value, ""))
    if value == official:
        return None
    return f"the official code accepts this and works with {official}; here it acts: {effect}"


def key_hint(name: object) -> str:
    """``; ...`` with our way to say what a foreign key or ``Component.argument`` says; empty where it is unknown."""
    instead, word = table().instead, str(name).lower().replace("-", "_")
    if str(name) in instead:
        return f"; {instead[str(name)]}"
    return component_hint(name) or (f"; {instead[word]}" if word in instead else "")


def component_hint(name: object) -> str:
    """``; ...`` with the project that has the component and our name for it; empty where it is unknown."""
    if not isinstance(name, str):
        return ""
    if name.endswith((".pt", ".pth", ".safetensors")):
        return "; weights to start from are given with tuning (-t)"
    if name in table().models:
        return f"; {name} is a part of {table().models[name]}, {_OTHER_MODEL}"
    foreign = table().components.get(name)
    if foreign is None:  # of a family known by its beginning: the most similar name of ours would be another model
        family = None if "." in name else table().families.match(name)
        return f"; {name} looks like a part of {family.group()}, {_OTHER_MODEL}" if family else ""
    if foreign.ours is None:
        return f"; {name} of {foreign.of} is not available here yet: leave it out"
    if foreign.same:
        return f"; did you mean {foreign.ours}? {name} is its name in {foreign.of}"
    return f"; did you mean {foreign.ours}? It is the nearest here: {name} of {foreign.of} is not available yet"


def refuse_python(name: str) -> None:
    """See that a config is no Python file.

    Raises:
        ConfigError: a config of mmdetection, detrex or another project that writes them in Python.
    """
    if name.endswith(".py"):
        raise ConfigError(
            f"{name}: a Python config, as mmdetection, detrex and detectron2 have them: only YAML is read here; start "
            "from a file of configs/dfine and set what differs with -u"
        )


def refuse_other_kinds(tree: Node) -> None:
    """See that a file describes a run.

    Raises:
        ConfigError: a data set, network or argument file of Ultralytics, or a config of another framework.
    """
    for kind in table().file_kinds:
        node = tree.value.get(kind["key"])
        beside, value = kind.get("beside"), {"list": list, "text": str}.get(kind.get("value", ""), object)
        if node is not None and isinstance(node.value, value) and (beside is None or set(beside) & set(tree.value)):
            raise ConfigError(f"{node.origin}: {kind['key']}: {kind['say']}")

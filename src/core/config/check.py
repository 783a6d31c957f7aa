# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""All mistakes of a config at once, before any work begins."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import replace
from typing import Any

from ..registry import IMPORTS
from .foreign import key_hint, unused_key
from .layers import INPUT_SIZE, Replaced
from .node import Node
from .plan import SHARED, SLOTS, Broken, Planner, suggest
from .settings import RunSettings, range_problems


def settings_values(tree: Node) -> dict[str, Any]:
    """The top-level values that are run settings, without places."""
    names = [setting.name for setting in dataclasses.fields(RunSettings)]
    return {name: tree.value[name].plain() for name in names if name in tree.value}


def validate(planner: Planner) -> dict[str, str]:
    """Check every key of the planner's tree.

    Returns:
        What is accepted and may surprise: ``file:line: key`` and the reason.

    Raises:
        ConfigError: one line per mistake.
    """
    hints = typing.get_type_hints(RunSettings)
    known = {*hints, *SLOTS, *SHARED, *planner.registry, IMPORTS, INPUT_SIZE}
    for name, node in planner.tree.value.items():
        if name in hints:
            planner.value(node, hints[name])
        elif name in SLOTS:
            if node.value is not None:
                planner.slot(name)
        elif name in SHARED:
            planner.value(node, SHARED[name])
        elif name in planner.registry:
            planner.arguments(name, planner.section(name).value)
        elif (reason := unused_key(name)) is not None:
            planner.without_effect(node, str(name), reason)
        elif name != IMPORTS:
            hint = key_hint(name) or owners(name, planner) or suggest_key(name, known)
            planner.report(node, str(name), f"no such top-level key or component{hint}")
    _check_ranges(planner, hints)
    planner.raise_problems()
    return planner.notes


def take_over(planner: Planner, replaced: Replaced) -> tuple[Node, dict[str, str]]:
    """Leave out what components that got another type have of the old one and do not know.

    A schedule or a stage that vanishes with the old component is easily overlooked, so what an included file says of
    it and the new type could take too is noted as well.

    Returns:
        The tree; ``file:line: key`` of the new components, and the arguments that no longer hold.
    """
    tree, notes = planner.tree, {}
    for old, new in replaced:
        present = {node.key: node for node in tree.walk()}.get(new.key)
        name = new.value["type"].value
        if present is None or not isinstance(present.value, dict) or name not in planner.registry:
            continue
        if present.value.get("type") != new.value["type"]:
            continue
        schema, arguments = planner.schema(name), {key: old.value[key] for key in old.value if key != "type"}
        same = [key for key, child in arguments.items() if present.value.get(key) == child]
        foreign = [key for key in same if key not in schema.parameters and not schema.open]
        lost = [key for key in arguments if key in foreign or (key in schema.parameters and key not in present.value)]
        if foreign:
            left = {key: child for key, child in present.value.items() if key not in foreign}
            tree = _exchanged(tree, present, replace(present, value=left))
        if lost:
            taken = ", ".join(key for key in same if key not in foreign) or "nothing"
            said = ", ".join(f"{key} ({arguments[key].origin})" for key in lost)
            notes[f"{new.origin}: {new.key}"] = (
                f"{name} replaces {old.value['type'].value} and takes {taken} over from it: what was said of {said} "
                "no longer holds; say here what shall hold (null where nothing is meant)"
            )
    return tree, notes


def _exchanged(tree: Node, old: Node, new: Node) -> Node:
    if tree is old:
        return new
    if isinstance(tree.value, dict):
        return replace(tree, value={key: _exchanged(child, old, new) for key, child in tree.value.items()})
    if isinstance(tree.value, list):
        return replace(tree, value=[_exchanged(child, old, new) for child in tree.value])
    return tree


def owners(name: object, planner: Planner) -> str:
    """``; it is an argument of ...`` with the components of the config that take it; empty where none does."""
    words = [node.value for node in planner.tree.walk() if isinstance(node.value, str)]
    used = {word for word in (*words, *planner.tree.value) if word in planner.registry}
    takers = sorted(component for component in used if name in planner.schema(component).parameters)
    return f"; it is an argument of {' and of '.join(takers)}: write it there" if takers else ""


def suggest_key(name: object, known: set[str]) -> str:
    """The nearest top-level key; the whole list would fill a screen."""
    text = suggest(name, known)
    return text if "did you mean" in text else ""


def _check_ranges(planner: Planner, hints: dict[str, Any]) -> None:
    probe = Planner(planner.tree, planner.registry)
    sound = {
        name: value
        for name, value in settings_values(planner.tree).items()
        if not isinstance(probe.value(planner.tree.value[name], hints[name]), Broken)
    }
    for name, text in range_problems(**sound).items():
        planner.report(planner.tree.value[name], name, text)
    classes = planner.tree.value.get("num_classes")
    if classes is not None and isinstance(classes.value, int) and classes.value < 1:
        planner.report(classes, "num_classes", f"expected 1 or more, found {classes.value}")

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Putting config trees on top of each other: files, their includes, and overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .derived import with_layer
from .errors import ConfigError
from .file_kinds import refuse_other_kinds, refuse_python
from .foreign import RENAMED, renamed
from .located import MAX_DEPTH, MAX_VALUES, Located, VainNull, locate, parse_yaml, read_yaml

INCLUDE = "__include__"
MAX_FILES = 100
"""Files of a config, each counted as often as it is included: the official ones have up to ten."""

_OF_EVERY_FORMAT = ("transforms",)

Replaced = list[tuple[Located, Located]]
"""Components that were replaced by ones of another ``type``: the earlier mapping and the later one."""


def merge(earlier: Located, later: Located, replaced: Replaced | None = None) -> Located:
    """``later`` on top of ``earlier``.

    Mappings merge key by key; anything else is replaced. Two mappings that both name a ``type`` and disagree describe
    different components, so the later one replaces the earlier instead of inheriting its arguments, save the
    ``transforms`` of data sets, which do not depend on the format; ``replaced`` collects such pairs.
    """
    old, new = earlier.value, later.value
    if not isinstance(old, dict) or not isinstance(new, dict):
        return later
    if "type" in old and "type" in new and old["type"].value != new["type"].value:
        if replaced is not None:
            replaced.append((earlier, later))
        old = {name: old[name] for name in _OF_EVERY_FORMAT if name in old}
    both = {name: merge(old[name], child, replaced) if name in old else _fresh(child) for name, child in new.items()}
    merged = {**old, **both}
    return Located(merged, later.origin, later.key)


def _fresh(child: Located) -> Located:
    """A later entry that no earlier one is below: as null it takes nothing away."""
    return VainNull(None, child.origin, child.key) if child.value is None else child


def read_tree(
    path: str | Path,
    replaced: Replaced | None = None,
    *,
    _from: str = "",
    _open: tuple[Path, ...] = (),
    _read: list[int] | None = None,
) -> Located:
    """One YAML file with everything it includes; its own keys win over its includes, later includes over earlier ones.

    Args:
        path: the file.
        replaced: collects components that a later file replaces by one of another type.

    Raises:
        ConfigError: missing file, unreadable YAML, a root that is not a mapping, a cycle of includes, or more than
            ``MAX_FILES`` files or ``MAX_VALUES`` values.
    """
    path, read = Path(path), [] if _read is None else _read  # values of every file so far
    shown = _shown(path)
    refuse_python(shown)
    try:
        own = read_yaml(path, shown)
    except ConfigError as error:
        raise ConfigError(f"{error} (included at {_from})") if _from else error from error
    real = path.resolve()
    if real in _open:
        chain = " -> ".join(_shown(file) for file in (*_open, real))
        raise ConfigError(f"{_from}: {INCLUDE}: the files include each other: {chain}")
    read.append(sum(1 for _ in own.walk()))
    if len(read) > MAX_FILES or sum(read) > MAX_VALUES:
        what = f"{MAX_FILES} files" if len(read) > MAX_FILES else f"{MAX_VALUES} values"
        raise ConfigError(f"{_from}: {INCLUDE}: more than {what} with all that is included: include less")
    if own.value is None:
        own = Located({}, own.origin, "")
    if not isinstance(own.value, dict):
        kind, place = type(own.value).__name__, f" (included at {_from})" if _from else ""
        raise ConfigError(f"{own.origin}: a config file must hold `key: value` lines, found a {kind}{place}")
    refuse_other_kinds(own)
    below = renamed(Located({name: child for name, child in own.value.items() if name != INCLUDE}, own.origin, ""))
    tree = Located({}, own.origin, "")
    for entry in _included(own):
        file = path.parent / os.path.expanduser(entry.value)
        included = read_tree(file, replaced, _from=entry.origin, _open=(*_open, real), _read=read)
        tree = with_layer(tree, merge(tree, included, replaced))
    return with_layer(tree, merge(tree, below, replaced))


def _included(own: Located) -> list[Located]:
    entry = own.value.get(INCLUDE)
    if entry is None or entry.value is None:
        return []
    entries = entry.value if isinstance(entry.value, list) else [entry]
    for entry in entries:
        if not isinstance(entry.value, str):
            found = type(entry.value).__name__
            raise ConfigError(f"{entry.origin}: {INCLUDE}: expected a file name or a list of them, found a {found}")
        if not entry.value.endswith((".yml", ".yaml")):  # messages about another file would show what is in it
            raise ConfigError(f"{entry.origin}: {INCLUDE}: {entry.value!r} is no YAML file (.yml, .yaml)")
    return list(entries)


def _shown(path: Path) -> str:
    """Relative to the working folder where that is shorter: places are read by people."""
    text = os.path.normpath(path)
    relative = os.path.relpath(text)
    return min(text, relative, key=len)


def apply_overrides(tree: Located, overrides: Iterable[str], replaced: Replaced | None = None) -> Located:
    """Command-line overrides ``a.b.c=value`` on top of ``tree``, in order; the value is YAML.

    Args:
        replaced: collects components that get another type.

    Raises:
        ConfigError: no ``=``, an empty key, a value that is not YAML, or a key that leads through a scalar or past a
            list's end. The message holds the override's text.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        origin = f"override {text if len(text) <= 80 else text[:77] + '...'!r}"
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{origin}: expected key.path=value, for example optimizer.lr=1e-4")
        if len(parts) > MAX_DEPTH:
            raise ConfigError(f"{origin}: a key of {len(parts)} parts: at most {MAX_DEPTH}")
        parts[0] = RENAMED.get(parts[0], parts[0])
        tree = put(tree, parts, parse_yaml(value, origin, key=".".join(parts), origin=origin), replaced)
    return tree


def apply_values(tree: Located, values: dict[str, Any], origin: str) -> Located:
    """The same with Python values by dotted key."""
    for key, value in values.items():
        tree = put(tree, key.split("."), locate(value, origin, key))
    return tree


def put(tree: Located, parts: list[str], value: Located, replaced: Replaced | None = None) -> Located:
    """``tree`` with ``value`` merged in at the path ``parts``; missing mappings on the way are made."""
    if not parts:
        return merge(tree, value, replaced)
    head, rest = parts[0], parts[1:]
    if isinstance(tree.value, list):
        if not head.isdigit() or int(head) >= len(tree.value):
            found = f"{tree.key} is a list of {len(tree.value)}"
            raise ConfigError(f"{value.origin}: {found}, so {head!r} must be an index below {len(tree.value)}")
        index = int(head)
        changed = put(tree.value[index], rest, value, replaced)
        return Located([*tree.value[:index], changed, *tree.value[index + 1 :]], tree.origin, tree.key)
    if tree.value is not None and not isinstance(tree.value, dict):
        raise ConfigError(f"{value.origin}: {tree.key} is {tree.value!r} ({tree.origin}), which has no key {head!r}")
    children = tree.value or {}
    name = next((known for known in children if str(known) == head), head)
    old = children.get(name, Located(None, value.origin, tree.at(head)))
    below = put(old, rest, value, replaced) if rest or name in children else _fresh(value)
    new = Located({**children, name: below}, tree.origin, tree.key)
    if replaced is not None and parts == ["type"] and isinstance(old.value, str) and old.value != value.value:
        replaced.append((tree, replace(new, origin=value.origin)))
    return new

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Modules that a config names under ``imports``: they register the components of its author."""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, last_line
from .located import Located

IMPORTS = "imports"
_MARK = "__isdfine_folder__"
"""Attribute of such modules: the folder that they were found in."""


def import_components(tree: Located) -> Located:
    """Import the modules listed under ``imports``.

    An entry is the dotted name of a module or the path of one, ``parts``, ``pkg.parts``, ``../mine/parts.py``. It is
    looked for beside the YAML file that holds the entry, then in the working directory, then on Python's path.

    Returns: the tree, where an entry that was found beside its file says the folder, so that the tree can be written
        elsewhere and read again.

    Raises:
        ConfigError: not a list of names, a module that does not exist, or one that ends in an error.
    """
    node = tree.value.get(IMPORTS)
    if node is None or node.value is None:
        return tree
    entries = node.value if isinstance(node.value, list) else [node]
    if not isinstance(node.value, list) or not all(isinstance(entry.value, str) for entry in entries):
        raise ConfigError(f"{node.origin}: {IMPORTS}: expected a list of module names, found {node.plain()!r}")
    found = Located([_imported(entry) for entry in entries], node.origin, node.key)
    return Located({**tree.value, IMPORTS: found}, tree.origin, tree.key)


def _imported(entry: Located) -> Located:
    """One entry, with its folder where it was found beside its file."""
    place = f"{entry.origin}: {IMPORTS}: {entry.value}"
    folder, name = os.path.split(entry.value)
    name = name.removesuffix(".py")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{place}: {name!r} is no name of a module: write parts, package.parts or folder/parts.py")
    beside = Path(entry.origin.rpartition(":")[0])
    bases = [beside.parent, Path()] if beside.is_file() else [Path()]
    places = [Path(os.path.abspath(base / folder)) for base in bases]
    top = name.partition(".")[0]
    spec, where = next(((spec, one) for one in places if (spec := PathFinder.find_spec(top, [str(one)]))), (None, None))
    if spec is None and folder:
        raise ConfigError(f"{place}: no such module in {' or '.join(map(str, places))}")
    try:
        if spec is not None:
            _load(spec, str(where))
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (name, top):
            searched = ", ".join(map(str, places))
            raise ConfigError(f"{place}: no module {error.name!r} in {searched} or on Python's path") from error
        raise ConfigError(f"{place}: {last_line(error, __file__)}") from error
    if where is None or where == Path.cwd():
        return entry
    shown = os.path.relpath(where) if where.is_relative_to(Path.cwd()) else str(where)
    return Located(os.path.join(shown, name), entry.origin, entry.key)


class _Beside:
    """Lets such a module import what lies in its folder, where Python's path has nothing of that name."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self.folders, target) if path is None else None


def _folders() -> list[str]:
    """Where modules that configs name lie, so far."""
    finder = next((one for one in sys.meta_path if isinstance(one, _Beside)), None)
    if finder is None:
        sys.meta_path.append(finder := _Beside([]))
    return finder.folders


def _load(spec: ModuleSpec, folder: str) -> None:
    """Run a module found in a folder, or take the one that was made of this file before."""
    there = sys.modules.get(spec.name)
    if folder not in _folders():
        _folders().append(folder)
    if spec.origin is None or spec.loader is None:  # a package without __init__.py: the finder finds what is in it
        return
    if there is not None:
        file = getattr(there, "__file__", None)
        if file is None or not os.path.samefile(file, spec.origin):
            raise ImportError(f"the name {spec.name} is taken by {file or 'a part of Python'}: rename {spec.origin}")
        return
    sys.modules[spec.name] = module = module_from_spec(spec)
    vars(module)[_MARK] = folder
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise


class UserModules:
    """Pickled ahead of objects of such modules, it loads the modules in the process that unpickles."""

    def __reduce__(self) -> tuple[Any, ...]:
        named = {name: vars(one).get(_MARK) for name, one in sys.modules.items() if isinstance(one, ModuleType)}
        return _load_again, ({name: folder for name, folder in named.items() if folder}, _folders())


def _load_again(named: dict[str, str], folders: list[str]) -> UserModules:
    _folders().extend(folder for folder in folders if folder not in _folders())
    for name, folder in named.items():
        if (spec := PathFinder.find_spec(name, [folder])) is not None:
            _load(spec, folder)
    return UserModules()

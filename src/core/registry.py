# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a config may name: classes by name, and what their constructors accept."""

from __future__ import annotations

import collections.abc as abc
import functools
import importlib
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, Union

from .config.node import Node
from .errors import ConfigError, last_line

T = TypeVar("T", bound=type)


class Registry:
    """Classes by the name a config uses. Filled while modules are imported, and open for more at any time."""

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}

    def register(self, cls: T) -> T:
        """Class decorator: make ``cls`` available to configs under its own name and return it unchanged.

        A class defined again (a notebook's cell run twice, a module reloaded) takes the place of its earlier self.

        Raises:
            ValueError: another class has the name.
        """
        self.alias(cls.__name__, cls)
        return cls

    def alias(self, name: str, cls: type) -> None:
        """Make a class available under a further name, that of another project; see :meth:`register`."""
        known = self._classes.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"the name {name} is taken by {known.__module__}: rename one of the two")
        self._classes[name] = cls

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> type:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)


REGISTRY = Registry()
register = REGISTRY.register


_SCALARS = (int, float, str, bool, type(None), Path)
_LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_ANYTHING = (Any, object, inspect.Parameter.empty)


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter."""

    name: str
    annotation: Any
    default: Any
    """``inspect.Parameter.empty`` where the constructor has none."""
    inherited: bool = False
    """True where the class takes it as one of its ``**kwargs``."""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty and not self.inherited

    @property
    def is_component(self) -> bool:
        """True where the value is an object to be built, not plain data."""
        return not is_plain(self.annotation)


@dataclass(frozen=True)
class Schema:
    """The parameters of one class by name."""

    parameters: dict[str, Parameter]
    open: bool
    """True where the constructor takes ``**kwargs``: any further argument is passed on."""


@functools.cache
def schema_of(cls: type) -> Schema:
    """Read a class's constructor; what it takes as ``**kwargs`` are the parameters of the constructor it inherits.

    Those are never missing: the class may give them itself.

    Raises:
        TypeError: an annotation cannot be resolved at run time (a name imported under TYPE_CHECKING only).
    """
    parameters, is_open = _parameters(cls.__init__, inspect.signature(cls))  # type: ignore[misc]
    makers = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base) and base is not object]
    for init in makers[1:] if is_open else ():
        signature = inspect.signature(init)
        further, is_open = _parameters(init, signature.replace(parameters=list(signature.parameters.values())[1:]))
        parameters = {**{name: replace(parameter, inherited=True) for name, parameter in further.items()}, **parameters}
        if not is_open:
            break
    return Schema(parameters, is_open)


def _parameters(init: Any, signature: inspect.Signature) -> tuple[dict[str, Parameter], bool]:
    """Of one constructor, and whether it takes further arguments by name."""
    try:
        hints = typing.get_type_hints(init)
    except NameError as error:
        raise TypeError(
            f"annotations of {init.__module__}.{init.__qualname__} cannot be resolved: {error}; "
            "import the name outside TYPE_CHECKING"
        ) from error
    parameters, is_open = {}, False
    for name, taken in signature.parameters.items():
        if taken.kind is taken.VAR_KEYWORD:
            is_open = True
        elif taken.kind not in (taken.VAR_POSITIONAL, taken.POSITIONAL_ONLY):  # what a config can name
            annotation = hints.get(name, Any)
            if taken.default is None and annotation is not Any:
                annotation = typing.Optional[annotation]  # noqa: UP045  # the | form fails on string forward references
            parameters[name] = Parameter(name, annotation, taken.default)
    return parameters, is_open


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, with ``Annotated`` and new types opened; anything else is its own only member."""
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        return tuple(member for argument in typing.get_args(annotation) for member in members(argument))
    if origin is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if isinstance(annotation, typing.NewType):
        return members(annotation.__supertype__)
    if isinstance(annotation, typing.TypeVar):
        return (Any,)
    return (type(None),) if annotation is None else (annotation,)


def item_of(member: Any, kind: tuple[Any, ...]) -> Any:
    """What a container holds: its last argument, ``Any`` if it names none; None where ``member`` is not of ``kind``."""
    origin = typing.get_origin(member) or member
    if origin not in kind:
        return None
    arguments = [argument for argument in typing.get_args(member) if argument is not Ellipsis]
    return arguments[-1] if arguments else Any


def list_item(member: Any) -> Any:
    """Element annotation of a list, sequence or homogeneous tuple; None for anything else."""
    return item_of(member, (*_LISTS, tuple))


def mapping_item(member: Any) -> Any:
    """Value annotation of a mapping; None for anything else."""
    return item_of(member, _MAPPINGS)


def is_plain(annotation: Any) -> bool:
    """True where YAML can write the value itself; False where a class must be built for it."""
    return all(_plain_member(alternative) for alternative in members(annotation))


def _plain_member(member: Any) -> bool:
    if member in _ANYTHING or member in _SCALARS or typing.get_origin(member) is Literal:
        return True
    if (typing.get_origin(member) or member) in (*_LISTS, *_MAPPINGS, tuple):
        return all(is_plain(argument) for argument in typing.get_args(member) if argument is not Ellipsis)
    return False


def fits(value: Any, annotation: Any) -> bool:
    """Whether plain data is what the annotation asks for. A whole number serves as a float; a bool is not a number,
    and neither are inf and nan."""
    return any(_fits_member(value, alternative) for alternative in members(annotation))


def _fits_member(value: Any, member: Any) -> bool:
    origin, arguments = typing.get_origin(member) or member, typing.get_args(member)
    if member in _ANYTHING:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if member in (int, float):
        allowed = (int, float) if member is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
    if member is Path:
        return isinstance(value, str)
    if origin is tuple and arguments and Ellipsis not in arguments:
        return isinstance(value, (list, tuple)) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if (item := list_item(member)) is not None:
        return isinstance(value, (list, tuple)) and all(fits(entry, item) for entry in value)
    if mapping_item(member) is not None:
        types_of = arguments or (Any, Any)
        return isinstance(value, dict) and all(fits(k, types_of[0]) and fits(v, types_of[1]) for k, v in value.items())
    return isinstance(member, type) and member in _SCALARS and isinstance(value, member)


def convert(value: Any, annotation: Any) -> Any:
    """A fitting value in the annotated form: lists become tuples and text becomes paths where asked for."""
    member = next((alternative for alternative in members(annotation) if _fits_member(value, alternative)), Any)
    if member is Path:
        return Path(value)
    if isinstance(value, (list, tuple)) and (item := list_item(member)) is not None:
        arguments = typing.get_args(member)
        exact = (typing.get_origin(member) or member) is tuple and arguments and Ellipsis not in arguments
        items = [convert(entry, kind) for entry, kind in zip(value, arguments if exact else [item] * len(value))]
        return tuple(items) if (typing.get_origin(member) or member) is tuple else items
    if isinstance(value, dict) and (item := mapping_item(member)) is not None:
        return {name: convert(entry, item) for name, entry in value.items()}
    return value


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    words = dict.fromkeys(_describe_member(alternative) for alternative in members(annotation))
    return " or ".join(sorted(words, key=lambda word: word == "None"))  # which people say last


def _describe_member(member: Any) -> str:
    origin, arguments = typing.get_origin(member) or member, typing.get_args(member)
    if member in _ANYTHING:
        return "any value"
    if member is type(None):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple and arguments and Ellipsis not in arguments:
        return f"list of {len(arguments)} values ({', '.join(map(describe, arguments))})"
    if list_item(member) is not None:
        return f"list of {describe(list_item(member))}" if arguments else "list"
    if mapping_item(member) is not None:
        return f"mapping to {describe(mapping_item(member))}" if arguments else "mapping"
    if member is Path:
        return "path"
    if member is type:
        return "component (a class name, or a mapping with `type`)"
    return member.__name__ if member in _SCALARS else f"component ({getattr(member, '__name__', member)})"


IMPORTS = "imports"
_MARK = "__isdfine_folder__"
"""Attribute of such modules: the folder that they were found in."""


def import_components(tree: Node) -> Node:
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
    imported = Node([_imported(entry) for entry in entries], node.origin, node.key)
    return Node({**tree.value, IMPORTS: imported}, tree.origin, tree.key)


def _imported(entry: Node) -> Node:
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
    spec, where = next(
        ((spec, base) for base in places if (spec := PathFinder.find_spec(top, [str(base)]))), (None, None)
    )
    if spec is None and folder:
        raise ConfigError(f"{place}: no such module in {' or '.join(map(str, places))}")
    try:
        if spec is not None:
            _load(spec, str(where))
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (name, top):
            searched = ", ".join(dict.fromkeys(map(str, places)))
            raise ConfigError(f"{place}: no module {error.name!r} in {searched} or on Python's path") from error
        raise ConfigError(f"{place}: {last_line(error, __file__)}") from error
    if getattr(module, "__file__", None) is None and hasattr(module, "__path__"):
        raise ConfigError(f"{place}: a folder without __init__.py: name a module in it, such as {name}.parts")
    if where is None or where == Path.cwd():
        return entry
    shown = os.path.relpath(where) if where.is_relative_to(Path.cwd()) else str(where)
    return Node(os.path.join(shown, name), entry.origin, entry.key)


class _Beside:
    """Lets such a module import what lies in its folder, where Python's path has nothing of that name."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, self.folders, target) if path is None else None


def _folders() -> list[str]:
    """Where modules that configs name lie, so far."""
    finder = next((known for known in sys.meta_path if isinstance(known, _Beside)), None)
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
        named = {name: vars(part).get(_MARK) for name, part in sys.modules.items() if isinstance(part, ModuleType)}
        return _load_again, ({name: folder for name, folder in named.items() if folder}, _folders())


def _load_again(named: dict[str, str], folders: list[str]) -> UserModules:
    _folders().extend(folder for folder in folders if folder not in _folders())
    for name, folder in named.items():
        if (spec := PathFinder.find_spec(name, [folder])) is not None:
            _load(spec, folder)
    return UserModules()

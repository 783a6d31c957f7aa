# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a constructor accepts, read from its signature and annotations: there is no second list to keep."""

from __future__ import annotations

import collections.abc as abc
import functools
import inspect
import math
import types
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union

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
    makers = [vars(one)["__init__"] for one in cls.__mro__ if "__init__" in vars(one) and one is not object]
    for init in makers[1:] if is_open else ():
        signature = inspect.signature(init)
        further, is_open = _parameters(init, signature.replace(parameters=list(signature.parameters.values())[1:]))
        parameters = {**{name: replace(one, inherited=True) for name, one in further.items()}, **parameters}
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
    for name, one in signature.parameters.items():
        if one.kind is one.VAR_KEYWORD:
            is_open = True
        elif one.kind is not one.VAR_POSITIONAL:
            annotation = hints.get(name, Any)
            if one.default is None and annotation is not Any:
                annotation = typing.Optional[annotation]  # noqa: UP045  # the | form fails on string forward references
            parameters[name] = Parameter(name, annotation, one.default)
    return parameters, is_open


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, with ``Annotated`` and new types opened; anything else is its own only member."""
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        return tuple(member for one in typing.get_args(annotation) for member in members(one))
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
    arguments = [one for one in typing.get_args(member) if one is not Ellipsis]
    return arguments[-1] if arguments else Any


def list_item(member: Any) -> Any:
    """Element annotation of a list, sequence or homogeneous tuple; None for anything else."""
    return item_of(member, (*_LISTS, tuple))


def mapping_item(member: Any) -> Any:
    """Value annotation of a mapping; None for anything else."""
    return item_of(member, _MAPPINGS)


def is_plain(annotation: Any) -> bool:
    """True where YAML can write the value itself; False where a class must be built for it."""
    return all(_plain_member(one) for one in members(annotation))


def _plain_member(member: Any) -> bool:
    if member in _ANYTHING or member in _SCALARS or typing.get_origin(member) is Literal:
        return True
    if (typing.get_origin(member) or member) in (*_LISTS, *_MAPPINGS, tuple):
        return all(is_plain(one) for one in typing.get_args(member) if one is not Ellipsis)
    return False


def fits(value: Any, annotation: Any) -> bool:
    """Whether plain data is what the annotation asks for. A whole number serves as a float; a bool is not a number,
    and neither are inf and nan."""
    return any(_fits_member(value, one) for one in members(annotation))


def _fits_member(value: Any, member: Any) -> bool:
    origin, arguments = typing.get_origin(member) or member, typing.get_args(member)
    if member in _ANYTHING:
        return True
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if member in (int, float):
        allowed = (int, float) if member is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool) and math.isfinite(value)
    if member is Path:
        return isinstance(value, str)
    if origin is tuple and arguments and Ellipsis not in arguments:
        return isinstance(value, (list, tuple)) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if (item := list_item(member)) is not None:
        return isinstance(value, (list, tuple)) and all(fits(one, item) for one in value)
    if mapping_item(member) is not None:
        types_of = arguments or (Any, Any)
        return isinstance(value, dict) and all(fits(k, types_of[0]) and fits(v, types_of[1]) for k, v in value.items())
    return isinstance(member, type) and member in _SCALARS and isinstance(value, member)


def convert(value: Any, annotation: Any) -> Any:
    """A fitting value in the annotated form: lists become tuples and text becomes paths where asked for."""
    member = next((one for one in members(annotation) if _fits_member(value, one)), Any)
    if member is Path:
        return Path(value)
    if isinstance(value, (list, tuple)) and (item := list_item(member)) is not None:
        arguments = typing.get_args(member)
        exact = (typing.get_origin(member) or member) is tuple and arguments and Ellipsis not in arguments
        items = [convert(one, kind) for one, kind in zip(value, arguments if exact else [item] * len(value))]
        return tuple(items) if (typing.get_origin(member) or member) is tuple else items
    if isinstance(value, dict) and (item := mapping_item(member)) is not None:
        return {name: convert(one, item) for name, one in value.items()}
    return value


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    words = dict.fromkeys(_describe_member(one) for one in members(annotation))
    if "None" in words:  # last, as people say it
        del words["None"]
        words["None"] = None
    return " or ".join(words)


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""YAML text as a tree in which every value remembers the file, the line and the dotted key it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import ConfigError


@dataclass(frozen=True)
class Node:
    """One value of a config. Trees are never changed: merging and overriding make new ones."""

    value: Any
    """dict[Any, Node], list[Node] or a scalar."""
    origin: str
    """``file:line`` of the key, or the text of the override that set it."""
    key: str
    """Dotted key, for example ``optimizer.params.0.lr``; empty at the root."""

    def at(self, part: object) -> str:
        """Dotted key of the child ``part``."""
        return _below(self.key, part)

    def plain(self) -> Any:
        """The value without its places: new dicts and lists at every call."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self) -> Iterator[Node]:
        """This value and everything below it, parents first."""
        yield self
        children = self.value.values() if isinstance(self.value, dict) else self.value
        if isinstance(self.value, (dict, list)):
            for child in children:
                yield from child.walk()


def _below(key: str, part: object) -> str:
    return f"{key}.{part}" if key else str(part)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of plain data and their values; lists stay whole."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from leaves(inner, _below(key, name))


class VainNull(Node):
    """A null of a later file or override where nothing stands that it could take away."""


def locate(value: Any, origin: str, key: str = "") -> Node:
    """Give plain data one common origin."""
    if isinstance(value, dict):
        value = {name: locate(child, origin, _below(key, name)) for name, child in value.items()}
    elif isinstance(value, (list, tuple)):
        value = [locate(child, origin, _below(key, index)) for index, child in enumerate(value)]
    return Node(value, origin, key)


_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_YAML = "tag:yaml.org,2002:"
_COLLECTIONS = (f"{_YAML}map", f"{_YAML}seq")
_SCALARS = {
    f"{_YAML}str": "text",
    f"{_YAML}int": "a whole number",
    f"{_YAML}float": "a number",
    f"{_YAML}bool": "true or false",
    f"{_YAML}null": "null",
}
"""Tags of scalars, and what they stand for."""
_FLOAT_TAG, _TIME_TAG = f"{_YAML}float", f"{_YAML}timestamp"


def _with_numbers(cls: Any) -> Any:
    """Resolve ``1e-4`` as a number (YAML 1.1 asks for a dot and a sign) and leave dates as text."""
    cls.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != _TIME_TAG]
        for first, rules in cls.yaml_implicit_resolvers.items()
    }
    cls.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    return cls


if TYPE_CHECKING:
    from yaml import SafeLoader as _SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    """The same loader in C, several times faster, where PyYAML was built with libyaml."""


@_with_numbers
class _Loader(_SafeLoader):
    """The safe loader, with numbers as people write them."""


@_with_numbers
class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that ``_Loader`` would read as something else."""


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that ``parse_yaml`` reads back to equal data."""
    # The stub of yaml.dump misses that a subclass of SafeDumper is a dumper.
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True))


MAX_BYTES = 2**24
"""Size of a YAML file, in bytes: a hundred times that of the longest known."""
MAX_VALUES = 100_000
"""Values of a document, with every alias written out: a resolved config has about a thousand."""
MAX_DEPTH = 64
"""Levels of a document, with every alias written out."""
_WIDEST = 2**64
"""Whole numbers stay below, in either direction: no arithmetic of a run takes longer ones."""


def read_yaml(path: str | Path, name: str | None = None) -> Node:
    """Read a YAML file. Every YAML file of a user is read here: it may hold anything, by mistake or on purpose.

    Args:
        path: the file.
        name: file name for places and messages; None = the path.

    Raises:
        ConfigError: a file that cannot be opened, is no UTF-8 text or has more than ``MAX_BYTES``; see ``parse_yaml``.
    """
    path, name = Path(path), name or str(path)
    try:
        if not path.is_file():  # a pipe or a device may never end
            raise ConfigError(f"{name}: {'not a regular file' if path.exists() else 'no such file'}: check the path")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{name}: {size} bytes, while YAML files have {MAX_BYTES} at most: check the path")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 text: is this a YAML file? If so, save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror}): check the path") from error
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str, *, key: str = "", origin: str | None = None) -> Node:
    """Read one YAML document.

    Args:
        text: the document.
        name: file name for places and messages.
        key: dotted key that the document's root has in the config.
        origin: one place for every value (an override); None = ``name:line``.

    Raises:
        ConfigError: syntax error, a tag outside the safe set, a duplicate key, an alias inside its own anchor, a number
            that is none or too long, or more than ``MAX_VALUES`` values or ``MAX_DEPTH`` levels.
    """
    try:
        loader = _Loader(text)
    except UnicodeEncodeError as error:  # bytes of a command line that are no UTF-8
        raise ConfigError(f"{origin or name}: not UTF-8 text: write it in UTF-8") from error
    try:
        _check_extent(text, name, origin)
        node = loader.get_single_node()
        if node is None:
            return Node(None, origin or f"{name}:1", key)
        return _YamlReader(loader, name, origin).read(node, key, 1, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = origin or (f"{name}:{mark.line + 1}" if mark else name)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{place}: not valid YAML: {reason}") from error
    finally:
        loader.dispose()


def _check_extent(text: str, name: str, origin: str | None) -> None:
    """Refuse a document that is small as text and endless when its aliases are written out, before anything is built.

    Raises:
        ConfigError: more than ``MAX_VALUES`` values or ``MAX_DEPTH`` levels.
    """
    values, levels = 0, [0]  # of every open collection, and of the document: the levels below it so far
    anchors: dict[str, tuple[int, int]] = {}  # values and levels of what an alias stands for
    started: list[tuple[str | None, int]] = []
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        added, below = 1, 0
        if isinstance(event, yaml.CollectionStartEvent):
            started.append((event.anchor, values))
            levels.append(0)
        elif isinstance(event, yaml.CollectionEndEvent):
            (anchor, before), added, below = started.pop(), 0, levels.pop() + 1
            if anchor:
                anchors[anchor] = (values - before, below)
        elif isinstance(event, yaml.AliasEvent):
            added, below = anchors.get(event.anchor or "", (1, 0))
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        elif event.anchor is not None:
            anchors[event.anchor] = (1, 0)
        values += added
        levels[-1] = max(levels[-1], below)
        place = origin or f"{name}:{event.start_mark.line + 1}"
        if values > MAX_VALUES:
            raise ConfigError(f"{place}: more than {MAX_VALUES} values, with aliases written out: shorten it")
        if len(started) + below > MAX_DEPTH:
            raise ConfigError(f"{place}: nested more than {MAX_DEPTH} levels deep: flatten it")


@dataclass(frozen=True)
class _YamlReader:
    """Turns YAML nodes into nodes."""

    loader: Any
    name: str
    origin: str | None

    def place(self, line: int, key: str = "") -> str:
        place = self.origin or f"{self.name}:{line}"
        return f"{place}: {key}" if key else place

    def read(self, node: Any, key: str, line: int, open_nodes: tuple[int, ...]) -> Node:
        if id(node) in open_nodes:
            raise ConfigError(f"{self.place(line, key)}: the alias stands inside its own anchor: write the value out")
        self.check_tag(node, line, key)
        inside = (*open_nodes, id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = {}
            for name_node, child in self.items(node, key):
                at = name_node.start_mark.line + 1
                name = self.scalar(name_node, at, key)
                value[name] = self.read(child, _below(key, name), at, inside)
        elif isinstance(node, yaml.SequenceNode):
            value = [
                self.read(child, _below(key, index), child.start_mark.line + 1, inside)
                for index, child in enumerate(node.value)
            ]
        else:
            value = self.scalar(node, line, key)
        return Node(value, self.place(line), key)

    def check_tag(self, node: Any, line: int, key: str) -> None:
        """Refuse dates, binary data, sets and objects."""
        known = _SCALARS if isinstance(node, yaml.ScalarNode) else _COLLECTIONS
        if node.tag not in known:
            kinds = "text, numbers, lists and mappings"
            raise ConfigError(f"{self.place(line, key)}: the tag {node.tag!r} is not allowed: write plain {kinds}")

    def scalar(self, node: yaml.ScalarNode, line: int, key: str) -> Any:
        """Text, number, truth value or None."""
        self.check_tag(node, line, key)
        shown = node.value if len(node.value) <= 40 else f"{node.value[:20]}... ({len(node.value)} characters)"
        try:
            value = self.loader.construct_object(node, deep=True)
        except (ValueError, KeyError) as error:
            problem = f"{shown!r} cannot be read as {_SCALARS[node.tag]}"
            raise ConfigError(f"{self.place(line, key)}: {problem}") from error
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{self.place(line, key)}: {shown!r} holds a NUL character: no path or name has one")
        if isinstance(value, int) and abs(value) >= _WIDEST:
            problem = f"{shown!r} is too long for a number: at most 64 bits, or text in quotes"
            raise ConfigError(f"{self.place(line, key)}: {problem}")
        return value

    def items(self, node: yaml.MappingNode, key: str) -> list[tuple[Any, Any]]:
        """Key and value nodes with ``<<`` resolved; a key written twice is an error, not the last one wins."""
        seen: dict[Any, int] = {}
        for name_node, _ in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                raise ConfigError(f"{self.place(line, key)}: a key must be a plain word")
            name = "<<" if name_node.tag == f"{_YAML}merge" else self.scalar(name_node, line, key)
            if isinstance(name, str) and not name.isprintable():
                raise ConfigError(f"{self.place(line, key)}: the key {name!r} has characters that cannot be shown")
            if name in seen:
                place = f"{self.place(line)}: {_below(key, name_node.value)}"
                raise ConfigError(f"{place}: duplicate key, first on line {seen[name]}: keep one")
            seen[name] = line
        self.loader.flatten_mapping(node)
        return list(node.value)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""YAML text as a tree in which every value remembers the file, the line and the dotted key it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from .errors import ConfigError


@dataclass(frozen=True)
class Located:
    """One value of a config. Trees are never changed: merging and overriding make new ones."""

    value: Any
    """dict[Any, Located], list[Located] or a scalar."""
    origin: str
    """``file:line`` of the key, or the text of the override that set it."""
    key: str
    """Dotted key, for example ``optimizer.params.0.lr``; empty at the root."""

    def at(self, part: object) -> str:
        """Dotted key of the child ``part``."""
        return f"{self.key}.{part}" if self.key else str(part)

    def plain(self) -> Any:
        """The value without its places: new dicts and lists at every call."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self) -> Iterator[Located]:
        """This value and everything below it, parents first."""
        yield self
        children = self.value.values() if isinstance(self.value, dict) else self.value
        if isinstance(self.value, (dict, list)):
            for child in children:
                yield from child.walk()


def locate(value: Any, origin: str, key: str = "") -> Located:
    """Give plain data one common origin."""

    def below(part: object) -> str:
        return f"{key}.{part}" if key else str(part)

    if isinstance(value, dict):
        return Located({name: locate(child, origin, below(name)) for name, child in value.items()}, origin, key)
    if isinstance(value, (list, tuple)):
        return Located([locate(child, origin, below(i)) for i, child in enumerate(value)], origin, key)
    return Located(value, origin, key)


_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_FLOAT_TAG, _TIME_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"


def _with_numbers(cls: Any) -> Any:
    """Resolve ``1e-4`` as a number (YAML 1.1 asks for a dot and a sign) and leave dates as text."""
    cls.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != _TIME_TAG]
        for first, rules in cls.yaml_implicit_resolvers.items()
    }
    cls.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    return cls


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
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


def parse_yaml(text: str, name: str, *, key: str = "", origin: str | None = None) -> Located:
    """Read one YAML document.

    Args:
        text: the document.
        name: file name for places and messages.
        key: dotted key that the document's root has in the config.
        origin: one place for every value (an override); None = ``name:line``.

    Raises:
        ConfigError: syntax error, a tag outside the safe set, a duplicate key, or an alias inside its own anchor.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Located(None, origin or f"{name}:1", key)
        return _Reader(loader, name, origin).read(node, key, 1, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = origin or (f"{name}:{mark.line + 1}" if mark else name)
        raise ConfigError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()


@dataclass(frozen=True)
class _Reader:
    """Turns YAML nodes into located values."""

    loader: Any
    name: str
    origin: str | None

    def place(self, line: int) -> str:
        return self.origin or f"{self.name}:{line}"

    def read(self, node: Any, key: str, line: int, open_nodes: tuple[int, ...]) -> Located:
        place = self.place(line)
        if id(node) in open_nodes:
            raise ConfigError(f"{place}: {key}: the alias stands inside its own anchor: write the value out")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            raise ConfigError(f"{place}: {key}: the tag {node.tag!r} is not allowed: write plain lists and mappings")
        inside = (*open_nodes, id(node))

        def below(part: object) -> str:
            return f"{key}.{part}" if key else str(part)

        if isinstance(node, yaml.MappingNode):
            children: dict[Any, Located] = {}
            for name_node, child in self.items(node, key):
                name = self.loader.construct_object(name_node, deep=True)
                children[name] = self.read(child, below(name), name_node.start_mark.line + 1, inside)
            return Located(children, place, key)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.read(child, below(i), child.start_mark.line + 1, inside) for i, child in enumerate(node.value)
            ]
            return Located(items, place, key)
        return Located(self.loader.construct_object(node, deep=True), place, key)

    def items(self, node: yaml.MappingNode, key: str) -> list[tuple[Any, Any]]:
        """Key and value nodes with ``<<`` resolved; a key written twice is an error, not the last one wins."""
        seen: dict[Any, int] = {}
        for name_node, _ in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                raise ConfigError(f"{self.place(name_node.start_mark.line + 1)}: {key}: a key must be a plain word")
            line = name_node.start_mark.line + 1
            if name_node.value in seen:
                dotted = f"{key}.{name_node.value}" if key else name_node.value
                first = seen[name_node.value]
                raise ConfigError(f"{self.place(line)}: {dotted}: duplicate key, first on line {first}: keep one")
            seen[name_node.value] = line
        self.loader.flatten_mapping(node)
        return list(node.value)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Configs: load, override, check, look up, build from, and write out again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .build import build
from .derived import describe_moved, settle, with_layer
from .errors import ConfigError
from .located import Located, dump_yaml
from .merge import Replaced, apply_overrides, apply_values, read_tree
from .plan import PURPOSES, Planner
from .registry import REGISTRY, Registry
from .settings import RunSettings
from .user_modules import import_components
from .validate import settings_values, take_over, validate

logger = logging.getLogger(__name__)

Resolver = Callable[["Config"], Any]
"""Works out a shared value that no file gives; None = cannot tell."""


def load_config(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    registry: Registry = REGISTRY,
    resolvers: Mapping[str, Resolver] | None = None,
) -> Config:
    """Read a YAML file with its includes, apply overrides, and check the result.

    What is accepted and may surprise is a warning of its own, on rank 0: what changes nothing here or acts here only,
    two values for one thing, and what an included file says of a component that was replaced by one of another type.

    Args:
        path: YAML file; ``__include__`` in it is relative to it.
        overrides: texts ``a.b.c=value``, later ones win.
        registry: classes that may be named.
        resolvers: functions for shared values that no file gives, by name.

    Raises:
        ConfigError: a file that cannot be read, or all unknown, missing and mistyped keys, one per line.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of texts, found the text {overrides!r}")
    replaced: Replaced = []
    base = read_tree(path, replaced)
    tree = apply_overrides(base, overrides, replaced)
    tree = settle(with_layer(base, tree, keep_schedule=_goes_on(path, tree)))
    tree = import_components(tree)
    tree, notes = take_over(Planner(tree, registry), replaced)
    config = Config(tree, str(path), registry, dict(resolvers or {}))
    config.notes.update(notes)
    if os.environ.get("RANK", "0") == "0":  # the process group starts later, and with it core.dist.rank()
        for place, text in config.notes.items():
            logger.warning("%s: %s", place, text)
        if (moved := describe_moved(tree)) is not None:
            logger.info("%s", moved)
    return config


def _goes_on(path: str | Path, tree: Located) -> bool:
    """Whether a run is resumed with the config in its own folder: more epochs then go on with the schedule as it is."""
    resume = tree.value.get("resume")
    if resume is None or not isinstance(resume.value, str):
        return False
    checkpoint = Path(resume.value)
    return Path(path).resolve().parent == (checkpoint if checkpoint.is_dir() else checkpoint.parent).resolve()


@dataclass(frozen=True)
class Config:
    """Checked plain data, unchanging. Made by ``load_config``.

    Raises:
        ConfigError: all unknown, missing and mistyped keys, one per line.
    """

    _tree: Located = field(repr=False)
    path: str
    """File it was loaded from."""
    registry: Registry = field(default=REGISTRY, repr=False)
    resolvers: Mapping[str, Resolver] = field(default_factory=dict, repr=False)
    _resolved: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    notes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is accepted and may surprise, with the reason, by ``file:line: key``."""

    def __post_init__(self) -> None:
        import_components(self._tree)
        self.notes.update(validate(self.planner(self.registry)))

    def planner(self, registry: Registry) -> Planner:
        """A reader of this config for ``build``."""
        return Planner(self._tree, registry, tuple(self.resolvers))

    @property
    def data(self) -> dict[str, Any]:
        """Everything as plain data, a new copy at every call."""
        plain: dict[str, Any] = self._tree.plain()
        return plain

    @property
    def origins(self) -> dict[str, str]:
        """``file:line`` (or the override's text) of every dotted key."""
        return {node.key: node.origin for node in self._tree.walk() if node.key}

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""
        return RunSettings(**settings_values(self._tree))

    def get(self, dotted: str, default: Any = None) -> Any:
        """Plain value at a dotted key (list items by number), ``default`` where there is none."""
        node = self._tree
        for part in dotted.split("."):
            if isinstance(node.value, list) and part.isdigit() and int(part) < len(node.value):
                node = node.value[int(part)]
                continue
            children = {str(name): child for name, child in node.value.items()} if isinstance(node.value, dict) else {}
            if part not in children:
                return default
            node = children[part]
        return node.plain()

    def require(self, *slots: str) -> None:
        """See that the config has these top-level sections.

        Raises:
            ConfigError: one line for every section that is absent or null.
        """
        missing = [name for name in slots if self._tree.value.get(name) is None or self._tree.value[name].value is None]
        if missing:
            reasons = {name: f" ({PURPOSES[name]})" if name in PURPOSES else "" for name in missing}
            lines = [f"{self.path}: {name}: missing{why}: add this section" for name, why in reasons.items()]
            raise ConfigError("\n".join(lines))

    def shared(self, name: str) -> Any:
        """A shared value such as ``num_classes``: from the file, else worked out once by its resolver, else None."""
        value = self.get(name)
        if value is not None or name not in self.resolvers:
            return value
        if name not in self._resolved:
            self._resolved[name] = None  # a resolver that builds something which asks again sees "cannot tell"
            try:
                self._resolved[name] = self.resolvers[name](self)
            finally:
                if self._resolved[name] is None:
                    del self._resolved[name]
        return self._resolved.get(name)

    def build(self, name: str, **given: Any) -> Any:
        """Make a component with everything it contains.

        Args:
            name: ``model``, ``criterion``, ``optimizer``, ``train_dataloader``, ..., or a class name; with dots an
                argument of one (``train_dataloader.dataset.transforms``), None where it is not given.
            given: run-time objects; each fills the parameters of its name (``build("optimizer", model=model)``).

        Raises:
            ConfigError: no such section, or a needed value is given nowhere.
        """
        return build(self, self.registry, name, given)

    def dump(self) -> str:
        """The resolved config as YAML; ``load_config`` reads it back to equal data."""
        return dump_yaml(self.data)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A checked copy with plain values set by dotted key (mappings are merged in, lists replaced)."""
        return replace(self, _tree=apply_values(self._tree, dict(values), "with_values"))

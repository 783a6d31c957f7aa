# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Configs: load, override, check, look up, build from, and write out again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from ..errors import CheckpointError, ConfigError, DataError, last_line
from ..registry import IMPORTS, REGISTRY, Registry, import_components
from .layers import (
    INPUT_SIZE,
    Replaced,
    apply_overrides,
    apply_values,
    changed,
    describe_moved,
    read_tree,
    settle,
    with_layer,
    with_sizes_of_batches,
)
from .node import Node, dump_yaml
from .plan import (
    PURPOSES,
    RUNTIME_PARAMETERS,
    SHARED,
    SLOTS,
    Broken,
    Plan,
    Planner,
    SharedReference,
    SlotReference,
    suggest,
)
from .settings import RunSettings, range_problems
from .shipped import find_config

logger = logging.getLogger(__name__)

Resolver = Callable[["Config"], Any]
"""Works out a shared value that no file gives; None = cannot tell."""


def load_config(
    path: str | Path | Config,
    overrides: Iterable[str] = (),
    *,
    registry: Registry = REGISTRY,
    resolvers: Mapping[str, Resolver] | None = None,
) -> Config:
    """Read a YAML file with its includes, apply overrides, and check the result.

    What is accepted and may surprise is a warning of its own, on rank 0: what changes nothing here or acts here only,
    two values for one thing, and what an included file says of a component that was replaced by one of another type.

    Args:
        path: YAML file, or the name of one in the package (``find_config``); ``__include__`` in it is relative to it.
            Or a config that was loaded already: the overrides act on a copy of it.
        overrides: texts ``a.b.c=value``, later ones win.
        registry: classes that may be named.
        resolvers: functions for shared values that no file gives, by name.

    Raises:
        ConfigError: a file that cannot be read, or all unknown, missing and mistyped keys, one per line.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of texts, found the text {overrides!r}")
    replaced: Replaced = []
    if isinstance(path, Config):
        base, path = path._tree, path.path
    else:
        path = find_config(path)
        base = read_tree(path, replaced)
    tree = apply_overrides(base, overrides, replaced)
    tree = with_sizes_of_batches(settle(with_layer(base, tree, keep_schedule=_goes_on(path, tree))))
    tree = import_components(tree)
    tree, notes = _take_over(Planner(tree, registry), replaced) if replaced else (tree, {})
    config = Config(tree, str(path), registry, dict(resolvers or {}))
    config.notes.update(notes)
    if os.environ.get("RANK", "0") == "0":  # the process group starts later, and with it core.dist.rank()
        for place, text in config.notes.items():
            logger.warning("%s: %s", place, text)
        if (moved := describe_moved(tree)) is not None:
            logger.info("%s", moved)
    return config


def _goes_on(path: str | Path, tree: Node) -> bool:
    """Whether a run is resumed with the config in its own folder: more epochs then go on with the schedule as it is."""
    resume = tree.value.get("resume")
    if resume is None or not isinstance(resume.value, str):
        return False
    checkpoint = Path(resume.value)
    return Path(path).resolve().parent == (checkpoint if checkpoint.is_dir() else checkpoint.parent).resolve()


def _take_over(planner: Planner, replaced: Replaced) -> tuple[Node, dict[str, str]]:
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
    return changed(tree, lambda node: new if node is old else node)


@dataclass(frozen=True)
class Config:
    """Checked plain data, unchanging. Made by ``load_config``.

    Raises:
        ConfigError: all unknown, missing and mistyped keys, one per line.
    """

    _tree: Node = field(repr=False)
    path: str
    """File it was loaded from."""
    registry: Registry = field(default=REGISTRY, repr=False)
    resolvers: Mapping[str, Resolver] = field(default_factory=dict, repr=False)
    _resolved: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    notes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What is accepted and may surprise, with the reason, by ``file:line: key``."""

    def __post_init__(self) -> None:
        import_components(self._tree)
        self.notes.update(_validate(self._planner))

    @property
    def _planner(self) -> Planner:
        return Planner(self._tree, self.registry, tuple(self.resolvers))

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
        names = get_type_hints(RunSettings)
        return RunSettings(**{name: node.plain() for name, node in self._tree.value.items() if name in names})

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
        builder = _Builder(self, self._planner, given)
        return builder.make(self.planned(name)) if "." in name else builder.slot(name)

    def planned(self, name: str) -> Any:
        """What ``build`` would make of a name: a :class:`Plan`, plain data, or None where it is not given."""
        planner = self._planner
        slot, *parts = name.split(".")
        planned = planner.slot(slot)
        for part in parts:
            planned = planned.arguments.get(part) if isinstance(planned, Plan) else None
        planner.raise_problems()
        return planned

    def dump(self) -> str:
        """The resolved config as YAML; ``load_config`` reads it back to equal data."""
        return dump_yaml(self.data)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A checked copy with plain values set by dotted key (mappings are merged in, lists replaced)."""
        return replace(self, _tree=apply_values(self._tree, dict(values), "with_values"))


def _validate(planner: Planner) -> dict[str, str]:
    """Check every key of the planner's tree, before any work begins.

    Returns:
        What is accepted and may surprise: ``file:line: key`` and the reason.

    Raises:
        ConfigError: one line per mistake.
    """
    hints, settings = get_type_hints(RunSettings), {}
    known = {*hints, *SLOTS, *SHARED, *planner.registry, IMPORTS, INPUT_SIZE}
    for name, node in planner.tree.value.items():
        if name in hints:
            if not isinstance(planner.value(node, hints[name]), Broken):
                settings[name] = node.plain()
        elif name in SLOTS:
            if node.value is not None:
                planner.slot(name)
        elif name in SHARED:
            planner.value(node, SHARED[name])
        elif name in planner.registry:
            planner.arguments(name, planner.section(name).value)
        elif name != IMPORTS:
            planner.unknown_key(name, node, known)
    for name, text in range_problems(**settings).items() if settings else ():
        planner.report(planner.tree.value[name], name, text)
    classes = planner.tree.value.get("num_classes")
    if classes is not None and isinstance(classes.value, int) and classes.value < 1:
        planner.report(classes, "num_classes", f"expected 1 or more, found {classes.value}")
    planner.raise_problems()
    return planner.notes


@dataclass
class _Builder:
    """Carries out plans for one call of ``build``."""

    config: Config
    planner: Planner
    given: dict[str, Any]
    slots: dict[str, Any] = field(default_factory=dict)
    """Slots built so far: two parts that refer to ``model`` get the same one."""
    open_slots: tuple[str, ...] = ()

    def slot(self, name: str) -> Any:
        if name in self.slots:
            return self.slots[name]
        if name in self.open_slots:
            raise ConfigError(f"{name}: refers to itself: {' -> '.join((*self.open_slots, name))}")
        tree = self.planner.tree.value
        configured = [slot for slot in SLOTS if slot in tree and tree[slot].value is not None]
        if name not in self.planner.registry and name not in configured:
            raise ConfigError(f"{self.config.path}: no section {name!r} to build{suggest(name, configured)}")
        self.open_slots = (*self.open_slots, name)
        plan = self.planner.slot(name)
        self.planner.raise_problems()
        self.slots[name] = self.make(plan)
        self.open_slots = self.open_slots[:-1]
        return self.slots[name]

    def make(self, planned: Any) -> Any:
        """The object or plain value that ``planned`` stands for."""
        if isinstance(planned, Plan):
            return self.construct(planned)
        if isinstance(planned, SlotReference):
            return self.given[planned.slot] if planned.slot in self.given else self.slot(planned.slot)
        if isinstance(planned, SharedReference):
            return self.config.shared(planned.name)
        if isinstance(planned, (list, tuple)):
            return type(planned)(self.make(item) for item in planned)
        if isinstance(planned, dict):
            return {name: self.make(item) for name, item in planned.items()}
        return planned

    def construct(self, plan: Plan) -> Any:
        """One constructor call; what the constructor refuses is an error with its place in the config."""
        arguments = self.arguments(plan)
        try:
            return plan.cls(**arguments)
        except DataError:
            raise  # about a file, which it names
        except CheckpointError as error:
            raise CheckpointError(f"{plan.place}: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{plan.place}: {error}") from error
        except Exception as error:  # of torch, Python or a component of the user, about values that it did not expect
            reason = last_line(error, __file__)
            raise ConfigError(f"{plan.place}: cannot be built from these values: {reason}") from error

    def arguments(self, plan: Plan) -> dict[str, Any]:
        arguments = {}
        for name, parameter in plan.schema.parameters.items():
            if name in self.given:
                arguments[name] = self.given[name]
            elif name in plan.arguments:
                planned = plan.arguments[name]
                slot = planned.slot if isinstance(planned, SlotReference) else None
                if slot in RUNTIME_PARAMETERS and slot not in self.given and slot not in self.slots:
                    what = f"{plan.cls.__name__} refers to a freshly built {slot}"  # rarely what the caller wants
                    logger.warning("%s: %s; give yours: build(..., %s=%s)", plan.place, what, slot, slot)
                value = self.make(planned)
                if value is not None or not isinstance(planned, SharedReference):
                    arguments[name] = value
            if name not in arguments and parameter.required:
                needs = f"{plan.cls.__name__} needs it: give it in the config or to build(..., {name}=)"
                raise ConfigError(f"{plan.place}.{name}: {needs}")
        further = set(plan.arguments) - set(plan.schema.parameters)  # of constructors with **kwargs
        return {**arguments, **{name: plan.arguments[name] for name in further}}


def without_initial_weights(config: Config, **values: Any) -> Config:
    """The config with nothing to load while its model is built.

    Every ``pretrained`` becomes False and every ``weights`` that names a file becomes None, also in components that are
    given inline.

    Args:
        values: of the top level, to set besides.
    """
    tree = _loading_nothing(config._tree)
    given = {name: Node(value, "without_initial_weights", name) for name, value in values.items()}
    return replace(config, _tree=replace(tree, value={**tree.value, **given}))


def _loading_nothing(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    children = {name: _loading_nothing(child) for name, child in node.value.items()}
    if node.key and isinstance(children.get("weights", node).value, str):
        children["weights"] = replace(children["weights"], value=None)
    pretrained = children.get("pretrained")
    if node.key and pretrained is not None and pretrained.value and not isinstance(pretrained.value, dict):
        children["pretrained"] = replace(pretrained, value=False)
    return replace(node, value=children)

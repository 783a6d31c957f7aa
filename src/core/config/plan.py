# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From a config tree to a plan of constructor calls, with every mistake on the way collected.

Validation makes plans and looks at the mistakes; building makes one plan and carries it out: both read a config
in the same way.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..registry import (
    Parameter,
    Registry,
    Schema,
    convert,
    describe,
    fits,
    is_plain,
    list_item,
    mapping_item,
    members,
    schema_of,
)
from .foreign import component_hint, key_hint, refuse_other_kinds, renamed_arguments, unused
from .layers import merge
from .node import Node, VainNull, locate

PURPOSES: dict[str, str] = {
    "model": "the detector",
    "criterion": "the training losses",
    "distillers": "the distillation losses",
    "matcher": "pairs predictions with objects",
    "postprocessor": "turns outputs into detections",
    "optimizer": "updates the weights",
    "lr_scheduler": "changes the learning rate during training",
    "lr_warmup_scheduler": "raises the learning rate at the start",
    "ema": "averages the weights",
    "scaler": "scales the loss in half precision",
    "evaluator": "measures the detections",
    "train_dataloader": "the training data",
    "val_dataloader": "the validation data",
    "writers": "where numbers go",
    "callbacks": "what is called after evaluations and epochs",
}
"""What each slot is for, in the words of messages."""

SLOTS: tuple[str, ...] = tuple(PURPOSES)
"""Top-level keys that hold a component: a class name or a mapping with ``type``."""

LIST_SLOTS = ("distillers", "writers", "callbacks")
"""Slots that hold a list of components; classes that may stand there name the slot in an attribute ``slot``."""

SHARED: dict[str, Any] = {
    "num_classes": int | None,
    "eval_spatial_size": list[int] | None,
    "use_focal_loss": bool | None,
    "remap_mscoco_category": bool | None,
    "seed": int | None,
}
"""Top-level values that fill constructor parameters of the same name wherever a section does not give them."""

RUNTIME_PARAMETERS = ("model", "optimizer", "lr_scheduler", "steps_per_epoch", "epoches", "device", "label_space")
"""Constructor parameters that the solver gives (``config.build(name, model=model)``), so a file may leave them out."""

ACTIVE: dict[tuple[str, object], tuple[object, str]] = {
    ("DFINECriterion", "share_matched_indices"): (False, "every layer is scored on the last layer's matches"),
    ("DFINETransformer", "box_noise_scale"): (1.0, "boxes of denoising queries get that much noise"),
}
"""Arguments that the official code accepts and ignores: the value that it works with, and what they do here."""

MAX_DEPTH = 32


@dataclass(frozen=True)
class SlotReference:
    """A parameter filled from a top-level slot, unless the caller of ``build`` gives the object."""

    slot: str


@dataclass(frozen=True)
class SharedReference:
    """A parameter filled from a shared value that is worked out when first needed."""

    name: str


@dataclass(frozen=True)
class Plan:
    """One constructor call: argument values are plain data, plans, references, or lists and dicts of these."""

    cls: type
    schema: Schema
    arguments: dict[str, Any]
    place: str
    """``file:line: Dotted.key`` for messages."""


class Broken:
    """Stands in a plan where the config is wrong; such a plan is never carried out."""


@dataclass
class Planner:
    """Reads one tree and changes nothing in it; problems gather in ``problems``."""

    tree: Node
    registry: Registry
    resolvable: Collection[str] = ()
    """Shared values that can be worked out where the tree has none."""
    problems: dict[str, str] = field(default_factory=dict)
    """First mistake of every place and key, in the order found: a section is read by all that refer to it."""
    notes: dict[str, str] = field(default_factory=dict)
    """What is accepted and may surprise, by place and key."""

    def report(self, node: Node, key: str, text: str) -> Broken:
        self.problems.setdefault(f"{node.origin}: {key}", text)
        return Broken()

    def note(self, node: Node, key: str, text: str) -> None:
        self.notes.setdefault(f"{node.origin}: {key}", text)

    def without_effect(self, node: Node, key: str, reason: str) -> None:
        """Files may bring such a key along; who writes it into an override means something by it."""
        if node.origin.startswith("override "):
            self.report(node, key, f"it has no effect here: {reason}")
        else:
            self.note(node, key, f"accepted, but without effect here: {reason}")

    def unknown(self, name: object, node: Node, key: str) -> Broken:
        """Report the name of a component that is not registered."""
        hint = component_hint(name, self.registry) or suggest(name, self.registry)
        return self.report(node, key, f"no component is called {name!r}{hint}")

    def unknown_key(self, name: object, node: Node, known: Collection[str]) -> None:
        """Report a top-level key that nothing here has, with what takes its place."""
        if (reason := unused(name)) is not None:
            self.without_effect(node, str(name), reason)
            return
        refuse_other_kinds(self.tree)
        near = suggest(name, known)
        near = near if "did you mean" in near else ""  # the whole list would fill a screen
        hint = key_hint(name) or self.owners(name) or near
        self.report(node, str(name), f"no such top-level key or component{hint}")

    def owners(self, name: object) -> str:
        """``; it is an argument of ...`` with the components of the config that take it; empty where none does."""
        words = [node.value for node in self.tree.walk() if isinstance(node.value, str)]
        used = {word for word in (*words, *self.tree.value) if word in self.registry}
        takers = sorted(component for component in used if name in self.schema(component).parameters)
        return f"; it is an argument of {' and of '.join(takers)}: write it there" if takers else ""

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigError("\n".join(f"{place}: {text}" for place, text in self.problems.items()))

    def slot(self, name: str) -> Any:
        """Plan of the top-level slot, or of the class, called ``name``."""
        if name not in self.tree.value and name in self.registry:
            return self.component(name, {}, self.tree, name)
        node = self.tree.value[name]
        if name in LIST_SLOTS:
            return self.listed(node, name)
        return self.component(name, {}, node, name) if name in self.registry else self.value(node, type)

    def listed(self, node: Node, name: str) -> Any:
        """Plans of a slot that holds a list."""
        if not isinstance(node.value, list):
            example = "write - {type: ...}, with a dash, for every one; [] for none"
            return self.report(node, name, f"expected a list of components, found {shown(node.plain())}: {example}")
        return [self.member(child, name) for child in node.value]

    def member(self, node: Node, slot: str) -> Any:
        """Plan of one component in a list slot: of a class whose attribute ``slot`` names it."""
        choices = [name for name in self.registry if getattr(self.registry[name], "slot", None) == slot]
        kind = node.value.get("type") if isinstance(node.value, dict) else node
        if kind is not None and isinstance(kind.value, str) and kind.value not in choices:
            hint = suggest(kind.value, choices)
            if kind.value in self.registry:
                hint += f" ({kind.value} is registered, but does not derive from the base class of {slot})"
            return self.report(kind, node.key, f"{slot} knows no {kind.value!r}{hint}")
        return self.value(node, type)

    def section(self, name: str) -> Node:
        """Arguments that the top level gives to class ``name``; empty where it has no such section."""
        node: Node | None = self.tree.value.get(name)
        if node is None or node.value is None:
            return Node({}, node.origin if node else self.tree.origin, name)
        if not isinstance(node.value, dict):
            self.report(node, name, f"expected the arguments of {name} as a mapping, found {shown(node.plain())}")
            return Node({}, node.origin, name)
        return Node(self.spelled(name, node.value), node.origin, name)

    def spelled(self, name: str, given: Mapping[Any, Node]) -> dict[Any, Node]:
        """Arguments of class ``name`` with our spelling of their names."""
        known = self.schema(name).parameters
        return dict(given) if all(argument in known for argument in given) else renamed_arguments(name, given)

    def schema(self, name: str) -> Schema:
        return schema_of(self.registry[name])

    def component(self, name: str, inline: Mapping[Any, Node], node: Node, key: str, depth: int = 0) -> Any:
        """Plan of class ``name``: inline arguments over its section over slots, shared values and defaults."""
        if depth > MAX_DEPTH:
            return self.report(node, key, f"components nest more than {MAX_DEPTH} deep: does {name} contain itself?")
        schema, section = self.schema(name), self.section(name)
        given = self.spelled(name, inline)
        if section.value:
            given = merge(section, Node(given, node.origin, key)).value if given else section.value
        given = self.family_defaults(name) | given
        if section.value and not inline:  # what is missing belongs into the section, not where it is referred to
            node, key = section, name
        arguments = self.arguments(name, given, depth)
        for parameter in schema.parameters.values():
            if parameter.name in given:
                self.compare_with_shared(parameter.name, given[parameter.name])
            else:
                filling = self.absent(parameter)
                if filling is not None:
                    arguments[parameter.name] = filling
                elif parameter.required and parameter.name not in RUNTIME_PARAMETERS:
                    what = describe(parameter.annotation)
                    self.report(node, f"{key}.{parameter.name}", f"missing: {name} needs it, expected {what}")
        return Plan(self.registry[name], schema, arguments, f"{node.origin}: {key}")

    def family_defaults(self, name: str) -> dict[Any, Node]:
        """What the configured model and its parts set in class ``name`` where the config does not (``part_defaults``).

        Official files of several detectors share the names of parts, and mean other parts.
        """
        model = self.tree.value.get("model")
        chosen = model.value.get("type") if model is not None and isinstance(model.value, dict) else model
        if chosen is None or not isinstance(chosen.value, str) or chosen.value not in self.registry:
            return {}
        defaults: dict[Any, Node] = {}
        for part in (chosen, *self.section(chosen.value).value.values()):
            cls = self.registry[part.value] if isinstance(part.value, str) and part.value in self.registry else None
            of_part = getattr(cls, "part_defaults", {}).get(self.registry[name].__name__, {})  # not of an alias
            origin = f"{part.origin} ({part.value})"
            defaults |= {argument: locate(value, origin, f"{name}.{argument}") for argument, value in of_part.items()}
        return defaults

    def arguments(self, name: str, given: Mapping[Any, Node], depth: int = 0) -> dict[str, Any]:
        """Planned values of what the config says about class ``name``; unknown arguments are reported."""
        schema, planned = self.schema(name), {}
        for argument, node in given.items():
            parameter = schema.parameters.get(argument)
            if parameter is not None:
                planned[argument] = self.value(node, parameter.annotation, depth + 1)
                official, effect = ACTIVE.get((name, argument), (node.value, ""))
                if node.value != official:
                    text = f"the official code accepts this and works with {official}; here it acts: {effect}"
                    self.note(node, node.key, text)
            elif schema.open:
                planned[argument] = node.plain()
            elif (reason := unused(argument, name)) is not None:
                self.without_effect(node, node.key, reason)
            else:
                hint = key_hint(f"{name}.{argument}") or suggest(argument, schema.parameters)
                self.report(node, node.key, f"no such argument of {name}{hint}")
        return planned

    def compare_with_shared(self, name: str, node: Node) -> None:
        """Say which value holds where a section and the top level disagree."""
        top = self.tree.value.get(name) if name in SHARED else None
        if top is not None and top.value is not None and top.plain() != node.plain() and name != "seed":
            other = f"the {name} of the top level, {shown(top.plain())} ({top.origin})"
            text = (
                f"{shown(node.plain())} holds here, not {other}; the official code takes that one: keep one of the two"
            )
            self.note(node, node.key, text)

    def absent(self, parameter: Parameter) -> Any:
        """What fills a parameter that the config's section does not give; None = nothing but its default."""
        name, top = parameter.name, self.tree.value
        if name in SHARED:
            if name in top and top[name].value is not None:
                return self.value(top[name], parameter.annotation)
            if name in self.resolvable and parameter.default is not None:  # with None a class says it can do without
                return SharedReference(name)
        if parameter.is_component and name in SLOTS and name in top and top[name].value is not None:
            optional_runtime = name in RUNTIME_PARAMETERS and not parameter.required
            return None if optional_runtime else SlotReference(name)
        return None

    def value(self, node: Node, annotation: Any, depth: int = 0) -> Any:
        """Plan one value for a parameter with this annotation."""
        if not is_plain(annotation):
            return self.built(node, annotation, depth)
        node = self.without_nulls(node, annotation)
        data = node.plain()
        if fits(data, annotation):
            return convert(data, annotation)
        wrong, wanted = innermost_misfit(node, annotation)
        data = wrong.plain()
        hint = ": put a space after the colon" if data is None and ":" in wrong.key.rsplit(".", 1)[-1] else ""
        return self.report(wrong, wrong.key, f"expected {describe(wanted)}, found {shown(data)}{hint}")

    def without_nulls(self, node: Node, annotation: Any) -> Node:
        """Without the null entries of a mapping whose values cannot be None: so a later file takes an entry away."""
        item = next((item for member in members(annotation) if (item := mapping_item(member)) is not None), Any)
        if not isinstance(node.value, dict) or "type" in node.value or fits(None, item):
            return node
        # `{a:1}`, where the space is forgotten, is a key without a value: not meant to take anything away
        kept = {name: child for name, child in node.value.items() if child.value is not None or ":" in str(name)}
        for name, child in node.value.items():
            if isinstance(child, VainNull) and name not in kept:
                known = suggest(child.key.rpartition(".")[2], kept)
                self.note(child, child.key, f"null takes an entry away, and there is none of this name{known}")
        return Node(kept, node.origin, node.key)

    def built(self, node: Node, annotation: Any, depth: int) -> Any:
        """Plan a value that is a component, or a list or mapping of components."""
        node = self.without_nulls(node, annotation)
        value, alternatives = node.value, members(annotation)
        if isinstance(value, str):
            return self.named(value, node, annotation, depth)
        if isinstance(value, dict) and "type" in value:
            name = value["type"].value
            if not isinstance(name, str) or name not in self.registry:
                return self.unknown(name, value["type"], node.key)
            inline = {argument: child for argument, child in value.items() if argument != "type"}
            return self.checked(self.component(name, inline, node, node.key, depth), node, annotation)
        for alternative in alternatives:
            if isinstance(value, list) and (item := list_item(alternative)) is not None and not is_plain(item):
                items = [self.value(child, item, depth + 1) for child in value]
                return tuple(items) if tuple in (alternative, getattr(alternative, "__origin__", None)) else items
            if isinstance(value, dict) and (item := mapping_item(alternative)) is not None and not is_plain(item):
                return {name: self.value(child, item, depth + 1) for name, child in value.items()}
        if fits(node.plain(), annotation):
            return convert(node.plain(), annotation)
        hint = ": a mapping needs `type: Name`" if isinstance(value, dict) else ""
        return self.report(node, node.key, f"expected {describe(annotation)}, found {shown(node.plain())}{hint}")

    def named(self, name: str, node: Node, annotation: Any, depth: int) -> Any:
        """Plan a value given as text: the name of a class, of a slot, or text where the annotation takes text."""
        if name in self.registry:
            return self.checked(self.component(name, {}, node, node.key, depth), node, annotation)
        if name in SLOTS and name in self.tree.value and name != node.key:
            return SlotReference(name)
        if fits(name, annotation):
            return convert(name, annotation)
        return self.unknown(name, node, node.key)

    def checked(self, plan: Plan | Broken, node: Node, annotation: Any) -> Plan | Broken:
        """Refuse a component of the wrong kind, where the annotation names classes (protocols are not looked into)."""
        kinds = [member for member in members(annotation) if inspect.isclass(member) and not is_plain(member)]
        exact = kinds and all(is_plain(member) or member in kinds for member in members(annotation))
        if isinstance(plan, Broken) or not exact or any(getattr(kind, "_is_protocol", False) for kind in kinds):
            return plan
        if annotation is type or issubclass(plan.cls, tuple(kinds)):
            return plan
        return self.report(node, node.key, f"expected {describe(annotation)}, found a {plan.cls.__name__}")


def innermost_misfit(node: Node, annotation: Any) -> tuple[Node, Any]:
    """The first entry of a plain list or mapping that does not fit, with what it should be; else the value itself."""
    candidates = [pairs for member in members(annotation) if (pairs := _entries(node, member))]
    if len(candidates) == 1:  # of several alternatives nobody can tell which was meant
        for child, wanted in candidates[0]:
            if not fits(child.plain(), wanted):
                return innermost_misfit(child, wanted)
    return node, annotation


def _entries(node: Node, member: Any) -> list[tuple[Node, Any]]:
    """Every entry with its annotation, where ``node`` is a container of the kind that ``member`` asks for."""
    if isinstance(node.value, dict) and (item := mapping_item(member)) is not None:
        return [(child, item) for child in node.value.values()]
    if isinstance(node.value, list) and (item := list_item(member)) is not None:
        arguments = typing.get_args(member)
        if typing.get_origin(member) is tuple and Ellipsis not in arguments:
            return list(zip(node.value, arguments)) if len(node.value) == len(arguments) else []
        return [(child, item) for child in node.value]
    return []


def shown(value: Any) -> str:
    """A value and its type, short enough for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def suggest(name: object, known: Iterable[str]) -> str:
    """``; did you mean X?``, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.7)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(names)}" if names else ""

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Plain data to objects: the only caller of the registry. Writes to neither config nor registry's content."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import CheckpointError, ConfigError, DataError, last_line
from .plan import RUNTIME_PARAMETERS, SLOTS, Plan, Planner, SharedReference, SlotReference, suggest

if TYPE_CHECKING:
    from .config import Config
    from .registry import Registry

logger = logging.getLogger(__name__)


def build(config: Config, registry: Registry, name: str, given: Mapping[str, Any] | None = None) -> Any:
    """Make the component in slot ``name``, or of class ``name``, with everything it contains; or a part of it alone.

    Args:
        config: a checked config.
        registry: where the classes are; closed for registration from now on.
        name: ``model``, ``train_dataloader``, ..., or a class name; ``train_dataloader.dataset.transforms`` is one
            argument of an argument, None where the config does not give it.
        given: run-time objects. Each fills the parameters of its name, in ``name`` and in all it contains.

    Raises:
        ConfigError: the config has no such section, or a needed value is given nowhere.
    """
    registry.freeze()
    planner = config.planner(registry)
    builder = _Builder(config, planner, dict(given or {}))
    slot, *parts = name.split(".")
    return builder.part(planner.slot(slot), parts) if parts else builder.slot(name)


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
        configured = [one for one in SLOTS if one in tree and tree[one].value is not None]
        if name not in self.planner.registry and name not in configured:
            raise ConfigError(f"{self.config.path}: no section {name!r} to build{suggest(name, configured)}")
        self.open_slots = (*self.open_slots, name)
        plan = self.planner.slot(name)
        self.planner.raise_problems()
        self.slots[name] = self.make(plan)
        self.open_slots = self.open_slots[:-1]
        return self.slots[name]

    def part(self, planned: Any, names: list[str]) -> Any:
        """What the plan has for an argument of an argument of it, and so on; None where it has nothing."""
        for name in names:
            planned = planned.arguments.get(name) if isinstance(planned, Plan) else None
        self.planner.raise_problems()
        return self.make(planned)

    def make(self, planned: Any) -> Any:
        """The object or plain value that ``planned`` stands for."""
        if isinstance(planned, Plan):
            return self.construct(planned)
        if isinstance(planned, SlotReference):
            return self.given[planned.slot] if planned.slot in self.given else self.slot(planned.slot)
        if isinstance(planned, SharedReference):
            return self.config.shared(planned.name)
        if isinstance(planned, (list, tuple)):
            return type(planned)(self.make(one) for one in planned)
        if isinstance(planned, dict):
            return {name: self.make(one) for name, one in planned.items()}
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
            found = last_line(error, __file__)
            raise ConfigError(f"{plan.place}: cannot be built from these values: {found}") from error

    def arguments(self, plan: Plan) -> dict[str, Any]:
        arguments = {}
        for name, parameter in plan.schema.parameters.items():
            if name in self.given:
                arguments[name] = self.given[name]
            elif name in plan.arguments:
                planned = plan.arguments[name]
                if isinstance(planned, SlotReference) and planned.slot in RUNTIME_PARAMETERS:
                    self.warn_fresh(plan, planned.slot)
                value = self.make(planned)
                if value is not None or not isinstance(planned, SharedReference):
                    arguments[name] = value
            if name not in arguments and parameter.required:
                needs = f"{plan.cls.__name__} needs it: give it in the config or to build(..., {name}=)"
                raise ConfigError(f"{plan.place}.{name}: {needs}")
        further = set(plan.arguments) - set(plan.schema.parameters)  # of constructors with **kwargs
        return {**arguments, **{name: plan.arguments[name] for name in further}}

    def warn_fresh(self, plan: Plan, slot: str) -> None:
        """Say that an object of the run was made anew: it is rarely what the caller wants."""
        if slot not in self.given and slot not in self.slots:
            what = f"{plan.cls.__name__} refers to a freshly built {slot}; give yours: build(..., {slot}={slot})"
            logger.warning("%s: %s", plan.place, what)

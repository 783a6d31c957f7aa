# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Freeze the backbone, or its first stages, for some steps or for good; then let it come in with a warm-up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..core import dist
from ..core.config.settings import FreezePlan
from ..core.errors import ConfigError
from .param_groups import part_of_group, staged_backbone

logger = logging.getLogger(__name__)

KEY = "freeze.backbone"


@dataclass(frozen=True)
class FrozenGroups:
    """Factor on the learning rate of groups that are frozen at first."""

    groups: frozenset[int]
    """Their numbers in the optimizer."""
    until: int | None
    """First step in which they train; None = none."""
    warmup: int
    """Steps from there over which the factor rises linearly to 1; 0 for none."""

    def factor(self, group: int, step: int) -> float:
        """Factor of a group at optimizer step ``step`` (from 0), in [0, 1]."""
        if group not in self.groups:
            return 1.0
        if self.until is None or step < self.until:
            return 0.0
        done = step - self.until + 1
        return 1.0 if done >= self.warmup else done / self.warmup


class Freeze:
    """What is frozen in a run, as a pure function of the number of optimizer steps: there is nothing to save.

    Frozen means: no gradient (so neither weights nor moments move, and the gradient norm does not count it) and eval
    mode (statistics and drop path stand still). The optimizer holds all parameters from the start.

    Args:
        model: a detector; the parameters that train when this is made are those that can be frozen.
        setting: value of the top-level key ``freeze``.
        steps_per_epoch: optimizer steps.
        origin: file and line of the setting, for messages; None where there is none.

    Raises:
        ConfigError: a model without a backbone, or fewer stages than asked for.
    """

    def __init__(
        self, model: nn.Module, setting: dict[str, Any] | None, steps_per_epoch: int, origin: str | None = None
    ) -> None:
        self._model = model
        self._key = f"{origin}: {KEY}" if origin else KEY
        self._plan = FreezePlan.of(setting)
        self._frozen = False
        if self._plan is None:
            return
        self._until = self._plan.until(steps_per_epoch)
        backbone = self._backbone
        is_chosen = self._chooser(self._plan.stages)
        self._parameters = [
            parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad and is_chosen(name)
        ]
        leaves = [name for name, module in backbone.named_modules() if next(module.children(), None) is None]
        self._parts = [
            part
            for part, _ in backbone.named_modules()
            if all(is_chosen(leaf) for leaf in leaves if not part or f"{leaf}.".startswith(f"{part}."))
        ]

    def frozen_groups(self, optimizer: Optimizer) -> FrozenGroups | None:
        """The learning rates of what is frozen; splits groups that are frozen in part. None where nothing is.

        Raises:
            ConfigError: the optimizer trains nothing of it anyway.
        """
        if self._plan is None:
            return None
        numbers = separate(optimizer, self._parameters, KEY, self._key)
        return FrozenGroups(numbers, self._until, 0 if self._until is None else self._plan.warmup)

    def apply(self, step: int) -> bool:
        """Bring the model into the state of optimizer step ``step`` (from 0); call it after ``model.train()`` too.

        Returns: whether other parameters train than before, so that a distributed wrapper must be made anew.
        """
        if self._plan is None:
            return False
        frozen = self._until is None or step < self._until
        changed, self._frozen = frozen != self._frozen, frozen
        if changed:
            for parameter in self._parameters:
                parameter.requires_grad_(not frozen)
            if dist.is_main():
                logger.info("%s", self._describe(self._plan, step))
        backbone = self._backbone
        if frozen:
            for name in self._parts:  # by name: converting the norms replaces modules
                backbone.get_submodule(name).training = False
        elif changed:
            backbone.train(self._model.training)
        return changed

    @property
    def _backbone(self) -> nn.Module:
        backbone = getattr(self._model, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(f"{self._key}: {type(self._model).__name__} has no part called backbone: remove freeze")
        return backbone

    def _chooser(self, stages: int | None) -> Callable[[str], bool]:
        """Whether what has this name inside the backbone is frozen."""
        if stages is None:
            return lambda _: True
        backbone = staged_backbone(self._model, f"{self._key}.stages")
        if stages > backbone.num_stages:
            raise ConfigError(
                f"{self._key}.stages is {stages}: {type(backbone).__name__} has the stages 1..{backbone.num_stages}; "
                "0 means the stem alone"
            )
        return lambda name: backbone.stage_of(name) <= stages

    def _describe(self, plan: FreezePlan, step: int) -> str:
        part = "backbone" if plan.stages is None else f"first {plan.stages} stages"
        count = sum(parameter.numel() for parameter in self._parameters) / 1e6
        if not self._frozen:
            return (
                f"step {step}: the {part} ({count:.2f} M parameters) trains from here on, warm-up {plan.warmup} steps"
            )
        end = "for the whole run" if self._until is None else f"up to step {self._until}"
        return f"step {step}: the {part} ({count:.2f} M parameters) is frozen {end}"


def separate(optimizer: Optimizer, frozen: Collection[nn.Parameter], label: str, origin: str) -> frozenset[int]:
    """Give frozen parameters groups of their own, directly before what is left of their group.

    A group that is frozen as a whole stays as it is, so patterns that single out the backbone keep their numbers.

    Args:
        optimizer: its ``param_groups`` are changed in place; it has not stepped yet.
        frozen: the parameters.
        label: put behind the name of a group that is split off.
        origin: where the config asks for it, for the message.

    Returns: the numbers of the frozen groups.

    Raises:
        ConfigError: the optimizer holds none of the parameters.
    """
    ids = {id(parameter) for parameter in frozen}
    groups: list[dict[str, Any]] = []
    numbers: set[int] = set()
    for group in optimizer.param_groups:
        chosen = [id(parameter) in ids for parameter in group["params"]]
        if any(chosen):
            numbers.add(len(groups))
        if any(chosen) and not all(chosen):
            groups.append({**part_of_group(group, chosen), "name": f"{group.get('name', 'group')} [{label}]"})
            group = part_of_group(group, [not is_frozen for is_frozen in chosen])
        groups.append(group)
    if not numbers:
        raise ConfigError(f"{origin}: the optimizer trains none of these parameters anyway (see freeze_at): remove it")
    optimizer.param_groups[:] = groups
    return frozenset(numbers)

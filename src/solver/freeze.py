# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Let the backbone, or its first stages, rest for some steps (spec doc_layout R-11)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..core import dist
from ..core.config.settings import FreezePlan
from ..core.errors import ConfigError
from ..optim.layer_decay import staged_backbone
from ..optim.thaw import Thaw, separate

logger = logging.getLogger(__name__)

KEY = "freeze.backbone"


class Freeze:
    """What rests in a run, as a pure function of the number of optimizer steps: there is nothing to save.

    Frozen means: no gradient (so neither weights nor moments move, and the gradient norm does not count it) and eval
    mode (statistics and drop path rest). The optimizer holds all parameters from the start.

    Args:
        model: a detector; the parameters that train when this is made are those that can rest.
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
        self._until = self._plan.until(steps_per_epoch) if self._plan is not None else 0
        self._parameters: list[nn.Parameter] = []
        self._parts: list[str] = []
        self._resting = False
        if self._plan is not None:
            backbone = self._backbone
            rests = self._chooser(self._plan.stages)
            self._parameters = [one for name, one in backbone.named_parameters() if one.requires_grad and rests(name)]
            self._parts = [name for name, leaves in _modules(backbone) if all(map(rests, leaves))]

    def thaw(self, optimizer: Optimizer) -> Thaw | None:
        """The learning rates of what rests; splits groups that rest in part. None where nothing does.

        Raises:
            ConfigError: the optimizer trains nothing of it anyway.
        """
        if self._plan is None:
            return None
        warmup = 0 if self._until is None else self._plan.warmup
        return Thaw(separate(optimizer, self._parameters, KEY, self._key), self._until, warmup)

    def apply(self, step: int) -> bool:
        """Bring the model into the state of optimizer step ``step`` (from 0); call it after ``model.train()`` too.

        Returns: whether other parameters train than before, so that a distributed wrapper must be made anew.
        """
        if self._plan is None:
            return False
        resting = self._until is None or step < self._until
        changed, self._resting = resting != self._resting, resting
        if changed:
            for parameter in self._parameters:
                parameter.requires_grad_(not resting)
            if dist.is_main():
                logger.info("%s", self._describe(step))
        backbone = self._backbone
        if resting:
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
        """Whether what has this name inside the backbone rests."""
        if stages is None:
            return lambda _: True
        backbone = staged_backbone(self._model, f"{self._key}.stages")
        if stages > backbone.num_stages:
            raise ConfigError(
                f"{self._key}.stages is {stages}: {type(backbone).__name__} has the stages 1..{backbone.num_stages}; "
                "0 means the stem alone"
            )
        return lambda name: backbone.stage_of(name) <= stages

    def _describe(self, step: int) -> str:
        part = "backbone" if self._plan is None or self._plan.stages is None else f"first {self._plan.stages} stages"
        count = sum(one.numel() for one in self._parameters) / 1e6
        if not self._resting:
            warmup = self._plan.warmup if self._plan is not None else 0
            return f"step {step}: the {part} ({count:.2f} M parameters) trains from here on, warm-up {warmup} steps"
        end = "for the whole run" if self._until is None else f"up to step {self._until}"
        return f"step {step}: the {part} ({count:.2f} M parameters) rests {end}"


def _modules(backbone: nn.Module) -> Iterator[tuple[str, list[str]]]:
    """Every module with the names of the modules without children inside it (itself, if it has none)."""
    names = [name for name, _ in backbone.named_modules()]
    leaves = [name for name, module in backbone.named_modules() if next(module.children(), None) is None]
    for name in names:
        inside = [leaf for leaf in leaves if leaf == name or leaf.startswith(f"{name}." if name else "")]
        yield name, inside

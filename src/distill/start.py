# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""When a run begins to learn from its teacher: at a step, at an epoch, or when it no longer gets better on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..core import dist
from ..core.errors import check_choice
from ..nn.keys import before_load

StartMode = Literal["step", "epoch", "plateau"]
_NEVER = -1
_WORST = torch.finfo(torch.float32).max
"""A best loss before there is one; what a checkpoint holds is finite."""


class Moment(NamedTuple):
    """Where in a run a step stands."""

    step: int
    """Optimiser steps that are done."""
    epoch: int
    """Passes over the data that are done."""
    progress: float
    """Share of the run's optimiser steps that are done."""


class Start(nn.Module):
    """The factor of a loss over a run: 0 at first, then a linear rise over ``ramp`` steps, then 1.

    Its state (when it began, and what it knows of a plateau) is saved and resumed with the run.

    Args:
        mode: ``step`` or ``epoch``: begin when ``value`` of them are done; ``plateau``: when the supervised loss falls
            no more.
        value: see ``mode``, 0 or more.
        ramp: optimiser steps of the rise, 0 or more.
        halflife: of the running mean of the supervised loss, in steps.
        rel_improve: an epoch whose mean is lower than the best before by less than this share is no improvement.
        patience: epochs in a row without an improvement, after which a plateau is reached.
        max_share: share of the run after which it begins in any case.

    Raises: ValueError for a value out of its range, or one that ``mode`` does not read.
    """

    READS: ClassVar[dict[str, tuple[str, ...]]] = {
        "step": ("mode", "value", "ramp"),
        "epoch": ("mode", "value", "ramp"),
        "plateau": ("mode", "ramp", "halflife", "rel_improve", "patience", "max_share"),
    }
    begun: Tensor
    plateau: Tensor

    def __init__(
        self,
        mode: StartMode = "step",
        value: int = 0,
        ramp: int = 0,
        *,
        halflife: float = 500,
        rel_improve: float = 0.01,
        patience: int = 2,
        max_share: float = 1 / 3,
    ) -> None:
        super().__init__()
        if min(value, ramp, patience) < 0 or halflife <= 0 or not 0 <= max_share <= 1:
            raise ValueError("value, ramp, patience must be 0 or more, halflife above 0, max_share from 0 to 1")
        self.mode, self.value, self.ramp = mode, value, ramp
        self.keep, self.rel_improve = 0.5 ** (1 / halflife), rel_improve
        self.patience, self.max_share = patience, max_share
        self.register_buffer("begun", torch.tensor(_NEVER))
        # mean and weight of the running mean, best mean of an epoch, epochs without an improvement, epoch
        self.register_buffer("plateau", torch.tensor([0.0, 0.0, _WORST, 0.0, 0.0]))
        self._begun: int | None = None
        self._epoch: int | None = None
        before_load(self, lambda *_: self.forget())

    @classmethod
    def of(cls, name: str, setting: Mapping[str, Any] | None) -> Start:
        """From a config; None acts from the first step.

        Raises: ValueError that begins with ``name``.
        """
        given = dict(setting or {})
        mode = given.get("mode", "step")
        check_choice(f"{name}.mode", mode, get_args(StartMode))
        if odd := sorted(given.keys() - set(cls.READS[mode])):
            raise ValueError(f"{name}: {mode} does not read {odd[0]}: it knows {', '.join(cls.READS[mode])}")
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error

    def forget(self) -> None:
        """Read the state from the buffers when it is needed next, as after loading it."""
        self._begun = self._epoch = None

    def factor(self, moment: Moment) -> float:
        """Factor in [0, 1] at a step; remembers when it began."""
        begun = self._begin(moment)
        if begun == _NEVER:
            return 0.0
        return min((moment.step - begun) / self.ramp, 1.0) if self.ramp else 1.0

    def _begin(self, moment: Moment) -> int:
        if self._begun is None:
            self._begun = int(self.begun)
        if self._begun == _NEVER and self._due(moment):
            self._begun = self.value if self.mode == "step" else moment.step
            self.begun.fill_(self._begun)
        return self._begun

    def _due(self, moment: Moment) -> bool:
        if self.mode == "plateau":
            return moment.progress >= self.max_share
        return (moment.step if self.mode == "step" else moment.epoch) >= self.value

    @torch.no_grad()
    def observe(self, loss: Tensor, moment: Moment) -> None:
        """See the supervised loss of a step, a scalar, and begin at its plateau; the device waits once an epoch."""
        if self.mode != "plateau" or self._begin(moment) != _NEVER:
            return
        if self._epoch is None:
            self._epoch = int(self.plateau[4])
        if moment.epoch > self._epoch:
            self._close_epoch(moment)
        self.plateau[:2].mul_(self.keep)
        self.plateau[0].add_(loss.detach().float(), alpha=1 - self.keep)
        self.plateau[1].add_(1 - self.keep)

    def _close_epoch(self, moment: Moment) -> None:
        total, weight, best, waited, _ = dist.mean(self.plateau).tolist()
        mean = total / weight if weight else _WORST
        waited = 0 if mean < best * (1 - self.rel_improve) else waited + 1
        self.plateau[2:] = self.plateau.new_tensor([min(mean, best), waited, moment.epoch])
        self._epoch = moment.epoch
        if waited >= self.patience:
            self._begun = moment.step + 1
            self.begun.fill_(self._begun)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates as pure functions of the step number, and the one object that writes them into an optimizer."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim import Optimizer

from ..core.errors import CheckpointError, ConfigError, check_non_negative
from ..core.registry import register
from .freeze import FrozenGroups


@dataclass(frozen=True)
class Clock:
    """How optimizer steps relate to epochs and to the warm-up."""

    steps_per_epoch: int
    """Optimizer steps of one epoch, at least 1."""
    total_epochs: int
    """Epochs of the whole run, at least 1."""
    warmup_steps: int = 0
    """Steps of the linear warm-up; 0 for none."""

    def counted_epochs(self, step: int) -> int:
        """Finished epochs at whose end the warm-up was over: the official epoch schedulers count no others."""
        finished = step // self.steps_per_epoch
        first_counted = max(1, math.ceil(self.warmup_steps / self.steps_per_epoch))
        return max(0, finished - first_counted + 1)


class Policy(Protocol):
    """A learning rate for every step. ``has_warmup`` is true where the policy brings its own warm-up."""

    has_warmup: bool

    def lr(self, base: float, step: int, clock: Clock) -> float:
        """Learning rate of optimizer step ``step`` (from 0) for a group whose configured value is ``base``."""
        ...


@register
class MultiStepLR:
    """Multiply by ``gamma`` at each milestone.

    Args:
        milestones: epochs; those that end before the warm-up does are not counted (:meth:`Clock.counted_epochs`).
        gamma: factor on the learning rate, 0 or more.
    """

    has_warmup = False

    def __init__(self, milestones: list[int], gamma: float = 0.1) -> None:
        if any(milestone < 0 for milestone in milestones):
            raise ConfigError(f"MultiStepLR.milestones is {milestones}: epochs cannot be negative")
        check_non_negative("MultiStepLR.gamma", gamma)
        self.milestones = sorted(milestones)
        self.gamma = gamma

    def lr(self, base: float, step: int, clock: Clock) -> float:
        return base * self.gamma ** bisect_right(self.milestones, clock.counted_epochs(step))


@register
class CosineAnnealingLR:
    """Half a cosine from the base value to ``eta_min`` over ``T_max`` counted epochs (SGDR, arXiv 1608.03983, eq. 5).

    Like torch's scheduler of this name it rises again after ``T_max``.

    Args:
        T_max: epochs of the descent, 1 or more.
        eta_min: last learning rate.
    """

    has_warmup = False

    def __init__(self, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ConfigError(f"CosineAnnealingLR.T_max is {T_max}: give the epochs of the descent, at least 1")
        check_non_negative("CosineAnnealingLR.eta_min", eta_min)
        self.t_max = T_max
        self.eta_min = eta_min

    def lr(self, base: float, step: int, clock: Clock) -> float:
        return _cosine(base, self.eta_min, clock.counted_epochs(step) / self.t_max)


@register
class FlatCosine:
    """DEIM's schedule: quadratic warm-up, flat, cosine to ``lr_gamma`` times the base, constant (arXiv 2412.04234).

    Args:
        lr_gamma: last learning rate as a fraction of the base value.
        warmup_iter: steps of the quadratic warm-up; step 0 then has learning rate 0.
        flat_epochs: epoch up to which the base value holds.
        no_aug_epochs: epochs at the end with the last learning rate.
    """

    has_warmup = True

    def __init__(
        self, lr_gamma: float = 0.5, warmup_iter: int = 2000, flat_epochs: int = 29, no_aug_epochs: int = 8
    ) -> None:
        lengths = {"warmup_iter": warmup_iter, "flat_epochs": flat_epochs, "no_aug_epochs": no_aug_epochs}
        for name, value in {**lengths, "lr_gamma": lr_gamma}.items():
            check_non_negative(f"FlatCosine.{name}", value)
        self.lr_gamma = lr_gamma
        self.warmup_iter = warmup_iter
        self.flat_epochs = flat_epochs
        self.no_aug_epochs = no_aug_epochs

    def lr(self, base: float, step: int, clock: Clock) -> float:
        flat_end = self.flat_epochs * clock.steps_per_epoch
        tail_start = (clock.total_epochs - self.no_aug_epochs) * clock.steps_per_epoch
        last = base * self.lr_gamma
        if step <= self.warmup_iter and self.warmup_iter > 0:
            return base * (step / self.warmup_iter) ** 2
        if step <= flat_end:
            return base
        if step >= tail_start:
            return last
        return _cosine(base, last, (step - flat_end) / (tail_start - flat_end))


@register
class LinearWarmup:
    """Learning rate times (step + 1) / ``warmup_duration`` for the first ``warmup_duration`` steps.

    Args:
        warmup_duration: optimizer steps; 0 for none.
    """

    def __init__(self, warmup_duration: int = 0) -> None:
        if warmup_duration < 0:
            raise ConfigError(f"LinearWarmup.warmup_duration is {warmup_duration}: give 0 or more optimizer steps")
        self.warmup_duration = warmup_duration

    def factor(self, step: int) -> float:
        """Factor of step ``step``, in (0, 1]."""
        return 1.0 if step >= self.warmup_duration else (step + 1) / self.warmup_duration


class Schedule:
    """Keeps the learning rate of every group at the value of the upcoming step.

    The base values are those the optimizer was built with (its config), so build the schedule before a checkpoint
    is loaded into the optimizer (``base``, one for each group). The only state is the number of steps done.

    Args:
        optimizer: its groups' ``lr`` are read once and written from then on.
        policy: learning rate over the run; ``None`` keeps the base values.
        warmup: linear warm-up on top; ``None`` for none.
        steps_per_epoch: optimizer steps per epoch, after accumulation.
        total_epochs: epochs of the whole run.
        frozen: groups that do not train at first; None for none.

    Raises:
        ConfigError: a length below 1, or two warm-ups at once.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        policy: Policy | None,
        warmup: LinearWarmup | None,
        *,
        steps_per_epoch: int,
        total_epochs: int,
        frozen: FrozenGroups | None = None,
    ) -> None:
        if steps_per_epoch < 1 or total_epochs < 1:
            raise ConfigError(
                f"the schedule needs at least one step and one epoch, got {steps_per_epoch} steps per epoch and "
                f"{total_epochs} epochs: check epochs, and that the training set holds at least one batch"
            )
        self._warmup = warmup if warmup is not None else LinearWarmup(0)
        if policy is not None and policy.has_warmup and self._warmup.warmup_duration > 0:
            raise ConfigError(
                f"{type(policy).__name__} has a warm-up of its own: set lr_warmup_scheduler.warmup_duration "
                f"(now {self._warmup.warmup_duration}) to 0"
            )
        self._optimizer = optimizer
        self.policy = policy
        self._frozen = frozen if frozen is not None else FrozenGroups(frozenset(), 0, 0)
        self._clock = Clock(steps_per_epoch, total_epochs, self._warmup.warmup_duration)
        self.base: Sequence[float] = [float(group["lr"]) for group in optimizer.param_groups]
        self.step = 0
        self._write()

    @property
    def lr(self) -> list[float]:
        """Learning rate of every group for the upcoming step."""
        return [self._lr_of(group, base) for group, base in enumerate(self.base)]

    @property
    def warmup_steps(self) -> int:
        """Steps until the learning rate has its full value, of whichever warm-up there is."""
        return max(self._warmup.warmup_duration, self.policy.warmup_iter if isinstance(self.policy, FlatCosine) else 0)

    @property
    def progress(self) -> float:
        """Share of the run's optimizer steps that are done, in [0, 1]."""
        return min(1.0, self.step / (self._clock.steps_per_epoch * self._clock.total_epochs))

    def advance(self) -> None:
        """Count one optimizer step and set the learning rates of the next."""
        self.step += 1
        self._write()

    def skip(self, epochs: int) -> None:
        """Go on as if so many epochs had been trained."""
        self.step += epochs * self._clock.steps_per_epoch
        self._write()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved step and write its learning rates; call it after the optimizer's state was loaded."""
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise CheckpointError(f"the schedule's saved state is {state!r}: expected {{'step': number of steps done}}")
        self.step = step
        self._write()

    def _lr_of(self, group: int, base: float) -> float:
        value = base if self.policy is None else self.policy.lr(base, self.step, self._clock)
        return value * self._warmup.factor(self.step) * self._frozen.factor(group, self.step)

    def _write(self) -> None:
        for group, value in zip(self._optimizer.param_groups, self.lr):
            group["lr"] = value


def _cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` at progress 0 to ``end`` at 1 along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))

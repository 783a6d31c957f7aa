# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run stands: its counters, its two stages and its best evaluation, and how long it still takes.

The two-stage schedule (docs/method.md, part 4): strong augmentation first, then none from the best checkpoint of stage
one. Its rules are a pure function of the metrics seen so far, so that a resumed run takes the same decisions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..core.config.settings import EarlyStop
from ..core.errors import CheckpointError
from ..data.collate import CollateFunction


@dataclass(frozen=True)
class StagePlan:
    """When stage two begins and how it treats the EMA."""

    stop_epoch: int | None = None
    """First epoch of stage two (0-based), whose batches keep their size; None or beyond the last: a single stage."""
    restart_decay: float | None = None
    """EMA decay from stage two on; None keeps the run's decay."""
    decay_step: float = 1e-4
    """How much every later reset lowers the EMA decay."""
    restart: bool = True
    """Whether stage two starts from the best weights of stage one (D-FINE); False: training goes on (RT-DETR)."""

    @classmethod
    def of(cls, collate: CollateFunction) -> StagePlan:
        """What a config says, where official files do: among the arguments of its collate function."""
        return cls(collate.stop_epoch, collate.ema_restart_decay, restart=collate.restart)

    def in_stage_two(self, epoch: int) -> bool:
        """Whether ``epoch`` is trained without multi-scale batches."""
        return self.stop_epoch is not None and epoch >= self.stop_epoch

    @property
    def restart_epoch(self) -> int | None:
        """First epoch of a stage two that starts from the best weights of stage one."""
        return self.stop_epoch if self.restart else None

    def lies_ahead(self, epoch: int, epochs: int) -> bool:
        """Whether a run of so many epochs that has come to ``epoch`` has its stage two before it."""
        return self.stop_epoch is not None and epoch <= self.stop_epoch < epochs

    def begins(self, epoch: int) -> bool:
        """Whether the best weights of stage one are to be loaded before ``epoch`` (there was a stage one)."""
        return epoch == self.restart_epoch and epoch > 0


@dataclass(frozen=True)
class BestSoFar:
    """What the selection remembers between evaluations; plain numbers, stored in checkpoints."""

    best: float | None = None
    """Best AP of the whole run."""
    best_epoch: int = -1
    since_reset: float | None = None
    """Best AP since the last reset to the stage-one weights; None directly after one."""
    resets: int = 0
    """Resets inside stage two: each lowers the EMA decay once."""


@dataclass(frozen=True)
class Waiting:
    """What early stopping remembers between evaluations; plain numbers, stored in checkpoints."""

    best: float | None = None
    """The last value that was an improvement."""
    evaluations: int = 0
    """Evaluations since then, or since stage two began."""

    def after(self, value: float, early: EarlyStop) -> Waiting:
        """The same after one more evaluation; NaN is no improvement."""
        if is_better(value, None if self.best is None else self.best + early.min_delta):
            return Waiting(value)
        return replace(self, evaluations=self.evaluations + 1)


@dataclass
class Progress:
    """Counters of a run; plain numbers, stored in checkpoints."""

    epoch: int = 0
    """Epoch in progress, or the next one (0-based)."""
    batch: int = 0
    """Batches of that epoch already done."""
    step: int = 0
    """Batches of the whole run already done."""
    best: BestSoFar = field(default_factory=BestSoFar)
    """What the selection of the best checkpoint remembers."""
    waiting: Waiting = field(default_factory=Waiting)
    """What early stopping remembers; checkpoints hold it since version 0.2."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Progress:
        """The progress that :meth:`to_dict` wrote.

        Raises:
            CheckpointError: something else.
        """
        try:
            best, waiting = BestSoFar(**saved["best"]), Waiting(**saved.get("waiting", {}))
            progress = cls(saved["epoch"], saved["batch"], saved["step"], best, waiting)
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"its progress cannot be read ({error!r}): take another checkpoint") from None
        counts = {"epoch": progress.epoch, "batch": progress.batch, "step": progress.step, "best.resets": best.resets}
        counts["waiting.evaluations"] = waiting.evaluations
        wrong = [f"{name} is {value!r}" for name, value in counts.items() if type(value) is not int or value < 0]
        if type(best.best_epoch) is not int:
            wrong.append(f"best.best_epoch is {best.best_epoch!r}")
        numbers = {"best.best": best.best, "best.since_reset": best.since_reset, "waiting.best": waiting.best}
        for name, value in numbers.items():
            if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= 1):
                wrong.append(f"{name} is {value!r}")
        if wrong:
            raise CheckpointError(f"its progress cannot be right ({', '.join(wrong)}): take another checkpoint")
        return progress


@dataclass(frozen=True)
class Verdict:
    """What to do after an evaluation."""

    state: BestSoFar
    is_best: bool
    """Save this epoch's weights as the best of its stage."""
    reset: bool
    """Load the best weights of stage one again, with a lower EMA decay."""


def judge(state: BestSoFar, ap: float, epoch: int, plan: StagePlan) -> Verdict:
    """Decide after evaluating ``epoch``.

    Stage one: an improvement is saved. Stage two: an improvement over the whole run is saved; an epoch that neither
    improves on those since the last reset nor directly follows a reset goes back to the best of stage one.
    """
    is_best = is_better(ap, state.best)
    improves = is_better(ap, state.since_reset)
    if is_best:
        state = replace(state, best=ap, best_epoch=epoch)
    if improves:
        return Verdict(replace(state, since_reset=ap), is_best, reset=False)
    if plan.in_stage_two(epoch) and plan.begins(plan.stop_epoch or 0):
        return Verdict(replace(state, since_reset=None, resets=state.resets + 1), is_best, reset=True)
    return Verdict(state, is_best, reset=False)


def is_better(new: float | None, old: float | None) -> bool:
    """Whether a metric (higher is better) beats the best so far; ties, ``None`` and NaN do not."""
    if new is None or math.isnan(new):
        return False
    return old is None or math.isnan(old) or new > old


class TimeLeft:
    """How long the rest of a run takes at its mean pace so far, evaluations included.

    Args:
        done: steps that the run had behind it when this process began to train.
        total: steps of the whole run.
    """

    def __init__(self, done: int, total: int) -> None:
        self._before, self._total, self._begin = done, total, time.perf_counter()

    def skip(self, steps: int) -> None:
        """Count on fewer steps."""
        self._total -= steps

    def after(self, step: int) -> str:
        """The end of a log line; empty where nothing is left or nothing is known yet."""
        here, left = step - self._before, self._total - step
        if here < 1 or left < 1:
            return ""
        return f", {duration((time.perf_counter() - self._begin) / here * left)} left"


def duration(seconds: float) -> str:
    """A time in words, with three digits."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:,.0f} days"

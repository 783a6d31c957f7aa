# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The two-stage schedule: strong augmentation first, then none from the best checkpoint of stage one.

See docs/method.md 8.4. The rules are a pure function of the metrics seen so far, so that a
resumed run takes the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .checkpoint import is_better


@dataclass(frozen=True)
class StagePlan:
    """When stage two begins and how it treats the EMA."""

    stop_epoch: int | None = None
    """First epoch of stage two (0-based); None or beyond the last epoch: a single stage."""
    restart_decay: float | None = None
    """EMA decay from stage two on; None keeps the run's decay."""
    decay_step: float = 1e-4
    """How much every later reset lowers the EMA decay."""

    def in_stage_two(self, epoch: int) -> bool:
        """Whether ``epoch`` is trained without strong augmentation."""
        return self.stop_epoch is not None and epoch >= self.stop_epoch

    def begins(self, epoch: int) -> bool:
        """Whether the best weights of stage one are to be loaded before ``epoch`` (there was a stage one)."""
        return self.stop_epoch is not None and epoch == self.stop_epoch and epoch > 0


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

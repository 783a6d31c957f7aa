# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run stands, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.errors import CheckpointError
from .stages import BestSoFar


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
            progress = cls(saved["epoch"], saved["batch"], saved["step"], BestSoFar(**saved["best"]))
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"its progress cannot be read ({error!r}): take another checkpoint") from None
        best = progress.best
        counts = {"epoch": progress.epoch, "batch": progress.batch, "step": progress.step, "best.resets": best.resets}
        wrong = [f"{name} is {value!r}" for name, value in counts.items() if type(value) is not int or value < 0]
        if type(best.best_epoch) is not int:
            wrong.append(f"best.best_epoch is {best.best_epoch!r}")
        for name, value in (("best.best", best.best), ("best.since_reset", best.since_reset)):
            if value is not None and (not isinstance(value, (int, float)) or not 0 <= value <= 1):
                wrong.append(f"{name} is {value!r}")
        if wrong:
            raise CheckpointError(f"its progress cannot be right ({', '.join(wrong)}): take another checkpoint")
        return progress


class TimeLeft:
    """How long the rest of a run takes at its mean pace so far, evaluations included.

    Args:
        done: steps that the run had behind it when this process began to train.
        total: steps of the whole run.
    """

    def __init__(self, done: int, total: int) -> None:
        self._before, self._total, self._begin = done, total, time.perf_counter()

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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run stands, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

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
        """The progress that :meth:`to_dict` wrote."""
        return cls(saved["epoch"], saved["batch"], saved["step"], BestSoFar(**saved["best"]))


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""When in a run a distiller acts."""

from __future__ import annotations

from collections.abc import Sequence


class Ramp:
    """Factor that grows linearly from 0 to 1 over a part of the run (docs/method.md 7.4).

    Args:
        span: where the growth begins and where it is complete, as shares of the run's optimiser steps, in [0, 1].
            Two equal numbers switch on there; (0, 0) means always on.
        name: how messages call it.

    Raises:
        ValueError: not two ascending shares.
    """

    def __init__(self, span: Sequence[float], name: str = "ramp") -> None:
        if len(span) != 2 or not 0 <= span[0] <= span[1] <= 1:
            raise ValueError(
                f"{name} is {list(span)}: give [start, end] as shares of the run, 0 <= start <= end <= 1; "
                "[0, 0] acts from the first step"
            )
        self.start, self.end = map(float, span)

    def __call__(self, progress: float) -> float:
        """Factor in [0, 1] at a share of the run."""
        if progress >= self.end:
            return 1.0
        if progress <= self.start:
            return 0.0
        return (progress - self.start) / (self.end - self.start)

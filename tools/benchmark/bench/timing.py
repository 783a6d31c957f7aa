# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Times of detectors that take turns, so that other work on the machine meets all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from isdfine.core.errors import ConfigError

Call = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How often is measured."""

    rounds: int = 50
    """In each round every model has its turn, in an order drawn anew."""
    repeats: int = 4
    """Calls of a turn that count; one before them does not, for it finds the caches full of another model."""
    warmup: int = 10
    """Calls of each model before the first round: memory is reserved, kernels are chosen or compiled."""
    seed: int = 0
    """Of the orders."""

    def __post_init__(self) -> None:
        least = {"rounds": 1, "repeats": 1, "warmup": 1}
        wrong = [f"{key} is {getattr(self, key)}: give {low} or more" for key, low in least.items()
                 if getattr(self, key) < low]  # fmt: skip
        if wrong:
            raise ConfigError("; ".join(wrong))


@dataclass(frozen=True)
class Timing:
    """Seconds of one model's calls, one tuple per round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def calls(self) -> list[float]:
        """All that count, shortest first."""
        return sorted(seconds for turn in self.rounds for seconds in turn)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.calls)

    def percentile(self, share: float) -> float:
        """Seconds that this share of the calls does not exceed, interpolated.

        Args:
            share: in [0, 1].
        """
        calls = self.calls
        place = share * (len(calls) - 1)
        low = int(place)
        high = min(low + 1, len(calls) - 1)
        return calls[low] + (calls[high] - calls[low]) * (place - low)

    def summary(self, batch: int) -> dict[str, float]:
        """Milliseconds of a call, and images per second at the median.

        Args:
            batch: images per call.
        """
        calls = self.calls
        shares = {"median_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "quartile1_ms": 0.25, "quartile3_ms": 0.75}
        found = {name: 1000 * self.percentile(share) for name, share in shares.items()}
        found["spread_percent"] = 100 * (found["quartile3_ms"] - found["quartile1_ms"]) / found["median_ms"]
        return found | {
            "fastest_ms": 1000 * calls[0],
            "slowest_ms": 1000 * calls[-1],
            "images_per_second": batch / self.median,
            "calls": float(len(calls)),
        }


@dataclass(frozen=True)
class Ratio:
    """Time of one model over another's, from the medians of the same round: quartiles over the rounds."""

    median: float
    quartile1: float
    quartile3: float


def ratio(mine: Timing, other: Timing) -> Ratio:
    """How much longer ``mine`` takes; below 1 it is faster."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(mine.rounds, other.rounds)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)


def measure(
    calls: Mapping[str, Call],
    plan: Plan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Timing]:
    """Run every call in turns.

    Args:
        calls: by label; each returns when its answer is there.
        plan: how often.
        clock: seconds.
        on_round: told the number of each finished round, from 1.

    Returns: times by label.
    """
    for call in calls.values():
        for _ in range(plan.warmup):
            call()
    order, draw = list(calls), random.Random(plan.seed)
    found: dict[str, list[tuple[float, ...]]] = {label: [] for label in calls}
    for number in range(plan.rounds):
        draw.shuffle(order)
        for label in order:
            calls[label]()
            found[label].append(tuple(_seconds(calls[label], clock) for _ in range(plan.repeats)))
        on_round(number + 1)
    return {label: Timing(tuple(rounds)) for label, rounds in found.items()}


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    return clock() - begin


def table(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Text of a table; the first row is the heading, the first column is aligned left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [[cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]
             for row in rows]  # fmt: skip
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])

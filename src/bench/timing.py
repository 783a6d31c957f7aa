# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Times of detectors that take turns, so that other work on the machine meets all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from ..core.errors import ConfigError

Call = Callable[[], object]
T = TypeVar("T")


def check_counts(values: object, **least: int) -> None:
    """See that numbers of a workload are large enough, where they are given (ConfigError that names all that are not).

    Args:
        values: has them as attributes.
        least: smallest value by name.
    """
    given = {name: getattr(values, name) for name in least}
    wrong = [f"{name} is {value}: give {least[name]} or more" for name, value in given.items()
             if value is not None and value < least[name]]  # fmt: skip
    if wrong:
        raise ConfigError("; ".join(wrong))


@dataclass(frozen=True)
class TimingPlan:
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
        check_counts(self, rounds=1, repeats=1, warmup=1)


@dataclass(frozen=True)
class Timing:
    """Seconds of one model's calls, one tuple per round."""

    rounds: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """One call per round."""
        return cls(tuple((second,) for second in seconds))

    @property
    def calls(self) -> list[float]:
        """All that count, shortest first."""
        return sorted(seconds for turn in self.rounds for seconds in turn)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.calls)

    def percentile(self, share: float) -> float:
        """Seconds that this share (0 to 1) of the calls does not exceed, interpolated."""
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
        numbers = {name: 1000 * self.percentile(share) for name, share in shares.items()}
        numbers["spread_percent"] = 100 * (numbers["quartile3_ms"] - numbers["quartile1_ms"]) / numbers["median_ms"]
        return numbers | {
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

    def cells(self, digits: int = 3) -> list[str]:
        """Median and quartiles for a table."""
        return [f"{self.median:.{digits}f}", f"{self.quartile1:.{digits}f} .. {self.quartile3:.{digits}f}"]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ratio(mine: Timing, other: Timing) -> Ratio:
    """How much longer ``mine`` takes; below 1 it is faster."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(mine.rounds, other.rounds)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)


def take_turns(
    turns: Mapping[str, Callable[[], T]],
    rounds: int,
    seed: int = 0,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, list[T]]:
    """In every round, a turn of each in an order drawn anew; what they return, by label.

    Args:
        turns: by label.
        rounds: how many.
        seed: of the orders.
        on_round: told the number of each finished round, from 1.
    """
    order, draw = list(turns), random.Random(seed)
    results: dict[str, list[T]] = {label: [] for label in turns}
    for number in range(rounds):
        draw.shuffle(order)
        for label in order:
            results[label].append(turns[label]())
        on_round(number + 1)
    return results


def measure(
    calls: Mapping[str, Call],
    plan: TimingPlan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Timing]:
    """Seconds of every call, which take turns.

    Args:
        calls: by label; each returns when its answer is there.
        plan: how often.
        clock: seconds.
        on_round: see ``take_turns``.
    """

    def seconds_of(call: Call) -> float:
        begin = clock()
        call()
        return clock() - begin

    return measure_turns({label: partial(seconds_of, call) for label, call in calls.items()}, plan, on_round)


def measure_turns(
    turns: Mapping[str, Callable[[], float]], plan: TimingPlan, on_round: Callable[[int], None] = lambda number: None
) -> dict[str, Timing]:
    """``measure`` of calls that give their own seconds."""

    def several(turn: Callable[[], float]) -> tuple[float, ...]:
        turn()
        return tuple(turn() for _ in range(plan.repeats))

    for turn in turns.values():
        for _ in range(plan.warmup):
            turn()
    taken = take_turns(
        {label: partial(several, turn) for label, turn in turns.items()}, plan.rounds, plan.seed, on_round
    )
    return {label: Timing(tuple(rounds)) for label, rounds in taken.items()}


def table(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Text of a table; the first row is the heading, the first column is aligned left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [[cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))]
             for row in rows]  # fmt: skip
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])

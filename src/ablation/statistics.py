# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, differences seed by seed, and what may be claimed from them (docs/method.md 7.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

MIN_SEEDS = 3
"""Pairs below which no verdict is given."""
FACTOR = 2.0
"""A difference is claimed where it exceeds this many standard errors."""
CONFIDENCE = 0.95
NOTHING = "nothing learned"
LEARNED = 0.001
"""Value of a metric (0.1 AP) below which nothing was learned that could be compared."""


@dataclass(frozen=True)
class SeedSummary:
    """Mean and spread of one metric over seeds."""

    n: int
    mean: float
    sd: float | None
    """Standard deviation with n - 1; None for a single value."""


@dataclass(frozen=True)
class Paired:
    """Differences of one metric between a variant and the baseline, seed by seed."""

    seeds: tuple[int, ...]
    """Seeds that both have."""
    differences: tuple[float, ...]
    mean: float
    sd: float | None
    standard_error: float | None
    """sd / sqrt(n)."""
    interval: tuple[float, float] | None
    """95 % interval of the mean, Student's t with n - 1 degrees of freedom."""
    p_value: float | None
    """Two-sided paired t-test against a difference of zero."""
    smallest: float | None
    """Smallest mean difference that this spread and number of seeds would let the rule claim."""
    verdict: str


def summarize(values: Sequence[float]) -> SeedSummary:
    """Mean and standard deviation (n - 1) of at least one value."""
    if not values:
        raise ValueError("no value to average: give at least one")
    return SeedSummary(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def compare(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """Paired differences ``variant - baseline`` over the seeds that both have; None where they share none.

    Args:
        variant, baseline: value of the metric by seed.
    """
    seeds = tuple(sorted(variant.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = tuple(variant[seed] - baseline[seed] for seed in seeds)
    learned = any(max(abs(variant[seed]), abs(baseline[seed])) >= LEARNED for seed in seeds)
    n, mean, sd = (summary := summarize(differences)).n, summary.mean, summary.sd
    if sd is None:
        return Paired(seeds, differences, mean, None, None, None, None, None, _too_few(n) if learned else NOTHING)
    error = sd / math.sqrt(n)
    if error == 0:  # no spread, no t
        interval, p_value = (mean, mean), 1.0 if mean == 0 else 0.0
    else:
        test = stats.ttest_1samp(differences, 0.0)
        low, high = test.confidence_interval(CONFIDENCE)
        interval, p_value = (float(low), float(high)), float(test.pvalue)
    verdict = _verdict(n, mean, error, interval) if learned else NOTHING
    return Paired(seeds, differences, mean, sd, error, interval, p_value, FACTOR * error, verdict)


def false_claim_rate(n: int) -> float:
    """How often the rule claims a difference where there is none, for normal differences over n >= 2 seeds."""
    return float(2 * stats.t.sf(FACTOR, n - 1))


def _too_few(n: int) -> str:
    return f"not enough seeds ({n} of {MIN_SEEDS})"


def _verdict(n: int, mean: float, error: float, interval: tuple[float, float]) -> str:
    """The rule in words; a claim that the t interval does not support says so."""
    if n < MIN_SEEDS:
        return _too_few(n)
    if not abs(mean) > FACTOR * error:
        return "no difference shown"
    side = "higher" if mean > 0 else "lower"
    supported = interval[0] > 0 or interval[1] < 0
    return side if supported else f"{side} by the rule, but the 95 % interval includes 0"

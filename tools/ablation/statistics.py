# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, differences seed by seed, and what may be claimed from them (docs/method.md 7.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MIN_SEEDS = 3
"""Pairs below which no verdict is given."""
FACTOR = 2.0
"""A difference is claimed where it exceeds this many standard errors."""
CONFIDENCE = 0.95
NOTHING = "nothing learned"
LEARNED = 0.001
"""Value of a metric (0.1 AP) below which nothing was learned that could be compared."""


@dataclass(frozen=True)
class Summary:
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


def summarize(values: Sequence[float]) -> Summary:
    """Mean and standard deviation (n - 1) of at least one value."""
    if not values:
        raise ValueError("no value to average: give at least one")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Summary(len(values), mean, None)
    variance = math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1)
    return Summary(len(values), mean, math.sqrt(variance))


def compare(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """Paired differences ``variant - baseline`` over the seeds that both have; None where they share none.

    Args:
        variant, baseline: value of the metric by seed.
    """
    seeds = tuple(sorted(variant.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = tuple(variant[seed] - baseline[seed] for seed in seeds)
    nothing = all(max(abs(variant[seed]), abs(baseline[seed])) < LEARNED for seed in seeds)
    mean, sd = (own := summarize(differences)).mean, own.sd
    if sd is None:
        return Paired(seeds, differences, mean, None, None, None, None, None, NOTHING if nothing else _too_few(1))
    error = sd / math.sqrt(own.n)
    reach = t_quantile(own.n - 1) * error
    interval = (mean - reach, mean + reach)
    verdict = NOTHING if nothing else _verdict(own.n, mean, error, interval)
    smallest = FACTOR * error
    return Paired(seeds, differences, mean, sd, error, interval, _p_value(mean, error, own.n), smallest, verdict)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """How many standard errors the two-sided interval reaches, for 1 or more degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, degrees))


def false_claim_rate(n: int) -> float:
    """How often the rule claims a difference where there is none, for normal differences over n >= 2 seeds."""
    from scipy.stats import t

    return float(2 * t.sf(FACTOR, n - 1))


def _p_value(mean: float, error: float, n: int) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, n - 1))


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which values of an ablation are compared with which."""

from __future__ import annotations

from .results import ABSENT, Results
from .statistics import Paired, compare


def values_of(results: Results, data: str, variant: str, metric: str) -> dict[int, float]:
    """A metric by seed, where there was something to measure."""
    found = {seed: one.stats[metric] for seed, one in results.of(data, variant).items()}
    return {seed: value for seed, value in found.items() if value != ABSENT}


def paired(results: Results, data: str, variant: str, metric: str) -> Paired | None:
    """Comparison with the baseline; None for the baseline itself and where no seed is common."""
    if variant == results.matrix.baseline:
        return None
    own, base = (values_of(results, data, one, metric) for one in (variant, results.matrix.baseline))
    return compare(own, base)


def paired_first_layer(results: Results, data: str, variant: str) -> Paired | None:
    """Comparison of the first layer's boxes with the baseline's."""
    if variant == results.matrix.baseline:
        return None
    metric = results.matrix.metrics[0]
    own, base = (
        {seed: one.layers.stats[0][metric] for seed, one in results.of(data, name).items() if one.layers is not None}
        for name in (variant, results.matrix.baseline)
    )
    return compare(own, base)

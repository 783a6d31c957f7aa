# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every number worked out by hand."""

import math

import pytest

from isdfine.ablation.statistics import compare, false_claim_rate, summarize


def test_mean_and_standard_deviation() -> None:
    summary = summarize([1.0, 2.0, 6.0])  # deviations -2, -1, 3: squares 14, / 2 = 7
    assert summary.n == 3
    assert summary.mean == pytest.approx(3.0)
    assert summary.sd == pytest.approx(math.sqrt(7))
    assert summarize([4.0]).sd is None
    with pytest.raises(ValueError, match="no value to average"):
        summarize([])


def test_differences_are_paired_by_seed() -> None:
    variant = {0: 0.50, 1: 0.40, 2: 0.60, 7: 0.99}
    baseline = {2: 0.57, 1: 0.38, 0: 0.49, 9: 0.01}
    comparison = compare(variant, baseline)  # differences 1, 2, 3 points: mean 2, sd 1
    assert comparison is not None
    assert comparison.seeds == (0, 1, 2)
    assert comparison.differences == pytest.approx((0.01, 0.02, 0.03))
    assert comparison.mean == pytest.approx(0.02)
    assert comparison.sd == pytest.approx(0.01)
    assert comparison.standard_error == pytest.approx(0.01 / math.sqrt(3))
    assert comparison.smallest == pytest.approx(0.02 / math.sqrt(3))
    # t of 97.5 % with 2 degrees is 4.3027 (tables); mean / error = 2 sqrt(3) = 3.4641
    assert comparison.interval == pytest.approx((0.02 - 4.30265 * 0.0057735, 0.02 + 4.30265 * 0.0057735), abs=1e-7)
    # with 2 degrees the two-sided tail is 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14)
    assert comparison.p_value == pytest.approx(1 - math.sqrt(12 / 14))
    assert comparison.verdict == "higher by the rule, but the 95 % interval includes 0"


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.010, 0.011, 0.012), "higher"),  # 19 standard errors
        ((-0.010, -0.011, -0.012), "lower"),
        ((-0.01, -0.02, -0.03), "lower by the rule, but the 95 % interval includes 0"),
        ((0.01, 0.00, 0.02), "no difference shown"),  # mean 1, error 0.577: 1.73 of them
        ((0.00, 0.00, 0.00), "nothing learned"),  # on both sides
        ((0.01, -0.01, 0.00), "no difference shown"),
        ((0.25, 0.25, 0.25), "higher"),  # no spread at all
        ((0.50, 0.51), "not enough seeds (2 of 3)"),
        ((0.50,), "not enough seeds (1 of 3)"),
    ],
)
def test_a_difference_is_claimed_only_beyond_two_standard_errors(differences: tuple[float, ...], verdict: str) -> None:
    comparison = compare(dict(enumerate(differences)), dict.fromkeys(range(5), 0.0))
    assert comparison is not None
    assert comparison.verdict == verdict


def test_exactly_two_standard_errors_are_not_claimed() -> None:
    comparison = compare({0: 0.0, 1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 0.0}, dict.fromkeys(range(6), 0.0))
    assert comparison is not None
    assert comparison.standard_error is not None
    shift = 2 * comparison.standard_error - comparison.mean
    below, above = (
        compare(
            {seed: difference + shift + extra for seed, difference in enumerate(comparison.differences)},
            dict.fromkeys(range(6), 0.0),
        )
        for extra in (-1e-9, 1e-9)
    )
    assert below is not None
    assert above is not None
    assert (below.verdict, above.verdict[:6]) == ("no difference shown", "higher")


def test_no_common_seed_is_no_comparison() -> None:
    assert compare({0: 0.5}, {1: 0.5}) is None
    comparison = compare({0: 0.5, 1: 0.4}, {1: 0.5})
    assert comparison is not None
    assert (comparison.mean, comparison.sd, comparison.interval, comparison.p_value) == (
        pytest.approx(-0.1),
        None,
        None,
        None,
    )


def test_how_generous_the_rule_is() -> None:
    assert false_claim_rate(3) == pytest.approx(1 - 2 / math.sqrt(6))  # 18.35 % with 2 degrees
    two_pairs = compare({0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.4})  # mean 15, standard error 5 points
    assert two_pairs is not None
    assert two_pairs.interval is not None
    assert two_pairs.interval[1] == pytest.approx(0.15 + 0.05 * math.tan(0.475 * math.pi))  # t with 1 degree


def test_runs_that_learned_nothing_are_not_compared() -> None:
    zeros = {0: 0.0, 1: 0.0, 2: 0.0004}
    for seeds in (zeros, {0: 0.0}):
        comparison = compare(seeds, zeros)
        assert comparison is not None
        assert comparison.verdict == "nothing learned"
    for learned in ({0: 0.0, 1: 0.0, 2: 0.2}, {0: 0.1, 1: 0.1, 2: 0.1}):
        comparison = compare(learned, learned | {0: 0.0})
        assert comparison is not None
        assert comparison.verdict == "no difference shown"

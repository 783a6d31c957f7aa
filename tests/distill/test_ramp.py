# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from isdfine.distill.context import Ramp


@pytest.mark.parametrize(
    ("span", "factors"),
    [
        ((0.0, 0.0), {0.0: 1.0, 0.5: 1.0, 1.0: 1.0}),
        ((0.1, 0.2), {0.0: 0.0, 0.1: 0.0, 0.125: 0.25, 0.15: 0.5, 0.2: 1.0, 1.0: 1.0}),
        ((0.0, 1.0), {0.0: 0.0, 0.25: 0.25, 1.0: 1.0}),
        ((0.5, 0.5), {0.499: 0.0, 0.5: 1.0}),
    ],
)
def test_factor_over_the_run(span: tuple[float, float], factors: dict[float, float]) -> None:
    ramp = Ramp(span)
    for progress, factor in factors.items():
        assert ramp(progress) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("span", [(0.2, 0.1), (-0.1, 0.5), (0.0, 1.1), (0.5,), (float("nan"), 1.0)])
def test_what_is_no_part_of_a_run_is_refused(span: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"X.ramp is \[.*\]: give \[start, end\] as shares of the run"):
        Ramp(span, "X.ramp")

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The instrument behind the memory figures of training steps."""

import pytest
import torch

from isdfine.solver.probe import peak_of_allocations


def test_the_peak_counts_what_is_alive_at_once() -> None:
    def three_at_most() -> None:
        first, second = torch.ones(1000, 250), torch.ones(1000, 250)
        del first
        third = torch.ones(1000, 250)
        assert (second + third).sum() > 0

    assert peak_of_allocations(three_at_most) == pytest.approx(3_000_000, rel=0.01)
    assert peak_of_allocations(lambda: torch.ones(500, 500)) == pytest.approx(1_000_000, rel=0.01)


def test_the_peak_holds_what_backward_needs() -> None:
    layer, rows = torch.nn.Linear(200, 200, bias=False), torch.ones(1000, 200)

    def step() -> None:
        (layer(rows).exp().sum()).backward()
        layer.zero_grad()

    # exp's result is kept until its gradient, which has the same size, is there
    assert peak_of_allocations(step) == pytest.approx(2 * 800_000, rel=0.01)

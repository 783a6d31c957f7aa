# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from isdfine.nn.position import position_table


def test_columns_are_the_slow_index() -> None:
    height, width, dim = 2, 3, 8
    table = position_table(height, width, dim)
    assert table.shape == (1, 6, 8)
    for x in range(width):
        for y in range(height):
            slow, fast = 1.0, 10000 ** (-1 / 2)
            expected = [f(v * w) for v in (x, y) for f in (math.sin, math.cos) for w in (slow, fast)]
            assert table[0, x * height + y].tolist() == pytest.approx(expected, abs=1e-6)


def test_temperature_sets_the_wave_lengths() -> None:
    assert position_table(1, 2, 8, temperature=16.0)[0, 1, 1].item() == pytest.approx(math.sin(0.25))


@pytest.mark.parametrize("dim", [0, 6])
def test_channels_come_in_fours(dim: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 4 channels but got {dim}: change hidden_dim"):
        position_table(2, 2, dim)


def test_grid_is_the_official_table_on_squares_and_independent_of_the_map() -> None:
    assert torch.equal(position_table(5, 5, 8, layout="grid"), position_table(5, 5, 8))
    large = position_table(7, 9, 8, temperature=20.0, layout="grid").view(7, 9, 8)
    assert torch.equal(position_table(4, 6, 8, temperature=20.0, layout="grid").view(4, 6, 8), large[:4, :6])
    assert not torch.equal(position_table(4, 6, 8, layout="grid"), position_table(4, 6, 8))


def test_grid_puts_rows_first() -> None:
    row, column = 1, 2
    slow, fast = 1.0, 10000 ** (-1 / 2)
    expected = [f(v * w) for v in (row, column) for f in (math.sin, math.cos) for w in (slow, fast)]
    assert position_table(2, 3, 8, layout="grid")[0, row * 3 + column].tolist() == pytest.approx(expected, abs=1e-6)

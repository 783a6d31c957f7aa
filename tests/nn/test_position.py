# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from golden_cases import load_golden
from isdfine.nn.padding import Padding
from isdfine.nn.position import box_sines, map_sines, position_table


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


@pytest.mark.parametrize(
    ("family", "name", "temperature", "offset"),
    [
        ("dab", "PositionEmbeddingSine_T20", 20.0, 0.0),
        ("dab", "dab_deformable_PositionEmbeddingSine_T10000", 10000.0, -0.5),
        ("deformable", "PositionEmbeddingSine_T10000", 10000.0, -0.5),
        ("dino", "PositionEmbeddingSineHW_T20", 20.0, 0.0),
        ("dino", "PositionEmbeddingSineHW_T10000", 10000.0, 0.0),
    ],
)
def test_sines_of_maps_are_the_official_ones(family: str, name: str, temperature: float, offset: float) -> None:
    arrays, _ = load_golden(f"detr/units_{family}.npz")
    mask = torch.from_numpy(arrays["pos/mask"])  # (B, H, W)
    inside = torch.stack(((~mask[:, :, 0]).sum(1), (~mask[:, 0]).sum(1)), dim=1)
    padding = Padding(inside, (mask.shape[1], mask.shape[2]))
    sines = map_sines(padding.canvas, 64, offset=offset, temperature=temperature, padding=padding)
    wanted = torch.from_numpy(arrays[f"pos/{name}_norm"]).flatten(2).mT
    torch.testing.assert_close(sines, wanted, atol=2e-5, rtol=1e-4)


def test_sines_of_maps_say_nothing_of_the_canvas() -> None:
    sizes = torch.tensor([[32, 64]])
    tight, wide = (map_sines(size, 8, padding=Padding(sizes, tuple(8 * s for s in size))) for size in ((4, 8), (6, 9)))
    assert torch.equal(wide.view(6, 9, 8)[:4, :8], tight.view(4, 8, 8))
    assert torch.equal(map_sines((4, 8), 8), tight)
    with pytest.raises(ValueError, match="multiple of 4 channels but got 6"):
        map_sines((4, 8), 6)


def test_sines_of_boxes_are_the_official_ones() -> None:
    arrays, _ = load_golden("detr/units_dab.npz")
    for numbers in (2, 4):
        boxes, wanted = (torch.from_numpy(arrays[f"query_sine/{name}{numbers}"]) for name in ("in", "out"))
        torch.testing.assert_close(box_sines(boxes, 128), wanted, atol=2e-5, rtol=1e-4)
    arrays, _ = load_golden("detr/units_deformable.npz")
    boxes, wanted = (torch.from_numpy(arrays[f"proposal_pos_embed/{name}"]) for name in ("in_unact", "out"))
    torch.testing.assert_close(box_sines(boxes.sigmoid(), 128, order="xywh"), wanted, atol=2e-5, rtol=1e-4)

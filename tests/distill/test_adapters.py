# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from isdfine.distill.adapters import (
    layers_to_teach,
    level_pairs,
    level_strides,
    map_adapter,
    resized,
    token_adapter,
)


def test_equal_widths_need_no_adapter() -> None:
    maps = torch.rand(2, 4, 3, 3)
    assert map_adapter(4, 4)(maps) is maps
    assert map_adapter(4, 4, "none")(maps) is maps
    assert token_adapter(4, 4)(maps) is maps


def test_other_widths_get_a_layer_with_a_bias() -> None:
    conv, linear = map_adapter(4, 6), token_adapter(4, 6)
    assert conv(torch.rand(2, 4, 3, 5)).shape == (2, 6, 3, 5)
    assert linear(torch.rand(2, 7, 4)).shape == (2, 7, 6)
    for layer in (conv, linear):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.bias is not None
        assert not layer.bias.any()
    assert isinstance(map_adapter(4, 4, "always"), nn.Conv2d)
    assert isinstance(token_adapter(4, 4, "always"), nn.Linear)
    normed = token_adapter(4, 6, norm=True)(torch.rand(2, 7, 4))
    assert normed.mean(-1).abs().max() < 1e-6


def test_adapters_begin_as_kaiming_says() -> None:
    torch.manual_seed(0)
    for layer in (map_adapter(256, 512), token_adapter(256, 512)):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.weight.detach().std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)


def test_maps_take_the_size_of_the_teachers() -> None:
    maps = torch.arange(4.0).view(1, 1, 1, 4)
    assert resized(maps, (1, 4)) is maps
    assert resized(maps, (1, 2)).flatten().tolist() == [0.5, 2.5]  # corners are not aligned
    assert resized(maps, (1, 8)).flatten().tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


def test_levels_pair_by_stride() -> None:
    assert level_pairs([8, 16, 32], [8, 16, 32]) == [(0, 0), (1, 1), (2, 2)]
    assert level_pairs([8, 16, 32], [16, 32, 64]) == [(1, 0), (2, 1)]
    assert level_pairs([8, 16, 32], [16, 32, 64], {2: 0, 0: 2}) == [(0, 2), (2, 0)]
    assert level_strides([8, 16, 32], 4) == [8, 16, 32, 64]
    assert level_strides([8, 16, 32], 3) == [8, 16, 32]
    assert level_strides([32], 1) == [32]


@pytest.mark.parametrize(
    ("student", "teacher", "pairing", "expected"),
    [
        (6, 6, "uniform", [1, 2, 3, 4, 5, 6]),
        (3, 6, "uniform", [2, 4, 6]),
        (6, 3, "uniform", [1, 1, 2, 2, 3, 3]),
        (4, 6, "uniform", [2, 3, 5, 6]),
        (6, 1, "uniform", [1, 1, 1, 1, 1, 1]),
        (3, 6, "final_to_all", [6, 6, 6]),
    ],
)
def test_every_layer_has_a_teacher(student: int, teacher: int, pairing: str, expected: list[int]) -> None:
    pairs = layers_to_teach(student, teacher, pairing)  # type: ignore[arg-type]
    assert pairs == [(layer, number - 1) for layer, number in enumerate(expected)]


def test_only_the_last_layers() -> None:
    assert layers_to_teach(3, 6, "last_only") == [(2, 5)]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="adapter: none, but the student has 4 channels and the teacher 6"):
        map_adapter(4, 6, "none")
    with pytest.raises(ValueError, match="adapter: 'maybe' is none of"):
        token_adapter(4, 4, "maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no level in common \(strides \[8\] and \[16\]\): pair them with level_map"):
        level_pairs([8], [16])
    with pytest.raises(ValueError, match="level_map names level 1 of the teacher, which has levels 0 to 0"):
        level_pairs([8], [16], {0: 1})
    with pytest.raises(ValueError, match="layers: 'some' is none of"):
        layers_to_teach(2, 2, "some")  # type: ignore[arg-type]

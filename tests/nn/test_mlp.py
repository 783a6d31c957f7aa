# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from isdfine.nn.mlp import MLP


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_widths_and_names(num_layers: int) -> None:
    mlp = MLP(4, 6, 5, num_layers)
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [
        (out, into) for into, out in zip([4, *[6] * (num_layers - 1)], [*[6] * (num_layers - 1), 5])
    ]
    assert mlp(torch.zeros(2, 3, 4)).shape == (2, 3, 5)


def test_relu_between_layers_only() -> None:
    mlp = MLP(1, 1, 1, 2)
    for layer, weight in zip(mlp.layers, (1.0, -2.0)):
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.zeros_(layer.bias)
    assert mlp(torch.tensor([[3.0], [-3.0]])).flatten().tolist() == [-6.0, 0.0]


def test_starts_at_zero_but_learns() -> None:
    mlp = MLP(3, 8, 2, 3).start_at_zero()
    out = mlp(torch.randn(5, 3))
    assert not out.any()
    out.sum().backward()
    assert mlp.layers[-1].weight.grad.any()

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor, nn

from isdfine.nn.cpu import affine, trains_on_cpu

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("upstream_layout", LAYOUTS)
def test_affine_and_its_gradients(layout: torch.memory_format, upstream_layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
    upstream = torch.randn(2, 3, 4, 5).contiguous(memory_format=upstream_layout)
    gradients: list[tuple[Tensor, ...]] = []
    for form in (affine, lambda one, scale, bias: scale * one + bias):
        leaves = [tensor.clone().requires_grad_() for tensor in (maps, torch.tensor([1.5]), torch.tensor([-0.5]))]
        found = form(*leaves)
        assert found.is_contiguous(memory_format=layout)
        torch.testing.assert_close(found, 1.5 * maps - 0.5)
        gradients.append(torch.autograd.grad(found, leaves, upstream))
    for gradient, other in zip(*gradients):
        torch.testing.assert_close(gradient, other)


def test_affine_with_resting_parts() -> None:
    maps, scale, bias = torch.randn(1, 2, 3, 3), torch.ones(1), torch.zeros(1, requires_grad=True)
    affine(maps, scale, bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.item() == 18


def test_where_these_forms_are_used() -> None:
    module, values = nn.Linear(1, 1), torch.ones(1)
    assert trains_on_cpu(module, values)
    assert not trains_on_cpu(module, values.to("meta"))
    assert not trains_on_cpu(nn.Linear(1, 1).eval(), values)
    with torch.no_grad():
        assert not trains_on_cpu(module, values)

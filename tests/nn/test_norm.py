# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from isdfine.nn.norm import FrozenBatchNorm2d


@pytest.fixture
def trained() -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 6) * 2 + 1)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return norm


def test_a_trained_norm_loads_without_its_counter(trained: nn.BatchNorm2d) -> None:
    state = trained.state_dict()
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(state)
    assert "num_batches_tracked" in state  # the caller's dictionary is left alone
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    maps = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(frozen(maps), trained.eval()(maps))


def test_a_copy_loads_a_trained_norm_too(trained: nn.BatchNorm2d) -> None:
    nn.Sequential(copy.deepcopy(FrozenBatchNorm2d(3))).load_state_dict(
        {f"0.{k}": v for k, v in trained.state_dict().items()}
    )


def test_training_changes_nothing(trained: nn.BatchNorm2d) -> None:
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(trained.state_dict())
    before = copy.deepcopy(frozen.state_dict())
    maps = torch.randn(2, 3, 4, 5, requires_grad=True)
    frozen.train()(maps).sum().backward()
    assert not list(frozen.parameters())
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())
    scale = frozen.weight * (frozen.running_var + 1e-5).rsqrt()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad, scale[:, None, None].expand(2, 3, 4, 5))


def test_the_formula(trained: nn.BatchNorm2d) -> None:
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(trained.state_dict())
    maps = torch.randn(2, 3, 4, 5)
    s = frozen.weight * (frozen.running_var + 1e-5).rsqrt()
    expected = maps * s[:, None, None] + (frozen.bias - frozen.running_mean * s)[:, None, None]
    torch.testing.assert_close(frozen(maps), expected)
    assert repr(frozen) == "FrozenBatchNorm2d(3, eps=1e-05)"


def test_training_on_a_cpu_gives_the_same_gradient_and_keeps_no_maps() -> None:
    torch.manual_seed(0)
    frozen = FrozenBatchNorm2d(3)
    for constants in (frozen.weight, frozen.bias, frozen.running_mean):
        constants.normal_()
    frozen.running_var.uniform_(0.5, 2)
    upstream = torch.randn(2, 3, 5, 4)
    results, kept = [], []
    for module in (frozen.train(), copy.deepcopy(frozen).eval()):
        maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one, saved=saved: saved.append(one.numel()) or one, id):
            normed = module(maps)
        kept.append(sum(saved))
        results.append((normed, torch.autograd.grad(module(maps), maps, upstream)[0]))
    for got, wanted in zip(*results):
        assert torch.equal(got, wanted)
    assert kept[0] == 2 * 3  # variance and weight
    assert kept[1] >= upstream.numel()

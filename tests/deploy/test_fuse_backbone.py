# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn

from golden_cases import fill
from isdfine.deploy.fuse import BoundedConv, fuse
from isdfine.nn.backbone.hgnetv2 import ConvBlock, HGNetv2, LearnableAffine, Style
from isdfine.nn.norm import FrozenBatchNorm2d
from isdfine.nn.padding import Padding


class Net(nn.Module):
    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: torch.Tensor, padding: Padding | None = None) -> torch.Tensor:
        found: torch.Tensor = self.block(maps, padding)
        return found


def network(*, use_lab: bool = True, act: bool = True, frozen: bool = False, groups: int = 1) -> Net:
    style = Style(FrozenBatchNorm2d if frozen else nn.BatchNorm2d, use_lab)
    return fill.fill_module(Net(ConvBlock(4, 6 if groups == 1 else 4, 3, style, act=act, groups=groups))).eval()


@pytest.mark.parametrize("scale", [1.3, -0.7, 0.0])
@pytest.mark.parametrize("shift", [0.4, -0.4])
@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"groups": 4}])
def test_an_affine_becomes_a_bound(scale: float, shift: float, options: dict[str, int]) -> None:
    net = network(**options)
    with torch.no_grad():
        net.block.lab.scale.fill_(scale)
        net.block.lab.bias.fill_(shift)
    folded = fuse(net, backbone=True)
    maps = 3 * torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = net(maps)
    bound = expected.min() if scale >= 0 else expected.max()
    assert torch.isclose(bound, torch.tensor(shift))  # the ReLU acts on these maps
    torch.testing.assert_close(folded(maps), expected, atol=1e-5, rtol=1e-5)
    assert [type(module) for module in folded.modules()] == [Net, BoundedConv, nn.Conv2d]


@pytest.mark.parametrize(("act", "bounds"), [(True, (0.0, None)), (False, (None, None))])
def test_blocks_without_an_affine(act: bool, bounds: tuple[float | None, float | None]) -> None:
    net = network(use_lab=False, act=act)
    folded = fuse(net, backbone=True)
    assert isinstance(folded.block, BoundedConv)
    assert (folded.block.low, folded.block.high) == bounds
    maps = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(folded(maps), net(maps), atol=1e-5, rtol=1e-5)
    assert f"low={bounds[0]}" in repr(folded)


def test_padding_is_cleared_before_it_is_read() -> None:
    net = network()
    maps = torch.randn(1, 4, 8, 8)
    padding = Padding(torch.tensor([[4, 6]]), (8, 8))
    torch.testing.assert_close(fuse(net, backbone=True)(maps, padding), net(maps, padding), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(net(maps, padding), net(maps))


@pytest.mark.parametrize("name", ["B0", "B5"])  # with and without learned affines
def test_backbones_answer_as_before_and_are_left_alone(name: str) -> None:
    backbone = fill.fill_module(HGNetv2(name, return_idx=[1, 2, 3])).eval()
    before = copy.deepcopy(backbone.state_dict())
    holder = nn.Sequential(backbone)
    folded = fuse(holder, backbone=True)
    images = torch.rand(1, 3, 64, 96)
    for found, expected in zip(folded(images), backbone(images), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)
    assert not any(isinstance(module, LearnableAffine | ConvBlock) for module in folded.modules())
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert list(fuse(holder).state_dict()) == list(holder.state_dict())  # the deployed checkpoint keeps its keys
    again = fuse(folded, backbone=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), folded.parameters(), strict=True))

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from isdfine.nn.conv import ConvNormAct, RepVGG


def test_size_is_kept_or_divided_by_the_stride() -> None:
    maps = torch.randn(2, 4, 9, 6)
    assert ConvNormAct(4, 8, 3)(maps).shape == (2, 8, 9, 6)
    assert ConvNormAct(4, 4, 3, stride=2, groups=4)(maps).shape == (2, 4, 5, 3)


def test_the_convolution_has_no_bias_and_the_activation_acts() -> None:
    block = ConvNormAct(2, 2, act="relu")
    assert list(dict(block.named_parameters())) == ["conv.weight", "norm.weight", "norm.bias"]
    assert block(torch.randn(2, 2, 4, 4)).min() >= 0


def test_rep_vgg_is_the_activated_sum_of_its_branches() -> None:
    block = RepVGG(4).eval()
    maps = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(block(maps), nn.functional.silu(block.conv1(maps) + block.conv2(maps)))

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from golden_cases import fill
from isdfine.deploy.fuse import fuse
from isdfine.nn.conv import AggregationBlock, CSPBlock, DownSample
from isdfine.nn.padding import Padding


def test_csp_adds_its_branches() -> None:
    block = CSPBlock(4, 6, 2).eval()
    maps = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(block(maps), block.bottlenecks(block.conv1(maps)) + block.conv2(maps))
    assert CSPBlock(4, 6, 0)(torch.randn(2, 4, 5, 6)).shape == (2, 6, 5, 6)
    assert not [key for key in block.state_dict() if key.startswith("conv3")]


def test_a_csp_of_another_width_ends_with_a_convolution() -> None:
    block = CSPBlock(4, 6, 1, hidden_channels=3).eval()
    maps = torch.randn(1, 4, 5, 6)
    summed = block.bottlenecks(block.conv1(maps)) + block.conv2(maps)
    assert summed.shape == (1, 3, 5, 6)
    torch.testing.assert_close(block(maps), block.conv3(summed))


def test_aggregation_reads_both_halves_and_both_stages() -> None:
    block = AggregationBlock(8, 4, 6, 1).eval()
    maps = torch.randn(1, 8, 5, 6)
    a, b = block.cv1(maps).split(4, dim=1)
    p = block.cv2(b)
    q = block.cv3(p)
    torch.testing.assert_close(block(maps), block.cv4(torch.cat([a, b, p, q], dim=1)))


def test_down_sample_halves() -> None:
    assert DownSample(4)(torch.randn(2, 4, 6, 8)).shape == (2, 4, 3, 4)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "block", [CSPBlock(8, 4, 2), CSPBlock(8, 4, 1, hidden_channels=6), AggregationBlock(8, 4, 6, 1), DownSample(8)]
)
@pytest.mark.parametrize("size", [(25, 38), (32, 64)])  # the second fills the first canvas
def test_the_content_does_not_see_how_much_padding_there_is(
    block: nn.Module, fused: bool, size: tuple[int, int]
) -> None:
    block = fill.fill_module(block).eval()
    block = fuse(block) if fused else block
    height, width = (-(-side // 4) for side in size)  # cells of stride 4
    content = torch.randn(1, 8, height, width)
    results = [block(content).flatten()]
    for canvas in ((32, 64), (64, 64), (96, 128)):
        maps = torch.randn(1, 8, canvas[0] // 4, canvas[1] // 4)
        maps[:, :, :height, :width] = content
        padding = Padding(torch.tensor([size]), canvas)
        found = block(maps, padding)
        keep = ~padding.mask((found.shape[2], found.shape[3]))
        results.append(found[keep.expand_as(found)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-5)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import torch

from isdfine.nn.csp import AggregationBlock, CSPBlock, DownSample


def test_csp_adds_its_branches() -> None:
    block = CSPBlock(4, 6, 2).eval()
    maps = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(block(maps), block.bottlenecks(block.conv1(maps)) + block.conv2(maps))
    assert CSPBlock(4, 6, 0)(torch.randn(2, 4, 5, 6)).shape == (2, 6, 5, 6)


def test_aggregation_reads_both_halves_and_both_stages() -> None:
    block = AggregationBlock(8, 4, 6, 1).eval()
    maps = torch.randn(1, 8, 5, 6)
    a, b = block.cv1(maps).split(4, dim=1)
    p = block.cv2(b)
    q = block.cv3(p)
    torch.testing.assert_close(block(maps), block.cv4(torch.cat([a, b, p, q], dim=1)))


def test_down_sample_halves() -> None:
    assert DownSample(4)(torch.randn(2, 4, 6, 8)).shape == (2, 4, 3, 4)

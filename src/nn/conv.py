# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution blocks, and those that mix and resize the maps of a pyramid.

The latter take the padding of the batch, if any, and clear what their 3x3 convolutions read (see ``nn.padding``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mlp import activation
from .padding import Padding, cleared


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation. ``deploy.fuse`` turns it into one biased convolution.

    Args:
        in_channels, out_channels: channels of the input and output map.
        kernel_size: odd side of the kernel; the map is padded so that stride 1 keeps its size.
        stride: step of the kernel.
        groups: convolution groups, ``in_channels`` for a depthwise one.
        act: activation name, see ``nn.mlp``; ``identity`` for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: str = "identity",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = activation(act)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        maps = self.act(self.norm(self.conv(maps)))
        return maps


class RepVGG(nn.Module):
    """Sum of a 3x3 and a 1x1 branch, then an activation: trains like two, deploys as one 3x3 convolution.

    Ding et al., RepVGG: Making VGG-style ConvNets Great Again, arXiv:2101.03697, without the identity branch.

    Args:
        channels: channels D of input and output.
        act: activation after the sum.
    """

    def __init__(self, channels: int, *, act: str = "silu") -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = ConvNormAct(channels, channels, 1)
        self.act = activation(act)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, H, W) -> the same."""
        maps = self.act(self.conv1(maps) + self.conv2(maps))
        return maps


class CSPBlock(nn.Module):
    """Cross-stage partial block: one branch through RepVGG blocks, one straight, added (not concatenated).

    Wang et al., CSPNet, arXiv:1911.11929; docs/method.md 2.3.

    Args:
        in_channels, out_channels: channels of the input and output map.
        num_blocks: RepVGG blocks of the deep branch, 0 or more.
        hidden_channels: channels of both branches; None for out_channels. Where the two differ, a last 1x1 convolution
            brings the sum to out_channels.
        act: activation of every part.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        hidden_channels: int | None = None,
        act: str = "silu",
    ) -> None:
        super().__init__()
        hidden = out_channels if hidden_channels is None else hidden_channels
        self.conv1 = ConvNormAct(in_channels, hidden, act=act)
        self.conv2 = ConvNormAct(in_channels, hidden, act=act)
        self.bottlenecks = nn.Sequential(*(RepVGG(hidden, act=act) for _ in range(num_blocks)))
        self.conv3 = nn.Identity() if hidden == out_channels else ConvNormAct(hidden, out_channels, act=act)

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        deep = self.conv1(maps)
        for block in self.bottlenecks:
            deep = block(cleared(deep, padding))
        maps = self.conv3(deep + self.conv2(maps))
        return maps


class AggregationBlock(nn.Module):
    """Layer aggregation (ELAN) over two chained CSP stages; every intermediate result reaches the last convolution.

    Wang et al., YOLOv7 / Designing Network Design Strategies (ELAN), arXiv:2211.04800; docs/method.md 2.3.

    Args:
        in_channels: channels of the input, usually two concatenated maps.
        out_channels: channels D of the output; the first convolution keeps 2 D and splits them.
        stage_channels: channels of the two CSP stages.
        num_blocks: RepVGG blocks in each stage.
        act: activation of every part.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stage_channels: int, num_blocks: int, *, act: str = "silu"
    ) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(in_channels, 2 * out_channels, act=act)
        self.cv2 = self._stage(out_channels, stage_channels, num_blocks, act)
        self.cv3 = self._stage(stage_channels, stage_channels, num_blocks, act)
        self.cv4 = ConvNormAct(2 * (out_channels + stage_channels), out_channels, act=act)

    @staticmethod
    def _stage(in_channels: int, channels: int, num_blocks: int, act: str) -> nn.Sequential:
        return nn.Sequential(
            CSPBlock(in_channels, channels, num_blocks, act=act), ConvNormAct(channels, channels, 3, act=act)
        )

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, D, H, W)."""
        entry = self.cv1(maps)  # (B, 2 D, H, W)
        first = self._run(self.cv2, entry.chunk(2, dim=1)[1], padding)
        second = self._run(self.cv3, first, padding)
        maps = self.cv4(torch.cat([entry, first, second], dim=1))
        return maps

    @staticmethod
    def _run(stage: nn.Module, maps: Tensor, padding: Padding | None) -> Tensor:
        block, conv = stage.children()
        maps = conv(cleared(block(maps, padding), padding))
        return maps


class DownSample(nn.Module):
    """Halve a map: 1x1 convolution over channels, then a depthwise 3x3 with stride 2, neither with an activation.

    Wang et al., YOLOv10, arXiv:2405.14458 (spatial-channel decoupled down-sampling).

    Args:
        channels: channels D of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(channels, channels)
        self.cv2 = ConvNormAct(channels, channels, 3, stride=2, groups=channels)

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, D, H, W) -> (B, D, ceil(H / 2), ceil(W / 2))."""
        maps = self.cv2(cleared(self.cv1(maps), padding))
        return maps

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Convolution with normalisation and activation, and its two-branch form that becomes one convolution on deployment."""

from __future__ import annotations

from torch import Tensor, nn

from .activation import activation


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation. ``deploy.fuse`` turns it into one biased convolution.

    Args:
        in_channels, out_channels: channels of the input and output map.
        kernel_size: odd side of the kernel; the map is padded so that stride 1 keeps its size.
        stride: step of the kernel.
        groups: convolution groups, ``in_channels`` for a depthwise one.
        act: activation name, see ``nn.activation``; ``identity`` for none.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
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
        return self.act(self.norm(self.conv(maps)))


class RepVGG(nn.Module):
    """Sum of a 3x3 and a 1x1 branch, then an activation: trains like two, deploys as one 3x3 convolution.

    Ding et al., RepVGG: Making VGG-style ConvNets Great Again, arXiv:2101.03697, without the identity branch.

    Args:
        channels: channels D of input and output.
        act: activation after the sum.

    Shapes: (B, D, H, W) -> the same.
    """

    def __init__(self, channels: int, *, act: str = "silu") -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = ConvNormAct(channels, channels, 1)
        self.act = activation(act)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, H, W) -> the same."""
        return self.act(self.conv1(maps) + self.conv2(maps))

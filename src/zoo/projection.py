# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The encoder's maps as levels that a decoder reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from ..core.errors import ConfigError, check_counts
from ..nn.padding import Padding, cleared


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels)))


class InputProjection(nn.ModuleList):
    """One step per level: nothing where the width fits, else 1x1 convolution and BN; 3x3 with stride 2 for new levels.

    New levels start from the encoder's last map, then from the level before. (Upstream leaves them at the same size
    when the channels match, docs/method.md 11.2.) Deployment keeps these layers as they are.

    Args:
        channels: of the encoder's maps, fine to coarse.
        dim: channels D of all levels.
        num_levels: levels, at least ``len(channels)``.
        always: project maps whose width fits as well, as RT-DETR does.

    Raises: ValueError if there are fewer levels than maps; ConfigError on maps of other numbers or channels.
    """

    def __init__(self, channels: Sequence[int], dim: int, num_levels: int, *, always: bool = False) -> None:
        if num_levels < len(channels):
            raise ValueError(f"num_levels {num_levels} is less than the {len(channels)} feat_channels {list(channels)}")
        fits = [c == dim and not always for c in channels]
        steps: list[nn.Module] = [nn.Identity() if fit else _conv_norm(c, dim, 1, 1) for c, fit in zip(channels, fits)]
        widths = [channels[-1]] + [dim] * (num_levels - len(channels))
        steps += [_conv_norm(width, dim, 3, 2) for width in widths[: num_levels - len(channels)]]
        super().__init__(steps)
        self.channels = list(channels)

    def forward(self, features: Sequence[Tensor], padding: Padding | None = None) -> list[Tensor]:
        """Maps (B, channels[i], H, W), fine to coarse -> one (B, D, H, W) per level, cleared of padding."""
        if (got := [feature.shape[1] for feature in features]) != self.channels:
            raise ConfigError(
                f"the decoder has feat_channels {self.channels} but got maps of {got} channels: "
                "compare feat_channels with the encoder's hidden_dim and the backbone's return_idx"
            )
        count = len(self.channels)
        maps = [cleared(step(feature), padding) for step, feature in zip(self, features)]
        coarsest = features[-1]
        for step in list(self)[count:]:
            coarsest = cleared(step(cleared(coarsest, padding)), padding)
            maps.append(coarsest)
        return maps


def level_sizes(image_size: Sequence[int], strides: Sequence[int], num_levels: int) -> list[tuple[int, int]]:
    """(height, width) in cells of every level for images of this (height, width); new levels halve, rounding up."""
    sizes = [(image_size[0] // stride, image_size[1] // stride) for stride in strides]
    while len(sizes) < num_levels:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def stored_sizes(
    image_size: Sequence[int] | None, channels: Sequence[int], strides: Sequence[int], num_levels: int
) -> list[tuple[int, int]] | None:
    """:func:`level_sizes` of eval images (height, width), for anchors that are kept; None without a size.

    Raises: ValueError for a size that the strides do not divide, or another number of strides than of channels.
    """
    check_counts(most=64, num_levels=num_levels)
    if image_size is not None and any(side < 1 or side % max(strides) for side in image_size):
        raise ValueError(
            f"eval_spatial_size is {list(image_size)}: give [height, width] in pixels, multiples of {max(strides)}"
        )
    if len(strides) != len(channels):
        raise ValueError(f"feat_strides {list(strides)} and feat_channels {list(channels)} differ in length")
    return None if image_size is None else level_sizes(image_size, strides, num_levels)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""PP-HGNetV2 backbones B0 to B6 (PaddleClas; docs/method.md 2.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.checkpoint.weights import load_weights
from ...core.registry import register
from ..cpu import affine, trains_on_cpu
from ..keys import KeyTable, use_table
from ..norm import FrozenBatchNorm2d
from ..padding import Padding, cleared
from .stages import StagedBackbone, check_stages, imagenet_file

logger = logging.getLogger(__name__)


class Variant(NamedTuple):
    """Sizes of one backbone; the last three have an entry per stage."""

    stem: tuple[int, int]
    """Channels inside the stem and after it."""
    layers: int
    """Layers n of every block."""
    inner: tuple[int, int, int, int]
    """Channels of every layer inside a block."""
    results: tuple[int, int, int, int]
    """Channels of the stage's map, which the next stage reads."""
    blocks: tuple[int, int, int, int]

    @property
    def inputs(self) -> list[int]:
        """Channels that each stage reads."""
        return [self.stem[1], *self.results[:-1]]


VARIANTS = {
    "B0": Variant((16, 16), 3, (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1)),
    "B1": Variant((24, 32), 3, (32, 48, 96, 192), (64, 256, 512, 1024), (1, 1, 2, 1)),
    "B2": Variant((24, 32), 4, (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1)),
    "B3": Variant((24, 32), 5, (32, 64, 128, 256), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "B4": Variant((32, 48), 6, (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1)),
    "B5": Variant((32, 64), 6, (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2)),
    "B6": Variant((48, 96), 6, (96, 192, 384, 768), (192, 512, 1024, 2048), (2, 3, 6, 3)),
}
RTDETR_NAMES = {"L": "B4", "X": "B5", "H": "B6"}
"""RT-DETR's names of the variants; its checkpoints call a few layers otherwise."""
RTDETR_KEYS = KeyTable(
    {
        "aggregation.0": "aggregation_squeeze_conv",
        "aggregation.1": "aggregation_excitation_conv",
        "stem2a.conv": "stem2a.conv.1",  # a padding layer stands before it there
        "stem2b.conv": "stem2b.conv.1",
    }
)
STAGE_STRIDES = (4, 8, 16, 32)
WEIGHTS_URL = "https://github.com/Peterande/storage/releases/download/dfinev1.0"
"""Folder of ``PPHGNetV2_<name>_stage1.pth`` on the net; only messages name it, nothing is downloaded."""
RTDETR_WEIGHTS = ("https://github.com/lyuwenyu/storage/releases/download/v0.1", "ssld_pretrained_from_paddle")
"""The same for RT-DETR's names: folder on the net, and the end of the files' names."""


class LearnableAffine(nn.Module):
    """``scale * x + bias`` with one learned number each for the whole map (LAB)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """Any shape -> the same."""
        if trains_on_cpu(self, maps):
            return affine(maps, self.scale, self.bias)
        return torch.addcmul(self.bias, self.scale, maps)  # one pass: B0 trains 12 % faster on a CPU than with * and +


@dataclass(frozen=True)
class Style:
    """What all convolutions of one backbone have in common."""

    norm: Callable[[int], nn.Module]
    use_lab: bool
    """Put a learned affine after every activation."""


class ConvBlock(nn.Module):
    """Convolution without bias, normalisation and, if ``act``, ReLU and the style's learned affine.

    Args:
        in_channels, out_channels: channels of the input and output map.
        kernel_size: side of the kernel, padded by (kernel_size - 1) // 2.
        style: normalisation and affine shared by the backbone.
        stride, groups: of the convolution.
        act: whether an activation follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style: Style,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = style.norm(out_channels)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()
        self.lab = LearnableAffine() if act and style.use_lab else nn.Identity()

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'); the padding, if any, is cleared before it is read."""
        maps = self.lab(self.act(self.bn(self.conv(cleared(maps, padding)))))
        return maps


class LightConvBlock(nn.Module):
    """1x1 convolution without activation, then a depthwise one with it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, style: Style) -> None:
        super().__init__()
        self.conv1 = ConvBlock(in_channels, out_channels, 1, style, act=False)
        self.conv2 = ConvBlock(out_channels, out_channels, kernel_size, style, groups=out_channels)

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        maps = self.conv2(self.conv1(maps), padding)
        return maps


class Stem(nn.Module):
    """Image to stride 4, through a convolution branch and a pooling branch.

    Zeros are padded on the right and at the bottom after each learned affine, so they are not the channels' zero
    activation; trained weights expect it.

    Args:
        inner_channels, out_channels: channels inside the stem and after it.
        style: see ``Style``.
    """

    def __init__(self, inner_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        self.stem1 = ConvBlock(3, inner_channels, 3, style, stride=2)
        self.stem2a = ConvBlock(inner_channels, inner_channels // 2, 2, style)
        self.stem2b = ConvBlock(inner_channels // 2, inner_channels, 2, style)
        self.stem3 = ConvBlock(2 * inner_channels, inner_channels, 3, style, stride=2)
        self.stem4 = ConvBlock(inner_channels, out_channels, 1, style)
        self.border: nn.Module = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, images: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, out_channels, H / 4, W / 4)."""
        padded = self.border(cleared(self.stem1(images, padding), padding))
        convolved = self.stem2b(F.pad(cleared(self.stem2a(padded), padding), (0, 1, 0, 1)))
        pooled = F.max_pool2d(padded, kernel_size=2, stride=1)
        result: Tensor = self.stem4(self.stem3(torch.cat([pooled, convolved], dim=1), padding))
        return result


class Block(nn.Module):
    """A chain of layers whose input and outputs are all concatenated and squeezed by two 1x1 convolutions.

    Args:
        in_channels, inner, out_channels: channels of the input, of every layer and of the result.
        num_layers: layers n in the chain.
        light: depthwise 5x5 layers instead of full 3x3 ones.
        style: see ``Style``.
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, num_layers: int, light: bool, style: Style
    ) -> None:
        super().__init__()
        layer, kernel_size = (LightConvBlock, 5) if light else (ConvBlock, 3)
        inputs = [in_channels] + [inner] * (num_layers - 1)
        self.layers = nn.ModuleList(layer(channels, inner, kernel_size, style) for channels in inputs)
        self.aggregation = nn.Sequential(
            ConvBlock(in_channels + num_layers * inner, out_channels // 2, 1, style),
            ConvBlock(out_channels // 2, out_channels, 1, style),
        )

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        results = [maps]
        for layer in self.layers:
            results.append(layer(results[-1], padding))
        result: Tensor = self.aggregation(torch.cat(results, dim=1))
        return result


class ResidualHGBlock(Block):
    """The same plus its input; every block of a stage but the first."""

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, D, H, W) -> the same."""
        return super().forward(maps, padding) + maps


class StageBlocks(nn.Module):
    """One stage: halve the map (not in the first stage), then the blocks."""

    def __init__(self, index: int, sizes: Variant, style: Style) -> None:
        super().__init__()
        entry, result = sizes.inputs[index], sizes.results[index]
        self.downsample: nn.Module = nn.Identity()
        if index > 0:
            self.downsample = ConvBlock(entry, entry, 3, style, stride=2, groups=entry, act=False)
        rest: tuple[Any, ...] = (sizes.inner[index], result, sizes.layers, index >= 2, style)
        others = (ResidualHGBlock(result, *rest) for _ in range(sizes.blocks[index] - 1))
        self.blocks = nn.Sequential(Block(entry, *rest), *others)

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'); input and output are cleared of padding."""
        maps = self.downsample(maps)
        for block in self.blocks:
            maps = block(maps, padding)
        return cleared(maps, padding)


@register
class HGNetv2(StagedBackbone):
    """PP-HGNetV2 without its classification head.

    Args:
        name: ``B0`` .. ``B6``, or RT-DETR's ``L``, ``X``, ``H`` (B4, B5, B6 with the names of its checkpoints).
        use_lab: a learned affine after every activation (the small variants are trained with it).
        return_idx: stages to return, ascending, of 0..3 with strides 4, 8, 16, 32.
        freeze_stem_only: what ``freeze_at`` freezes: the stem alone, or the stem and stages 0..freeze_at.
        freeze_at: -1 freezes no parameter; 0..3 freezes as above. Statistics of trainable norms still follow the data.
        freeze_norm: normalisation as constants (buffers) instead of trained batch norm.
        pretrained: load ImageNet weights from ``<local_model_dir>/PPHGNetV2_<name>_stage1.pth``, for RT-DETR's names
            from ``PPHGNetV2_<name>_ssld_pretrained_from_paddle.pth`` there. Nothing is downloaded. ``None``: no; that
            random weights are wanted is not said, so the log points it out.
        local_model_dir: folder of that file.

    Attributes:
        channels: channels of every returned map.
        strides: image pixels per cell of every returned map.
        starts_from: where the weights come from; None = random, and nobody asked for that.

    Raises:
        ValueError: for an unknown name, or stages or freeze_at outside their range.
        CheckpointError: if ``pretrained`` and the file is absent, unreadable or for another backbone.

    Shapes: (B, 3, H, W) in [0, 1] -> one (B, channels[i], H / strides[i], W / strides[i]) per returned stage;
    H and W are multiples of the largest stride.
    """

    stages_are = "stages"

    def __init__(
        self,
        name: str,
        use_lab: bool = False,
        return_idx: Sequence[int] = (1, 2, 3),
        freeze_stem_only: bool = True,
        freeze_at: int = 0,
        freeze_norm: bool = True,
        pretrained: bool | None = None,
        local_model_dir: str = "weight/hgnetv2/",
    ) -> None:
        super().__init__()
        _check_choices(name, return_idx, freeze_at)
        variant = VARIANTS[RTDETR_NAMES.get(name, name)]
        style = Style(FrozenBatchNorm2d if freeze_norm else nn.BatchNorm2d, use_lab)
        self.return_idx = tuple(return_idx)
        self.channels = [variant.results[index] for index in self.return_idx]
        self.strides = [STAGE_STRIDES[index] for index in self.return_idx]
        self.stem = Stem(*variant.stem, style)
        self.stages = nn.ModuleList(StageBlocks(index, variant, style) for index in range(len(STAGE_STRIDES)))
        if name in RTDETR_NAMES:
            use_table(self, RTDETR_KEYS)
        if freeze_at >= 0:
            self.stem.requires_grad_(False)
            if not freeze_stem_only:
                self.stages[: freeze_at + 1].requires_grad_(False)
        self.starts_from = "random weights (pretrained: False)" if pretrained is False else None
        if pretrained:
            url, ending = RTDETR_WEIGHTS if name in RTDETR_NAMES else (WEIGHTS_URL, "stage1")
            path = Path(local_model_dir) / f"PPHGNetV2_{name}_{ending}.pth"
            load_weights(self, imagenet_file("HGNetv2", path, url))
            logger.info("loaded ImageNet weights from %s", path)
            self.starts_from = str(path)

    def forward(self, images: Tensor, padding: Padding | None = None) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the maps of ``return_idx``, finest first; padded cells hold zeros.

        With ``padding`` the features inside the image in eval mode do not depend on how much padding there is.
        """
        return self.chosen_maps(self.stem(images, padding), padding)


def _check_choices(name: str, return_idx: Sequence[int], freeze_at: int) -> None:
    if name not in (names := [*VARIANTS, *RTDETR_NAMES]):
        raise ValueError(f"HGNetv2 has no variant name={name!r}: choose one of {', '.join(names)}")
    stages = range(len(STAGE_STRIDES))
    check_stages("HGNetv2", return_idx, stages)
    if freeze_at not in range(-1, len(STAGE_STRIDES)):
        raise ValueError(f"HGNetv2 freeze_at={freeze_at}: choose -1 (freeze nothing) or one of {list(stages)}")

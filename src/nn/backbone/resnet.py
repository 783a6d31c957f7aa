# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""ResNet and ResNet-vd (arXiv 1512.03385, 1812.01187) under the names of RT-DETR's configs and checkpoints, and
ResNet under torchvision's."""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.checkpoint import read_checkpoint, weights_in
from ...core.checkpoint.weights import load_weights
from ...core.registry import register
from ..conv import ConvNormAct
from ..keys import PartTable, use_table
from ..mlp import activation
from ..norm import freeze_batch_norms
from ..padding import Padding, cleared
from .stages import StagedBackbone, check_stages, imagenet_file

logger = logging.getLogger(__name__)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage by depth; from depth 50 on they are bottlenecks."""
STAGE_STRIDES = (4, 8, 16, 32)
STAGE_WIDTHS = (64, 128, 256, 512)
IMAGENET_FILES = {
    18: "ResNet18_vd_pretrained_from_paddle.pth",
    34: "ResNet34_vd_pretrained_from_paddle.pth",
    50: "ResNet50_vd_ssld_v2_pretrained_from_paddle.pth",
    101: "ResNet101_vd_ssld_pretrained_from_paddle.pth",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS_URL = "https://github.com/lyuwenyu/storage/releases/download/v0.1"
"""Folder of these files on the net; only messages name it, nothing is downloaded."""
Variant = Literal["a", "b", "c", "d"]


class ResidualBlock(nn.Module):
    """``act(branch(maps) + short(maps))``; the branch is two 3x3 convolutions, or a bottleneck.

    Args:
        in_channels: channels of the input map.
        width: channels inside the branch.
        stride: of the whole block.
        first: the shortcut is a 1x1 convolution.
        bottleneck: 1x1, 3x3, 1x1 to 4 * width channels, instead of two 3x3.
        variant: ``a`` has a bottleneck's stride in its first convolution, ``d`` halves the shortcut by averaging.
        act: activation name.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, first: bool, bottleneck: bool, variant: Variant, act: str
    ) -> None:
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        strides = (stride, 1) if variant == "a" else (1, stride)
        if first and not bottleneck:  # here and below: published state dicts have this order
            self.short = _shortcut(in_channels, out_channels, stride, variant)
        if bottleneck:
            self.branch2a = ConvNormAct(in_channels, width, 1, stride=strides[0], act=act)
            self.branch2b = ConvNormAct(width, width, 3, stride=strides[1], act=act)
            self.branch2c = ConvNormAct(width, out_channels, 1)
            if first:
                self.short = _shortcut(in_channels, out_channels, stride, variant)
        else:
            self.branch2a = ConvNormAct(in_channels, width, 3, stride=stride, act=act)
            self.branch2b = ConvNormAct(width, width, 3)
        self.act = activation(act)
        self.first, self.bottleneck = first, bottleneck

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W), cleared of padding -> (B, out, H', W'), cleared as well."""
        branch = self.branch2b(cleared(self.branch2a(maps), padding))
        if self.bottleneck:
            branch = self.branch2c(branch)
        short = self.short(maps) if self.first else maps
        return cleared(self.act(branch + short), padding)


class ResidualStage(nn.Module):
    """The blocks of one stage; the first of them halves the map, except in the first stage.

    Its shortcut is a convolution, or with ``spare`` only where shapes differ.
    """

    def __init__(
        self, index: int, in_channels: int, depth: int, variant: Variant, act: str, *, spare: bool = False
    ) -> None:
        super().__init__()
        bottleneck, width = depth >= 50, STAGE_WIDTHS[index]
        rest = 4 * width if bottleneck else width
        first = index > 0 or in_channels != rest or not spare
        opening = ResidualBlock(in_channels, width, 2 if index > 0 else 1, first, bottleneck, variant, act)
        others = (
            ResidualBlock(rest, width, 1, False, bottleneck, variant, act) for _ in range(BLOCKS[depth][index] - 1)
        )
        self.blocks = nn.ModuleList([opening, *others])

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'); input and output are cleared of padding."""
        for block in self.blocks:
            maps = block(maps, padding)
        return maps


@register
class PResNet(StagedBackbone):
    """ResNet without its classification head, under RT-DETR's name for it.

    Args:
        depth: 18, 34, 50 or 101.
        variant: ``a`` (original), ``b`` (torchvision's: a bottleneck halves the map in its 3x3 convolution), ``c`` (b
            with three 3x3 convolutions as stem), ``d`` (ResNet-vd: c with averaging shortcuts; RT-DETR's).
        num_stages: stages to build, 1..4.
        return_idx: stages to return, ascending, of 0..num_stages - 1 with strides 4, 8, 16, 32.
        act: activation name; padding stays invisible with activations that are never negative, such as ``relu``.
        freeze_at: -1 trains everything, 0 freezes the parameters of the stem, k those of the first k stages too.
            Statistics of trainable norms still follow the data.
        freeze_norm: normalisation as constants (buffers) instead of trained batch norm.
        pretrained: load ImageNet weights of ``<local_model_dir>/<file>`` for variant d (``IMAGENET_FILES``). Nothing is
            downloaded. ``None``: no; that random weights are wanted is not said, so the log points it out.
        local_model_dir: folder of these files.
        weights: another file with weights of this backbone.

    Attributes:
        channels: channels of every returned map.
        strides: image pixels per cell of every returned map.
        starts_from: where the weights come from; None = random, and nobody asked for that.

    Raises:
        ValueError: for an unknown depth or variant, stages or freeze_at outside their range.
        CheckpointError: the file is absent, unreadable or for another backbone.

    Shapes: (B, 3, H, W) in [0, 1], as published without further normalisation -> one (B, channels[i], H / strides[i],
    W / strides[i]) per returned stage; H and W are multiples of the largest stride.
    """

    stages_are = "res_layers"
    spare: ClassVar[bool] = False
    """Whether there are shortcuts without a convolution where stages begin; RT-DETR's have none."""

    def __init__(
        self,
        depth: int,
        variant: Variant = "d",
        num_stages: int = 4,
        return_idx: Sequence[int] = (0, 1, 2, 3),
        act: str = "relu",
        freeze_at: int = -1,
        freeze_norm: bool = True,
        pretrained: bool | None = None,
        *,
        local_model_dir: str = "weight/presnet/",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        _check_choices(type(self).__name__, depth, variant, num_stages, return_idx, freeze_at)
        if pretrained and weights is not None:
            raise ValueError(f"PResNet: pretrained and weights={weights!r} are both set: keep one of the two")
        expansion = 4 if depth >= 50 else 1
        outputs = [expansion * width for width in STAGE_WIDTHS]
        inputs = [STAGE_WIDTHS[0], *outputs]
        self.depth, self.return_idx = depth, tuple(return_idx)
        self.channels = [outputs[index] for index in self.return_idx]
        self.strides = [STAGE_STRIDES[index] for index in self.return_idx]
        self.conv1 = _stem(variant, act)
        self.res_layers = nn.ModuleList(
            ResidualStage(index, inputs[index], depth, variant, act, spare=self.spare) for index in range(num_stages)
        )
        if freeze_at >= 0:
            self.conv1.requires_grad_(False)
            self.res_layers[:freeze_at].requires_grad_(False)
        if freeze_norm:
            freeze_batch_norms(self)
        self.starts_from = "random weights (pretrained: False)" if pretrained is False else None
        file = _weights_file(depth, variant, local_model_dir) if pretrained else weights and Path(weights)
        if file:
            load_weights(self, file)
            logger.info("loaded the weights of PResNet %d from %s", depth, file)
            self.starts_from = str(file)

    def forward(self, images: Tensor, padding: Padding | None = None) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the maps of ``return_idx``, finest first; padded cells hold zeros.

        With ``padding`` the features inside the image in eval mode do not depend on how much padding there is.
        """
        maps = images
        for layer in self.conv1:
            maps = layer(cleared(maps, padding))
        maps = cleared(F.max_pool2d(cleared(maps, padding), kernel_size=3, stride=2, padding=1), padding)
        return self.chosen_maps(maps, padding)

    def remedy_for(self, file: Collection[str]) -> str | None:
        """What to do about a checkpoint, of a detector or a backbone, with a ResNet of another depth."""
        held = depth_of(file)
        if held in (None, self.depth):
            return None
        name = f"{type(self).__name__}.depth"
        return f"it holds a ResNet {held}, but {name} is {self.depth}: set {name} to {held}, or take another file"


@register
class ResNet(PResNet):
    """ResNet as torchvision has it (nearly ``PResNet`` of variant b), with its names in the state dict.

    Args:
        depth: 18, 34, 50 or 101.
        return_idx: stages to return, ascending, of 0..3 with strides 4, 8, 16, 32.
        freeze_at: see :class:`PResNet`; detectors after DETR do not train the stem and the first stage.
        freeze_norm: normalisation as constants (buffers) instead of trained batch norm.
        normalize: subtract ImageNet's mean and divide by its standard deviation; padded pixels are 0 after that. False
            for images that come so.
        weights: file of torchvision's weights, or of timm's for a model of the same form (``resnet50.tv_in1k``); the
            classifier in it is left out.
        pretrained: False says that random weights are meant where there is no file; otherwise the log points it out.

    Attributes, errors and shapes: see :class:`PResNet`.
    """

    spare = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        depth: int,
        return_idx: Sequence[int] = (1, 2, 3),
        freeze_at: int = 1,
        freeze_norm: bool = True,
        *,
        normalize: bool = True,
        weights: str | None = None,
        pretrained: Literal[False] | None = None,
    ) -> None:
        super().__init__(depth, "b", 4, return_idx, "relu", freeze_at, freeze_norm, pretrained)
        use_table(self, torchvision_names(depth))
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        if weights is not None:
            state = weights_in(read_checkpoint(weights), weights)
            load_weights(
                self, {key: value for key, value in state.items() if not key.startswith("fc.")}, source=weights
            )
            logger.info("loaded the weights of ResNet %d from %s", depth, weights)
            self.starts_from = weights

    def forward(self, images: Tensor, padding: Padding | None = None) -> list[Tensor]:
        """See :class:`PResNet`."""
        if self.normalize:
            images = (images - self.mean) / self.std
            images = images if padding is None else padding.clear(images)
        return super().forward(images, padding)


def torchvision_names(depth: int) -> PartTable:
    """torchvision's names of the parts of a ``PResNet`` of variant b, in its order."""
    rows = [("conv1", "conv1.conv1_1.conv"), ("bn1", "conv1.conv1_1.norm")]
    branches = "abc" if depth >= 50 else "ab"
    for stage, block in ((stage, block) for stage, blocks in enumerate(BLOCKS[depth]) for block in range(blocks)):
        theirs, ours = f"layer{stage + 1}.{block}", f"res_layers.{stage}.blocks.{block}"
        for number, branch in enumerate(branches, 1):
            rows += [(f"{theirs}.conv{number}", f"{ours}.branch2{branch}.conv")]
            rows += [(f"{theirs}.bn{number}", f"{ours}.branch2{branch}.norm")]
        rows += [(f"{theirs}.downsample.0", f"{ours}.short.conv"), (f"{theirs}.downsample.1", f"{ours}.short.norm")]
    return PartTable(tuple(rows))


def depth_of(keys: Collection[str]) -> int | None:
    """Depth of the ResNet with tensors of these names, torchvision's or ours, in a detector or alone; None where there
    is none with four stages."""
    names = [match for match in map(_FIRST_OR_THIRD.search, keys) if match is not None]
    stages = Counter(int(match["theirs"] or match["ours"]) for match in names if match["first"])
    blocks = tuple(stages[stage] for stage in sorted(stages))
    has_bottlenecks = any(not match["first"] for match in names)
    return next((depth for depth, counts in BLOCKS.items() if (counts, depth >= 50) == (blocks, has_bottlenecks)), None)


_FIRST_OR_THIRD = re.compile(
    r"(?:^|\.)(?:layer(?P<theirs>\d)|res_layers\.(?P<ours>\d)\.blocks)\.\d+\."
    r"(?:(?P<first>conv1|branch2a\.conv)|conv3|branch2c\.conv)\.weight$"
)
"""Of the first convolution of a block, and of the third, which bottlenecks have."""


def _shortcut(in_channels: int, out_channels: int, stride: int, variant: Variant) -> nn.Module:
    if variant != "d" or stride == 1:
        return ConvNormAct(in_channels, out_channels, 1, stride=stride)
    pool = nn.AvgPool2d(2, 2, ceil_mode=True)
    return nn.Sequential(OrderedDict(pool=pool, conv=ConvNormAct(in_channels, out_channels, 1)))


def _stem(variant: Variant, act: str) -> nn.Sequential:
    """Image to stride 2."""
    width = STAGE_WIDTHS[0]
    widths, kernel_size = ((3, width), 7) if variant in ("a", "b") else ((3, width // 2, width // 2, width), 3)
    convs = [
        ConvNormAct(*pair, kernel_size, stride=1 if index else 2, act=act)
        for index, pair in enumerate(pairwise(widths))
    ]
    return nn.Sequential(OrderedDict((f"conv1_{number}", conv) for number, conv in enumerate(convs, 1)))


def _weights_file(depth: int, variant: Variant, folder: str) -> Path:
    if variant != "d":
        raise ValueError(
            f"PResNet pretrained: ImageNet weights are published for variant d only, not for {variant!r}: set weights "
            "to a file, or take ResNet, which reads torchvision's weights"
        )
    return imagenet_file("PResNet", Path(folder) / IMAGENET_FILES[depth], WEIGHTS_URL)


def _check_choices(
    owner: str, depth: int, variant: str, num_stages: int, return_idx: Sequence[int], freeze_at: int
) -> None:
    if depth not in BLOCKS:
        raise ValueError(f"{owner} depth={depth}: choose one of {', '.join(map(str, BLOCKS))}")
    if variant not in ("a", "b", "c", "d"):
        raise ValueError(f"{owner} variant={variant!r}: choose one of a, b, c, d (d = ResNet-vd)")
    if num_stages not in range(1, 5):
        raise ValueError(f"{owner} num_stages={num_stages}: choose one of 1, 2, 3, 4")
    check_stages(owner, return_idx, range(num_stages))
    if freeze_at not in range(-1, num_stages + 1):
        raise ValueError(
            f"{owner} freeze_at={freeze_at}: choose -1 (freeze nothing), 0 (the stem) or up to {num_stages} "
            "(all stages)"
        )

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Hybrid encoder: attention inside the coarsest map, convolutions across scales."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ConfigError, check_counts, check_positive
from ...core.registry import register
from ...nn.attention import TransformerEncoder, TransformerEncoderLayer
from ...nn.conv import AggregationBlock, ConvNormAct, CSPBlock, DownSample
from ...nn.keys import use_table
from ...nn.padding import Padding, cleared
from ...nn.position import LAYOUTS, position_table
from ..names import FIRST_ENCODER_PROJECTION

ACT = "silu"
"""Of every convolution block: official files carry ``act``, but published models use SiLU whatever it says."""
CHOICES: dict[str, Collection[str]] = {
    "position_layout": LAYOUTS,
    "version": ("v1", "v2"),
    "fusion": ("gelan", "csp"),
    "downsample": ("decoupled", "conv"),
}
"""What some arguments may be."""


@register
class HybridEncoder(nn.Module):
    """Attention-based intra-scale interaction (AIFI), then a top-down and a bottom-up pass over the pyramid.

    Zhao et al., RT-DETR, arXiv:2304.08069; blocks as in D-FINE (docs/method.md 2.2).

    Args:
        in_channels: channels of the backbone's maps, finest first.
        feat_strides: image pixels per cell of these maps; each is twice the one before.
        hidden_dim: channels D of every result, a multiple of 4 and of nhead.
        nhead, dim_feedforward, dropout, enc_act: the attention layers, see ``nn.attention.TransformerEncoderLayer``.
        use_encoder_idx: maps that get attention, as indices into in_channels.
        num_encoder_layers: attention layers per such map; 0 for none.
        pe_temperature: of the position table.
        expansion: width inside a fusion block: of the convolution stages as a fraction of hidden_dim / 2 (``gelan``),
            or of both branches as a fraction of hidden_dim (``csp``).
        depth_mult: RepVGG blocks per stage, in units of 3, rounded half to even.
        act: ``silu`` only. Official files carry this argument but published models use SiLU whatever it says, so
            another value is refused rather than ignored.
        eval_spatial_size: (height, width) in pixels of the usual image; its position tables are kept ready. Any other
            size works too, its tables are made on the fly.
        position_layout: ``official`` is the position table of published weights, which is scrambled on maps that are
            not square and depends on their size. ``grid`` gives every token what ``official`` gives it on a square
            map, whatever the shape: padded batches need it.
        fusion: what joins two levels: ``gelan`` is D-FINE's layer aggregation; ``csp`` RT-DETR's cross-stage partial
            block (docs/method.md 2.3), whose lateral convolutions have an activation.
        downsample: what halves a map: ``decoupled`` is D-FINE's 1x1 and depthwise 3x3 convolution; ``conv`` RT-DETR's
            3x3 convolution with stride 2 and an activation.
        version: how parameters of the first projections are called: ``v1`` as in RT-DETR's first checkpoints
            (``input_proj.0.0``, ``input_proj.0.1``), ``v2`` as in all later ones (``conv``, ``norm``).

    Attributes:
        channels: hidden_dim for every map.
        strides: feat_strides.

    Raises:
        ValueError: for sizes that do not fit each other, at construction and in ``forward``.

    Shapes: maps (B, in_channels[i], H_i, W_i), each half as high and wide as the one before -> (B, D, H_i, W_i).
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        hidden_dim: int = 256,
        nhead: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        enc_act: str = "gelu",
        use_encoder_idx: Sequence[int] = (2,),
        num_encoder_layers: int = 1,
        pe_temperature: float = 10000,
        expansion: float = 1.0,
        depth_mult: float = 1.0,
        act: str = "silu",
        eval_spatial_size: Sequence[int] | None = None,
        position_layout: Literal["official", "grid"] = "official",
        fusion: Literal["gelan", "csp"] = "gelan",
        downsample: Literal["decoupled", "conv"] = "decoupled",
        version: Literal["v1", "v2"] = "v2",
    ) -> None:
        super().__init__()
        _check_arguments(in_channels, feat_strides, use_encoder_idx, act)
        check_counts(hidden_dim=hidden_dim, nhead=nhead, dim_feedforward=dim_feedforward)
        for name, value in {"expansion": expansion, "depth_mult": depth_mult, "pe_temperature": pe_temperature}.items():
            check_positive(name, value)
        check_counts(most=64, **{"3 * depth_mult": round(3 * depth_mult)})
        if num_encoder_layers:
            check_counts(most=64, num_encoder_layers=num_encoder_layers)
        _check_choices(position_layout=position_layout, version=version, fusion=fusion, downsample=downsample)
        self.in_channels = tuple(in_channels)
        self.channels = [hidden_dim] * len(in_channels)
        self.strides = list(feat_strides)
        self.hidden_dim = hidden_dim
        self.pe_temperature = pe_temperature
        self.position_layout = position_layout
        self.attended = tuple(use_encoder_idx) if num_encoder_layers > 0 else ()

        self.input_proj = nn.ModuleList(_projection(channels, hidden_dim) for channels in in_channels)
        if version == "v1":
            for projection in self.input_proj:
                use_table(projection, FIRST_ENCODER_PROJECTION)
        attention = partial(TransformerEncoderLayer, hidden_dim, nhead, dim_feedforward, dropout=dropout, act=enc_act)
        self.encoder = nn.ModuleList(
            TransformerEncoder(attention() for _ in range(num_encoder_layers)) for _ in self.attended
        )
        steps = range(len(in_channels) - 1)
        block = partial(_fusion_block, fusion, hidden_dim, expansion, round(3 * depth_mult))
        lateral_act = ACT if fusion == "csp" else "identity"
        self.lateral_convs = nn.ModuleList(ConvNormAct(hidden_dim, hidden_dim, act=lateral_act) for _ in steps)
        self.fpn_blocks = nn.ModuleList(block() for _ in steps)
        self.downsample_convs = nn.ModuleList(_halving(downsample, hidden_dim) for _ in steps)
        self.pan_blocks = nn.ModuleList(block() for _ in steps)
        self.decoupled = downsample == "decoupled"
        self._keep_position_tables(eval_spatial_size)

    def forward(self, features: Sequence[Tensor], padding: Padding | None = None) -> list[Tensor]:
        """(B, in_channels[i], H_i, W_i) per level, finest first -> (B, D, H_i, W_i) per level.

        With ``padding`` the results inside the image do not depend on how much padding there is; the padded cells
        hold anything.
        """
        self._check_features(features)
        if padding is not None:
            self._check_layout()
        levels = [project(level) for project, level in zip(self.input_proj, features)]
        for level, layers in zip(self.attended, self.encoder):
            levels[level] = self._attend(levels[level], level, layers, padding)

        # Top-down: the lateral result takes the place of the coarse map, the bottom-up pass reads it again.
        for coarse, lateral, fuse in zip(range(len(levels) - 1, 0, -1), self.lateral_convs, self.fpn_blocks):
            levels[coarse] = lateral(levels[coarse])
            enlarged = F.interpolate(levels[coarse], scale_factor=2.0, mode="nearest")
            levels[coarse - 1] = fuse(torch.cat([enlarged, levels[coarse - 1]], dim=1), padding)

        for fine, (step, fuse) in enumerate(zip(self.downsample_convs, self.pan_blocks)):
            (halve,) = step.children() if self.decoupled else (step,)
            halved = halve(levels[fine], padding) if self.decoupled else halve(cleared(levels[fine], padding))
            levels[fine + 1] = fuse(torch.cat([halved, levels[fine + 1]], dim=1), padding)
        return levels

    def _attend(self, feature: Tensor, level: int, layers: nn.Module, padding: Padding | None) -> Tensor:
        height, width = feature.shape[-2:]
        tokens: Tensor = feature.flatten(2).mT  # (B, H*W, D)
        mask = None if padding is None else padding.mask((height, width)).flatten(2)[:, None]  # (B, 1, 1, H*W)
        tokens = layers(tokens, self._positions(level, feature).to(tokens.dtype), mask)
        # Keep the memory layout: a channels-last map in a contiguous network would be converted at every later block.
        layout = torch.channels_last if _is_channels_last(feature) else torch.contiguous_format
        attended: Tensor = tokens.mT.unflatten(2, feature.shape[-2:])  # (B, D, H, W)
        return attended.contiguous(memory_format=layout)

    def _positions(self, level: int, feature: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        if self._table_sizes.get(level) == (height, width):
            return self.get_buffer(f"positions_{level}")
        return self._table(height, width, feature.device)

    def _table(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        layout, temperature = self.position_layout, self.pe_temperature
        return position_table(height, width, self.hidden_dim, layout=layout, temperature=temperature, device=device)

    def _keep_position_tables(self, image_size: Sequence[int] | None) -> None:
        """Buffers outside the state dict: they move with the module, and a checkpoint of another size still fits."""
        self._table_sizes: dict[int, tuple[int, int]] = {}  # level -> (height, width) of its table
        if image_size is None:
            return
        for level in self.attended:
            height, width = (side // self.strides[level] for side in image_size)
            self.register_buffer(f"positions_{level}", self._table(height, width), persistent=False)
            self._table_sizes[level] = (height, width)

    def _check_layout(self) -> None:
        if self.attended and self.position_layout != "grid":
            raise ConfigError(
                f"HybridEncoder has position_layout={self.position_layout!r}, whose table depends on the size of the "
                "padded canvas, so a padded batch would get other predictions than its images alone: "
                "set HybridEncoder.position_layout: grid (it is the same on square maps)"
            )

    def _check_features(self, features: Sequence[Tensor]) -> None:
        got = [level.shape[1] for level in features]
        if got != list(self.in_channels):
            raise ValueError(
                f"HybridEncoder was built for maps with {list(self.in_channels)} channels but got {got}: "
                "make in_channels equal to the backbone's channels (HGNetv2: name and return_idx)"
            )
        sizes = [tuple(level.shape[-2:]) for level in features]
        for fine, coarse in pairwise(sizes):
            if fine != (2 * coarse[0], 2 * coarse[1]):
                raise ValueError(
                    f"HybridEncoder got maps of (height, width) {sizes}, but each must be half of the one before: "
                    f"use images whose height and width are multiples of {self.strides[-1]}"
                )


def _projection(in_channels: int, dim: int) -> nn.Sequential:
    """1x1 convolution and norm. Not a ConvNormAct: published deployed models keep these two apart."""
    conv = nn.Conv2d(in_channels, dim, kernel_size=1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(dim)))


def _check_choices(**arguments: str) -> None:
    for name, value in arguments.items():
        if value not in CHOICES[name]:
            raise ValueError(f"HybridEncoder {name}={value!r}: choose one of {', '.join(CHOICES[name])}")


def _is_channels_last(maps: Tensor) -> bool:
    return maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()


def _check_arguments(
    in_channels: Sequence[int], feat_strides: Sequence[int], use_encoder_idx: Sequence[int], act: str
) -> None:
    channels, strides, levels = list(in_channels), list(feat_strides), range(len(in_channels))
    if not channels or len(channels) != len(strides):
        raise ValueError(f"HybridEncoder needs one stride per map: in_channels={channels}, feat_strides={strides}")
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(
            f"HybridEncoder feat_strides={strides} for in_channels={channels}: each stride must be twice the one before"
        )
    if len(set(use_encoder_idx)) != len(use_encoder_idx) or not set(use_encoder_idx) <= set(levels):
        raise ValueError(
            f"HybridEncoder use_encoder_idx={list(use_encoder_idx)}: choose from {list(levels)}, each once"
        )
    if act != ACT:
        raise ValueError(
            f"HybridEncoder act={act!r}: its convolution blocks always use silu, as published weights do; "
            "write silu or leave it out (enc_act sets the attention layers)"
        )


def _fusion_block(fusion: str, dim: int, expansion: float, num_blocks: int) -> nn.Module:
    """Two maps (B, 2 D, H, W), padding -> (B, D, H, W)."""
    if fusion == "gelan":
        return AggregationBlock(2 * dim, dim, round(expansion * dim // 2), num_blocks, act=ACT)
    return CSPBlock(2 * dim, dim, num_blocks, hidden_channels=int(expansion * dim), act=ACT)


def _halving(downsample: str, dim: int) -> nn.Module:
    """(B, D, H, W) -> (B, D, ceil(H / 2), ceil(W / 2)), with the names of published models."""
    if downsample == "decoupled":
        return nn.Sequential(DownSample(dim))  # one list level more than needed: the checkpoints' keys have it
    return ConvNormAct(dim, dim, 3, stride=2, act=ACT)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Transformer encoders of the DETR family: over one map with dense attention, over several with deformable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.errors import check_counts, check_positive
from ..core.registry import register
from ..nn.attention import TransformerEncoderLayer
from ..nn.keys import leave_out
from ..nn.mlp import MLP
from ..nn.norm import PaddedGroupNorm
from ..nn.padding import Padding, cleared
from ..nn.position import map_sines
from ..nn.sampling import DeformableAttention

_GROUPS = 32
"""Of the norms behind projections, in all published models."""


class ProjectedLevel(nn.Sequential):
    """Convolution and group norm: (B, in_channels, H, W) -> (B, dim, H', W')."""

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int) -> None:
        conv = nn.Conv2d(in_channels, dim, kernel_size, stride, kernel_size // 2)
        _draw(conv)
        nn.init.zeros_(conv.get_parameter("bias"))
        super().__init__(conv, PaddedGroupNorm(_GROUPS, dim))

    def forward(self, maps: Tensor, padding: Padding | None = None) -> Tensor:
        conv, norm = self
        projected: Tensor = norm(conv(cleared(maps, padding)), padding)
        return projected


@register
class DeformableEncoder(nn.Module):
    """Projections of the maps to one width, further levels, and deformable self-attention over all levels.

    Zhu et al., Deformable DETR, arXiv:2010.04159; also of DAB-, DN-Deformable-DETR and DINO.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        feat_strides: image pixels per cell of these maps.
        hidden_dim: channels D of every result, a multiple of 32 and of nhead.
        num_levels: maps of the result; those beyond the backbone's are made of its last one, each with twice the
            stride.
        num_points: samples per head and level.
        nhead, dim_feedforward, dropout, enc_act: the layers, see ``nn.attention.TransformerEncoderLayer``.
        num_encoder_layers: how many there are.
        pe_temperature, pe_offset: of the positions, see :func:`isdfine.nn.position.map_sines`; the original DINO has 20
            and 0.

    Attributes:
        channels: hidden_dim for every map.
        strides: of the results.
        in_strides: feat_strides.

    Raises:
        ValueError: for sizes that do not fit each other, at construction and in ``forward``.

    Shapes: maps (B, in_channels[i], H_i, W_i) -> (B, D, H_i, W_i), num_levels of them.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        hidden_dim: int = 256,
        num_levels: int = 4,
        num_points: int = 4,
        nhead: int = 8,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        enc_act: str = "relu",
        num_encoder_layers: int = 6,
        pe_temperature: float = 10000.0,
        pe_offset: float = -0.5,
    ) -> None:
        super().__init__()
        _check_sizes(type(self).__name__, in_channels, feat_strides, hidden_dim, nhead, dim_feedforward)
        check_counts(most=64, num_levels=num_levels, num_encoder_layers=num_encoder_layers, num_points=num_points)
        check_positive("pe_temperature", pe_temperature)
        further = num_levels - len(in_channels)
        if further < 0:
            raise ValueError(f"num_levels {num_levels} is less than the {len(in_channels)} in_channels {in_channels}")
        if hidden_dim % _GROUPS:
            raise ValueError(f"hidden_dim {hidden_dim} does not split into the {_GROUPS} groups of the norms")
        self.in_channels = tuple(in_channels)
        self.in_strides = list(feat_strides)
        self.channels = [hidden_dim] * num_levels
        self.strides = [*feat_strides, *(feat_strides[-1] * 2**step for step in range(1, further + 1))]
        self.sines = {"temperature": pe_temperature, "offset": pe_offset}
        self.input_proj = nn.ModuleList(ProjectedLevel(channels, hidden_dim, 1, 1) for channels in in_channels)
        for step in range(further):
            self.input_proj.append(ProjectedLevel(hidden_dim if step else in_channels[-1], hidden_dim, 3, 2))
        self.level_embed = nn.Parameter(torch.randn(num_levels, hidden_dim))
        self.layers = nn.ModuleList()
        for _ in range(num_encoder_layers):
            attention = DeformableAttention(hidden_dim, nhead, num_levels, num_points, projections=True)
            sizes = (hidden_dim, nhead, dim_feedforward)
            layer = TransformerEncoderLayer(*sizes, dropout=dropout, act=enc_act, attention=attention)
            _draw(layer.linear1, layer.linear2)
            self.layers.append(layer)
        leave_out(self, "num_points_scale")

    def forward(self, features: Sequence[Tensor], padding: Padding | None = None) -> list[Tensor]:
        """(B, in_channels[i], H_i, W_i) per map, finest first -> (B, D, H_i, W_i) per level; see ``PaddedDETR``."""
        _check_maps(self, features)
        levels = self._levels(features, padding)
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        tokens = torch.cat([level.flatten(2).mT for level in levels], dim=1)  # (B, S, D)
        tokens = self.attend(tokens, self._positions(tokens, sizes, padding), sizes, padding)
        return _as_maps(tokens, sizes)

    def attend(
        self, tokens: Tensor, positions: Tensor, sizes: Sequence[tuple[int, int]], padding: Padding | None = None
    ) -> Tensor:
        """The layers alone: tokens (B, S, D) of levels (height, width) and their positions (1 or B, S, D) -> tokens."""
        references = cell_centres(sizes, padding, tokens.device).expand(tokens.shape[0], -1, -1)
        ratios = None if padding is None else padding.valid_ratios(sizes)
        for layer in self.layers:
            assert isinstance(layer, TransformerEncoderLayer)
            read = layer.self_attn(tokens + positions, references, _as_maps(tokens, sizes), ratios)
            tokens = layer.take_in(tokens, read)
        return tokens

    def _levels(self, features: Sequence[Tensor], padding: Padding | None) -> list[Tensor]:
        """Maps of D channels; those beyond the backbone's are made of its last map, then of each other."""
        count = len(self.in_channels)
        levels = [project(level, padding) for project, level in zip(self.input_proj, features)]
        coarsest = features[-1]
        for project in self.input_proj[count:]:
            coarsest = project(coarsest, padding)
            levels.append(coarsest)
        return levels

    def _positions(self, tokens: Tensor, sizes: Sequence[tuple[int, int]], padding: Padding | None) -> Tensor:
        """(1 or B, S, D) where a token is, and in which level."""
        dim, device = tokens.shape[2], tokens.device
        positions = [
            map_sines(size, dim, **self.sines, padding=padding, device=device) + level
            for size, level in zip(sizes, self.level_embed)
        ]
        return torch.cat(positions, dim=1).to(tokens.dtype)


@register
class DenseEncoder(nn.Module):
    """Projection of one map, and self-attention over its cells; what a cell holds scales its position.

    Liu et al., DAB-DETR, arXiv:2201.12329; also of DN-DETR.

    Args:
        in_channels: channels of the backbone's map, one number in a list.
        feat_strides: image pixels per cell of that map.
        hidden_dim: channels D of the result, a multiple of 4 and of nhead.
        nhead, dim_feedforward, dropout, enc_act: the layers, see ``nn.attention.TransformerEncoderLayer``.
        num_encoder_layers: how many there are.
        pe_temperature, pe_offset: of the positions, see :func:`isdfine.nn.position.map_sines`.

    Attributes and errors: as :class:`DeformableEncoder`.

    Shapes: one map (B, in_channels[0], H, W) -> one (B, D, H, W).
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (2048,),
        feat_strides: Sequence[int] = (32,),
        hidden_dim: int = 256,
        nhead: int = 8,
        dim_feedforward: int = 2048,
        dropout: float = 0.0,
        enc_act: str = "prelu",
        num_encoder_layers: int = 6,
        pe_temperature: float = 20.0,
        pe_offset: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(type(self).__name__, in_channels, feat_strides, hidden_dim, nhead, dim_feedforward)
        check_counts(most=64, num_encoder_layers=num_encoder_layers)
        check_positive("pe_temperature", pe_temperature)
        if len(in_channels) != 1:
            raise ValueError(f"DenseEncoder reads one map, got in_channels={list(in_channels)}: choose one of them")
        self.in_channels = tuple(in_channels)
        self.channels, self.strides, self.in_strides = [hidden_dim], list(feat_strides), list(feat_strides)
        self.sines = {"temperature": pe_temperature, "offset": pe_offset}
        self.input_proj = nn.Conv2d(in_channels[0], hidden_dim, kernel_size=1)
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(hidden_dim, nhead, dim_feedforward, dropout=dropout, act=enc_act)
            for _ in range(num_encoder_layers)
        )
        self.query_scale = MLP(hidden_dim, hidden_dim, hidden_dim, 2)
        for parameter in (*self.layers.parameters(), *self.query_scale.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Sequence[Tensor], padding: Padding | None = None) -> list[Tensor]:
        """One map (B, in_channels[0], H, W) in a list -> one (B, D, H, W) in a list; see ``PaddedDETR``."""
        _check_maps(self, features)
        level = self.input_proj(features[0])
        size = (level.shape[2], level.shape[3])
        tokens = level.flatten(2).mT  # (B, H*W, D)
        positions = map_sines(size, tokens.shape[2], **self.sines, padding=padding, device=tokens.device)
        mask = None if padding is None else padding.mask(size).flatten(2)[:, None]  # (B, 1, 1, H*W)
        for layer in self.layers:
            tokens = layer(tokens, positions.to(tokens.dtype) * self.query_scale(tokens), mask)
        return [tokens.mT.unflatten(2, size)]


def cell_centres(
    sizes: Sequence[tuple[int, int]], padding: Padding | None, device: torch.device | None = None
) -> Tensor:
    """(1 or B, S, 2) x and y of the cells of all levels (height, width), row by row, as fractions of the image."""
    if padding is None:
        numbers = [[(torch.arange(side, device=device) + 0.5)[None] / side for side in size] for size in sizes]
    else:
        numbers = [list(level) for level in padding.centres(sizes)]
    levels = [
        torch.stack((x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])), dim=-1)
        for y, x in numbers
    ]
    return torch.cat([level.flatten(1, 2) for level in levels], dim=1)


def _as_maps(tokens: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(B, S, D) -> (B, D, H, W) per level."""
    cells = [height * width for height, width in sizes]
    return [part.mT.unflatten(2, size) for part, size in zip(tokens.split(cells, dim=1), sizes)]


def _draw(*layers: nn.Module) -> None:
    """Weights as published models start: Xavier's."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.get_parameter("weight"))


def _check_sizes(
    owner: str, in_channels: Sequence[int], strides: Sequence[int], dim: int, nhead: int, feedforward_dim: int
) -> None:
    check_counts(hidden_dim=dim, nhead=nhead, dim_feedforward=feedforward_dim)
    if not in_channels or len(in_channels) != len(strides):
        raise ValueError(
            f"{owner} needs one stride per map: in_channels={list(in_channels)}, feat_strides={list(strides)}"
        )


def _check_maps(encoder: DeformableEncoder | DenseEncoder, features: Sequence[Tensor]) -> None:
    if (got := [feature.shape[1] for feature in features]) != list(encoder.in_channels):
        raise ValueError(
            f"{type(encoder).__name__} was built for maps with {list(encoder.in_channels)} channels but got {got}: "
            "make in_channels equal to the backbone's channels (its return_idx)"
        )

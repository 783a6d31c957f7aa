# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention: every query reads a few learned points per feature level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .capture import AttentionRecorder
from .cpu import FeatureTable, sample_table, trains_on_cpu

CELL_ROUNDING = 1e-3
"""Of a cell: an image that reaches less than this into a cell is not read there."""


def sample_bilinear(values: Tensor, locations: Tensor, valid_ratios: Tensor | None = None) -> Tensor:
    """Read feature maps between their cells; zeros outside the map.

    Args:
        values: (B, D, H, W).
        locations: (B, Q, P, 2) x and y as fractions of the map (0 and 1 are its outer borders).
        valid_ratios: (B, 2) fraction of the map in x and y that the image spans; beyond it values are zero.

    Returns: (B, D, Q, P).
    """
    return F.grid_sample(values, 2 * locations - 1, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_nearest(values: Tensor, locations: Tensor, valid_ratios: Tensor | None = None) -> Tensor:
    """Read the one cell at location * size + 0.5, truncated and kept inside the image. No gradient to the locations.

    Args and returns as :func:`sample_bilinear`. x is kept below the width (upstream uses the height, which differs
    on maps that are not square).
    """
    height, width = values.shape[-2:]
    column = (locations[..., 0] * width + 0.5).long().clamp(0, width - 1)
    row = (locations[..., 1] * height + 0.5).long().clamp(0, height - 1)
    if valid_ratios is not None:
        spans = valid_ratios[:, :, None, None].unbind(1)  # (B, 1, 1) twice
        column, row = (
            torch.minimum(cells, (span * side - CELL_ROUNDING).ceil().long() - 1)
            for cells, span, side in zip((column, row), spans, (width, height))
        )
    cell = (row * width + column).flatten(1)  # (B, Q*P)
    read = values.flatten(2).gather(2, cell[:, None].expand(-1, values.shape[1], -1))
    return read.view(*read.shape[:2], *locations.shape[1:3])


SAMPLERS = {"default": sample_bilinear, "discrete": sample_nearest}


def points_per_level(num_points: int | Sequence[int], num_levels: int) -> list[int]:
    """One number of points per level, from one number for all levels or a list; ValueError where they disagree."""
    counts = [num_points] * num_levels if isinstance(num_points, int) else list(num_points)
    if len(counts) != num_levels or min(counts) < 1:
        raise ValueError(f"num_points {counts} must hold one positive number for each of the {num_levels} levels")
    return counts


class DeformableAttention(nn.Module):
    """Weighted sum of samples around each query's reference box (Deformable DETR).

    A sample lies at centre + offset / (points of its level) * box size / 2, or around a reference point at point +
    offset / (columns and rows of the level's map); the weights are one softmax over the points of all levels.

    Args:
        dim: channels D, divisible by ``num_heads``.
        num_heads: heads, each reads its own D / heads channels at its own points.
        num_levels: feature maps.
        num_points: samples per head on each level, one number or one per level.
        method: ``default`` reads bilinearly, ``discrete`` the nearest cell with offsets that are not learned.
        projections: read a linear map of the values and map what was read once more, as RT-DETR does. D-FINE leaves
            both maps out (first step of the roadmap in arXiv 2410.13842, Table 3): per layer the first one costs a
            product with every cell of every level.

    Shapes: queries (B, Q, D), references (B, Q, 4) cxcywh or (B, Q, 2) xy in [0, 1], values per level
    (B, D, H, W) -> (B, Q, D).
    With ``valid_ratios`` (B, levels, 2), the fraction of each map's width and height that the image spans, references
    are fractions of the image; without it of the map, and projected cells beyond them stay zero whatever the bias.
    ``record`` collects the weights' logits, see ``nn.capture``.
    """

    num_points_scale: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int | Sequence[int],
        *,
        method: str = "default",
        projections: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{dim} channels do not split into {num_heads} heads: change hidden_dim or nhead")
        if method not in SAMPLERS:
            raise ValueError(f"cross_attn_method {method!r} is unknown: choose one of {sorted(SAMPLERS)}")
        self.num_heads = num_heads
        self.num_points = points_per_level(num_points, num_levels)
        self._sample = SAMPLERS[method]
        self._reads_between_cells = method == "default"
        scale = [1 / n for n in self.num_points for _ in range(n)]
        self.register_buffer("num_points_scale", torch.tensor(scale, dtype=torch.float32))
        self.sampling_offsets = nn.Linear(dim, num_heads * len(scale) * 2)
        self.attention_weights = nn.Linear(dim, num_heads * len(scale))
        self._initialise()
        if method == "discrete":
            self.sampling_offsets.requires_grad_(False)
        self.projections = projections
        if projections:
            self.value_proj, self.output_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
            for linear in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

    def _initialise(self) -> None:
        """Equal weights; head k looks along the angle 2 pi k / heads, its points of a level 1, 2, .. steps away."""
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)  # (heads, 2)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        step = torch.cat([torch.arange(1, n + 1, dtype=torch.float32) for n in self.num_points])  # (P,)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((direction[:, None] * step[:, None]).flatten())

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        values: Sequence[Tensor],
        valid_ratios: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> Tensor:
        if self.projections:
            spans = [None] * len(values) if valid_ratios is None else valid_ratios.unbind(1)
            maps = values.contiguous() if isinstance(values, FeatureTable) else values
            values = [self._projected(value, span) for value, span in zip(maps, spans)]
        logits = self.attention_weights(queries).unflatten(-1, (self.num_heads, -1))  # (B, Q, heads, P)
        if record is not None:
            record.add_points(logits, self.num_points)
        levels = values.maps if isinstance(values, FeatureTable) else values
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        points = self._points(queries, logits, references, valid_ratios, sizes)
        if self._by_table(queries):
            table = values if isinstance(values, FeatureTable) else FeatureTable(values)
            read = sample_table(table.rows(self.num_heads), sizes, self.num_points, *points)
        else:
            maps = values.contiguous() if isinstance(values, FeatureTable) else values
            read = self._by_maps(maps, *_head_by_head(*points), valid_ratios)
        return self.output_proj(read) if self.projections else read

    def _projected(self, value: Tensor, span: Tensor | None) -> Tensor:
        """(B, D, H, W) -> the same in float32, zero in cells that the image does not reach."""
        tokens = self.value_proj(value.flatten(2).mT).float()  # (B, H*W, D)
        maps: Tensor = tokens.mT.unflatten(2, value.shape[-2:])
        return maps if span is None else maps * _reached(span, maps)

    def _by_table(self, queries: Tensor) -> bool:
        """Whether sums over a table of cells are the faster form."""
        return self._reads_between_cells and trains_on_cpu(self, queries)

    def _by_maps(
        self, values: Sequence[Tensor], locations: Tensor, weights: Tensor, valid_ratios: Tensor | None
    ) -> Tensor:
        """Read level by level: locations (B*heads, Q, P, 2), weights (B*heads, 1, Q, P) -> (B, Q, D)."""
        reads = []
        spans = (
            [None] * len(values)
            if valid_ratios is None
            else valid_ratios.repeat_interleave(self.num_heads, dim=0).unbind(1)
        )
        for value, location, weight, span in zip(
            values, locations.split(self.num_points, dim=2), weights.split(self.num_points, dim=3), spans
        ):
            per_head = value.unflatten(1, (self.num_heads, -1)).flatten(0, 1)  # (B*heads, D/heads, H, W)
            reads.append((self._sample(per_head, location, span) * weight).sum(dim=-1))  # (B*heads, D/heads, Q)
        update = sum(reads[1:], start=reads[0])
        per_image: Tensor = update.unflatten(0, (-1, self.num_heads))
        return per_image.flatten(1, 2).transpose(1, 2)

    def sampling_points(
        self, queries: Tensor, references: Tensor, sizes: Sequence[tuple[int, int]] = ()
    ) -> tuple[Tensor, Tensor]:
        """Where ``forward`` reads and with what weight, for whoever wants to see it.

        Args: as ``forward``; without ``valid_ratios``, since only maps need it. ``sizes`` (height, width) of the
            levels, for reference points.

        Returns: locations (B, heads, Q, P, 2) x and y as fractions of the image (also where that is only a part of the
        map), and weights (B, heads, Q, P), which sum to 1 over the points of all levels.
        """
        logits = self.attention_weights(queries).unflatten(-1, (self.num_heads, -1))  # (B, Q, heads, P)
        locations, weights = self._points(queries, logits, references, None, sizes)
        return locations.transpose(1, 2), weights.transpose(1, 2)

    def _points(
        self,
        queries: Tensor,
        logits: Tensor,
        references: Tensor,
        valid_ratios: Tensor | None,
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Where to read, (B, Q, heads, P, 2) fractions of the map, and with what weight, (B, Q, heads, P)."""
        offsets = self.sampling_offsets(queries).unflatten(-1, (self.num_heads, -1, 2))  # (B, Q, heads, P, 2)
        spread: Tensor | None = None
        if valid_ratios is not None:
            per_point = [valid_ratios[:, k : k + 1].expand(-1, count, -1) for k, count in enumerate(self.num_points)]
            spread = torch.cat(per_point, dim=1)[:, None, None]  # (B, 1, 1, P, 2)
        if references.shape[-1] == 2:  # offsets in cells, whatever part of the map the image is
            points = references[:, :, None, None]
            points = points if spread is None else points * spread
            return points + offsets / self._cells(sizes, offsets), logits.softmax(dim=-1)
        centre, size = references[:, :, None, None].split_with_sizes((2, 2), dim=-1)
        locations = centre + offsets * self.num_points_scale[:, None] * size * 0.5
        return locations if spread is None else locations * spread, logits.softmax(dim=-1)

    def _cells(self, sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
        """(P, 2) columns and rows of every point's map, filled on the device: a list would be copied to it."""
        return torch.cat(
            [
                torch.cat([like.new_full((count, 1), side) for side in (width, height)], dim=1)
                for (height, width), count in zip(sizes, self.num_points)
            ]
        )


def _head_by_head(locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(B, Q, heads, P, 2) and (B, Q, heads, P) -> (B*heads, Q, P, 2) and (B*heads, 1, Q, P)."""
    return locations.transpose(1, 2).flatten(0, 1), weights.transpose(1, 2).flatten(0, 1)[:, None]


def _reached(span: Tensor, maps: Tensor) -> Tensor:
    """(B, 2) spans in x and y -> (B, 1, H, W), 1 in the cells that the image reaches into and 0 in the others."""
    height, width = maps.shape[-2:]
    columns, rows = (
        torch.arange(cells, device=maps.device) < (span[:, axis, None] * cells - CELL_ROUNDING)
        for axis, cells in enumerate((width, height))
    )  # (B, W) and (B, H)
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(maps.dtype)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable attention with value and output projections, as in Deformable DETR, DINO and RT-DETR."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .capture import AttentionRecorder
from .sampling import CELL_ROUNDING, DeformableAttention


class ProjectedDeformableAttention(DeformableAttention):
    """:class:`DeformableAttention` that reads a linear map of the values and maps what it read once more.

    D-FINE leaves both maps out (first step of the roadmap in arXiv 2410.13842, Table 3): per layer the first one costs
    a product with every cell of every level. Names are those of RT-DETR's checkpoints.

    Args and shapes as :class:`DeformableAttention`. Cells beyond ``valid_ratios`` stay zero, whatever the map's bias.
    """

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int | Sequence[int], *, method: str = "default"
    ) -> None:
        super().__init__(dim, num_heads, num_levels, num_points, method=method)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        values: Sequence[Tensor],
        valid_ratios: Tensor | None = None,
        record: AttentionRecorder | None = None,
    ) -> Tensor:
        spans = [None] * len(values) if valid_ratios is None else valid_ratios.unbind(1)
        projected = [self._projected(value, span) for value, span in zip(values, spans)]
        return self.output_proj(super().forward(queries, references, projected, valid_ratios, record))

    def _projected(self, value: Tensor, span: Tensor | None) -> Tensor:
        """(B, D, H, W) -> the same in float32, zero in cells that the image does not reach."""
        tokens = self.value_proj(value.flatten(2).mT).float()  # (B, H*W, D)
        maps = tokens.mT.unflatten(2, value.shape[-2:])
        return maps if span is None else maps * _reached(span, maps)


def _reached(span: Tensor, maps: Tensor) -> Tensor:
    """(B, 2) spans in x and y -> (B, 1, H, W), 1 in the cells that the image reaches into and 0 in the others."""
    height, width = maps.shape[-2:]
    columns, rows = (
        torch.arange(cells, device=maps.device) < (span[:, axis, None] * cells - CELL_ROUNDING)
        for axis, cells in enumerate((width, height))
    )  # (B, W) and (B, H)
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(maps.dtype)

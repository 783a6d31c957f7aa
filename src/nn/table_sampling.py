# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Bilinear reads of deformable attention as weighted sums of table rows: the faster form on a CPU in training.

All levels lie in one table with a row per (image, cell, head). A query's answer is a sum over the four cells around
each of its points; torch sums rows fast (``embedding_bag``), and the gradient of the table is such a sum once more,
over the queries that read each row. On a GPU, in exported graphs and without gradients, ``grid_sample`` stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.autograd.function import once_differentiable


class FeatureTable(Sequence[Tensor]):
    """The feature maps of one forward pass, with a table of their cells that all layers share.

    As a sequence: the maps (B, D, H, W), contiguous for ``grid_sample``. What nobody asks for is not made.

    Args:
        maps: (B, D, H, W) per level, in one type and any memory format.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps = list(maps)
        self._contiguous: list[Tensor] | None = None
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, level: Any) -> Any:
        return self.contiguous()[level]

    def contiguous(self) -> list[Tensor]:
        """The maps (B, D, H, W) as a list, which torch.compile of torch 2.6 can iterate over; made once."""
        if self._contiguous is None:
            self._contiguous = [one.contiguous() for one in self.maps]
        return self._contiguous

    @property
    def rows(self) -> Tensor:
        """(B, S, D) contiguous, S cells of all levels; made when it is first asked for."""
        if self._rows is None:
            self._rows = torch.cat([one.flatten(2).mT for one in self.maps], 1).contiguous()
        return self._rows


def sample_table(
    rows: Tensor, sizes: Sequence[tuple[int, int]], points: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear reads, zeros outside the maps.

    Args:
        rows: (B, S, D) cells of all levels, contiguous float32.
        sizes: (height, width) of every level.
        points: per level; they add up to P.
        locations: (B, Q, heads, P, 2) x and y as fractions of the point's map.
        weights: (B, Q, heads, P).

    Returns: (B, Q, D).
    """
    per_point = [(width, height) for (height, width), count in zip(sizes, points) for _ in range(count)]
    cells = [height * width for height, width in sizes]
    starts = [sum(cells[:level]) for level, count in enumerate(points) for _ in range(count)]
    places = torch.tensor(per_point, dtype=torch.float32), torch.tensor(starts, dtype=torch.int32)
    found: Tensor = _TableSum.apply(rows, locations.float(), weights.float(), *places)
    return found


class _TableSum(torch.autograd.Function):
    """Reads and their gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, locations: Tensor, weights: Tensor, sizes: Tensor, starts: Tensor) -> Tensor:
        batch, queries, heads, _ = weights.shape
        table = rows.view(-1, rows.shape[-1] // heads)  # (B*S*heads, d)
        place = locations * sizes - 0.5
        low = place.floor()
        far = place.sub_(low)  # (B, Q, heads, P, 2) distance to the low cell
        inside = (low >= 0) & (low < sizes), (low >= -1) & (low < sizes - 1)
        shares = (1 - far).mul_(inside[0]), far.mul_(inside[1])
        # not clamped: a location that is not a number reads cell 0, with a share that is not a number
        cells = [torch.where(one, low + step, 0).int().unbind(-1) for step, one in enumerate(inside)]
        first = torch.arange(heads, dtype=torch.int32)[:, None] + starts * heads  # (heads, P)
        first = first + (torch.arange(batch, dtype=torch.int32) * (rows.shape[1] * heads))[:, None, None, None]
        columns = [x * heads + first for x, _ in cells]
        lines = [y * (sizes[:, 0].int() * heads) for _, y in cells]
        index = torch.stack([column + line for line in lines for column in columns], -2).view(-1, 4 * len(starts))
        sides = [side.unbind(-1) for side in shares]
        corners = torch.stack([x * y for y in (sides[0][1], sides[1][1]) for x in (sides[0][0], sides[1][0])], -2)
        scale = (corners * weights[..., None, :]).view(index.shape)
        ctx.save_for_backward(table, index, scale, corners, weights, *shares, *inside, sizes)
        ctx.shape = rows.shape
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=scale).view(batch, queries, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        table, index, scale, corners, weights, share_0, share_1, inside_0, inside_1, sizes = ctx.saved_tensors
        upstream = upstream.reshape(-1, table.shape[1])  # (B*Q*heads, d)
        of_rows = of_locations = of_weights = None
        if ctx.needs_input_grad[0]:
            of_rows = _sum_by_row(upstream, index, scale, len(table)).view(ctx.shape)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            read = _products(upstream, table, index).view(corners.shape)  # (B, Q, heads, 4, P)
            of_weights = (read * corners).sum(-2)
            upper_left, upper_right, lower_left, lower_right = (read * weights[..., None, :]).unbind(-2)
            (left, top), (right, bottom) = share_0.unbind(-1), share_1.unbind(-1)
            (on_left, on_top), (on_right, on_bottom) = inside_0.unbind(-1), inside_1.unbind(-1)
            along_x = on_right * (upper_right * top + lower_right * bottom)
            along_x -= on_left * (upper_left * top + lower_left * bottom)
            along_y = on_bottom * (lower_left * left + lower_right * right)
            along_y -= on_top * (upper_left * left + upper_right * right)
            of_locations = torch.stack((along_x, along_y), -1).mul_(sizes)
        return of_rows, of_locations, of_weights, None, None


def _sum_by_row(values: Tensor, index: Tensor, scale: Tensor, rows: int) -> Tensor:
    """Transpose of the read: (N, d), index and scale (N, K) -> (rows, d), the scaled values that belong to each row."""
    starts = np.arange(0, index.numel() + 1, index.shape[1], dtype=np.int32)
    read = csr_matrix((scale.flatten().numpy(), index.flatten().numpy(), starts), shape=(len(index), rows)).tocsc()
    sources, factors, bounds = (torch.from_numpy(one) for one in (read.indices, read.data, read.indptr))
    return F.embedding_bag(sources, values, bounds, mode="sum", per_sample_weights=factors, include_last_offset=True)


def _products(values: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Scalar products of row n of ``values`` with the rows ``index[n]`` of the table: (N, d), (N, K) -> (N, K)."""
    _say_beta_once()
    starts = torch.arange(len(index) + 1, dtype=index.dtype) * index.shape[1]
    pattern = torch.sparse_csr_tensor(
        starts, index.flatten(), torch.zeros(index.numel()), (len(index), len(table)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, values, table.mT, beta=0.0).values().view(index.shape)


@cache
def _say_beta_once() -> None:
    """Let torch say what it says once per process of sparse layouts (a beta, checks are off) where nobody hears it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
        none = torch.zeros(2, dtype=torch.int32)
        pattern = torch.sparse_csr_tensor(none, none[:0], torch.zeros(0), (1, 1), check_invariants=False)
        torch.sparse.sampled_addmm(pattern, torch.zeros(1, 1), torch.zeros(1, 1), beta=0.0)

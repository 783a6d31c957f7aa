# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Forms that train faster on a CPU than torch's own, with the same numbers up to rounding; nothing else needs them.

Bilinear reads of deformable attention become weighted sums of table rows. All levels lie in one table with a row per
(image, head, cell). What a query reads is a sum over the four cells around each of its points; torch sums rows fast
(``embedding_bag``), and the gradient of the table is such a sum once more, over the queries that read each row. On a
GPU, in exported graphs and without gradients, ``grid_sample`` stays.
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
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def trains_on_cpu(module: nn.Module, values: Tensor) -> bool:
    """Whether a module trains on a CPU, and no graph is being recorded that would have to hold such forms."""
    recorded = torch.compiler.is_compiling() or torch._C._is_tracing() or torch.onnx.is_in_onnx_export()
    return values.device.type == "cpu" and module.training and torch.is_grad_enabled() and not recorded


def affine(maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``scale * maps + bias`` for maps (B, D, H, W) and one number each, (1,)."""
    scaled: Tensor = _Affine.apply(maps, scale, bias)
    return scaled


class _Affine(torch.autograd.Function):
    """The gradient of the scale is one inner product: autograd would write the products to memory and read them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(maps, scale)
        return torch.addcmul(bias, scale, maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        maps, scale = ctx.saved_tensors
        of_maps = upstream * scale if ctx.needs_input_grad[0] else None
        of_scale = torch.dot(*_flat(upstream.to(maps.dtype), maps))[None] if ctx.needs_input_grad[1] else None
        return of_maps, of_scale, upstream.sum()[None] if ctx.needs_input_grad[2] else None


def frozen_norm(maps: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``F.batch_norm`` in eval mode for maps (B, D, H, W) and constants (D,), which get no gradient."""
    normed: Tensor = _FrozenNorm.apply(maps, mean, variance, weight, bias, eps)
    return normed


class _FrozenNorm(torch.autograd.Function):
    """The gradient needs no maps: autograd would keep the input of every norm, which nothing else reads."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(variance, weight)
        ctx.eps = eps
        return F.batch_norm(maps, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        variance, weight = ctx.saved_tensors
        deviation = (variance.double() + ctx.eps).sqrt()  # in this order of torch's steps, to the same last digit
        scaled = (upstream * (1 / deviation).float()[:, None, None]).mul_(weight[:, None, None])
        return scaled.to(upstream.dtype), None, None, None, None, None


def _flat(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Elements in one order, that of memory where both are laid out alike."""
    if a.dim() == 4 and not (a.is_contiguous() and b.is_contiguous()):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return a.reshape(-1), b.reshape(-1)


class FeatureTable(Sequence[Tensor]):
    """The feature maps of one forward pass, with a table of their cells that all layers share.

    As a sequence: the maps (B, D, H, W), contiguous for ``grid_sample``. What nobody asks for is not made.

    Args:
        maps: (B, D, H, W) per level, in one type and any memory format.
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps = list(maps)
        self._contiguous: list[Tensor] | None = None
        self._rows: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, level: Any) -> Any:
        return self.contiguous()[level]

    def contiguous(self) -> list[Tensor]:
        """The maps (B, D, H, W) as a list, which torch.compile of torch 2.6 can iterate over; made once."""
        if self._contiguous is None:
            self._contiguous = [level.contiguous() for level in self.maps]
        return self._contiguous

    def rows(self, heads: int) -> Tensor:
        """(B, heads, S, d) contiguous, S cells of all levels: what one head reads lies together. Made once."""
        if heads not in self._rows:
            per_head = [level.flatten(2).unflatten(1, (heads, -1)).mT for level in self.maps]
            self._rows[heads] = torch.cat(per_head, 2).contiguous()
        return self._rows[heads]


def sample_table(
    rows: Tensor, sizes: Sequence[tuple[int, int]], points: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear reads, zeros outside the maps.

    Args:
        rows: (B, heads, S, d) cells of all levels, contiguous float32.
        sizes: (height, width) of every level.
        points: per level; they add up to P.
        locations: (B, Q, heads, P, 2) x and y as fractions of the point's map.
        weights: (B, Q, heads, P).

    Returns: (B, Q, heads * d).
    """
    per_point = [(width, height) for (height, width), count in zip(sizes, points) for _ in range(count)]
    cells = [height * width for height, width in sizes]
    starts = [sum(cells[:level]) for level, count in enumerate(points) for _ in range(count)]
    places = torch.tensor(per_point).T, torch.tensor(starts, dtype=torch.int32)
    read: Tensor = _TableSum.apply(rows, locations.float(), weights.float(), *places)
    return read


class _TableSum(torch.autograd.Function):
    """Reads and their gradients. N = B * heads * Q reads of 4 P rows; planes of (B, heads, Q, P) for x and for y."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, locations: Tensor, weights: Tensor, sizes: Tensor, starts: Tensor) -> Tensor:
        """Args: sizes (2, P) widths and heights, starts (P,) first cell of each point's map; else as above."""
        batch, heads, cells, _ = rows.shape
        table = rows.flatten(0, 2)  # (B*heads*S, d)
        weights = weights.transpose(1, 2).contiguous()
        sides = sizes.float()[:, None, None, None]
        place = locations.permute(4, 0, 2, 1, 3).contiguous().mul_(sides).sub_(0.5)  # (2, B, heads, Q, P)
        low = place.floor()
        far = place.sub_(low)  # distance to the low cell
        inside = torch.stack(((low >= 0) & (low < sides), (low >= -1) & (low < sides - 1)), 1)  # (2, 2, B, heads, Q, P)
        shares = torch.stack((1 - far, far), 1).mul_(inside.float())
        # not clamped: a location that is not a number reads cell 0, with a share that is not a number
        cell = torch.stack((low, low + 1), 1).int()
        cell = torch.where(inside, cell, 0)
        first = starts + torch.arange(batch * heads, dtype=torch.int32).view(batch, heads, 1, 1) * cells
        lines = cell[1].mul_(sizes[0].int()).add_(first)
        index = torch.stack([line + column for line in lines for column in cell[0]], -2).view(-1, 4 * len(starts))
        weighted = shares[1] * weights
        scale = torch.stack([y * x for y in weighted for x in shares[0]], -2).view(index.shape)
        ctx.save_for_backward(table, index, scale, weights, shares, inside, sides)
        ctx.shape = rows.shape
        read = F.embedding_bag(index, table, mode="sum", per_sample_weights=scale)
        return read.view(batch, heads, -1, read.shape[1]).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        table, index, scale, weights, shares, inside, sides = ctx.saved_tensors
        upstream = upstream.unflatten(2, (ctx.shape[1], -1)).transpose(1, 2).reshape(-1, table.shape[1])  # (N, d)
        of_rows = of_locations = of_weights = None
        if ctx.needs_input_grad[0]:
            of_rows = _sum_by_row(upstream, index, scale, len(table)).view(ctx.shape)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            read = _products(upstream, table, index).view(-1, 4, weights.shape[-1])  # (N, 4, P)
            upper_left, upper_right, lower_left, lower_right = read.transpose(0, 1).contiguous().view(4, *weights.shape)
            (left, right), (top, bottom) = shares
            upper = left * upper_left + right * upper_right
            lower = left * lower_left + right * lower_right
            of_weights = (top * upper + bottom * lower).transpose(1, 2)
            (on_left, on_right), (on_top, on_bottom) = inside.float()
            along_x = on_right * (top * upper_right + bottom * lower_right)
            along_x -= on_left * (top * upper_left + bottom * lower_left)
            along_y = on_bottom * lower - on_top * upper
            along = torch.stack((along_x, along_y)).mul_(weights).mul_(sides)
            of_locations = along.permute(1, 3, 2, 4, 0)
        return of_rows, of_locations, of_weights, None, None


def _sum_by_row(values: Tensor, index: Tensor, scale: Tensor, rows: int) -> Tensor:
    """Transpose of the read: (N, d), index and scale (N, K) -> (rows, d), the scaled values that belong to each row."""
    starts = np.arange(0, index.numel() + 1, index.shape[1], dtype=np.int32)
    read = csr_matrix((scale.flatten().numpy(), index.flatten().numpy(), starts), shape=(len(index), rows)).tocsc()
    sources, factors, bounds = (torch.from_numpy(array) for array in (read.indices, read.data, read.indptr))
    return F.embedding_bag(sources, values, bounds, mode="sum", per_sample_weights=factors, include_last_offset=True)


def _products(values: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Scalar products of row n of ``values`` with the rows ``index[n]`` of the table: (N, d), (N, K) -> (N, K)."""
    _say_beta_once()
    starts = torch.arange(len(index) + 1, dtype=index.dtype) * index.shape[1]
    pattern = torch.sparse_csr_tensor(
        starts, index.flatten(), torch.zeros(index.numel()), (len(index), len(table)), check_invariants=False
    )
    products: Tensor = torch.sparse.sampled_addmm(pattern, values, table.mT, beta=0.0)
    return products.values().view(index.shape)


@cache
def _say_beta_once() -> None:
    """Let torch say what it says once per process of sparse layouts (a beta, checks are off) where nobody hears it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")
        none = torch.zeros(2, dtype=torch.int32)
        pattern = torch.sparse_csr_tensor(none, none[:0], torch.zeros(0), (1, 1), check_invariants=False)
        torch.sparse.sampled_addmm(pattern, torch.zeros(1, 1), torch.zeros(1, 1), beta=0.0)

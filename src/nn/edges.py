# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Edge distributions: fine-grained distribution refinement (FDR) of D-FINE, arXiv 2410.13842 section 4.1.

Every edge of a box (left, top, right, bottom) is a distribution over N + 1 offsets W(0..N) from an initial box b0.
The offsets are dense around zero and sparse far away, in units of the initial box's size divided by s.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _as_float(value: Tensor | float) -> Tensor:
    """Scalar as a float tensor without dimensions: float32 on its own device, float64 for a plain number."""
    return value.float().reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)


def _magnitude(s: Tensor | float) -> Tensor | float:
    """The sign of a curvature has no meaning; official checkpoints could hold either."""
    return s.abs() if isinstance(s, Tensor) else abs(s)


def weighting(num_bins: int, a: Tensor | float, s: Tensor | float) -> Tensor:
    """Offsets W(0..N) of the bins, scaled by s (docs/method.md 5.1).

    Args:
        num_bins: N, highest bin index; even, at least 4.
        a: half the width of the inner range ("up"), as a share of the initial box; number or scalar tensor.
        s: inverse curvature 1/c ("reg_scale"); number or scalar tensor of any type (checkpoints hold int64).

    Returns: (N + 1,) float32, strictly rising and odd: W(n) = -W(N - n) bit for bit. On the tensors' device.
    """
    if num_bins < 4 or num_bins % 2:
        raise ValueError(f"edge distributions need an even number of bins N of at least 4, got {num_bins}: set reg_max")
    inner = (_as_float(a) * _as_float(s)).abs()
    step = (inner + 1) ** (2 / (num_bins - 2))
    right = step ** torch.arange(1, num_bins // 2, dtype=inner.dtype, device=inner.device) - 1
    outer = 2 * inner[None]
    return torch.cat((-outer, -right.flip(0), torch.zeros_like(outer), right, outer)).float()


def expected_distance(edge_logits: Tensor, weights: Tensor) -> Tensor:
    """Mean offset of every edge's distribution.

    Args:
        edge_logits: (..., 4 * (N + 1)), edge by edge; computed in float32 whatever the type.
        weights: (N + 1,) from :func:`weighting`.

    Returns: (..., 4) float32 offsets of left, top, right, bottom in [-2as, 2as].
    """
    per_edge: Tensor = edge_logits.unflatten(-1, (4, weights.shape[0]))
    # product and sum, not a matrix product: autocast and TF32 would round the box to ten bits
    return (per_edge.float().softmax(-1) * weights.float()).sum(-1)


def distance_to_box(initial_cxcywh: Tensor, distances: Tensor, s: Tensor | float) -> Tensor:
    """Move every edge of a box by its offset; zero offsets return the box.

    Args:
        initial_cxcywh: (..., 4) box b0 that the distributions refine.
        distances: (..., 4) offsets of left, top, right, bottom, outwards, in units of b0's size / s.
        s: inverse curvature ("reg_scale"), its sign is ignored.

    Returns: (..., 4) cxcywh; width or height is negative where two edges cross (not clamped, docs/method.md 5.2).
    """
    s = _magnitude(s)
    centre, size = initial_cxcywh.split(2, dim=-1)
    unit = size / s
    left_top = centre - (0.5 * s + distances[..., :2]) * unit
    right_bottom = centre + (0.5 * s + distances[..., 2:]) * unit
    return torch.cat(((left_top + right_bottom) / 2, right_bottom - left_top), dim=-1)


def decode_corners(initial_cxcywh: Tensor, edge_logits: Tensor, weights: Tensor, s: Tensor | float) -> Tensor:
    """Boxes that edge distributions stand for (docs/method.md 5.2), in float32.

    Args:
        initial_cxcywh: (..., 4) box b0.
        edge_logits: (..., 4, N + 1) per left, top, right, bottom.
        weights: (N + 1,) from :func:`weighting`.
        s: inverse curvature ("reg_scale").

    Returns: (..., 4) cxcywh.
    """
    return distance_to_box(initial_cxcywh.float(), expected_distance(edge_logits.flatten(-2), weights), s)


@torch.no_grad()
def encode_targets(
    initial_cxcywh: Tensor, target_xyxy: Tensor, weights: Tensor, s: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Two-bin targets whose mean offset reaches the true edge (docs/method.md 5.3). No gradient.

    Args:
        initial_cxcywh: (..., 4) box b0.
        target_xyxy: (..., 4) corners of the true box, row by row, in the same unit.
        weights: (N + 1,) from :func:`weighting`.
        s: inverse curvature ("reg_scale").

    Returns: left bin (..., 4) int64 in 0..N-1, its weight and the weight of the bin to its right, (..., 4) each,
        summing to 1. An edge beyond the first or last bin gets all weight on that bin.
    """
    s = _magnitude(s)
    centre, size = initial_cxcywh.float().split(2, dim=-1)
    target = target_xyxy.float()
    outwards = torch.cat((centre - target[..., :2], target[..., 2:] - centre), dim=-1)
    unit = size / s + 1e-16  # a box without size sends its edges to the outermost bins
    offsets = outwards / torch.cat((unit, unit), dim=-1) - 0.5 * s
    last = weights.shape[0] - 1
    left = (torch.bucketize(offsets, weights, right=True) - 1).clamp(0, last - 1)
    low, high = weights[left], weights[left + 1]
    right_weight = ((offsets - low) / (high - low)).clamp(0, 1)
    return left, 1 - right_weight, right_weight

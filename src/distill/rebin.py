# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Edge distributions of one model in the terms of another.

A bin of fine-grained distribution refinement (FDR, arXiv:2410.13842) stands for an offset from the model's own initial
box, so bin n of two models is the same place in the image only where their initial boxes, and their bins, are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.functions import soften, zero_where_equal
from ..nn.edges import weighting

_SMALLEST = 1e-8
"""Side of a frame in place of one of no length, in which no edge has a place."""


class EdgeFrame(NamedTuple):
    """What the bins of edge distributions stand for."""

    boxes: Tensor
    """(..., 4) cxcywh, the boxes that the distributions refine, detached."""
    offsets: Tensor
    """(N + 1,) from :func:`~isdfine.nn.edges.weighting`."""
    scale: Tensor
    """Inverse curvature s ("reg_scale") without its sign, a scalar."""

    @classmethod
    def of(cls, boxes: Tensor, num_bins: int, up: Tensor | float, scale: Tensor | float) -> EdgeFrame:
        """From N, a and s of the bins (:func:`~isdfine.nn.edges.weighting`)."""
        return cls(boxes.detach(), weighting(num_bins, up, scale).to(boxes.device), torch.as_tensor(scale).abs())


class Rebinned(NamedTuple):
    """Distributions in another frame."""

    probabilities: Tensor
    """(..., 4, N + 1)."""
    clipped: Tensor
    """(..., 4) probability of every edge that lay beyond the first or the last bin, and is put there."""


@torch.no_grad()
def rebin(probabilities: Tensor, teacher: EdgeFrame, student: EdgeFrame) -> Rebinned:
    """Where the teacher sees every edge, as distributions over the student's bins. No gradient.

    The place of each of the teacher's bins is divided linearly between the two bins of the student beside it, so the
    mean place of an edge stays what it was wherever nothing is clipped. Equal frames give the same distributions, bit
    for bit.

    Args:
        probabilities: (..., 4, N_t + 1) of left, top, right, bottom, float32 or float64.
        teacher, student: frames with boxes (..., 4).

    Returns: (..., 4, N_s + 1) and what was clipped.
    """
    dtype = probabilities.dtype
    (centre_t, size_t), (centre_s, size_s) = (frame.boxes.to(dtype).split(2, -1) for frame in (teacher, student))
    size_s = size_s.clamp(min=_SMALLEST)
    ratio, shift = size_t / size_s, (centre_t - centre_s) / size_s
    outwards = torch.cat((-shift, shift), -1) + (torch.cat((ratio, ratio), -1) - 1) / 2  # (..., 4)
    slope = torch.cat((ratio, ratio), -1) * (student.scale / teacher.scale)
    offsets, bins = teacher.offsets.to(dtype), student.offsets.to(dtype)
    place = offsets * slope[..., None] + (student.scale * outwards)[..., None]  # (..., 4, N_t + 1)
    last = len(bins) - 1
    beyond = (place < bins[0]) | (place > bins[-1])
    left = (torch.bucketize(place, bins, right=True) - 1).clamp(0, last - 1)
    low, high = bins[left], bins[left + 1]
    right_share = ((place - low) / (high - low)).clamp(0, 1)
    moved = probabilities.new_zeros(*place.shape[:-1], last + 1)
    moved.scatter_add_(-1, left, probabilities * (1 - right_share))
    moved.scatter_add_(-1, left + 1, probabilities * right_share)
    return Rebinned(moved, (probabilities * beyond).sum(-1))


def edge_divergence(edge_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 KL(target || student) of edge distributions, averaged over the 4 edges.

    Args:
        edge_logits: (..., P, 4, N + 1) of the student, softened by T here.
        target: (..., P, 4, N + 1) probabilities that were softened by T, without a gradient; some may be 0.

    Returns: (..., P) float32. Exactly 0, with zero gradient, where the probabilities are equal bit for bit.
    """
    log_student = soften(edge_logits, temperature)
    divergence = (torch.xlogy(target, target) - target * log_student).sum((-2, -1)) * (temperature**2 / 4)
    return zero_where_equal(divergence, log_student.exp(), target)


def edge_distance(edge_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Squared difference of edge distributions, summed over the bins and averaged over the 4 edges; see
    :func:`edge_divergence`."""
    return (soften(edge_logits, temperature).exp() - target).square().sum(-1).mean(-1)

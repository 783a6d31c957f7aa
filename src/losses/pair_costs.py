# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Costs of every query for every ground-truth box of its own image, for all prediction sets at once.

Nothing here is differentiated, so the large tensors (S, T, Q) are written in place: on a CPU the time of this step is
that of walking through memory, and a fresh tensor costs as much again as the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sets import SetStack, TargetTable

_EPS = 1e-8
"""Added to scores before their logarithm is taken, as in the official code: it decides matches of very sure queries."""


def focal_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """What focal loss charges for a score as a positive, less what it charges for it as a negative.

    Args:
        logits: any shape.
        alpha, gamma: of the focal loss.

    Returns: the same shape, equal to the official code's for any logit. Its 1e-8 bounds the cost: where sigmoid is
        below that (logits under -18), -alpha * log(1e-8) = 18.4 alpha and not -alpha * logit.
    """
    score = logits.sigmoid()
    rest = 1 - score
    positive = (score + _EPS).log_().mul_(rest.pow(gamma)).mul_(-alpha)
    return positive.addcmul_(rest.add_(_EPS).log_(), score.pow_(gamma), value=1 - alpha)


def add_box_costs(total: Tensor, stack: SetStack, table: TargetTable, *, l1: float, giou: float) -> Tensor:
    """Add the L1 cost of cxcywh boxes and the cost of minus their generalised IoU, in place.

    Args:
        total: (S, T, Q) costs so far.
        stack: S sets over B * Q rows.
        table: T boxes.
        l1, giou: factors, 0 for none.

    Returns: ``total``; NaN where both boxes have no area (0 / 0).
    """
    reader = _Reader(total, stack, table)
    if l1:
        for axis, (boxes, truth) in enumerate(zip(reader.boxes, _planes(table.boxes))):
            part = reader.read(boxes).sub_(truth)
            torch.abs(part, out=reader.other) if axis == 0 else reader.other.add_(part.abs_())
        total.add_(reader.other, alpha=l1)
    if giou:
        total.add_(_generalised_iou(reader), alpha=-giou)
    return total


def _generalised_iou(reader: _Reader) -> Tensor:
    """(S, T, Q) from corners, by the rules of ``nn.boxes.pairwise_giou``."""
    shared, hull = torch.empty_like(reader.other), torch.empty_like(reader.other)
    reader.shared_length(0, shared).mul_(reader.shared_length(1, reader.other))
    reader.whole_length(0, hull).mul_(reader.whole_length(1, reader.other))
    joint = reader.read(reader.areas).add_(reader.true_areas).sub_(shared)
    iou = shared.div_(joint)
    return iou.sub_(torch.sub(hull, joint, out=joint).div_(hull))


class _Reader:
    """Numbers of all queries, laid beside each ground-truth box of their image."""

    def __init__(self, like: Tensor, stack: SetStack, table: TargetTable) -> None:
        planes = stack.boxes.detach().unflatten(1, (stack.batch, stack.queries)).movedim(-1, 0).contiguous()
        self.boxes = planes.unbind()  # (S, B, Q) each
        centre, size = planes.split(2)
        half = size.clamp(min=0).div_(2)
        low, high = centre - half, centre + half  # (2, S, B, Q)
        self.low, self.high = low.unbind(), high.unbind()
        self.areas = (high - low).prod(0)  # (S, B, Q)
        left, top, right, bottom = _planes(table.corners)
        self.true_low, self.true_high = (left, top), (right, bottom)
        self.true_areas = (right - left) * (bottom - top)  # (T, 1)
        self.image = table.image
        self._spare, self.other = torch.empty_like(like), torch.empty_like(like)

    def read(self, plane: Tensor) -> Tensor:
        """(S, B, Q) -> (S, T, Q), valid until the next reading."""
        return torch.index_select(plane, 1, self.image, out=self._spare)

    def shared_length(self, axis: int, out: Tensor) -> Tensor:
        """(S, T, Q) that both boxes share along an axis, at least 0."""
        torch.maximum(self.read(self.low[axis]), self.true_low[axis], out=out)
        last = self.read(self.high[axis])
        return torch.sub(torch.minimum(last, self.true_high[axis], out=last), out, out=out).clamp_(min=0)

    def whole_length(self, axis: int, out: Tensor) -> Tensor:
        """(S, T, Q) that holds both boxes along an axis."""
        torch.minimum(self.read(self.low[axis]), self.true_low[axis], out=out)
        last = self.read(self.high[axis])
        return torch.sub(torch.maximum(last, self.true_high[axis], out=last), out, out=out)


def _planes(boxes: Tensor) -> tuple[Tensor, ...]:
    """(T, 4) -> 4 times (T, 1)."""
    return boxes.T.unsqueeze(-1).unbind()

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Bipartite matching of queries and ground truth (DETR), for all prediction sets of a step in one transfer.

Costs are not differentiated, so the large tensors (S, T, Q) are written in place: on a CPU the time of this step is
that of walking through memory, and a fresh tensor costs as much again as the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..core.errors import check_non_negative, check_share
from ..core.registry import register
from ..nn.types import Predictions, Target
from .matched import TargetTable, tabulate
from .sets import SetStack, stack_sets

_COSTS = ("cost_class", "cost_bbox", "cost_giou")
_UNBOUNDED = 1e9
"""Cost in place of an infinite one: dearer than any real pair, and the solver accepts it."""
_EPS = 1e-8
"""Added to scores before their logarithm is taken, as in the official code: it decides matches of very sure queries."""

Indices = list[tuple[Tensor, Tensor]]
"""Per image: matched queries (M,) and their targets (M,), int64 on the host."""


@register
class HungarianMatcher(nn.Module):
    """One-to-one assignment of least cost between the queries and the ground truth of each image.

    Args:
        weight_dict: factors of ``cost_class``, ``cost_bbox`` (L1 on cxcywh) and ``cost_giou``; a missing one is 0.
        use_focal_loss: class cost of sigmoid scores in the manner of focal loss; otherwise minus the softmax score.
        alpha, gamma: of that focal cost, 0..1 and 0 or more.

    Raises:
        ValueError: an unknown cost, all factors 0, or a number out of range.
    """

    def __init__(
        self,
        weight_dict: dict[str, float],
        use_focal_loss: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        unknown = sorted(set(weight_dict) - set(_COSTS))
        if unknown:
            raise ValueError(f"HungarianMatcher.weight_dict: no cost named {', '.join(unknown)}; choose from {_COSTS}")
        self.weights = {name: float(weight_dict.get(name, 0)) for name in _COSTS}
        for name, weight in self.weights.items():
            check_non_negative(f"HungarianMatcher.weight_dict.{name}", weight)
        check_focal("HungarianMatcher", alpha, gamma)
        if not any(self.weights.values()):
            raise ValueError(f"HungarianMatcher.weight_dict: all costs are 0, give one of {_COSTS} a factor")
        self.use_focal_loss = use_focal_loss
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, predictions: Predictions, targets: Sequence[Target]) -> Indices:
        """Match one prediction set.

        Args:
            predictions: logits (B, Q, C), boxes (B, Q, 4) cxcywh.
            targets: one per image, boxes (T, 4) cxcywh and labels (T,).

        Returns: per image (query, target), ascending in the query; min(Q, T) pairs.
        """
        return self.match_sets([predictions], targets)[0]

    def match_sets(self, sets: Sequence[Predictions], targets: Sequence[Target]) -> list[Indices]:
        """Match several sets over the same queries at once; see :meth:`forward`.

        Returns: per set, per image (query, target).
        """
        stack = stack_sets([(str(index), predictions) for index, predictions in enumerate(sets)], 0)
        table = tabulate(targets, stack.batch, stack.boxes.device)
        query_index, target_index = self.assign(stack, table)
        sizes = np.minimum(table.counts, stack.queries)
        bounds = [0, *np.cumsum(sizes).tolist()]
        return [
            [
                (
                    torch.from_numpy(query_index[s, low:high] - image * stack.queries),
                    torch.from_numpy(target_index[s, low:high] - table.starts[image]),
                )
                for image, (low, high) in enumerate(pairwise(bounds))
            ]
            for s in range(len(stack))
        ]

    @torch.no_grad()
    def assign(
        self, stack: SetStack, table: TargetTable, num_classes: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matches of all stacked sets: one transfer to the host, one exact assignment per set and image.

        Args:
            stack: S sets over B * Q rows.
            table: the batch's targets.
            num_classes: labels must lie below it; default: the widest logits, unless those are class-agnostic.

        Returns: query and target indices (S, M), image by image, queries ascending; M = sum of min(Q, T_b).

        Raises:
            ValueError: a label outside the head.
        """
        if not len(table):
            nothing = np.zeros((len(stack), 0), dtype=np.int64)
            return nothing, nothing
        shape = (len(stack), len(table), stack.queries)
        carried = stack.boxes.new_empty(math.prod(shape) + 2)  # the costs, and two labels that travel with them
        self.cost(stack, table, out=carried[:-2].view(shape))
        carried[-2:] = torch.stack(table.labels.aminmax())
        host = carried.cpu().numpy()
        _check_labels(host[-2:], stack, num_classes)
        return _solve(host[:-2].reshape(shape), table.starts, stack.queries)

    @torch.no_grad()
    def cost(self, stack: SetStack, table: TargetTable, out: Tensor | None = None) -> Tensor:
        """Cost of every query for every target of its own image, float32 (docs/method.md 6.1).

        Returns: (S, T, Q), finite: an undefined cost (two boxes without area, NaN predictions) counts as 1. ``out``
            where that is given.
        """
        total = stack.boxes.new_empty(len(stack), len(table), stack.queries) if out is None else out
        for logits, part in zip(stack.logits, total.split([len(block) for block in stack.logits])):
            self._class_cost(logits, stack, table, part)
        add_box_costs(total, stack, table, l1=self.weights["cost_bbox"], giou=self.weights["cost_giou"])
        return total.nan_to_num_(nan=1.0, posinf=_UNBOUNDED, neginf=-_UNBOUNDED)

    def _class_cost(self, logits: Tensor, stack: SetStack, table: TargetTable, out: Tensor) -> None:
        """Weighted cost of the targets' classes into ``out`` (S_i, T, Q); a class-agnostic head knows class 0 only."""
        classes, weight = logits.shape[-1], self.weights["cost_class"]
        labels = table.labels.clamp(0, classes - 1)
        by_class = logits.unflatten(1, (stack.batch, stack.queries)).mT.flatten(1, 2)  # (S_i, B*C, Q)
        place = table.image * classes + labels
        if not self.use_focal_loss:
            scores = by_class.unflatten(1, (-1, classes)).softmax(2).flatten(1, 2)
            torch.index_select(scores.mul_(-weight), 1, place, out=out)
        elif len(table) > stack.batch * classes:  # the cheaper order: more targets than (image, class) pairs
            torch.index_select(focal_cost(by_class, self.alpha, self.gamma).mul_(weight), 1, place, out=out)
        else:
            out.copy_(focal_cost(by_class.index_select(1, place), self.alpha, self.gamma)).mul_(weight)


def _check_labels(extremes: np.ndarray, stack: SetStack, num_classes: int | None) -> None:
    """Refuse labels that no column of the logits stands for."""
    if num_classes is None:
        num_classes = max(block.shape[-1] for block in stack.logits)
        if num_classes == 1:
            return
    for label in extremes.astype(np.int64).tolist():
        if not 0 <= label < num_classes:
            raise ValueError(
                f"a target has label {label}, but the head has {num_classes} classes (0..{num_classes - 1}): "
                "set num_classes to the dataset's, or map the labels"
            )


def _solve(cost: np.ndarray, starts: Sequence[int], queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact assignment of every (set, image) block of ``cost`` (S, T, Q); see :meth:`HungarianMatcher.assign`."""
    pairs: list[np.ndarray] = []
    for of_set in cost:
        images: list[np.ndarray] = []
        for image, (low, high) in enumerate(pairwise(starts)):
            query, target = linear_sum_assignment(of_set[low:high].T)
            images.append(np.stack((query + image * queries, target + low)))
        pairs.append(np.concatenate(images, axis=1))
    query_index, target_index = np.stack(pairs, axis=1)
    return query_index, target_index


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
    planes = _QueryPlanes(total, stack, table)
    if l1:
        for axis, (boxes, truth) in enumerate(zip(planes.boxes, _planes(table.boxes))):
            part = planes.read(boxes).sub_(truth)
            torch.abs(part, out=planes.other) if axis == 0 else planes.other.add_(part.abs_())
        total.add_(planes.other, alpha=l1)
    if giou:
        total.add_(_generalised_iou(planes), alpha=-giou)
    return total


def _generalised_iou(planes: _QueryPlanes) -> Tensor:
    """(S, T, Q) from corners; NaN where neither box has an area."""
    shared, hull = torch.empty_like(planes.other), torch.empty_like(planes.other)
    planes.shared_length(0, shared).mul_(planes.shared_length(1, planes.other))
    planes.whole_length(0, hull).mul_(planes.whole_length(1, planes.other))
    joint = planes.read(planes.areas).add_(planes.true_areas).sub_(shared)
    iou = shared.div_(joint)
    return iou.sub_(torch.sub(hull, joint, out=joint).div_(hull))


class _QueryPlanes:
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


def check_focal(who: str, alpha: float, gamma: float) -> None:
    """Refuse a share outside 0..1 and an exponent below 0 (ValueError)."""
    check_share(f"{who}.alpha", alpha)
    check_non_negative(f"{who}.gamma", gamma)

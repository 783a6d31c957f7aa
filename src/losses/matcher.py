# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Bipartite matching of queries and ground truth (DETR), for all prediction sets of a step in one transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..core.errors import check_non_negative
from ..core.registry import register
from ..nn.types import Predictions, Target
from .checks import check_focal
from .pair_costs import add_box_costs, focal_cost
from .sets import SetStack, TargetTable, stack_sets, tabulate

_COSTS = ("cost_class", "cost_bbox", "cost_giou")
_UNBOUNDED = 1e9
"""Cost in place of an infinite one: dearer than any real pair, and the solver accepts it."""

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
        stack = stack_sets([(str(index), one) for index, one in enumerate(sets)], 0)
        table = tabulate(targets, stack.batch, stack.boxes.device)
        rows, numbers = self.assign(stack, table)
        sizes = np.minimum(table.counts, stack.queries)
        bounds = [0, *np.cumsum(sizes).tolist()]
        return [
            [
                (
                    torch.from_numpy(rows[s, low:high] - image * stack.queries),
                    torch.from_numpy(numbers[s, low:high] - table.starts[image]),
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

        Returns: rows (S, M) and target numbers (S, M), image by image, ascending in the row; M = sum of min(Q, T_b).

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
    rows: list[list[np.ndarray]] = []
    numbers: list[list[np.ndarray]] = []
    for of_set in cost:
        rows.append([])
        numbers.append([])
        for image, (low, high) in enumerate(pairwise(starts)):
            query, target = linear_sum_assignment(of_set[low:high].T)
            rows[-1].append(query + image * queries)
            numbers[-1].append(target + low)
    return np.stack([np.concatenate(one) for one in rows]), np.stack([np.concatenate(one) for one in numbers])


def vote(rows: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Union of matches: the pair that most sets chose, for every query (D-FINE's global union; docs/method.md 6.2).

    Args:
        rows, numbers: any equal shape, matched rows and target numbers of all sets.

    Returns: rows (U,) and numbers (U,), most votes first, ties by (row, number) ascending. A row occurs once; a target
        may own several rows.
    """
    base = int(numbers.max(initial=0)) + 1
    pairs, votes = np.unique(rows.astype(np.int64).ravel() * base + numbers.ravel(), return_counts=True)
    ranked = pairs[np.argsort(-votes, kind="stable")]  # pairs were ascending, a stable sort keeps that among ties
    _, firsts = np.unique(ranked // base, return_index=True)
    kept = ranked[np.sort(firsts)]
    return kept // base, kept % base


def union_match(list_of_indices: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> Indices:
    """Union of the matches of several prediction sets, image by image; the rule is :func:`vote`'s.

    Args:
        list_of_indices: per set, per image (query, target) as :class:`HungarianMatcher` returns them.

    Returns: per image (query, target), int64 on the host.
    """
    united = []
    for of_image in zip(*list_of_indices):
        query, target = (torch.cat([torch.as_tensor(pair[side]).cpu() for pair in of_image]) for side in (0, 1))
        rows, numbers = vote(query.numpy(), target.numpy())
        united.append((torch.from_numpy(rows), torch.from_numpy(numbers)))
    return united

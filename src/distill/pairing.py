# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which query of the student learns from which query of the teacher."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import check_choice, check_share
from ..losses.matched import MatchedStep, to_device
from ..losses.matcher import HungarianMatcher
from ..losses.sets import stack_sets
from ..nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ..nn.types import Predictions
from .kernels import confidence
from .teacher import CommonClasses

Pairing = Literal["shared", "gt_anchor", "hungarian", "union"]
PAIRINGS: tuple[str, ...] = get_args(Pairing)
_UNKNOWN = -1e4
"""Logit of a class that the teacher does not know: its score is 0."""
_DEAR = 1e9
"""Cost in place of an infinite one, which the solver accepts."""


class QueryPairs(NamedTuple):
    """P pairs of queries of the same image, image by image; ``values[pairs.image, pairs.student]`` picks rows (P, ...)
    of (B, Q, ...)."""

    image: Tensor
    """(P,) int64 in 0..B-1."""
    student: Tensor
    """(P,) int64 in 0..Q_s-1; a query stands at most once."""
    teacher: Tensor
    """(P,) int64 in 0..Q_t-1."""
    matched: Tensor
    """(P,) bool, whether the pair stands for an object."""


class QueryAligner:
    """Pairs the queries of two models, by their final layers and anew at every step.

    Queries of two models have nothing in common but what they predict, so their numbers say nothing:

    - ``shared``: query q with query q; for decoders that were given the same queries.
    - ``gt_anchor``: a student's query that has a ground-truth box, with the teacher's query that fits the box best.
      Several of the student may have the same one of the teacher.
    - ``hungarian``: one to one, as many pairs as the model with fewer queries has, at the least cost
      (:func:`pair_costs`).
    - ``union``: first ``gt_anchor``, then the student's other queries one to one with the teacher's others.

    Permuting the queries of a model permutes the pairs.

    Args:
        mode: see above.
        threshold: of ``hungarian``: pairs whose teacher's query has a best score of at least this are matched; None
            for 0.5. Elsewhere matched are all pairs of ``shared`` and those that stand for a ground-truth box.

    Raises:
        ValueError: an unknown mode, or a threshold that is out of 0..1 or not read.
    """

    def __init__(self, mode: Pairing = "union", threshold: float | None = None) -> None:
        check_choice("pairing", mode, PAIRINGS)
        if threshold is not None and mode != "hungarian":
            raise ValueError(f"threshold is read by pairing: hungarian, not by {mode}: leave it out")
        self.mode = mode
        self.threshold = 0.5 if threshold is None else threshold
        check_share("threshold", self.threshold)
        costs = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
        self.matcher = HungarianMatcher(costs, use_focal_loss=True)

    @torch.no_grad()
    def __call__(
        self, student: Predictions, teacher: Predictions, classes: CommonClasses, step: MatchedStep
    ) -> QueryPairs:
        """Pair up, with one transfer to the host (none for ``shared``).

        Args:
            student, teacher: final predictions of the matching queries, (B, Q_s, ...) and (B, Q_t, ...).
            classes: that both know.
            step: the student's matches; the union of all layers' where the criterion takes it. Not read by ``shared``
                and ``hungarian``.

        Raises:
            ValueError: ``shared`` and different numbers of queries.
        """
        if self.mode == "shared":
            return _same(student, teacher)
        known, device = classes.of_teacher(teacher.logits), student.boxes.device
        costs = student.boxes.new_zeros(0)
        if self.mode != "gt_anchor":
            costs = pair_costs(classes.of_student(student.logits), student.boxes, known, teacher.boxes)
        if self.mode == "hungarian":
            pairs = [_best(of_image) for of_image in costs.cpu().numpy()]
            image, query, partner, _ = to_device(_numbered(pairs), device).unbind()
            return QueryPairs(image, query, partner, confidence(known)[image, partner] >= self.threshold)
        truth = self._truth_costs(teacher, classes, step)
        group = step.matching
        matches = torch.stack((group.pairs.query_index, group.pairs.target_index))
        matches = matches[:, group.stack.last_layer, group.pairs.union]
        parts = [truth.flatten(), matches.flatten().float(), costs.flatten()]  # indices are exact below 2^24
        host = np.split(torch.cat(parts).cpu().numpy(), np.cumsum([part.numel() for part in parts])[:-1])
        anchors = _anchors(host[0].reshape(truth.shape), group.table.starts)
        rows, targets = host[1].reshape(2, -1).astype(np.int64)
        anchored = _by_image(rows, anchors[targets], *student.boxes.shape[:2])
        others = host[2].reshape(costs.shape) if self.mode == "union" else [None] * len(anchored)
        pairs = [_completed(pair, rest) for pair, rest in zip(anchored, others)]
        matched = [len(pair[0]) for pair in anchored]
        image, query, partner, tags = to_device(_numbered(pairs, matched), device).unbind()
        return QueryPairs(image, query, partner, tags.bool())

    def _truth_costs(self, teacher: Predictions, classes: CommonClasses, step: MatchedStep) -> Tensor:
        """(T, Q_t) cost of the teacher's queries for the ground-truth boxes of their image."""
        known = in_students_columns(teacher, classes, step.matching.stack.logits[0].shape[-1])
        return self.matcher.cost(stack_sets([("", known)], 0), step.matching.table)[0]


def in_students_columns(teacher: Predictions, classes: CommonClasses, count: int) -> Predictions:
    """The teacher's predictions with the ``count`` classes of the student; scores of those it does not know are 0."""
    logits = teacher.logits
    if not classes.identical:
        wide = logits.new_full((*logits.shape[:2], count), _UNKNOWN)
        logits = wide.index_copy(-1, classes.student, classes.of_teacher(logits))
    return Predictions(logits, teacher.boxes)


def _same(student: Predictions, teacher: Predictions) -> QueryPairs:
    """Query q with query q."""
    batch, queries = student.boxes.shape[:2]
    if teacher.boxes.shape[1] != queries:
        raise ValueError(
            f"pairing: shared compares query with query, but the student has {queries} and the teacher "
            f"{teacher.boxes.shape[1]}: use another pairing"
        )
    number = torch.arange(batch * queries, device=student.boxes.device)
    return QueryPairs(number // queries, number % queries, number % queries, torch.ones_like(number, dtype=torch.bool))


@torch.no_grad()
def pair_costs(student_logits: Tensor, student_boxes: Tensor, teacher_logits: Tensor, teacher_boxes: Tensor) -> Tensor:
    """What it costs each of the student's queries to be like each of the teacher's: cross entropy of the teacher's
    scores, summed over classes, + 5 L1 - 2 GIoU of the boxes.

    Args:
        student_logits, teacher_logits: (..., Q_s, K) and (..., Q_t, K) of the classes that both know.
        student_boxes, teacher_boxes: (..., Q_s, 4) and (..., Q_t, 4) cxcywh.

    Returns: (..., Q_s, Q_t) float32, finite: what is undefined costs 1.
    """
    logits, scores = student_logits.float(), teacher_logits.float().sigmoid()
    entropy = F.softplus(logits).sum(-1)[..., None] - logits @ scores.mT
    boxes, known = student_boxes.float(), teacher_boxes.float()
    overlap = paired_iou_and_giou(cxcywh_to_xyxy(boxes)[..., :, None, :], cxcywh_to_xyxy(known)[..., None, :, :])[1]
    costs = entropy + 5 * torch.cdist(boxes, known, p=1) - 2 * overlap
    return costs.nan_to_num(nan=1.0, posinf=_DEAR, neginf=-_DEAR)


def best_pairs(costs: Tensor) -> Tensor:
    """One-to-one pairs of the least cost, with one transfer to the host.

    Args:
        costs: (S, B, Q_s, Q_t), finite.

    Returns: (S, B, 2, P) int64 on the costs' device: student and teacher, ascending in the student; P is the smaller
        number of queries.
    """
    flat = [np.stack(_best(of_image)) for of_image in costs.detach().flatten(0, 1).cpu().numpy()]
    pairs: Tensor = to_device(np.stack(flat), costs.device).unflatten(0, costs.shape[:2])
    return pairs


def _best(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student and teacher of the cheapest one-to-one pairs of (Q_s, Q_t) costs."""
    student, teacher = linear_sum_assignment(costs)
    return student, teacher


def _anchors(costs: np.ndarray, starts: list[int]) -> np.ndarray:
    """(T,) the teacher's query of every ground-truth box, -1 for none, from (T, Q_t) costs."""
    anchors = np.full(len(costs), -1)
    for low, high in pairwise(starts):
        target, query = linear_sum_assignment(costs[low:high])
        anchors[low + target] = query
    return anchors


def _by_image(rows: np.ndarray, partners: np.ndarray, batch: int, queries: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per image, student and teacher of the pairs that have a partner; row b * Q + q is query q of image b."""
    found = partners >= 0
    image, query, partners = rows[found] // queries, rows[found] % queries, partners[found]
    return [(query[image == number], partners[image == number]) for number in range(batch)]


def _completed(pairs: tuple[np.ndarray, np.ndarray], costs: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of an image, and those of all other queries at the least cost, where costs (Q_s, Q_t) are given."""
    if costs is None:
        return pairs
    ours, theirs = (np.delete(np.arange(size), taken) for size, taken in zip(costs.shape, pairs))
    student, teacher = linear_sum_assignment(costs[np.ix_(ours, theirs)])
    return np.concatenate((pairs[0], ours[student])), np.concatenate((pairs[1], theirs[teacher]))


def _numbered(pairs: list[tuple[np.ndarray, np.ndarray]], matched: list[int] | None = None) -> np.ndarray:
    """(4, P) int64: image, student, teacher, and 1 for the first ``matched`` pairs of every image."""
    sizes = [len(student) for student, _ in pairs]
    tags = [np.arange(size) < first for size, first in zip(sizes, matched or [0] * len(sizes))]
    columns = [np.repeat(np.arange(len(pairs)), sizes), *map(np.concatenate, zip(*pairs)), np.concatenate(tags)]
    return np.stack(columns).astype(np.int64)

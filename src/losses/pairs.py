# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which query answers for which ground-truth box, and what the losses are divided by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..core import dist
from ..nn.boxes import paired_iou_and_giou
from ..nn.types import GroupOutput
from .matcher import vote
from .sets import SetStack, TargetTable, to_device

DnPadding = Literal["include", "exclude"]


@dataclass(frozen=True)
class Pairs:
    """P pairs (row, target number) per set: some for the class loss, some for the box losses."""

    rows: Tensor
    """(S, P) int64 in 0..B*Q-1."""
    numbers: Tensor
    """(S, P) int64 in 0..T-1."""
    own: slice
    """Columns that a set matched itself: class loss."""
    agreed: slice
    """Columns of the box losses: those on which all sets agree (their union, or fixed pairs; equal in every set), or
    ``own`` again where each set is scored on its own matches."""
    padding: Tensor | None = None
    """(B * Q,) bool, rows that only fill up the batch; None where there are none."""


@dataclass(frozen=True)
class Counts:
    """Averages over ranks, scalar tensors: W ranks divide by what one rank with all their images would."""

    own: Tensor
    """Pairs of the class loss, at least 1 (``num_boxes``)."""
    agreed: Tensor
    """Pairs of the box losses, at least 1 (``num_boxes_go``)."""
    matched: Tensor
    """Queries with a box in ``agreed``."""
    unmatched: Tensor
    """All other queries, padding too."""
    padding: Tensor
    """Queries that only fill up the batch."""

    def distilled(self, dn_padding: DnPadding) -> tuple[Tensor, Tensor]:
        """Matched and unmatched queries of a distillation that does, or does not, include padding."""
        return self.matched, self.unmatched if dn_padding == "include" else self.unmatched - self.padding


@dataclass(frozen=True)
class MatchedBoxes:
    """Boxes of all pairs and their overlaps, each computed once."""

    predicted: Tensor
    """(S, P, 4) cxcywh."""
    target: Tensor
    """(S, P, 4) cxcywh."""
    iou: Tensor
    """(S, P)."""
    giou: Tensor
    """(S, P)."""


def matched_boxes(stack: SetStack, pairs: Pairs, table: TargetTable, corners: Tensor) -> MatchedBoxes:
    """Gather both sides of all pairs and compare them row by row.

    Args:
        corners: (S, R, 4) xyxy form of ``stack.boxes``.
    """
    both = torch.cat((stack.boxes, corners), -1)  # (S, R, 8)
    both = both.gather(1, pairs.rows[..., None].expand(-1, -1, 8))
    predicted, predicted_xyxy = both.split(4, -1)
    truth, truth_xyxy = torch.cat((table.boxes, table.corners), -1)[pairs.numbers].split(4, -1)
    return MatchedBoxes(predicted, truth, *paired_iou_and_giou(predicted_xyxy, truth_xyxy))


def pair_up(
    matched: tuple[np.ndarray, np.ndarray],
    stack: SetStack,
    groups: Sequence[tuple[SetStack, GroupOutput]],
    table: TargetTable,
    *,
    united: bool = True,
) -> list[tuple[Pairs, Counts]]:
    """Pairs and counts of the matching queries, then of every extra group.

    Args:
        matched: rows and target numbers (S, M) from the matcher, on the host.
        stack, groups: the prediction sets.
        table: the batch's targets.
        united: whether the sets' boxes are scored on the union of all matches; else each set's on its own.
    """
    rows, numbers = matched
    own = rows.shape[1]
    all_rows, all_numbers, boxed, agreed = rows, numbers, own, len(table)
    if united:
        union_rows, union_numbers = vote(rows, numbers)
        spread = (len(stack), len(union_rows))
        all_rows = np.concatenate((rows, np.broadcast_to(union_rows, spread)), 1)
        all_numbers = np.concatenate((numbers, np.broadcast_to(union_numbers, spread)), 1)
        boxed = agreed = len(union_rows)
    sizes = [len(table), agreed, boxed, stack.rows - boxed]
    for one, group in groups:
        fixed = group.group.repeats * len(table)
        sizes += [fixed, fixed, fixed, one.rows - fixed]
    flat = np.concatenate((all_rows.ravel(), all_numbers.ravel(), np.array(sizes, dtype=np.int64)))
    packed = to_device(flat, stack.boxes.device)  # the one copy back to the device
    on_device = packed[: 2 * all_rows.size].view(2, *all_rows.shape)
    scored = slice(own, None) if united else slice(0, own)
    pairs = [Pairs(on_device[0], on_device[1], slice(0, own), scored)]
    pairs += [fixed_pairs(one, group, table) for one, group in groups]
    return list(zip(pairs, _average(packed[2 * all_rows.size :].float(), pairs)))


def _average(sizes: Tensor, pairs: Sequence[Pairs]) -> list[Counts]:
    """Counts of every group from their local sizes (4 each), in one small all-reduce."""
    nothing = sizes.new_zeros(())
    padding = torch.stack([nothing if one.padding is None else one.padding.sum().float() for one in pairs])
    average = dist.mean(torch.cat((sizes.view(-1, 4), padding[:, None]), 1))
    norms, queries = average.split((2, 3), 1)
    return [Counts(*row.unbind()) for row in torch.cat((norms.clamp(min=1), queries), 1).unbind()]


def fixed_pairs(stack: SetStack, group: GroupOutput, table: TargetTable) -> Pairs:
    """Pairs of a group that knows its targets, without asking the device how many there are.

    Raises:
        ValueError: the group has no ``assigned``, or fewer queries than pairs.
    """
    query_group = group.group
    if query_group.assigned is None:
        raise ValueError(f"query group {query_group.name!r} has no assigned targets: the criterion cannot score it")
    count = query_group.repeats * len(table)
    if count > stack.rows:
        raise ValueError(
            f"query group {query_group.name!r} has {stack.rows} queries for {query_group.repeats} x {len(table)} "
            "targets: repeats must say how often each target stands in assigned"
        )
    assigned = query_group.assigned.flatten()
    # a stable sort puts the assigned rows first; their number is known, so nothing waits for the device
    rows = (assigned < 0).int().argsort(stable=True)[:count]
    numbers = assigned[rows] + table.first[rows // max(stack.queries, 1)]
    padding = None if query_group.padding is None else query_group.padding.flatten()
    everything = slice(0, None)
    return Pairs(rows.expand(len(stack), -1), numbers.expand(len(stack), -1), everything, everything, padding)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A training step after matching: what the criterion scores and what distillers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn.types import DetectorOutput
from .pairs import Counts, MatchedBoxes, Pairs
from .sets import SetStack, TargetTable


@dataclass(frozen=True)
class MatchedGroup:
    """The prediction sets of one query group with the pairs they are scored on. R = B * Q rows, K decoder layers."""

    name: str
    """Empty for the matching queries, else the group's name (``dn``)."""
    stack: SetStack
    """The sets; the first K are the decoder layers, of which ``stack.teacher`` is the deepest."""
    pairs: Pairs
    counts: Counts
    """Averages over ranks."""
    boxes: MatchedBoxes
    table: TargetTable
    """The targets of the whole batch."""

    def matched(self, index: int = 0) -> Tensor:
        """(R,) bool: queries that have a box in set ``index``; with a union, or fixed pairs, the same in every set."""
        rows = self.pairs.rows[index, self.pairs.agreed]
        return torch.zeros_like(self.stack.boxes[0, :, 0], dtype=torch.bool).index_fill(0, rows, True)

    def overlaps(self, first: int, last: int) -> Tensor:
        """(last - first, R) IoU of each query's box with its target in the sets ``first:last``, detached; 0 without
        one."""
        here = slice(first, last)
        iou = self.boxes.iou[here, self.pairs.agreed].detach()
        spread = iou.new_zeros(last - first, self.stack.rows)
        return spread.scatter(1, self.pairs.rows[here, self.pairs.agreed], iou)

    def confidence(self, first: int, last: int) -> Tensor:
        """(last - first, R) best class score in (0, 1) of every query in decoder layers ``first:last``, detached."""
        return self.stack.logits[0][first:last].detach().amax(-1).sigmoid()


@dataclass(frozen=True)
class MatchedStep:
    """One training step, matched once for all losses."""

    output: DetectorOutput
    """What the model returned."""
    groups: Sequence[MatchedGroup] = ()
    """The matching queries, then every extra group in the output's order; none of a criterion without such pairs."""

    @property
    def matching(self) -> MatchedGroup:
        """The matching queries."""
        return self.groups[0]

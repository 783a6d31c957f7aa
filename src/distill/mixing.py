# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How losses of edge distributions average over the queries of a group, and which groups take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import check_choice
from ..losses.functions import ddf_loss, decoupled_mean
from ..losses.matched import DnPadding, MatchedGroup, MatchedStep

DnCounts = Literal["shared", "own"]


@dataclass(frozen=True)
class Share:
    """The two sets of queries over which one group's losses average; see :func:`~isdfine.losses.functions.ddf_loss`."""

    matched: Tensor
    """(R,) bool."""
    ignored: Tensor | None
    """(R,) bool, neither matched nor unmatched."""
    rows: tuple[Tensor, Tensor]
    """Divisors of the two means."""
    counts: tuple[Tensor, Tensor]
    """Their square roots mix the two means."""

    def ddf(self, student: Tensor, teacher: Tensor, iou: Tensor, confidence: Tensor, temperature: float) -> Tensor:
        """DDF of stacked layers (..., R, 4, N + 1); one value per layer."""
        return ddf_loss(
            student,
            teacher,
            iou,
            confidence,
            self.matched,
            temperature,
            self.counts,
            ignored=self.ignored,
            rows=self.rows,
        )

    def mean(self, per_query: Tensor, iou: Tensor, confidence: Tensor) -> Tensor:
        """The same weights and means for any value (..., R) per query."""
        weighted = per_query * torch.where(self.matched, iou.detach(), confidence.detach())
        return decoupled_mean(weighted, self.matched, self.counts, ignored=self.ignored, rows=self.rows)


class Mixing:
    """Rules for the extra query groups and for queries without a box.

    Args:
        who: how messages call the owner.
        denoising: distil inside the extra query groups too.
        dn_padding: ``include``: padded denoising slots are unmatched queries; ``exclude``: they do not count.
        dn_counts: denoising groups mix the two means by the matching queries' counts (``shared``) or by their ``own``.
        unmatched: whether queries without a box are distilled.

    Raises:
        ValueError: an unknown option.
    """

    def __init__(
        self, who: str, *, denoising: bool, dn_padding: DnPadding, dn_counts: DnCounts, unmatched: bool = True
    ) -> None:
        check_choice(f"{who}.dn_padding", dn_padding, ("include", "exclude"))
        check_choice(f"{who}.dn_counts", dn_counts, ("shared", "own"))
        self.denoising = denoising
        self.dn_padding: DnPadding = dn_padding
        self.dn_counts: DnCounts = dn_counts
        self.unmatched = unmatched

    def groups(self, step: MatchedStep) -> Sequence[MatchedGroup]:
        """The groups that are distilled."""
        return step.groups if self.denoising else step.groups[:1]

    def share(self, group: MatchedGroup, step: MatchedStep) -> Share:
        """Queries and numbers of one group."""
        matched = group.matched()
        rows = group.counts.distilled(self.dn_padding)
        counts = step.matching.counts.distilled(self.dn_padding) if self.dn_counts == "shared" else rows
        if not self.unmatched:
            none = torch.zeros_like(rows[0])
            return Share(matched, ~matched, (rows[0], none), (counts[0], none))
        return Share(matched, group.pairs.padding if self.dn_padding == "exclude" else None, rows, counts)

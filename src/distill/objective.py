# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Everything a training step minimises: the criterion's terms and the distillers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..losses.criterion import DFINECriterion
from ..losses.step import MatchedStep
from ..nn.types import DetectorOutput, Target
from .context import DistillationContext, Distiller
from .go_lsd import GOLSD


class Objective(nn.Module):
    """Match once, score with the criterion, distil.

    Args:
        criterion: the supervised losses.
        distillers: any number; None for the default of official files: GO-LSD wherever the criterion has local losses
            and a weight ``loss_ddf``.

    Raises:
        ValueError: a distiller that leaves open what the criterion does not say, one that is listed twice, or two of
            which one takes the other's place; all begin with ``distillers.N: ``.
    """

    def __init__(self, criterion: DFINECriterion, distillers: Sequence[Distiller] | None = None) -> None:
        super().__init__()
        given = default_distillers(criterion) if distillers is None else distillers
        check_together(given)
        self.criterion = criterion
        bound = [_bound(index, one, criterion) for index, one in enumerate(given)]
        self.distillers: Sequence[Distiller] = nn.ModuleList(bound)  # type: ignore[assignment]

    @property
    def captures(self) -> frozenset[str]:
        """Kinds of attention that the model must hand out."""
        return frozenset().union(*(one.captures for one in self.distillers))

    def forward(self, output: DetectorOutput, targets: Sequence[Target], progress: float = 0.0) -> dict[str, Tensor]:
        """:meth:`terms` of :meth:`context`."""
        return self.terms(self.context(output, targets, progress))

    def context(self, output: DetectorOutput, targets: Sequence[Target], progress: float = 0.0) -> DistillationContext:
        """Match a step.

        Args:
            output: of the model in train mode.
            targets: one per image.
            progress: share of the run's optimiser steps that are done.
        """
        return DistillationContext(output, self.criterion.match(output, targets), progress)

    def terms(self, context: DistillationContext) -> dict[str, Tensor]:
        """Name -> weighted scalar, prediction set by prediction set; the objective is their sum.

        Raises:
            ValueError: two distillers return a loss of the same name.
        """
        named = self.criterion.terms(context.step)
        with torch.autocast(context.step.matching.stack.boxes.device.type, enabled=False):
            for index, distiller in enumerate(self.distillers):
                losses = distiller(context)
                twice = named.keys() & losses.keys()
                if twice:
                    raise ValueError(
                        f"distillers.{index} ({type(distiller).__name__}) returns {', '.join(sorted(twice))}, which is "
                        "there already: give its losses names of their own"
                    )
                named |= losses
        return in_order(named, context.step)


def check_together(distillers: Sequence[Distiller]) -> None:
    """Refuse a distiller that is listed twice, or beside one whose place it takes (ValueError)."""
    for index, one in enumerate(distillers):
        kind = type(one).__name__
        for place, other in enumerate(distillers[:index]):
            if type(other) is type(one):
                raise ValueError(
                    f"distillers.{index}: {kind} stands there twice, and its losses would have the same names: keep one"
                )
            if one.compares and one.compares == other.compares:
                raise ValueError(
                    f"distillers.{index}: {kind} compares the {one.compares} of the decoder layers, as "
                    f"{type(other).__name__} (distillers.{place}) does, and takes its place: keep one of the two"
                )


def _bound(index: int, distiller: Distiller, criterion: DFINECriterion) -> Distiller:
    """The distiller with what the criterion gives it; what it refuses with its place in the list."""
    try:
        return distiller.bound(criterion)
    except ValueError as error:
        raise ValueError(f"distillers.{index}: {error}") from error


def default_distillers(criterion: DFINECriterion) -> list[Distiller]:
    """What official files mean, which know no distillers: GO-LSD where the criterion weighs it."""
    return [GOLSD()] if "local" in criterion.losses and "loss_ddf" in criterion.weight_dict else []


def in_order(named: Mapping[str, Tensor], step: MatchedStep) -> dict[str, Tensor]:
    """Terms set by set, as the sets stand in the step: the total's last digits depend on the order of its summands.

    A name belongs to the set whose suffix it ends with, to the final layer (which has none) otherwise.
    """
    suffixes = [suffix for group in step.groups for suffix in group.stack.suffixes]
    rank = {suffix: index for index, suffix in enumerate(suffixes)}
    by_length = sorted(suffixes, key=len, reverse=True)

    def place(name: str) -> int:
        return rank[next((suffix for suffix in by_length if name.endswith(suffix)), "")]

    return {name: named[name] for name in sorted(named, key=place)}

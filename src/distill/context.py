# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What every distiller gets, and what it must offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from ..losses.criterion import Criterion
from ..losses.matched import MatchedStep
from ..nn.types import DetectorOutput, Want

T = TypeVar("T")


@dataclass(frozen=True)
class DistillationContext:
    """One training step as distillers see it."""

    student: DetectorOutput
    step: MatchedStep
    """The same output, matched."""
    progress: float
    """Share of the run's optimiser steps that are done, 0 at the first step, below 1 at the last."""
    step_number: int = 0
    """Optimiser steps that are done."""
    epoch: int = 0
    """Passes over the data that are done."""
    teacher: DetectorOutput | None = None
    """Output of another, frozen model; None for self-distillation."""


class Distiller(nn.Module):
    """A source of named losses beside the criterion's.

    Self-distillation: the teacher is a layer of the student itself, always detached. What a distiller makes in its
    constructor, in :meth:`bound` or in :meth:`check` and that has weights (adapters, projections) is trained, clipped,
    saved and resumed with the model; it is no part of the average, of an export or of inference.
    """

    slot: ClassVar[str] = "distillers"
    """Top-level list of a config in which it may stand."""
    compares: ClassVar[str] = ""
    """What of the decoder layers it compares, in the words of messages: a list may hold one distiller for each. Empty
    for what goes beside all others."""
    want: Want = Want()
    """What the model must return for it in training, beside the predictions of all layers."""

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Weighted scalars by log name, the same names at every step; called outside autocast.

        Raises:
            ValueError: the output lacks what this distiller reads.
        """
        raise NotImplementedError(f"{type(self).__name__} must return its losses from forward(context)")

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        """Refuse a model or criterion that cannot serve this distiller, before the first step (ValueError)."""

    def bound(self, criterion: Criterion) -> Distiller:
        """This distiller, with what it leaves open taken from the criterion.

        Raises:
            ValueError: the criterion does not say it either.
        """
        return self

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher) decoder layers, 0-based, of a model with this many; empty where edges are not compared.

        Diagnostics report the divergence of these pairs.
        """
        return []

    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        """Further scalars for the log, by name: without a graph, and no part of the objective."""
        return {}


def counted(distillers: Sequence[Distiller]) -> Iterator[tuple[int, Distiller]]:
    """The distillers, each with how many of its class stand in the list up to there: 1 for the first."""
    for index, distiller in enumerate(distillers):
        yield sum(type(other) is type(distiller) for other in distillers[: index + 1]), distiller


def told_apart(named: Mapping[str, T], count: int) -> dict[str, T]:
    """What distiller number ``count`` of its class returns, by names of its own: ``loss_isd`` of the second becomes
    ``loss_2_isd``."""
    if count == 1:
        return dict(named)
    return {
        f"loss_{count}_{name.removeprefix('loss_')}" if name.startswith("loss_") else f"{count}_{name}": value
        for name, value in named.items()
    }

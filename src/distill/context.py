# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What every distiller gets, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..losses.criterion import DFINECriterion
from ..losses.step import MatchedStep
from ..nn.types import DetectorOutput


@dataclass(frozen=True)
class DistillationContext:
    """One training step as distillers see it."""

    student: DetectorOutput
    step: MatchedStep
    """The same output, matched."""
    progress: float
    """Share of the run's optimiser steps that are done, 0 at the first step, below 1 at the last."""
    teacher: DetectorOutput | None = None
    """Output of another, frozen model; None for self-distillation."""


class Distiller(nn.Module):
    """A source of named losses beside the criterion's.

    Self-distillation: the teacher is a layer of the student itself, always detached.
    """

    slot: ClassVar[str] = "distillers"
    """Top-level list of a config in which it may stand."""
    compares: ClassVar[str] = ""
    """What of the decoder layers it compares, in the words of messages: a list may hold one distiller for each. Empty
    for what goes beside all others."""
    captures: frozenset[str] = frozenset()
    """Kinds of attention that the model must hand out while it trains (see ``nn/capture.py``)."""

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        """Weighted scalars by log name, the same names at every step; called outside autocast.

        Raises:
            ValueError: the output lacks what this distiller reads.
        """
        raise NotImplementedError(f"{type(self).__name__} must return its losses from forward(context)")

    def check(self, model: nn.Module, criterion: DFINECriterion) -> None:
        """Refuse a model or criterion that cannot serve this distiller, before the first step (ValueError)."""

    def bound(self, criterion: DFINECriterion) -> Distiller:
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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: one pass over the data, readable on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..optim.step import Optim

Terms = Mapping[str, Tensor]
ComputeLosses = Callable[[Tensor, list[dict[str, Tensor]]], Terms]
"""(images, targets) -> name -> weighted scalar on the device."""


class StopTraining(Exception):
    """Raised to leave the loop in good order, with everything saved.

    Args:
        reason: what ended the training and where.
        exit_code: of a process that ends with it: 130 for Ctrl-C, 143 for SIGTERM, as shells have it.
    """

    def __init__(self, reason: str = "stopped", exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


@dataclass(frozen=True)
class StepReport:
    """One micro step as listeners see it; tensors stay on the device until a line is due."""

    terms: Terms
    """Weighted losses by their official names."""
    grad_norm: Tensor | None
    """Global gradient norm before clipping; None inside an accumulation window."""
    lr: float
    """Learning rate of the last parameter group, as used by this step."""

    @cached_property
    def scalars(self) -> tuple[Tensor, ...]:
        """The terms in their order, without their graphs; made once for all who look at every step."""
        return tuple(term.detach() for term in self.terms.values())


def train_one_epoch(
    compute_losses: ComputeLosses,
    loader: Iterable[tuple[Tensor, list[dict[str, Tensor]]]],
    optim: Optim,
    *,
    max_norm: float,
    window: Callable[[], AbstractContextManager[object]],
    on_step: Callable[[StepReport], None],
) -> None:
    """One pass over the data. Everything periodic (logging, saving, stopping) is in ``on_step``.

    Args:
        compute_losses: (images, targets) -> named weighted losses on the device.
        loader: yields images (B, 3, H, W) in [0, 1] and a list of B target dicts, both on the device.
        optim: precision, accumulation, optimiser, schedule and EMA.
        max_norm: largest global gradient norm; 0 for no clipping.
        window: context of one batch; keeps gradients local to a rank until an accumulation window is complete.
        on_step: called after every batch with that batch's :class:`StepReport`.
    """
    for images, targets in loader:
        lr = optim.schedule.lr[-1]
        with window():
            with optim.precision.autocast():
                terms = compute_losses(images, targets)
            grad_norm = optim.step(sum_terms(terms), max_norm)
        on_step(StepReport(terms, grad_norm, lr))


def sum_terms(terms: Terms) -> Tensor:
    """Total loss, a scalar: the sum of the weighted terms in their order."""
    if not terms:
        raise ValueError("the criterion returned no loss: name at least one under criterion.losses")
    values = iter(terms.values())
    total = next(values)
    for value in values:
        total = total + value
    return total

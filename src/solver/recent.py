# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Scalars of the last steps, kept on the device as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HELD = 128
"""Steps after which scalars are put together although nobody asks: bounds what waits where lines are rare."""

Names = tuple[str, ...]


class Rows(NamedTuple):
    """Steps that had the same scalars."""

    names: Names
    steps: Tensor
    """(R,) int64."""
    values: Tensor
    """(R, names)."""


class Recent:
    """Collects scalars without an operator on the device; they are put together when someone looks."""

    def __init__(self) -> None:
        self._waiting: dict[Names, list[tuple[int, Sequence[Tensor]]]] = {}
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether it is time to :meth:`take` what is here."""
        return self._count >= HELD

    def add(self, names: Names, scalars: Sequence[Tensor], step: int) -> None:
        """Keep the scalars of a step; without their graphs, and not changed later."""
        self._waiting.setdefault(names, []).append((step, scalars))
        self._count += 1

    def take(self) -> list[Rows]:
        """Everything since the last call; nothing is read from the device."""
        found = []
        for names, rows in self._waiting.items():
            values = torch.stack([one for _, scalars in rows for one in scalars]).view(len(rows), len(names))
            steps = torch.tensor([step for step, _ in rows]).to(values.device, non_blocking=True)
            found.append(Rows(names, steps, values))
        self._waiting, self._count = {}, 0
        return found

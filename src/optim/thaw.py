# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parameter groups that rest at first and then come in with a warm-up of their own (spec doc_layout R-11)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..core.errors import ConfigError


@dataclass(frozen=True)
class Thaw:
    """Factor on the learning rate of groups that rest at first."""

    groups: frozenset[int]
    """Their numbers in the optimizer."""
    start: int | None
    """First step in which they train; None = none."""
    warmup: int
    """Steps from there over which the factor rises linearly to 1; 0 for none."""

    def factor(self, group: int, step: int) -> float:
        """Factor of a group at optimizer step ``step`` (from 0), in [0, 1]."""
        if group not in self.groups:
            return 1.0
        if self.start is None or step < self.start:
            return 0.0
        done = step - self.start + 1
        return 1.0 if done >= self.warmup else done / self.warmup


def separate(
    optimizer: Optimizer, resting: Collection[nn.Parameter], label: str, origin: str | None = None
) -> frozenset[int]:
    """Give resting parameters groups of their own, directly before what is left of their group.

    A group that rests as a whole stays as it is, so patterns that single out the backbone keep their numbers.

    Args:
        optimizer: its ``param_groups`` are changed in place; it has not stepped yet.
        resting: the parameters.
        label: put behind the name of a group that is split off.
        origin: where the config asks for it, for the message; None = ``label``.

    Returns: the numbers of the groups that rest.

    Raises:
        ConfigError: the optimizer holds none of the parameters.
    """
    chosen = {id(one) for one in resting}
    groups: list[dict[str, Any]] = []
    numbers: set[int] = set()
    for group in optimizer.param_groups:
        rests = [id(one) in chosen for one in group["params"]]
        if any(rests):
            numbers.add(len(groups))
        if any(rests) and not all(rests):
            groups.append({**_some(group, rests), "name": f"{group.get('name', 'group')} [{label}]"})
            group = _some(group, [not one for one in rests])
        groups.append(group)
    if not numbers:
        raise ConfigError(
            f"{origin or label}: the optimizer trains none of these parameters anyway (see freeze_at): remove it"
        )
    optimizer.param_groups[:] = groups
    return frozenset(numbers)


def _some(group: dict[str, Any], chosen: Collection[bool]) -> dict[str, Any]:
    lists = {key: group[key] for key in ("params", "param_names") if key in group}
    return {**group, **{key: [one for one, keep in zip(values, chosen) if keep] for key, values in lists.items()}}

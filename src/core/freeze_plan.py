# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What the top-level key ``freeze`` may say (spec doc_layout R-11, without its automatic trigger)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXAMPLE = "write freeze: {backbone: {steps: 2000}}"
_LEAST = {"steps": 1, "epochs": 1, "stages": 0, "warmup": 0}


@dataclass(frozen=True)
class FreezePlan:
    """Which part of the backbone rests, and how long."""

    stages: int | None = None
    """The stem and this many stages; None = the whole backbone."""
    steps: int | None = None
    """Optimizer steps; with None and no ``epochs`` the part never trains."""
    epochs: int | None = None
    """The same in epochs."""
    warmup: int = 500
    """Steps after the rest over which the learning rate of what was frozen rises linearly from 0; 0 for none."""

    @classmethod
    def of(cls, setting: Mapping[str, Any] | None) -> FreezePlan | None:
        """From a setting in which :func:`freeze_problem` finds nothing; None where nothing is frozen."""
        return cls(**setting["backbone"]) if setting and setting.get("backbone") is not None else None

    def until(self, steps_per_epoch: int) -> int | None:
        """The first step that trains everything; None = none does."""
        return self.epochs * steps_per_epoch if self.epochs is not None else self.steps


def freeze_problem(setting: object) -> str | None:
    """What is wrong with a value of ``freeze``, and what to write instead; None where it is fine."""
    if setting is None:
        return None
    if not isinstance(setting, Mapping):
        return f"expected a mapping, found {setting!r}: {_EXAMPLE}"
    for part in setting:
        if part == "trigger":
            return "trigger is not available: the backbone rests as long as steps or epochs say; remove it"
        if part != "backbone":
            return f"no part {part!r} can be frozen: {_EXAMPLE}"
    backbone = setting.get("backbone")
    if backbone is None:
        return None
    if not isinstance(backbone, Mapping) or not backbone:
        return f"backbone: expected a mapping with steps, epochs or stages, found {backbone!r}: {_EXAMPLE}"
    return _problem_of(backbone)


def _problem_of(backbone: Mapping[Any, Any]) -> str | None:
    for key, value in backbone.items():
        if key not in _LEAST:
            return f"backbone.{key}: no such key; known are {', '.join(_LEAST)}"
        if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[key]:
            return f"backbone.{key}: expected a whole number of {_LEAST[key]} or more, found {value!r}"
    ends = [key for key in ("steps", "epochs") if key in backbone]
    if len(ends) == 2:
        return "backbone: steps and epochs are both set: keep one of the two"
    if not ends and "stages" not in backbone:
        return f"backbone: say for how many steps or epochs, or how many stages never train: {_EXAMPLE}"
    if not ends and "warmup" in backbone:
        return "backbone.warmup follows steps or epochs: set one of them, or remove it"
    return None

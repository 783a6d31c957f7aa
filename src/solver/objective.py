# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Put criterion and distillers together as the config says, and see that the model can serve them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..core.config import Config
from ..core.errors import ConfigError
from ..distill.objective import Objective
from ..losses.criterion import DFINECriterion

DISTILLERS = "distillers"


def build_objective(config: Config, model: nn.Module) -> Objective:
    """The training objective.

    Args:
        config: with a section ``criterion``; ``distillers`` absent or null means the official default.
        model: as built, before it is wrapped or compiled.

    Raises:
        ConfigError: not a criterion of ours, or a distiller that the model or the criterion cannot serve; with file,
            line and config path.
    """
    criterion = config.build("criterion")
    if not isinstance(criterion, DFINECriterion):
        raise ConfigError(
            f"{_place(config, 'criterion')}: {type(criterion).__name__} is no DFINECriterion: derive it from that "
            "class, whose match() and terms() the distillers share"
        )
    given = config.build(DISTILLERS) if config.get(DISTILLERS) is not None else None
    with _at(_place(config, "criterion" if given is None else DISTILLERS)):
        objective = Objective(criterion, given)
    for index, one in enumerate(objective.distillers):
        with _at(_place(config, "criterion" if given is None else f"{DISTILLERS}.{index}")):
            one.check(model, criterion)
    return objective


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where in the config an object's refusal comes from."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _place(config: Config, key: str) -> str:
    return f"{config.origins[key]}: {key}"

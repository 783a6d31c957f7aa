# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Put criterion and distillers together as the config says, and see that the model can serve them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..core import dist
from ..core.config import Config
from ..core.errors import ConfigError
from ..distill.checks import answering_layers
from ..distill.context import Distiller
from ..distill.objective import Objective, default_distillers
from ..losses.criterion import DFINECriterion

logger = logging.getLogger(__name__)

DISTILLERS = Distiller.slot


def build_objective(config: Config, model: nn.Module) -> Objective:
    """The training objective.

    Args:
        config: with a section ``criterion``; ``distillers`` absent or null means the official default, with the
            arguments of its section ``GOLSD`` if there is one.
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
    if dist.is_main():
        for text in criterion.idle:
            logger.warning("%s: %s", _place(config, "criterion"), text)
    listed = config.get(DISTILLERS) is not None
    given: Sequence[Distiller] = config.build(DISTILLERS) if listed else _default(config, criterion, model)
    with _at(config.origins[DISTILLERS] if listed else _place(config, "criterion")):
        objective = Objective(criterion, given)
    for index, one in enumerate(objective.distillers):
        with _at(_place(config, f"{DISTILLERS}.{index}" if listed else "criterion")):
            one.check(model, criterion)
    _warn_of_idle_sections(config, given)
    return objective


def _default(config: Config, criterion: DFINECriterion, model: nn.Module) -> list[Distiller]:
    """What official files mean; a single layer has nobody to teach."""
    names = [type(one).__name__ for one in default_distillers(criterion)]
    return [config.build(name) for name in names] if answering_layers(model) > 1 else []


def _warn_of_idle_sections(config: Config, used: Sequence[Distiller]) -> None:
    """Point out arguments of distillers that are not used: they change nothing."""
    names = {type(one).__name__ for one in used}
    for name in config.registry:
        idle = issubclass(config.registry[name], Distiller) and name not in names
        if idle and config.get(name) and dist.is_main():
            logger.warning("%s: has no effect, because %s does not list it", _place(config, name), DISTILLERS)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where in the config an object's refusal comes from."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _place(config: Config, key: str) -> str:
    return f"{config.origins[key]}: {key}"

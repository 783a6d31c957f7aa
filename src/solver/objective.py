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
from ..losses.criterion import Criterion

logger = logging.getLogger(__name__)

DISTILLERS = Distiller.slot


def build_objective(config: Config, model: nn.Module) -> Objective:
    """The training objective.

    Args:
        config: with a section ``criterion``; ``distillers`` absent or null means the official default, with the
            arguments of its section ``GOLSD`` if there is one.
        model: as built, before it is wrapped or compiled.

    Raises:
        ConfigError: no criterion, a distiller that stands twice with the same arguments, or one that the model or the
            criterion cannot serve; with file, line and config path.
    """
    criterion = config.build("criterion")
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            f"{_place(config, 'criterion')}: {type(criterion).__name__} is no criterion: it needs match(output, "
            "targets) and terms(step), as isdfine.losses.criterion.Criterion describes them"
        )
    if dist.is_main():
        for text in getattr(criterion, "idle", ()):
            logger.warning("%s: %s", _place(config, "criterion"), text)
    listed = config.get(DISTILLERS) is not None
    if listed:
        _refuse_doubles(config)
    given: Sequence[Distiller] = config.build(DISTILLERS) if listed else _default(config, criterion, model)
    with _at(config.origins[DISTILLERS] if listed else _place(config, "criterion")):
        objective = Objective(criterion, given)
    for index, one in enumerate(objective.distillers):
        with _at(_place(config, f"{DISTILLERS}.{index}" if listed else "criterion")):
            one.check(model, criterion)
    _warn_of_idle_sections(config, given)
    return objective


def _default(config: Config, criterion: Criterion, model: nn.Module) -> list[Distiller]:
    """What official files mean; a single layer has nobody to teach."""
    names = [type(one).__name__ for one in default_distillers(criterion)]
    return [config.build(name) for name in names] if answering_layers(model) > 1 else []


def _refuse_doubles(config: Config) -> None:
    """Two distillers of one class are meant to differ."""
    entries = [entry if isinstance(entry, dict) else {"type": entry} for entry in config.get(DISTILLERS)]
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise ConfigError(
                f"{_place(config, f'{DISTILLERS}.{index}')}: {entry['type']} stands there twice with the same "
                "arguments: keep one, or let them differ"
            )


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizers whose parameter groups are chosen by ordered regular expressions over parameter names."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..core import dist
from ..core.errors import ConfigError, check_non_negative
from ..core.registry import fits, register
from .layer_decay import split_by_stage
from .patterns import PUBLISHED, Slip, find_slips

logger = logging.getLogger(__name__)

_NUMBERS = ("lr", "weight_decay", "eps", "momentum")
_NOT_PER_GROUP = frozenset({"self", "model", "params", "layer_decay"})


def param_groups(
    model: nn.Module,
    entries: Sequence[Mapping[str, Any]] | None,
    options: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's trainable parameters by ordered regular expressions (``re.search`` on the full name).

    A parameter belongs to the first pattern that matches; what no pattern matches forms a last group with the
    optimizer's defaults. A group that stays empty is kept, so that groups keep the numbers they have in the config.
    Patterns are taken as written: in ``(?!.*norm|bn)`` the alternative ``bn`` is tested at the start of the name only
    (specification section 12), which moves batch normalisation to another group than one may expect. A warning says
    of every such pattern what it does and what to write instead, and names every pattern without parameters; of the
    official recipes' own patterns, which are meant as they are, it is a line of information.

    Args:
        model: its ``requires_grad`` parameters are grouped, in ``named_parameters()`` order.
        entries: ``{"params": pattern, option: value, ...}`` each; ``None`` for one group of everything.
        options: what an entry may set beside ``params``, for example ``lr``.
        defaults: the optimizer's values of these options, for messages.

    Returns:
        Groups for a torch optimizer; ``name`` is the pattern (``"rest"`` for the last), ``param_names`` the names.

    Raises:
        ConfigError: a pattern that is no regular expression, an option the optimizer does not have, no parameters.
    """
    left = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not left:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter: check the freeze options of its parts")
    every_name = tuple(left)
    groups = []
    for place, entry in enumerate(entries or ()):
        pattern = _pattern(entry, place, options)
        matching = [name for name in every_name if pattern.search(name)]
        taken = [name for name in matching if name in left]
        given = {key: value for key, value in entry.items() if key != "params"}
        for slip in find_slips(pattern.pattern):
            _warn_of_slip(slip, pattern, place, list(left), {**(defaults or {}), **given})
        _warn_where_surprising(pattern.pattern, place, len(matching), len(taken))
        groups.append(_group(pattern.pattern, {name: left.pop(name) for name in taken}, given))
    if left:
        groups.append(_group("rest", left, {}))
    return groups


@register
class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` over the groups of :func:`param_groups`; the other arguments are torch's.

    Unless ``foreach`` or ``fused`` says otherwise, all parameters of a group are updated in one call, on CPUs too.
    ``layer_decay``: see :func:`split_by_stage`; None for one learning rate in all stages of the backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        params: list[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        layer_decay: float | None = None,
    ) -> None:
        super().__init__(
            _groups(model, params, AdamW, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay),
            lr=lr,
            betas=_pair(betas),
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            fused=_fused(fused, foreach),
        )


@register
class Adam(torch.optim.Adam):
    """``torch.optim.Adam`` over the groups of :func:`param_groups`; the other arguments are torch's.

    ``layer_decay``: see :func:`split_by_stage`; None for one learning rate in all stages of the backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        params: list[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        layer_decay: float | None = None,
    ) -> None:
        super().__init__(
            _groups(model, params, Adam, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay),
            lr=lr,
            betas=_pair(betas),
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            fused=_fused(fused, foreach),
        )


@register
class SGD(torch.optim.SGD):
    """``torch.optim.SGD`` over the groups of :func:`param_groups`; the other arguments are torch's.

    ``layer_decay``: see :func:`split_by_stage`; None for one learning rate in all stages of the backbone.
    """

    def __init__(
        self,
        model: nn.Module,
        params: list[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        layer_decay: float | None = None,
    ) -> None:
        super().__init__(
            _groups(model, params, SGD, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay),
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            foreach=foreach,
            fused=_fused(fused, foreach),
        )


def _groups(
    model: nn.Module,
    entries: Sequence[Mapping[str, Any]] | None,
    optimizer: type,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    groups = param_groups(model, entries, _options_of(optimizer), {"lr": lr, "weight_decay": weight_decay})
    return groups if layer_decay is None else split_by_stage(model, groups, layer_decay, lr)


def _options_of(optimizer: type) -> list[str]:
    """Constructor arguments that a single group may override."""
    return [name for name in inspect.signature(optimizer).parameters if name not in _NOT_PER_GROUP]


def _fused(fused: bool | None, foreach: bool | None) -> bool | None:
    """One call per group where nobody chose: on a CPU torch would update one parameter after the other."""
    return True if fused is None and foreach is None else fused


def _pair(betas: Sequence[float]) -> tuple[float, float]:
    """YAML gives a list; torch wants two numbers."""
    if len(betas) != 2:
        raise ConfigError(f"optimizer.betas is {list(betas)}: give two numbers, for example [0.9, 0.999]")
    return (float(betas[0]), float(betas[1]))


def _pattern(entry: Mapping[str, Any], place: int, options: Sequence[str]) -> re.Pattern[str]:
    where = f"optimizer.params[{place}]"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("params"), str):
        raise ConfigError(f"{where} is {entry!r}: give a mapping with a regular expression as 'params'")
    for key in entry:
        if key != "params" and key not in options:
            near = difflib.get_close_matches(str(key), options, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(options)}"
            raise ConfigError(f"{where}.{key}: this optimizer has no such option; {hint}")
        if key in _NUMBERS:
            if not fits(entry[key], float):
                raise ConfigError(f"{where}.{key}: expected a number, found {entry[key]!r}")
            check_non_negative(f"{where}.{key}", entry[key])
    try:
        return re.compile(entry["params"])
    except re.error as error:
        raise ConfigError(f"{where}.params: {entry['params']!r} is not a regular expression: {error}") from error


def _level(pattern: str) -> int:
    """Nobody need act on what the official recipes say."""
    return logging.INFO if pattern in PUBLISHED else logging.WARNING


def _warn_of_slip(
    slip: Slip, pattern: re.Pattern[str], place: int, names: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Say what the pattern does to the parameters that no earlier group has, and what to write instead."""
    if not dist.is_main():
        return
    intended = re.compile(slip.corrected)
    written = {name for name in names if pattern.search(name)}
    meant = {name for name in names if intended.search(name)}
    caught, missed = [[name for name in names if name in one] for one in (written - meant, meant - written)]
    rates = ", ".join(f"{key} {values[key]:g}" for key in ("lr", "weight_decay") if key in values)
    effects = []
    if caught:
        effects.append(f"{len(caught)} parameters (such as {caught[0]}) thereby belong to this group ({rates})")
    if missed:
        effects.append(f"{len(missed)} parameters (such as {missed[0]}) thereby do not belong to this group ({rates})")
    logger.log(
        _level(pattern.pattern),
        "optimizer.params[%d]: %r is taken as written, as the official code does: %s looks for %s anywhere in a name, "
        "but for %s only at the start of it; %s. To mean all of them anywhere, write %s",
        place,
        pattern.pattern,
        slip.text,
        slip.first,
        " and ".join(slip.others),
        "; ".join(effects) or "which affects none of the parameters left here",
        slip.corrected_text,
    )  # fmt: skip


def _warn_where_surprising(pattern: str, place: int, matching: int, taken: int) -> None:
    if not dist.is_main():
        return
    if matching == 0:
        text = "optimizer.params[%d]: the pattern %r matches no trainable parameter"
        logger.log(_level(pattern), text, place, pattern)
    elif taken < matching:
        logger.warning(
            "optimizer.params[%d]: %d of the %d parameters that %r matches belong to an earlier pattern already",
            place,
            matching - taken,
            matching,
            pattern,
        )


def _group(name: str, parameters: Mapping[str, nn.Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    if "betas" in given:
        given = {**given, "betas": _pair(given["betas"])}
    return {"params": list(parameters.values()), "param_names": list(parameters), "name": name, **given}

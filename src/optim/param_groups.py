# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Optimizers whose parameter groups are chosen by ordered regular expressions over parameter names."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from ..core import dist
from ..core.errors import ConfigError, check_non_negative
from ..core.registry import REGISTRY, fits, register

logger = logging.getLogger(__name__)

_NUMBERS = ("lr", "weight_decay", "eps", "momentum")
PUBLISHED = frozenset({"^(?=.*backbone)(?!.*norm|bn).*$", "^(?=.*backbone)(?=.*norm|bn).*$"})
"""Patterns of the official recipes that have the slip of :func:`find_slips`: the published numbers depend on it."""
_LETTER = r"(?:\\.|\[\^?.(?:\\.|[^\]\\])*\]|[^()|\[\\])"
"""A letter of a regular expression, an escaped one or a set."""
_GROUP = rf"\((?:{_LETTER}|\||\((?:{_LETTER}|\|)*\))*\)"
"""A group, which may hold further ones."""
_ITEM = rf"(?:{_LETTER}|{_GROUP})"
_LOOK_AHEAD = re.compile(rf"\(\?[=!]{_ITEM}+(?:\|{_ITEM}+)*\)")


def param_groups(
    model: nn.Module,
    entries: Sequence[Mapping[str, Any]] | None,
    options: Sequence[str],
    defaults: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Split a model's trainable parameters by ordered regular expressions (``re.search`` on the full name).

    A parameter belongs to the first pattern that matches; what no pattern matches forms a last group with the
    optimizer's defaults. A group that stays empty is kept, so that groups keep the numbers they have in the config.
    Patterns are taken as written: in ``(?!.*norm|bn)`` the alternative ``bn`` is tested at the start of the name only,
    which moves batch normalisation to another group than one may expect. A warning says of every such pattern what it
    does and what to write instead, and names every pattern without parameters; of the official recipes' own patterns,
    which are meant as they are, it is a line of information.

    Args:
        model: its :func:`trainable_parameters` are grouped, in their order.
        entries: ``{"params": pattern, option: value, ...}`` each; ``None`` for one group of everything.
        options: what an entry may set beside ``params``, for example ``lr``.
        defaults: the optimizer's values of these options, for messages.

    Returns:
        Groups for a torch optimizer; ``name`` is the pattern (``"rest"`` for the last), ``param_names`` the names.

    Raises:
        ConfigError: a pattern that is no regular expression, an option the optimizer does not have, no parameters.
    """
    left = trainable_parameters(model)
    if not left:
        raise ConfigError(f"{type(model).__name__} has no trainable parameter: check the freeze options of its parts")
    every_name = tuple(left)
    groups = []
    for place, entry in enumerate(entries or ()):
        pattern = _pattern(entry, place, options)
        matching = [name for name in every_name if pattern.search(name)]
        taken = [name for name in matching if name in left]
        given = {key: value for key, value in entry.items() if key != "params"}
        if dist.is_main():
            for slip in find_slips(pattern.pattern):
                _say_what_a_slip_does(slip, pattern.pattern, place, list(left), {**defaults, **given})
            _warn_where_surprising(pattern.pattern, place, len(matching), len(taken))
        groups.append(_group(pattern.pattern, {name: left.pop(name) for name in taken}, given))
    if left:
        groups.append(_group("rest", left, {}))
    return groups


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained of a module under the names that patterns look at: its own ``trainable_parameters()`` where it
    has such a method, which yields names and parameters, else those of its state dict, in that order."""
    own = getattr(model, "trainable_parameters", None)
    named = own() if own is not None else named_as_saved(model)
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def named_as_saved(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under their names in checkpoints, which may differ from those of the modules; each once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, nn.Parameter) and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


class _Grouped(torch.optim.Optimizer):
    """An optimizer of torch over the groups of :func:`param_groups`.

    Unless ``foreach`` or ``fused`` says otherwise, all parameters of a group are updated in one call, on CPUs too.

    Args:
        model: whose parameters it trains.
        params: entries ``{params: REGEX, lr: ..., weight_decay: ...}``; a parameter belongs to the first that finds its
            name, see :func:`param_groups`. None: one group of everything.
        lr: learning rate of the groups that name none.
        layer_decay: factor in (0, 1] on the rate from one stage of the backbone to the one before; None: one rate for
            all.
        options: torch's further arguments, with torch's defaults.
    """

    def __init__(
        self,
        model: nn.Module,
        params: list[dict[str, Any]] | None = None,
        *,
        lr: float = 1e-3,
        layer_decay: float | None = None,
        **options: Any,
    ) -> None:
        own = inspect.signature(super().__init__)  # of torch's class, which comes next
        defaults = {name: parameter.default for name, parameter in own.parameters.items() if name != "params"}
        options = {**defaults, **options, "lr": lr}
        if "betas" in options:
            options["betas"] = _pair(options["betas"])
        if options["fused"] is None and options["foreach"] is None:
            options["fused"] = True  # on a CPU torch would update one parameter after the other
        groups = param_groups(model, params, list(defaults), options)
        if layer_decay is not None:
            groups = split_by_stage(model, groups, layer_decay, lr)
        super().__init__(groups, **options)


@register
class AdamW(_Grouped, torch.optim.AdamW):
    """``torch.optim.AdamW`` over groups that a config describes."""


@register
class Adam(_Grouped, torch.optim.Adam):
    """``torch.optim.Adam`` over groups that a config describes."""


@register
class SGD(_Grouped, torch.optim.SGD):
    """``torch.optim.SGD`` over groups that a config describes."""


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


@runtime_checkable
class Staged(Protocol):
    """A backbone that knows its stages."""

    num_stages: int
    """Number of the last stage; the stem is 0, and -1 says that the stages are not known."""

    stage_of: Callable[[str], int]
    """Name of a parameter inside the backbone -> its stage, 0..num_stages."""


def staged_backbone(model: nn.Module, key: str) -> Staged:
    """``model.backbone``, if its stages are known.

    Args:
        key: config path that needs the stages, for the message.

    Raises:
        ConfigError: no such part, or one without stages; with the components that have them.
    """
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, Staged) and backbone.num_stages >= 0:
        return backbone
    known = ", ".join(sorted(name for name in REGISTRY if hasattr(REGISTRY[name], "stage_of")))
    if backbone is None:
        what = f"{type(model).__name__} has no part called backbone"
    elif isinstance(backbone, Staged):
        what = f"the stages of this {type(backbone).__name__} ({getattr(backbone, 'name', '?')}) are not known"
    else:
        what = f"{type(backbone).__name__} does not say which stage a parameter belongs to (stage_of, num_stages)"
    raise ConfigError(f"{key}: {what}: leave it out, or choose a backbone with stages: {known}")


def split_by_stage(
    model: nn.Module, groups: Sequence[Mapping[str, Any]], decay: float, default_lr: float
) -> list[dict[str, Any]]:
    """Split groups by the backbone's stages; stage k gets the group's learning rate times decay^(last stage - k).

    Parameters outside the backbone stay together under the group's name. The split groups follow, the last stage
    first, and are called ``<group> [stage k, lr x factor]``.

    Args:
        model: its part ``backbone`` has stages.
        groups: from :func:`param_groups`.
        decay: factor from one stage to the one before, in (0, 1]; with 1 nothing is split.
        default_lr: learning rate of groups that name none.

    Raises:
        ConfigError: a factor outside its range, or a backbone without stages.
    """
    if not 0 < decay <= 1:
        raise ConfigError(f"optimizer.layer_decay is {decay}: give a factor above 0 and at most 1, for example 0.9")
    backbone = staged_backbone(model, "optimizer.layer_decay")
    if decay == 1:
        return [dict(group) for group in groups]
    # Not by the groups' names, which are those of checkpoints.
    inside = model.get_submodule("backbone").named_parameters()
    stage_of = {id(parameter): backbone.stage_of(name) for name, parameter in inside}
    split: list[dict[str, Any]] = []
    for group in groups:
        stages = [stage_of.get(id(parameter)) for parameter in group["params"]]
        if None in stages or not stages:
            split.append(part_of_group(group, [stage is None for stage in stages]))
        for stage in sorted({stage for stage in stages if stage is not None}, reverse=True):
            factor = decay ** (backbone.num_stages - stage)
            part = part_of_group(group, [each == stage for each in stages])
            name = f"{group['name']} [stage {stage}, lr x {factor:.4g}]"
            split.append({**part, "name": name, "lr": group.get("lr", default_lr) * factor})
    return split


def part_of_group(group: Mapping[str, Any], chosen: Sequence[bool]) -> dict[str, Any]:
    """The same group with some of its parameters."""
    lists = {key: group[key] for key in ("params", "param_names") if key in group}
    return {**group, **{key: [value for value, keep in zip(values, chosen) if keep] for key, values in lists.items()}}


class Slip(NamedTuple):
    """A look-ahead such as ``(?!.*norm|bn)``: it looks for ``norm`` anywhere behind it, for ``bn`` right behind it."""

    text: str
    """The look-ahead as written."""
    first: str
    """What its first alternative looks for."""
    others: tuple[str, ...]
    """Alternatives that are tested at one place only."""
    corrected: str
    """A look-ahead that looks for all of them anywhere."""


def find_slips(pattern: str) -> list[Slip]:
    """Look-aheads behind a leading ``^`` in which a later alternative lacks the ``.*`` that the first one has.

    >>> find_slips("^(?=.*backbone)(?!.*norm|bn).*$")[0].corrected
    '(?!.*(?:norm|bn))'
    >>> find_slips("^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$")
    []
    """
    slips = []
    start = 1 if pattern.startswith("^") else len(pattern)  # elsewhere re.search tries a look-ahead at every place
    while (ahead := _LOOK_AHEAD.match(pattern, start)) is not None:
        start, text = ahead.end(), ahead[0]
        parts = re.findall(f"{_ITEM}+", text[3:-1])
        anywhere = re.match(r"\.[*+]\??", parts[0])
        others = tuple(part for part in parts[1:] if not part.startswith((".", "^", "$")))
        if anywhere is None or not others:
            continue
        wild = anywhere[0]
        anchored = [part for part in parts if part.startswith(("^", "$"))]
        bare = [part.removeprefix(wild) for part in parts if part not in anchored]
        corrected = "|".join([f"{wild}(?:{'|'.join(bare)})", *anchored])
        slips.append(Slip(text, bare[0], others, f"{text[:3]}{corrected})"))
    return slips


def _say_what_a_slip_does(
    slip: Slip, pattern: str, place: int, names: Sequence[str], values: Mapping[str, Any]
) -> None:
    """Say what the pattern does to the parameters that no earlier group has, and what to write instead."""
    meant_pattern = pattern.replace(slip.text, slip.corrected, 1)
    written, meant = ({name for name in names if re.search(text, name)} for text in (pattern, meant_pattern))
    rates = ", ".join(f"{key} {values[key]:g}" for key in ("lr", "weight_decay"))
    effects = []
    for changed, verb in ((written - meant, "belong"), (meant - written, "do not belong")):
        if affected := [name for name in names if name in changed]:
            example = f"{len(affected)} parameters (such as {affected[0]})"
            effects.append(f"{example} thereby {verb} to this group ({rates})")
    logger.log(
        _level(pattern),
        "optimizer.params[%d]: %r is taken as written, as the official code does: %s looks for %s anywhere in a name, "
        "but for %s only at the start of it; %s. To mean all of them anywhere, write %s",
        place, pattern, slip.text, slip.first, " and ".join(slip.others),
        "; ".join(effects) or "which affects none of the parameters left here", slip.corrected,
    )  # fmt: skip


def _level(pattern: str) -> int:
    """Nobody need act on what the official recipes say."""
    return logging.INFO if pattern in PUBLISHED else logging.WARNING


def _warn_where_surprising(pattern: str, place: int, matching: int, taken: int) -> None:
    if matching == 0:
        text = "optimizer.params[%d]: the pattern %r matches no trainable parameter"
        logger.log(_level(pattern), text, place, pattern)
    elif taken < matching:
        text = "optimizer.params[%d]: %d of the %d parameters that %r matches belong to an earlier pattern already"
        logger.warning(text, place, matching - taken, matching, pattern)


def _group(name: str, parameters: Mapping[str, nn.Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    if "betas" in given:
        given = {**given, "betas": _pair(given["betas"])}
    return {"params": list(parameters.values()), "param_names": list(parameters), "name": name, **given}

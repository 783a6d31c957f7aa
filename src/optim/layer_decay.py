# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Layer-wise learning-rate decay: the earlier a stage of the backbone, the smaller its steps (arXiv 2003.10555)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..core.errors import ConfigError
from ..core.registry import REGISTRY

_PREFIX = "backbone."


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
    split: list[dict[str, Any]] = []
    for group in groups:
        stages = [
            backbone.stage_of(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
            for name in group["param_names"]
        ]
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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Which stage of a backbone a part belongs to: 0 for the stem, k for what leads to the k-th map of stride 4 or more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from ...core.errors import CheckpointError
from ..padding import Padding

_FIRST_STAGE_STRIDE = 4


class StagedBackbone(nn.Module):
    """A stem, then stages whose maps have the strides 4, 8, 16, 32; stage k is item k - 1 of a list of modules."""

    stages_are: ClassVar[str]
    """Name of that list."""
    return_idx: tuple[int, ...]
    """Stages whose maps are returned, ascending, counted from 0."""

    @property
    def num_stages(self) -> int:
        """Number of the last stage (the stem is 0)."""
        return len(getattr(self, self.stages_are))

    def stage_of(self, name: str) -> int:
        """Stage of the parameter or module called ``name``, counted from 0 for the stem."""
        part, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) + 1 if part == self.stages_are and rest else 0

    def chosen_maps(self, maps: Tensor, padding: Padding | None) -> list[Tensor]:
        """The stem's map (B, D, H, W) -> the maps of ``return_idx``, finest first."""
        returned = []
        for index, stage in enumerate(getattr(self, self.stages_are)):
            maps = stage(maps, padding)
            if index in self.return_idx:
                returned.append(maps)
        return returned


def check_stages(owner: str, return_idx: Sequence[int], stages: range) -> None:
    """ValueError unless some of the stages are asked for, in ascending order."""
    if not return_idx or list(return_idx) != sorted(set(return_idx) & set(stages)):
        raise ValueError(
            f"{owner} return_idx={list(return_idx)}: give one or more of {list(stages)} in ascending order, each once"
        )


def imagenet_file(owner: str, path: Path, url: str) -> Path:
    """The file with a backbone's ImageNet weights; CheckpointError where it is not there."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file with ImageNet weights: put it there (offered at {url}/{path.name}), point "
            f"{owner}.local_model_dir at its folder, or set {owner}.pretrained to False"
        )
    return path


def leaf_stages(network: nn.Module, maps: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Stage of every module without children, from the modules whose outputs are the feature maps.

    A network registers its modules in the order it runs them, so whatever comes behind one map leads to the next. Maps
    of stride 1 and 2 are inside the stem; with that, the stages of HGNetv2, ResNet, EfficientNet and ConvNeXt all have
    the strides 4, 8, 16, 32.

    Args:
        network: the whole network; only names are read.
        maps: (name of the module, stride) of each feature map, in the order of the network.

    Returns: name -> stage; empty where the network has no module of one of these names.
    """
    known = {name for name, _ in network.named_modules()}
    if not maps or any(name not in known for name, _ in maps):
        return {}
    stages: dict[str, int] = {}
    place, stage, entered = 0, _stage_behind(maps, 0), False
    for name, module in network.named_modules():
        if next(module.children(), None) is not None:
            continue
        inside = _is_inside(name, maps[place][0])
        if entered and not inside and place + 1 < len(maps):  # the module of this map lies behind
            place, entered = place + 1, False
            stage, inside = _stage_behind(maps, place), _is_inside(name, maps[place][0])
        entered = entered or inside
        stages[name] = 0 if place == 0 and not entered else stage
    return stages


def stage_of(name: str, stages: Mapping[str, int]) -> int:
    """Stage of the parameter or module called ``name``; what several stages share belongs to the first of them.

    Args:
        name: full name inside the network.
        stages: from :func:`leaf_stages`.
    """
    if name in stages:
        return stages[name]
    owner = name
    while owner:
        inside = [stage for leaf, stage in stages.items() if _is_inside(leaf, owner)]
        if inside:
            return min(inside)
        owner = owner.rpartition(".")[0]
    return min(stages.values(), default=0)


def parts_up_to(network: nn.Module, stages: Mapping[str, int], last: int) -> list[str]:
    """Names of the largest modules that lie wholly in the stem and the stages 1..``last``."""
    return list(_parts(network, "", stages, last))


def _parts(network: nn.Module, prefix: str, stages: Mapping[str, int], last: int) -> Iterator[str]:
    for child_name, child in network.named_children():
        name = f"{prefix}{child_name}"
        inside = [stage for leaf, stage in stages.items() if _is_inside(leaf, name)]
        if inside and max(inside) <= last:
            yield name
        elif inside and min(inside) <= last:
            yield from _parts(child, f"{name}.", stages, last)


def _stage_behind(maps: Sequence[tuple[str, int]], place: int) -> int:
    return sum(stride >= _FIRST_STAGE_STRIDE for _, stride in maps[: place + 1])


def _is_inside(name: str, owner: str) -> bool:
    return name == owner or name.startswith(f"{owner}.")

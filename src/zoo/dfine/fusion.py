# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What stands between the levels of the hybrid encoder: D-FINE's blocks, and those of RT-DETR before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from ...nn.conv import ConvNormAct
from ...nn.csp import AggregationBlock, CSPBlock, DownSample
from ...nn.padding import Padding, cleared

ACT = "silu"
"""Of every convolution block: official files carry ``act``, but published models use SiLU whatever it says."""


class Fusion(NamedTuple):
    """How a level of the pyramid takes in its neighbour. Both builders get the encoder's channels D."""

    lateral: Callable[[int], nn.Module]
    """(B, D, H, W) -> the same, before a map is enlarged."""
    block: Callable[[int, float, int], nn.Module]
    """D, expansion and RepVGG blocks per stage -> a block (B, 2 D, H, W), padding -> (B, D, H, W)."""


class Halving(NamedTuple):
    """How a map is halved on the way down the pyramid."""

    build: Callable[[int], nn.Module]
    """D -> a module with the parameter names of published models."""
    run: Callable[[nn.Module, Tensor, Padding | None], Tensor]
    """That module (or its fused form) on a map (B, D, H, W) -> (B, D, ceil(H / 2), ceil(W / 2))."""


def _gelan(dim: int, expansion: float, num_blocks: int) -> nn.Module:
    return AggregationBlock(2 * dim, dim, round(expansion * dim // 2), num_blocks, act=ACT)


def _csp(dim: int, expansion: float, num_blocks: int) -> nn.Module:
    return CSPBlock(2 * dim, dim, num_blocks, hidden_channels=int(expansion * dim), act=ACT)


def _listed(dim: int) -> nn.Module:
    return nn.Sequential(DownSample(dim))  # one list level more than needed: the checkpoints' keys have it


def _run_listed(step: nn.Module, maps: Tensor, padding: Padding | None) -> Tensor:
    (halve,) = step.children()
    return halve(maps, padding)


def _strided(dim: int) -> nn.Module:
    return ConvNormAct(dim, dim, 3, stride=2, act=ACT)


def _run_strided(step: nn.Module, maps: Tensor, padding: Padding | None) -> Tensor:
    return step(cleared(maps, padding))


FUSIONS = {
    "gelan": Fusion(lambda dim: ConvNormAct(dim, dim), _gelan),
    "csp": Fusion(lambda dim: ConvNormAct(dim, dim, act=ACT), _csp),
}
HALVINGS = {"decoupled": Halving(_listed, _run_listed), "conv": Halving(_strided, _run_strided)}

ChoiceT = TypeVar("ChoiceT")


def chosen(choices: Mapping[str, ChoiceT], owner: str, name: str, value: str) -> ChoiceT:
    """One of ``choices``; ValueError that names the argument and the choices for another value."""
    if value not in choices:
        raise ValueError(f"{owner} {name}={value!r}: choose one of {', '.join(choices)}")
    return choices[value]

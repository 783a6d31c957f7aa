# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A small decoder and a step of it, for tests of captured attention."""

from collections.abc import Iterable

import torch

from golden_cases import fill
from isdfine.nn.types import TRAINING, DetectorOutput, Want
from isdfine.zoo.dfine.decoder import DFINETransformer

BOTH = ("self_attention", "cross_attention")


def decoder(**more: object) -> DFINETransformer:
    torch.manual_seed(0)
    setting = {"hidden_dim": 16, "nhead": 4, "num_queries": 8, "feat_channels": [16, 16], "feat_strides": [8, 16]}
    setting |= {"num_levels": 2, "num_points": [2, 1], "num_layers": 3, "dim_feedforward": 24, "num_denoising": 6}
    return fill.fill_module(DFINETransformer(5, **(setting | {"reg_max": 8} | more)))


def features() -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [torch.randn(2, 16, 8, 8), torch.randn(2, 16, 4, 4)]


def targets(counts: tuple[int, int] = (3, 1)) -> list[dict[str, torch.Tensor]]:
    made = fill.random_targets(7, counts, 5)
    return [{key: torch.from_numpy(value) for key, value in one.items()} for one in made]


def step(model: DFINETransformer, counts: tuple[int, int] = (3, 1), want: Want = TRAINING) -> DetectorOutput:
    torch.manual_seed(4)
    return model(features(), targets(counts), want=want)


def with_attention(kinds: Iterable[str]) -> Want:
    """What losses read, and attention of these kinds."""
    return Want(layers=True, attention=frozenset(kinds))

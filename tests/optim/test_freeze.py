# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Groups that are frozen at first."""

import pytest
import torch
from torch import nn

from isdfine.core.errors import ConfigError
from isdfine.optim.freeze import FrozenGroups, separate
from isdfine.optim.param_groups import SGD
from isdfine.optim.schedule import LinearWarmup, Schedule


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


def test_the_factor_rises_once_the_group_trains() -> None:
    frozen = FrozenGroups(frozenset({1}), until=3, warmup=4)
    assert [frozen.factor(1, step) for step in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert {frozen.factor(0, step) for step in range(9)} == {1.0}
    assert [FrozenGroups(frozenset({0}), 2, 0).factor(0, step) for step in range(4)] == [0, 0, 1, 1]
    assert {FrozenGroups(frozenset({0}), None, 0).factor(0, step) for step in (0, 10**6)} == {0.0}


def test_a_mixed_group_is_split_and_a_pure_one_stays() -> None:
    model = network()
    optimizer = SGD(model, [{"params": "weight", "weight_decay": 0.1}, {"params": "backbone"}])
    numbers = separate(optimizer, list(model["backbone"].parameters()), "freeze.backbone", "freeze.backbone")
    assert [group["name"] for group in optimizer.param_groups] == [
        "weight [freeze.backbone]", "weight", "backbone", "rest",
    ]  # fmt: skip
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["backbone.weight"], ["head.weight"], ["backbone.bias"], ["head.bias"],
    ]  # fmt: skip
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0, 0.0]
    assert numbers == {0, 2}


def test_what_no_group_trains_cannot_be_frozen() -> None:
    model = network()
    model["backbone"].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"freeze\.backbone: the optimizer trains none of these parameters anyway"):
        separate(SGD(model), list(model["backbone"].parameters()), "freeze.backbone", "freeze.backbone")


def test_the_schedule_multiplies_both_warmups() -> None:
    parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0} for _ in range(2)]
    schedule = Schedule(
        torch.optim.SGD(parameters, lr=1.0), None, LinearWarmup(4), steps_per_epoch=4, total_epochs=4,
        frozen=FrozenGroups(frozenset({0}), until=2, warmup=2),
    )  # fmt: skip
    seen = []
    for _ in range(5):
        seen.append(schedule.lr)
        schedule.advance()
    assert seen == [[0, 0.25], [0, 0.5], [0.375, 0.75], [1, 1], [1, 1]]

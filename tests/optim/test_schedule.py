# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates against the recorded official runs, and what a schedule may be asked."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from golden_cases import load_json
from isdfine.core.errors import CheckpointError
from isdfine.optim.schedule import Clock, CosineAnnealingLR, FlatCosine, LinearWarmup, MultiStepLR, Policy, Schedule


def schedule_of(
    base_lrs: list[float], policy: Policy | None, warmup: LinearWarmup | None, steps: int, epochs: int
) -> tuple[torch.optim.Optimizer, Schedule]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base_lrs]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    return optimizer, Schedule(optimizer, policy, warmup, steps_per_epoch=steps, total_epochs=epochs)


def lrs_of_a_run(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> list[list[float]]:
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        schedule.advance()
    return rates


@pytest.mark.parametrize("name", ["official_like", "short", "no_warmup"])
def test_warmup_and_multistep_as_recorded(name: str) -> None:
    case = load_json("lr_schedules.json")[name]
    optimizer, schedule = schedule_of(
        case["base_lrs"],
        MultiStepLR(case["milestones"], case["gamma"]),
        LinearWarmup(case["warmup_duration"]),
        case["iters_per_epoch"],
        case["epochs"],
    )
    rates = lrs_of_a_run(optimizer, schedule, len(case["lr"]))
    torch.testing.assert_close(torch.tensor(rates).double(), torch.tensor(case["lr"]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["deim_l_scaled", "deim_n_gamma1", "tiny"])
def test_flat_cosine_as_recorded(name: str) -> None:
    case = load_json("lr_schedules.json")["flat_cosine"][name]
    policy = FlatCosine(case["lr_gamma"], case["warmup_iter"], case["flat_epochs"], case["no_aug_epochs"])
    optimizer, schedule = schedule_of(
        case["base_lrs"], policy, LinearWarmup(0), case["iters_per_epoch"], case["total_epochs"]
    )
    rates = lrs_of_a_run(optimizer, schedule, len(case["lr"]))
    torch.testing.assert_close(
        torch.tensor(rates, dtype=torch.float64), torch.tensor(case["lr"], dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("warmup", "counted"), [(0, 4), (5, 4), (6, 3), (10, 3), (11, 2), (100, 0)])
def test_epochs_that_end_in_the_warmup_do_not_count(warmup: int, counted: int) -> None:
    assert Clock(steps_per_epoch=5, total_epochs=9, warmup_steps=warmup).counted_epochs(20) == counted


def test_cosine_follows_torch() -> None:
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    torch_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=6, eta_min=0.1)
    policy = CosineAnnealingLR(T_max=6, eta_min=0.1)
    for epoch in range(10):
        assert math.isclose(policy.lr(0.5, epoch * 3, Clock(3, 10)), reference.param_groups[0]["lr"], rel_tol=1e-9)
        reference.step()
        torch_schedule.step()


def test_no_policy_keeps_the_base_and_zero_warmup_works() -> None:
    optimizer, schedule = schedule_of([0.1, 0.2], None, None, 2, 2)
    assert lrs_of_a_run(optimizer, schedule, 4) == [[0.1, 0.2]] * 4
    assert FlatCosine(0.5, warmup_iter=0, flat_epochs=0, no_aug_epochs=0).lr(1.0, 0, Clock(1, 2)) == 1.0


def test_progress_is_the_share_of_steps_done() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = Schedule(optimizer, None, None, steps_per_epoch=4, total_epochs=2)
    seen = []
    for _ in range(9):
        seen.append(schedule.progress)
        schedule.advance()
    assert seen == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]
    assert schedule.progress == 1  # a run that was given fewer epochs than it has behind it
    schedule.load_state_dict({"step": 2})
    assert schedule.progress == 0.25


def test_resume_continues_where_it_stopped() -> None:
    def fresh() -> tuple[torch.optim.Optimizer, Schedule]:
        return schedule_of([0.1], MultiStepLR([2, 4], 0.1), LinearWarmup(3), 2, 6)

    whole_optimizer, whole = fresh()
    expected = lrs_of_a_run(whole_optimizer, whole, 12)
    first_optimizer, first = fresh()
    head = lrs_of_a_run(first_optimizer, first, 5)
    second_optimizer, second = fresh()
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert second.lr == [group["lr"] for group in second_optimizer.param_groups]
    assert head + lrs_of_a_run(second_optimizer, second, 7) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiStepLR([-1]), r"milestones is \[-1\]: epochs cannot be negative"),
        (lambda: MultiStepLR([1], gamma=-1), "MultiStepLR.gamma is -1: give 0 or more"),
        (lambda: FlatCosine(lr_gamma=-0.5), "FlatCosine.lr_gamma is -0.5: give 0 or more"),
        (lambda: CosineAnnealingLR(3, eta_min=-1e-3), "CosineAnnealingLR.eta_min is -0.001: give 0 or more"),
        (lambda: CosineAnnealingLR(0), "T_max is 0: give the epochs of the descent"),
        (lambda: FlatCosine(flat_epochs=-1), "FlatCosine.flat_epochs is -1: give 0 or more"),
        (lambda: LinearWarmup(-1), "warmup_duration is -1: give 0 or more optimizer steps"),
        (lambda: schedule_of([0.1], None, None, 0, 3), "got 0 steps per epoch and 3 epochs: check epochs"),
        (
            lambda: schedule_of([0.1], FlatCosine(), LinearWarmup(7), 5, 3),
            r"FlatCosine has a warm-up of its own: set lr_warmup_scheduler.warmup_duration \(now 7\) to 0",
        ),
    ],
)
def test_bad_values(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_saved_state() -> None:
    _, schedule = schedule_of([0.1], None, None, 1, 1)
    with pytest.raises(CheckpointError, match=r"saved state is {'last_epoch': 3}: expected"):
        schedule.load_state_dict({"last_epoch": 3})

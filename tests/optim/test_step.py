# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""One optimizer step: order, accumulation, clipping, and gradients that are not finite."""

import copy

import pytest
import torch
from torch import Tensor, nn

from isdfine.core.errors import ConfigError
from isdfine.optim.ema import ModelEMA, NoEma
from isdfine.optim.param_groups import AdamW
from isdfine.optim.precision import GradScaler, Precision
from isdfine.optim.schedule import LinearWarmup, MultiStepLR, Schedule
from isdfine.optim.step import Optim
from losses.test_criterion import Operators


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def optim_of(model: nn.Module, **options: object) -> Optim:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = Schedule(optimizer, MultiStepLR([1], 0.5), LinearWarmup(2), steps_per_epoch=4, total_epochs=4)
    precision = options.pop("precision", None) or Precision("fp32", "cpu")
    return Optim(optimizer, schedule, ModelEMA(model, 0.9, 0), precision, **options)  # type: ignore[arg-type]


def batch(index: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(index))


def loss_of(model: nn.Module, index: int) -> Tensor:
    return model(batch(index)).square().mean()


def test_a_step_does_everything_in_the_official_order() -> None:
    model = model_of()
    twin = copy.deepcopy(model)
    optim = optim_of(model)
    norm = optim.step(loss_of(model, 0), max_norm=0.1)

    reference = torch.optim.AdamW(twin.parameters(), lr=0.1 * 0.5)  # first of two warm-up steps
    loss_of(twin, 0).backward()
    expected_norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    reference.step()
    assert norm is not None
    assert torch.equal(norm, expected_norm)
    for mine, theirs in zip(model.parameters(), twin.parameters()):
        assert torch.equal(mine, theirs)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (optim.ema.updates, optim.schedule.step, optim.schedule.lr) == (1, 1, [0.1])


def test_accumulated_batches_equal_one_large_batch() -> None:
    model, large = model_of(), model_of()
    optim, reference = optim_of(model, accumulate_steps=2), optim_of(large)
    assert not optim.applies_next
    assert optim.step(loss_of(model, 0)) is None
    assert optim.applies_next
    norm = optim.step(loss_of(model, 1))
    expected = reference.step(large(torch.cat([batch(0), batch(1)])).square().mean())
    assert norm is not None
    assert expected is not None
    torch.testing.assert_close(norm, expected)
    for mine, theirs in zip(model.parameters(), large.parameters()):
        torch.testing.assert_close(mine, theirs)
    assert optim.schedule.step == 1


def test_last_window_of_an_epoch_averages_what_is_left() -> None:
    model, plain = model_of(), model_of()
    optim = optim_of(model, accumulate_steps=2)
    reference = optim_of(plain)
    for _ in range(2):
        optim.start_epoch(3)
        norms = [optim.step(loss_of(model, index)) for index in range(3)]
        assert [norm is None for norm in norms] == [True, False, False]
        assert not optim.applies_next  # nothing is left over
        reference.step((loss_of(plain, 0) + loss_of(plain, 1)) / 2)
        reference.step(loss_of(plain, 2))
    for mine, theirs in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(mine, theirs)


def test_no_clipping_returns_the_norm_and_leaves_the_gradients() -> None:
    model, clipped = model_of(), model_of()
    assert torch.equal(
        optim_of(model).step(loss_of(model, 0), 0.0),  # type: ignore[arg-type]
        optim_of(clipped).step(loss_of(clipped, 0), 1e6),  # type: ignore[arg-type]
    )
    for mine, theirs in zip(model.parameters(), clipped.parameters()):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("max_norm", [0.0, 0.1])
def test_not_finite_is_reported_or_skipped(max_norm: float) -> None:
    model = model_of()
    norm = optim_of(model).step(loss_of(model, 0) * float("nan"), max_norm)
    assert norm is not None
    assert torch.isnan(norm)

    model = model_of()
    before = copy.deepcopy(model.state_dict())
    optim = optim_of(model, on_nonfinite="skip")
    optim.step(loss_of(model, 0) * float("nan"), max_norm)
    assert optim.skipped == 1
    assert optim.schedule.step == 1
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    optim.step(loss_of(model, 0), max_norm)
    assert optim.skipped == 1
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_fp16_overflow_changes_nothing_but_the_scale(policy: str) -> None:
    model = model_of()
    before = copy.deepcopy(model.state_dict())
    precision = Precision("fp16", "cpu", GradScaler(init_scale=8.0, device="cpu"))
    optim = optim_of(model, precision=precision, on_nonfinite=policy)
    optim.step(loss_of(model, 0) * float("inf"), 0.1)
    assert precision.scale == 4.0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_two_and_two_steps_equal_four() -> None:
    whole_model = model_of()
    whole = optim_of(whole_model)
    for index in range(4):
        whole.step(loss_of(whole_model, index), 0.1)
    first_model = model_of()
    first = optim_of(first_model)
    for index in range(2):
        first.step(loss_of(first_model, index), 0.1)
    second_model = model_of()
    second = optim_of(second_model)
    second_model.load_state_dict(copy.deepcopy(first_model.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for index in range(2, 4):
        second.step(loss_of(second_model, index), 0.1)
    for mine, theirs in zip(second_model.parameters(), whole_model.parameters()):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(second.ema.module.parameters(), whole.ema.module.parameters()):
        assert torch.equal(mine, theirs)


def test_bad_values() -> None:
    with pytest.raises(ConfigError, match="accumulate_steps is 0: give the batches per optimizer step"):
        optim_of(model_of(), accumulate_steps=0)
    with pytest.raises(ConfigError, match="on_nonfinite is 'ignore': choose stop or skip"):
        optim_of(model_of(), on_nonfinite="ignore")


def test_sync_context_without_ranks_does_nothing() -> None:
    model = model_of()
    optim = optim_of(model, accumulate_steps=2)
    optim.ema = NoEma(model)
    with optim.sync_context(model):
        loss_of(model, 0).backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("rounds", [1, 2])
def test_few_calls_for_clipping_optimizer_and_average_together(rounds: int) -> None:
    """At most 30, whatever the number of parameters, and none that waits for the device."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(20 * rounds)))
    entries = [{"params": r"\.0\.weight", "lr": 1e-3}, {"params": r"\.1\.weight", "weight_decay": 0.0}]
    optimizer = AdamW(model, entries, lr=1e-2)
    schedule = Schedule(optimizer, None, None, steps_per_epoch=10, total_epochs=10)
    optim = Optim(optimizer, schedule, ModelEMA(model), Precision("fp32", "cpu"))
    for _ in range(2):  # the first makes the moments
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Operators() as seen:
            optim.step(torch.ones((), requires_grad=True), max_norm=0.1)
        calls = seen.names.total() - seen.names["detach"]
    assert calls <= 30
    assert seen.names["_fused_adamw_"] == 3
    assert not {"_local_scalar_dense", "item", "nonzero", "equal"} & set(seen.names)


def test_the_fused_update_is_that_of_each_parameter_by_itself() -> None:
    models = [nn.Linear(5, 3), nn.Linear(5, 3)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [AdamW(models[0]), AdamW(models[1], foreach=False)]
    assert optimizers[0].param_groups[0]["fused"]
    assert not optimizers[1].param_groups[0]["fused"]
    for step in range(3):
        for model, optimizer in zip(models, optimizers):
            model.weight.grad, model.bias.grad = torch.full((3, 5), 0.1 * step - 0.1), torch.linspace(-1, 1, 3)
            optimizer.step()
    for parameter, other in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""EMA against recorded official trajectories, and what upstream does not have."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from golden_cases import fill, load_golden
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.optim import ema as ema_module
from isdfine.optim.ema import ModelEMA, NoEma
from losses.test_criterion import Operators


def two_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    return fill.fill_module(model, salt="ema:")


def set_step(model: nn.Module, step: int) -> None:
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(fill.fill_array(f"step{step}.{key}", value.shape, "ema:")))
            else:
                value.add_(1)


@pytest.mark.parametrize(
    ("case", "decay", "warmups", "start"),
    [
        ("d9999_w1000", 0.9999, 1000, 0),
        ("d9_w5", 0.9, 5, 0),
        ("d9_w0", 0.9, 0, 0),
        ("d9_w5_start3", 0.9, 5, 3),
        # Upstream's assignment to the attribute changes nothing; here parity means not to call set_decay.
        ("d9_w5_attrchange_at10_to_0.5", 0.9, 5, 0),
    ],
)
def test_trajectory_as_recorded(case: str, decay: float, warmups: int, start: int) -> None:
    golden, _ = load_golden("ema.npz")
    model = two_layers()
    ema = ModelEMA(model, decay=decay, warmups=warmups, start=start)
    for step, used in enumerate(golden[f"{case}.decay_used"], start=1):
        set_step(model, step)
        ema.update()
        state = ema.module.state_dict()
        for leaf, key in (("weight", "0.weight"), ("running_mean", "1.running_mean")):
            np.testing.assert_allclose(state[key].numpy(), golden[f"{case}.{leaf}"][step - 1], rtol=1e-6)
        assert int(state["1.num_batches_tracked"]) == golden[f"{case}.num_batches_tracked"][step - 1]
        if ema.updates:
            np.testing.assert_allclose(ema.factor(ema.updates), used, rtol=1e-6)
        else:
            assert np.isnan(used)


def test_a_later_decay_takes_effect() -> None:
    model = two_layers()
    ema = ModelEMA(model, decay=0.9, warmups=0)
    before = ema.module.state_dict()["0.weight"].clone()
    set_step(model, 1)
    ema.set_decay(0.0)
    ema.update()
    after = ema.module.state_dict()["0.weight"]
    assert torch.equal(after, model.state_dict()["0.weight"])
    assert not torch.equal(after, before)
    assert ema.decay == 0.0


def test_averaged_model_is_separate_frozen_and_in_eval_mode() -> None:
    model = two_layers().train()
    ema = ModelEMA(model)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_shared_and_half_precision_entries() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "low": nn.Linear(2, 2).half()})
    model["b"] = model["a"]
    ema = ModelEMA(model, decay=0.5, warmups=0)
    with torch.no_grad():
        start = model["a"].weight.clone()
        model["a"].weight.add_(1)
        model["low"].weight.add_(1)
    ema.update()
    torch.testing.assert_close(ema.module["a"].weight, start + 0.5)
    assert ema.module["b"].weight is ema.module["a"].weight
    assert ema.module["low"].weight.dtype == torch.float16


def test_resume_to_the_bit() -> None:
    def run(ema: ModelEMA, model: nn.Module, steps: range) -> None:
        for step in steps:
            set_step(model, step)
            ema.update()

    whole_model = two_layers()
    whole = ModelEMA(whole_model, decay=0.9, warmups=5, start=2)
    run(whole, whole_model, range(1, 4))
    whole.set_decay(0.7)
    run(whole, whole_model, range(4, 7))
    for stop in (1, 4):
        model = two_layers()
        first = ModelEMA(model, decay=0.9, warmups=5, start=2)
        run(first, model, range(1, min(stop, 3) + 1))
        if stop > 3:
            first.set_decay(0.7)
            run(first, model, range(4, stop + 1))
        second = ModelEMA(model, decay=0.9, warmups=5, start=2)
        second.load_state_dict(first.state_dict())
        if stop < 3:
            run(second, model, range(stop + 1, 4))
            second.set_decay(0.7)
        run(second, model, range(max(stop, 3) + 1, 7))
        for key, value in whole.state_dict()["module"].items():
            assert torch.equal(second.state_dict()["module"][key], value)
        assert second.updates == whole.updates


def test_official_state_and_bad_state() -> None:
    ema = ModelEMA(two_layers(), decay=0.9, start=3)
    ema.load_state_dict({"module": two_layers().state_dict(), "updates": 7})
    assert (ema.updates, ema.decay) == (7, 0.9)
    with pytest.raises(CheckpointError, match=r"the saved EMA has the entries \['updates'\]: expected module"):
        ema.load_state_dict({"updates": 1})


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_bad_decay(decay: float) -> None:
    with pytest.raises(ConfigError, match="give a value of at least 0 and below 1"):
        ModelEMA(two_layers(), decay=decay)


def test_bad_lengths() -> None:
    with pytest.raises(ConfigError, match="warmups is -1 and start is 0, give 0 or more"):
        ModelEMA(two_layers(), warmups=-1)


def test_no_ema_is_the_model() -> None:
    model = two_layers()
    ema = NoEma(model)
    ema.update()
    ema.set_decay(0.5)
    ema.load_state_dict(ema.state_dict())
    assert ema.module is model
    assert ema.state_dict() == {}


class WithTable(nn.Module):
    """A computed table that holds infinity, as anchors of invalid cells do."""

    rebuilt_buffers = ("anchors",)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("anchors", torch.tensor([0.5, float("inf")]))


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("fused", [False, True])
def test_computed_tables_are_not_averaged(monkeypatch: pytest.MonkeyPatch, decay: float, fused: bool) -> None:
    if fused:  # what runs on a GPU
        monkeypatch.setattr(ema_module, "_rounds_as_published", lambda _: False)
    model = WithTable()
    ema = ModelEMA(model, decay=decay, warmups=0)
    with torch.no_grad():
        model.linear.weight.add_(1)
    ema.update()
    assert ema.module.anchors.tolist() == [0.5, float("inf")]
    if decay == 0:
        assert torch.allclose(ema.module.linear.weight, model.linear.weight)


class Mixed(nn.Module):
    """Entries of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Linear(2, 3).double()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.turned = nn.Parameter(torch.randn(3, 5, generator=random).T)
        self.gaps = nn.Parameter(torch.randn(4, 6, generator=random)[:, ::2])
        self.register_buffer("alias", self.norm.running_mean)

    def shake(self, step: int) -> None:
        random = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for one in self.state_dict().values():
                if one.is_floating_point():
                    one.add_(torch.randn(one.shape, generator=random, dtype=one.dtype))


def one_by_one(average: dict[str, torch.Tensor], model: nn.Module, factor: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and name != "alias":
            average[name] = average[name] * factor + value * (1 - factor)


def exchange_buffers(model: nn.Module) -> None:
    model.norm.running_var = model.norm.running_var.clone()


def assign(model: nn.Module) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    model.alias = model.norm.running_mean


CHANGES = {
    "nothing": lambda ema, model: None,
    "layout of the model": lambda ema, model: model.to(memory_format=torch.channels_last),
    "layout of the average": lambda ema, model: ema.module.to(memory_format=torch.channels_last),
    "buffers of the model": lambda ema, model: exchange_buffers(model),
    "buffers of the average": lambda ema, model: exchange_buffers(ema.module),
    "assigned": lambda ema, model: assign(ema.module),
    "loaded": lambda ema, model: ema.load_state_dict(copy.deepcopy(ema.state_dict())),
    "thawed": lambda ema, model: model.convolution.requires_grad_(False),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_every_entry_is_averaged_to_the_bit_whatever_was_exchanged_between(change: str) -> None:
    model = Mixed()
    ema = ModelEMA(model, decay=0.9, warmups=3)
    expected = copy.deepcopy(dict(ema.module.state_dict()))
    for step in range(6):
        model.shake(step)
        if step == 3:
            CHANGES[change](ema, model)
        ema.update()
        one_by_one(expected, model, ema.factor(step + 1))
        for name, value in ema.module.state_dict().items():
            if name != "alias":
                assert torch.equal(value, expected[name]), name
    assert ema.module.turned.stride() == model.turned.stride()
    if not change.startswith("layout"):  # the average keeps the layout it was made with: numbers are the same
        assert ema.module.convolution.weight.stride() == model.convolution.weight.stride()
    if change != "layout of the average":
        assert ema.module.alias is ema.module.norm.running_mean


def test_copies_of_the_average_are_their_own_and_no_larger() -> None:
    model = Mixed()
    ema = ModelEMA(model, decay=0.5, warmups=0)
    ema.update()
    twin, saved = copy.deepcopy(ema.module), copy.deepcopy(ema.state_dict()["module"])
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    model.shake(0)
    ema.update()
    for name, value in before.items():
        assert torch.equal(twin.state_dict()[name], value)
        assert torch.equal(saved[name], value)
    buffers = [buffer for buffer in twin.buffers() if buffer.is_floating_point()]
    assert buffers[0].untyped_storage().nbytes() <= sum(
        buffer.numel() * buffer.element_size() + 64 for buffer in buffers
    )
    assert all(one.data_ptr() % 64 == 0 for one in ema.module.state_dict().values())
    assert all(
        parameter.untyped_storage().nbytes() <= parameter.numel() * parameter.element_size()
        for parameter in twin.convolution.parameters()
    )


def test_few_calls_for_any_number_of_entries() -> None:
    counts = []
    for layers in (2, 50):
        ema = ModelEMA(nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(layers))))
        ema.update()
        with Operators() as seen:
            ema.update()
        counts.append(seen.names.total() - seen.names["detach"])
    assert counts == [3, 3]

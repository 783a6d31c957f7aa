# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Runs whose backbone is frozen for some steps: what moves, what is saved, resumed and shared between ranks."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import write_micro_config
from isdfine.core.errors import ConfigError
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.optim.freeze import Freeze
from isdfine.optim.param_groups import SGD
from isdfine.solver.fit import fit
from isdfine.solver.training import Training


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums of floats depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 4)


def detector(**options: Any) -> Detector:
    with torch.device("meta"):
        return Detector(HGNetv2("B0", **{"freeze_at": -1, "freeze_norm": False, **options}))


def stage_modes(backbone: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in backbone.named_modules() if name}


def test_all_of_the_backbone_is_frozen_until_its_step() -> None:
    model = detector().train()
    freeze = Freeze(model, {"backbone": {"epochs": 2}}, steps_per_epoch=5)
    assert freeze.apply(0)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert not any(stage_modes(model.backbone).values())
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    model.train()
    assert not freeze.apply(9)  # nothing changed, but the mode is set again
    assert not any(stage_modes(model.backbone).values())
    assert freeze.apply(10)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(stage_modes(model.backbone).values())
    assert not freeze.apply(11)


def test_stages_are_frozen_for_ever() -> None:
    model = detector().train()
    freeze = Freeze(model, {"backbone": {"stages": 1}}, steps_per_epoch=5)
    optimizer = SGD(model, [{"params": "backbone"}])
    frozen = freeze.frozen_groups(optimizer)
    assert frozen is not None
    assert (frozen.groups, frozen.until) == ({0}, None)
    assert [group["name"] for group in optimizer.param_groups] == ["backbone [freeze.backbone]", "backbone", "rest"]
    freeze.apply(10**6)
    resting = ("stem", "stages.0")
    for name, parameter in model.backbone.named_parameters():
        assert parameter.requires_grad != name.startswith(resting)
    for name, training in stage_modes(model.backbone).items():
        assert training != name.startswith(resting), name


def test_what_never_trains_stays_so_afterwards() -> None:
    model = detector(freeze_at=0)
    freeze = Freeze(model, {"backbone": {"steps": 1}}, steps_per_epoch=5)
    freeze.apply(0)
    freeze.apply(1)
    assert {
        name.partition(".")[0] for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad
    } == {"stem"}


def test_without_a_setting_nothing_is_touched() -> None:
    model = detector().train()
    freeze = Freeze(model, None, steps_per_epoch=5)
    assert not freeze.apply(0)
    assert freeze.frozen_groups(SGD(model)) is None
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "setting", "message"),
    [
        (nn.Linear(2, 2), {"steps": 1}, r"a\.yml:3: freeze\.backbone: Linear has no part called backbone"),
        (Detector(nn.Conv2d(3, 3, 1)), {"stages": 1}, r"freeze\.backbone\.stages: Conv2d does not say .*HGNetv2"),
        (detector(), {"stages": 5}, r"freeze\.backbone\.stages is 5: HGNetv2 has the stages 1\.\.4; 0 means the stem"),
    ],
)
def test_what_is_refused(model: nn.Module, setting: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Freeze(model, {"backbone": setting}, 5, "a.yml:3")


def test_a_backbone_that_never_trains_is_named() -> None:
    model = detector()
    model.backbone.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"freeze\.backbone: the optimizer trains none of these parameters anyway"):
        Freeze(model, {"backbone": {"steps": 1}}, 5).frozen_groups(SGD(model))


def run_micro(config: Path, *overrides: str, resume: Path | None = None) -> Training:
    extra = [f"resume={resume}"] if resume else []
    run = Training(isdfine.load_config(config, [*overrides, *extra]))
    if resume:
        run.resume(resume)
    fit(run)
    return run


def saved(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def floats(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key.startswith(prefix) and tensor.is_floating_point()}


def test_weights_statistics_and_moments_stand_still_and_then_move(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = write_micro_config(tmp_path)
    freeze = ["freeze={backbone: {steps: 2, warmup: 4}}", "checkpoint_freq=1"]  # two steps per epoch
    before = Training(isdfine.load_config(config, [*freeze, f"output_dir={tmp_path / 'start'}"])).model.state_dict()
    before = {key: one.clone() for key, one in before.items()}
    run = run_micro(config, *freeze)
    first, last = (saved(tmp_path / "run" / name) for name in ("checkpoint0000.pth", "last.pth"))
    resting = floats(before, "backbone.")
    assert all(torch.equal(one, first["model"][key]) for key, one in resting.items())
    assert sum(not torch.equal(one, last["model"][key]) for key, one in resting.items()) > 0.9 * len(resting)
    assert not all(torch.equal(one, first["model"][key]) for key, one in floats(before, "decoder.").items())
    backbone, rest = run.optim.optimizer.param_groups
    assert backbone["name"] == "rest [freeze.backbone]"
    numbers = range(len(backbone["params"]))
    assert not set(numbers) & set(first["optim"]["optimizer"]["state"])
    assert all(last["optim"]["optimizer"]["state"][number]["step"] == 2 for number in numbers)
    assert backbone["lr"] == pytest.approx(0.75 * rest["lr"])  # of the step to come, the third of four
    assert "backbone (" in caplog.text
    assert "trains from here on, warm-up 4 steps" in caplog.text


@pytest.mark.parametrize(
    "more", [[], pytest.param(["accumulate_steps=2", "train_dataloader.total_batch_size=2"], marks=pytest.mark.slow)]
)
def test_a_run_that_stops_while_the_backbone_is_frozen_resumes_to_the_bit(tmp_path: Path, more: list[str]) -> None:
    config = write_micro_config(tmp_path)
    overrides = ["freeze={backbone: {steps: 3, warmup: 2}}", "checkpoint_freq=1", *more]
    run_micro(config, *overrides)
    again = tmp_path / "again"
    run_micro(config, *overrides, f"output_dir={again}", resume=tmp_path / "run" / "checkpoint0000.pth")
    whole, resumed = saved(tmp_path / "run" / "last.pth"), saved(again / "last.pth")
    for key, one in whole["model"].items():
        assert torch.equal(one, resumed["model"][key]), key
        assert torch.equal(whole["ema"]["module"][key], resumed["ema"]["module"][key]), key
    moments = whole["optim"]["optimizer"]["state"]
    assert moments.keys() == resumed["optim"]["optimizer"]["state"].keys()
    for number, state in moments.items():
        for name, value in state.items():
            assert torch.equal(value, resumed["optim"]["optimizer"]["state"][number][name]), (number, name)


RANK = """
import os, sys, torch
import torch.distributed as torch_dist
from types import SimpleNamespace
from torch import nn
from isdfine.solver.fit import _distribute
from isdfine.optim.freeze import Freeze
rank = int(sys.argv[1])
torch_dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 3), nn.Linear(3, 1)
    def forward(self, values):
        return self.head(self.backbone(values))
model = Model()
run = SimpleNamespace(trained=model, device=torch.device("cpu"), settings=SimpleNamespace(find_unused_parameters=False))
freeze = Freeze(model, {"backbone": {"steps": 2}}, 1)
freeze.apply(0)
wrapped = _distribute(run)
images = torch.arange(24.0).view(4, 2, 3) / 10
for step in range(4):
    if freeze.apply(step):
        wrapped = _distribute(run)
    model.zero_grad(set_to_none=True)
    wrapped(images[step, rank][None]).square().mean().backward()
    own = [one.grad for one in model.parameters()]
    assert (own[0] is None) == (step < 2), step
    expected = [None if one is None else one.clone() for one in own]
    model.zero_grad(set_to_none=True)
    model(images[step]).square().mean().backward()
    for one, other in zip(expected, [one.grad for one in model.parameters()]):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
torch_dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_share_the_gradients_of_a_backbone_that_comes_in(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    store = f"file://{tmp_path / 'store'}"
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), store], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)

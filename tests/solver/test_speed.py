# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Faster options leave the numbers alone, and a compiler that is missing does not end a run."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import write_micro_config
from isdfine.solver import speed
from isdfine.solver.objective import build_objective
from isdfine.solver.speed import compile_parts, use_channels_last
from isdfine.solver.training import Training

TARGETS = [
    {"boxes": torch.tensor([[0.4, 0.5, 0.3, 0.2], [0.6, 0.4, 0.2, 0.5]]), "labels": torch.tensor([0, 1])},
    {"boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]]), "labels": torch.tensor([1])},
]


@pytest.fixture
def config(tmp_path: Path) -> isdfine.Config:
    return isdfine.load_config(write_micro_config(tmp_path), ["num_classes=2"])


def losses_of(config: isdfine.Config, model: nn.Module, size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    """Of one batch from a seed."""
    objective = build_objective(config, model)
    torch.manual_seed(3)
    images = torch.rand(2, 3, *size)
    losses: dict[str, Tensor] = objective(model.train()(images, TARGETS), TARGETS)
    return losses


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name


def test_channels_last_gives_the_same_losses(config: isdfine.Config) -> None:
    model = config.build("model")
    twin = copy.deepcopy(model)
    use_channels_last(twin)
    weights = [one for one in twin.parameters() if one.dim() == 4 and one.shape[1] > 1 and one.shape[2] > 1]
    assert weights
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in weights)
    check_equal(losses_of(config, twin), losses_of(config, model))


def test_a_run_applies_what_its_config_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("isdfine.solver.training.compile_parts", lambda model: compiled.append(model))
    file = write_micro_config(tmp_path)
    run = Training(isdfine.load_config(file, ["channels_last=true", "compile=true"]))
    assert compiled == [run.model]
    for model in (run.model, run.judged_model):
        conv = next(one for one in model.modules() if isinstance(one, nn.Conv2d) and one.kernel_size[0] > 1)
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    plain = Training(isdfine.load_config(file, []))
    conv = next(one for one in plain.model.modules() if isinstance(one, nn.Conv2d) and one.kernel_size[0] > 1)
    assert conv.weight.is_contiguous()
    assert len(compiled) == 1


def test_without_a_compiler_the_run_goes_on(
    config: isdfine.Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmany more lines")

    monkeypatch.setattr(torch, "compile", broken)
    model = config.build("model")
    assert not compile_parts(model)
    assert "torch.compile does not work here (No working C++ compiler found): the run goes on without" in caplog.text
    assert not compile_parts(nn.Linear(2, 2))
    assert "compile: the model has no part named backbone or encoder, so nothing is compiled" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch itself looks at it
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_losses_are_the_eager_ones_and_a_size_is_compiled_once(config: isdfine.Config, backend: str) -> None:
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters

    model = config.build("model")
    twin = copy.deepcopy(model)
    assert compile_parts(twin, backend)
    assert twin.state_dict().keys() == model.state_dict().keys()
    dynamo.reset()
    counters.clear()
    seen = []
    for size in ((64, 96), (96, 96), (64, 96), (96, 96), (64, 64)):
        check_equal(losses_of(config, twin, size), losses_of(config, model, size))
        seen.append(counters["stats"]["unique_graphs"])
    assert seen[0] == seen[1] / 2 == seen[4] / 3
    assert seen[1] == seen[2] == seen[3]
    assert speed.SIZES >= 13

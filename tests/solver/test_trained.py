# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights beside the model, of a distiller or of a criterion: trained, clipped, saved, resumed, never averaged."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from builders import write_micro_config
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.core.registry import REGISTRY
from isdfine.distill.context import DistillationContext, Distiller
from isdfine.losses.matched import MatchedStep
from isdfine.nn.types import DetectorOutput
from isdfine.optim.param_groups import trainable_parameters
from isdfine.solver.fit import fit
from isdfine.solver.training import Training


class Adapter(Distiller):
    """Maps the first layer's boxes to the last one's by a matrix that is learned."""

    def __init__(self, size: int = 4, *, used: bool = True) -> None:
        super().__init__()
        self.map, self.used = nn.Linear(size, 4), used
        self.seen: list[tuple[float, int, int]] = []

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        self.seen.append((context.progress, context.step_number, context.epoch))
        first, last = (context.student.layers[index].boxes for index in (0, -1))
        loss = (self.map(first) - last.detach()).square().mean()
        return {"loss_adapter": loss if self.used else loss.detach()}


class OnlyBoxes:
    """A criterion that has nothing to do with ours: all boxes shall be alike."""

    def match(self, output: DetectorOutput, targets: Any) -> MatchedStep:
        return MatchedStep(output)

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        return {"loss_alike": step.output.layers[-1].boxes.var(1).mean()}


class Weighted(OnlyBoxes, nn.Module):
    """The same with a factor that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def terms(self, step: MatchedStep) -> dict[str, Tensor]:
        return {name: value * self.factor for name, value in super().terms(step).items()}


class ModelsOnly(torch.optim.SGD):
    """An optimiser that looks at a part of what it is given."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.model.parameters(), lr=0.01)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Adapter, OnlyBoxes, Weighted, ModelsOnly):
        monkeypatch.setitem(REGISTRY._classes, cls.__name__, cls)


ADAPTER = "distillers=[Adapter]"


def start(config: Path, *overrides: str, name: str = "run", resume: Path | None = None) -> Training:
    given = [*overrides, f"output_dir={config.parent / name}", *([f"resume={resume}"] if resume else [])]
    run = Training(isdfine.load_config(config, given))
    if resume:
        run.resume(resume)
    return run


def saved(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_a_distillers_weights_train_and_resume_and_are_nowhere_else(tmp_path: Path) -> None:
    config = write_micro_config(tmp_path)
    patterns = "optimizer.params=[{params: ^distillers, lr: 0.1}]"
    whole = start(config, ADAPTER, patterns, name="whole")
    before = {name: value.clone() for name, value in whole.criterion.state_dict().items()}
    assert list(before) == ["distillers.0.map.weight", "distillers.0.map.bias"]
    groups = whole.optim.optimizer.param_groups
    assert [group["param_names"] for group in groups[:1]] == [list(before)]
    assert groups[0]["lr"] == pytest.approx(0.1 / 3)  # the warm-up's first step
    clipped = {id(weight) for weight in whole.optim._parameters}
    assert all(id(weight) in clipped for _, weight in whole.trained.trainable_parameters())
    fit(whole)
    distiller: Any = whole.criterion.distillers[0]
    assert distiller.seen == [(0.0, 0, 0), (0.25, 1, 0), (0.5, 2, 1), (0.75, 3, 1)]
    content = saved(whole.folder.last)
    assert all(not torch.equal(content["objective"][name], value) for name, value in before.items())
    for entry in (content["model"], content["ema"]["module"], whole.judged_model.state_dict()):
        assert not [name for name in entry if "map" in name]

    part = start(config, ADAPTER, patterns, "epoches=1", name="part")
    fit(part)
    rest = start(config, ADAPTER, patterns, name="part", resume=part.folder.path)
    fit(rest)
    again = saved(rest.folder.last)
    for key in ("objective", "model"):
        assert all(torch.equal(again[key][name], value) for name, value in content[key].items())
    with pytest.raises(CheckpointError, match=r"holds 2 weights of criterion and distillers, this run has 0; they dif"):
        start(config, name="part", resume=part.folder.path)


def test_a_run_without_such_weights_is_saved_as_before(tmp_path: Path) -> None:
    run = start(write_micro_config(tmp_path))
    keys = ["format", "model", "ema", "optim", "progress", "rng", "label_space", "config"]
    assert list(run.state_dict()) == keys
    (group,) = run.optim.optimizer.param_groups
    assert group["param_names"] == list(trainable_parameters(run.model))
    run.folder.create(run.config_text)
    run.save(run.folder.last)
    with pytest.raises(CheckpointError, match=r"holds 0 weights of criterion and distillers, this run has 2"):
        start(tmp_path / "micro.yml", ADAPTER, resume=run.folder.last)


@pytest.mark.parametrize("criterion", ["OnlyBoxes", "Weighted"])
def test_a_criterion_of_ones_own_trains(criterion: str, tmp_path: Path) -> None:
    run = start(write_micro_config(tmp_path), f"criterion={criterion}", "epoches=1", ADAPTER)
    fit(run)
    content = saved(run.folder.last)
    assert ("criterion.factor" in content["objective"]) == (criterion == "Weighted")
    if criterion == "Weighted":
        assert content["objective"]["criterion.factor"] != 0.5
    for distiller, message in (
        ("GOLSD", "GOLSD.weight is null and the criterion's weight_dict has no loss_ddf"),
        (
            "InterLayerDistillation",
            rf"weighs queries by the union of all matches, .* set {criterion}.use_uni_set: True",
        ),
        ("{type: AttentionDistillation, row_weight: conf}", r"row_weight: conf reads the matched step"),
    ):
        with pytest.raises(ConfigError, match=message):
            start(tmp_path / "micro.yml", f"criterion={criterion}", f"distillers=[{distiller}]", name="refused")


def test_weights_that_would_stay_as_they_are_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = write_micro_config(tmp_path)
    message = r"optimizer: ModelsOnly leaves out 2 of the weights that are to be trained \(such as distillers.0.map.wei"
    with pytest.raises(ConfigError, match=message):
        start(config, ADAPTER, "optimizer={type: ModelsOnly}")
    start(config, "optimizer={type: ModelsOnly}")
    with caplog.at_level(logging.WARNING):
        fit(start(config, "distillers=[{type: Adapter, used: False}]", "epoches=1"))
    text = "no gradient has reached distillers.0.map.weight, distillers.0.map.bias yet: they are not trained"
    assert [message for message in caplog.messages if re.search(text, message)]

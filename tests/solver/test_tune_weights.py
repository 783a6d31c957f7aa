# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that start a new run: detectors, backbones alone, other architectures."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.core.checkpoint import weights_in
from isdfine.core.checkpoint.weights import ClassMap
from isdfine.core.errors import CheckpointError
from isdfine.solver.tuning import map_classes, tune_weights


class Backbone(nn.Module):
    """Ten tensors, as in a backbone with a stem and a stage."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.stages = nn.ModuleList([nn.Linear(width, width) for _ in range(4)])


class Decoder(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.class_rows = {"dec_score_head": 0}
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.dec_score_head = nn.ModuleList([nn.Linear(width, classes)])


class Detector(nn.Module):
    def __init__(self, classes: int = 3, width: int = 4, backbone_width: int = 4) -> None:
        super().__init__()
        self.backbone = Backbone(backbone_width)
        self.decoder = Decoder(classes, width)


def fresh(**options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model and its values before anything is loaded."""
    torch.manual_seed(1)
    model = Detector(**options)
    return model, copy.deepcopy(model.state_dict())


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: torch.full_like(value, 7.0) for key, value in model.state_dict().items()}


def unknown(count: int) -> ClassMap | None:
    """Nobody knows the names."""
    return None


def not_asked(count: int) -> ClassMap | None:
    raise AssertionError("a backbone has no classes")


@pytest.mark.parametrize("form", ["bare", "prefixed", "wrapped", "stages"])
def test_a_backbone_alone(form: str) -> None:
    model, before = fresh()
    bare = {**weights(Backbone()), "last_conv.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}
    content: dict[str, Any] = {
        "bare": bare,
        "prefixed": {f"backbone.{key}" if "fc" not in key else key: value for key, value in bare.items()},
        "wrapped": {"state_dict": {f"module.{key}": value for key, value in bare.items()}},
        "stages": {"model": bare},
    }[form]
    report = tune_weights(model, weights_in(content, "b.pth"), "b.pth", not_asked)
    after = model.state_dict()
    assert all((after[key] == 7).all() for key in after if key.startswith("backbone."))
    assert all(torch.equal(after[key], before[key]) for key in after if not key.startswith("backbone."))
    assert len(report.loaded) == 10
    assert len(report.unexpected) == 2
    assert any("last_conv.weight" in name for name in report.unexpected)
    assert all(name.startswith("decoder.") for name in report.missing)
    assert report.notes == ["the file holds a backbone only: encoder and decoder start anew"]


def test_a_part_inside_the_backbone_may_be_the_file() -> None:
    model, _ = fresh()
    model.backbone = nn.ModuleDict({"body": nn.ModuleDict({"model": Backbone()})})  # a library's model in a wrapper
    report = tune_weights(model, weights(Backbone()), "timm.pth", not_asked)
    assert [name.startswith("backbone.body.model.") for name in report.loaded] == [True] * 10


def test_too_little_of_the_backbone_is_refused_with_the_facts() -> None:
    model, before = fresh()
    state = weights(Backbone())
    del state["stages.3.bias"]
    assert len(tune_weights(fresh()[0], state, "b.pth", not_asked).loaded) == 9  # 90 %
    del state["stages.3.weight"]
    with pytest.raises(
        CheckpointError,
        match=r"b.pth holds a backbone only, and 8 of the 10 tensors of Backbone fit \(90% must\); 2 are not in the "
        r"file, for example backbone.stages.3.weight: choose the backbone that the file belongs to",
    ):
        tune_weights(model, state, "b.pth", not_asked)
    other = {**weights(Backbone(5)), "fc.bias": torch.zeros(1)}
    with pytest.raises(
        CheckpointError,
        match=r"1 of the 10 tensors .*9 are of another shape, for example backbone.stem.weight \(\[5, 3\] in the file, "
        r"\[4, 3\] in the model\); 1 of the file are not in the model, for example fc.bias",
    ):
        tune_weights(model, other | {"stem.bias": torch.zeros(4)}, "b.pth", not_asked)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_architecture_is_refused() -> None:
    model, before = fresh()
    with pytest.raises(
        CheckpointError,
        match=r"big.pth is of another architecture: 1 of the 16 tensors of Detector fit, 0 of 10 in the backbone; 15 "
        r"are of another shape, .*: use the config the checkpoint was trained with",
    ):
        tune_weights(model, weights(Detector(width=9, backbone_width=9)), "big.pth", unknown)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"resnet.pth: none of its 1 tensors fits Detector, for example conv1"):
        tune_weights(model, {"conv1.weight": torch.zeros(3)}, "resnet.pth", unknown)


def test_another_decoder_over_the_same_backbone_is_welcome() -> None:
    model, before = fresh()
    report = tune_weights(model, weights(Detector(width=9)), "wide.pth", unknown)
    assert len(report.loaded) == 11  # the backbone and the bias of the class head, whose classes are as many
    assert torch.equal(model.state_dict()["decoder.layers.0.weight"], before["decoder.layers.0.weight"])


def test_a_backbone_that_starts_at_random_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = fresh()
    state = {key: value for key, value in weights(Detector()).items() if key not in ("backbone.stem.bias",)}
    report = tune_weights(model, state, "d.pth", unknown)
    assert report.notes[0].startswith("1 of the 10 tensors of the backbone start from random numbers")
    assert "d.pth: 1 of the 10 tensors of the backbone start from random numbers" in caplog.text


def test_classes_are_mapped_once_the_rows_are_known() -> None:
    asked = []

    def classes_of(count: int) -> ClassMap:
        asked.append(count)
        return map_classes([f"c{index}" for index in range(count)], ["c4", "new", "c0"], {})

    model, before = fresh()
    report = tune_weights(model, weights(Detector(classes=5)), "five.pth", classes_of)
    assert asked == [5]
    bias = "decoder.dec_score_head.0.bias"
    assert model.state_dict()[bias].tolist() == [7, before[bias][1].item(), 7]
    assert report.classes is not None
    assert report.classes.new == ["new"]


def test_a_model_without_a_backbone_is_judged_as_a_whole() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    state = weights(model)
    for key in ("0.weight", "0.bias", "1.weight"):
        del state[key]
    assert len(tune_weights(model, state, "half.pth", unknown).loaded) == 3
    del state["1.bias"]
    with pytest.raises(CheckpointError, match=r"2 of the 6 tensors of Sequential fit, 0 of 0 in the backbone"):
        tune_weights(model, state, "third.pth", unknown)

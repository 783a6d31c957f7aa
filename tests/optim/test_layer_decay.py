# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Learning rates that shrink towards the first stage of the backbone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import isdfine
from builders import micro_sections, write_coco
from isdfine.core.errors import ConfigError
from isdfine.nn.backbone.hgnetv2 import HGNetv2
from isdfine.nn.backbone.resnet import PResNet, ResNet
from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.nn.keys import PartTable, use_table
from isdfine.optim.param_groups import SGD, Adam, AdamW

ENTRIES = [
    {"params": "^(?=.*backbone)(?!.*(?:norm|bn)).*$", "lr": 1e-4},
    {"params": "^(?=.*(?:norm|bn|bias)).*$", "weight_decay": 0.0},
]


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, 4)


def detector(name: str) -> Detector:
    with torch.device("meta"):
        if name == "HGNetv2":
            return Detector(HGNetv2("B0", freeze_at=-1, freeze_norm=False))
        if name == "PResNet":
            return Detector(PResNet(18, freeze_norm=False))
        if name == "ResNet":  # its names in checkpoints, and those of a detector around it, are others
            model = Detector(ResNet(18, freeze_at=-1, freeze_norm=False))
            use_table(model, PartTable((("backbone.0.body", "backbone"),)))
            return model
        pytest.importorskip("timm")
        return Detector(TimmBackbone(name))


@pytest.mark.parametrize("name", ["HGNetv2", "PResNet", "ResNet", "test_convnext", "test_resnet"])
@pytest.mark.parametrize("optimizer", [AdamW, Adam, SGD])
def test_every_stage_has_the_rate_of_its_depth(name: str, optimizer: Any) -> None:
    model = detector(name)
    plain = optimizer(model, ENTRIES, lr=1e-3)
    expected = {key: group["lr"] for group in plain.param_groups for key in group["param_names"]}
    decayed = optimizer(model, ENTRIES, lr=1e-3, layer_decay=0.5)
    inside = {id(parameter): key for key, parameter in model.backbone.named_parameters()}
    stages = set()
    for group in decayed.param_groups:
        for key, parameter in zip(group["param_names"], group["params"]):
            factor = 1.0
            if key.startswith("backbone."):
                stage = model.backbone.stage_of(inside[id(parameter)])  # type: ignore[operator]
                stages.add(stage)
                factor = 0.5 ** (4 - stage)
                assert f"[stage {stage}, lr x {factor:.4g}]" in group["name"]
            assert group["lr"] == expected.pop(key) * factor
    assert not expected
    assert stages == {0, 1, 2, 3, 4}


def test_groups_keep_their_order_their_options_and_what_lies_outside_the_backbone() -> None:
    optimizer = AdamW(detector("HGNetv2"), ENTRIES, lr=1e-3, layer_decay=0.9)
    first, second = ENTRIES[0]["params"], ENTRIES[1]["params"]
    stages = [f"[stage {k}, lr x {0.9 ** (4 - k):.4g}]" for k in (4, 3, 2, 1, 0)]
    names = [*(f"{first} {stage}" for stage in stages), second, *(f"{second} {stage}" for stage in stages), "rest"]
    assert [group["name"] for group in optimizer.param_groups] == names
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2] * 5 + [0.0] * 6 + [1e-2]
    assert optimizer.param_groups[5]["param_names"] == ["head.bias"]
    assert optimizer.param_groups[-1]["param_names"] == ["head.weight"]


def test_without_decay_the_groups_are_untouched() -> None:
    model = detector("PResNet")
    plain, one = AdamW(model, ENTRIES), AdamW(model, ENTRIES, layer_decay=1.0)
    assert [group["name"] for group in one.param_groups] == [group["name"] for group in plain.param_groups]
    assert [group["param_names"] for group in one.param_groups] == [g["param_names"] for g in plain.param_groups]


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.5, float("nan")])
def test_a_factor_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"layer_decay is .*give a factor above 0 and at most 1"):
        AdamW(detector("PResNet"), ENTRIES, layer_decay=decay)


def test_a_backbone_without_stages_is_refused_with_those_that_have_them() -> None:
    expected = r"Conv2d does not say which stage .* leave it out, .*HGNetv2, PResNet, .*TimmBackbone"
    with pytest.raises(ConfigError, match=expected):
        AdamW(Detector(nn.Conv2d(3, 3, 1)), layer_decay=0.9)
    with pytest.raises(ConfigError, match=r"Linear has no part called backbone"):
        AdamW(nn.Linear(2, 2), layer_decay=0.9)


def test_it_is_a_key_of_the_optimizer_and_of_no_group(tmp_path: Path) -> None:
    sections = micro_sections(write_coco(tmp_path / "data", images=1), tmp_path / "run")
    sections["optimizer"] |= {"layer_decay": 0.8}
    path = tmp_path / "decay.yml"
    path.write_text(yaml.safe_dump(sections))
    config = isdfine.load_config(path)
    optimizer = config.build("optimizer", model=config.build("model", num_classes=2))
    assert [round(group["lr"] / 1e-3, 4) for group in optimizer.param_groups] == [1.0, 1.0, 0.8, 0.64, 0.512, 0.4096]
    with pytest.raises(ConfigError, match=r"params\[0\]\.layer_decay: this optimizer has no such option"):
        AdamW(detector("PResNet"), [{"params": "backbone", "layer_decay": 0.9}])

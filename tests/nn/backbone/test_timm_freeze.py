# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Frozen stages and frozen norms of timm backbones."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isdfine.nn.backbone.timm import TimmBackbone
from isdfine.nn.norm import FrozenBatchNorm2d, convert_sync_batchnorm

timm = pytest.importorskip("timm")

LITE0_STAGES = {
    0: ("conv_stem.", "bn1.", "blocks.0."),
    1: ("blocks.1.",),
    2: ("blocks.2.",),
    3: ("blocks.3.", "blocks.4."),
    4: ("blocks.5.", "blocks.6."),
}


def training(name: str = "test_resnet", **options: Any) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(name, **options).train()


def step(backbone: TimmBackbone, images: torch.Tensor) -> list[torch.Tensor]:
    maps = backbone(images)
    sum(feature_map.square().mean() for feature_map in maps).backward()
    return maps


@pytest.mark.parametrize("freeze_at", [-1, 0, 2, 4])
def test_the_stages_of_efficientnet_lite0_are_frozen_up_to_the_number(freeze_at: int) -> None:
    backbone = training("tf_efficientnet_lite0", out_indices=[3, 4], freeze_at=freeze_at)
    frozen = tuple(prefix for number in range(freeze_at + 1) for prefix in LITE0_STAGES[number])
    for name, parameter in backbone.body.model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen or "nothing"), name


@pytest.mark.parametrize(("name", "trained"), [("test_convnext", "stages.1."), ("test_resnet", "layer2.")])
def test_stage_one_ends_at_stride_4_in_every_family(name: str, trained: str) -> None:
    backbone = training(name, freeze_at=1)
    first = next(key for key, parameter in backbone.body.model.named_parameters() if parameter.requires_grad)
    assert first.startswith(trained)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_resnet"])
def test_what_is_frozen_rests_and_the_remainder_learns(name: str) -> None:
    backbone = training(name, freeze_at=2, drop_path_rate=0.5)
    before = copy.deepcopy(backbone.state_dict())
    step(backbone, torch.rand(2, 3, 64, 96))
    frozen = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
    learning = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
    gradients = dict(backbone.named_parameters())
    assert frozen
    assert all(gradients[key].grad is None for key in frozen)
    assert learning
    assert all(gradients[key].grad is not None for key in learning)
    roots = {key.rpartition(".")[0] for key in frozen}
    statistics = [key for key in before if key.rpartition(".")[0] in roots]
    for key in statistics:
        torch.testing.assert_close(backbone.state_dict()[key], before[key], rtol=0, atol=0)
    moved = [key for key in before if not torch.equal(before[key], backbone.state_dict()[key])]
    assert bool(moved) == any("running_mean" in key for key in before)


def test_the_frozen_part_builds_no_graph() -> None:
    backbone = training(freeze_at=3)
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [feature_map.requires_grad for feature_map in maps] == [False, False, True]


def test_a_frozen_part_computes_the_same_in_training_and_eval() -> None:
    backbone, images = training("test_convnext", freeze_at=4, drop_path_rate=0.5), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        trained, judged = backbone(images), backbone.eval()(images)
    for feature_map, other in zip(trained, judged):
        torch.testing.assert_close(feature_map, other, rtol=0, atol=0)


def test_the_mode_survives_copies_and_synced_norms() -> None:
    backbone = convert_sync_batchnorm(training("test_efficientnet", freeze_at=1), "cpu")
    again = copy.deepcopy(backbone).eval().train()
    for network in (backbone.train(), again):
        assert isinstance(network, TimmBackbone)
        modes = {name: module.training for name, module in network.body.model.named_modules()}
        assert not any(modes[name] for name in modes if name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1")))
        assert all(modes[name] for name in modes if name.startswith(("blocks.2", "blocks.4")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_at": 5}, r"freeze_at=5: test_resnet offers -1 \(freeze nothing\) and 0 \(stem\) to 4 \(all stages\)"),
        ({"freeze_at": -2}, r"freeze_at=-2"),
        ({"freeze_at": 3, "out_indices": [2]}, r"0 \(stem\) to 2 \(all stages\)"),
        ({"name": "test_convnext", "freeze_norm": True}, r"freeze_norm: test_convnext has no batch norm: leave it out"),
    ],
)
def test_what_cannot_be_frozen_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**{"name": "test_resnet", **options})


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_frozen_norms_are_constants_that_compute_as_in_eval(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(name).state_dict()
    state = {
        key: tensor + 0.1 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for key, tensor in state.items()
    }
    save_file(state, tmp_path / "w.safetensors")
    trainable = training(name, weights=str(tmp_path / "w.safetensors"))
    frozen = training(name, weights=str(tmp_path / "w.safetensors"), freeze_norm=True)
    assert not [module for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in frozen.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert set(trainable.state_dict()) - set(frozen.state_dict()) == {
        key for key in trainable.state_dict() if key.endswith("num_batches_tracked")
    }
    before = copy.deepcopy(frozen.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(step(frozen, images), trainable.eval()(images)):
        torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(before[key], tensor) for key, tensor in frozen.state_dict().items())

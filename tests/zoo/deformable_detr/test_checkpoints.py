# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Deformable-DETR: what is said where they do not fit, classes by name, and backbones from files."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from isdfine.core.checkpoint.weights import ClassMap, load_weights
from isdfine.core.errors import CheckpointError
from isdfine.nn.backbone.resnet import ResNet
from isdfine.solver.tuning import tune_weights
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.deformable_detr.model import DeformableDETR
from isdfine.zoo.encoders import DeformableEncoder

REFINE: dict[str, Any] = {"box_refine": True}
TWO_STAGES: dict[str, Any] = {**REFINE, "two_stage": True}
FDR: dict[str, Any] = {**REFINE, "box_head": "fdr"}


def detector(num_classes: int = 5, depth: int = 18, **options: Any) -> DeformableDETR:
    sizes = {"hidden_dim": 32, "num_layers": 2, "dim_feedforward": 16, "num_queries": 6}
    channels = (128, 256, 512) if depth < 50 else (512, 1024, 2048)
    encoder = DeformableEncoder(channels, hidden_dim=32, dim_feedforward=16, num_encoder_layers=1)
    decoder = DeformableDETRTransformer(num_classes, feat_channels=[32] * 4, **{**sizes, **options})
    return DeformableDETR(ResNet(depth, pretrained=False), encoder, decoder)


@pytest.mark.parametrize(
    ("theirs", "ours", "remedy"),
    [
        (TWO_STAGES, REFINE, r"a detector in two stages: set DeformableDETRTransformer\.two_stage: True and DETRCrit"),
        (REFINE, TWO_STAGES, r"a detector in one stage: set DeformableDETRTransformer\.two_stage: False and DETRCrit"),
        ({"num_queries": 8}, {}, r"num_queries is 6, the file has 8 queries: set num_queries: 8"),
        ({}, REFINE, r"the file does not refine boxes: set box_refine: False"),
        (REFINE, {}, r"the file refines boxes: set box_refine: True"),
        (FDR, REFINE, r"the file has distributions: set box_head: fdr"),
        (REFINE, FDR, r"the file has no distributions: set box_head: direct"),
        ({"num_classes": 9}, {}, r"the file is for 9 classes and the model has 5: to fine-tune on other classes use"),
    ],
)
def test_the_checkpoint_of_another_form(theirs: dict[str, Any], ours: dict[str, Any], remedy: str) -> None:
    file, model = detector(**theirs).state_dict(), detector(**ours)
    with pytest.raises(CheckpointError, match=remedy) as refused:
        load_weights(model, file, source="there.pth")
    assert "\n" not in str(refused.value)
    assert "use the config" not in str(refused.value)
    report = tune_weights(model, file, "there.pth", lambda count: None)
    if "num_classes" not in theirs:
        assert any(remedy.split(r"\.")[0] in note for note in report.notes)


@pytest.mark.parametrize(("theirs", "ours"), [(50, 18), (18, 34), (34, 50), (50, 101)])
def test_the_checkpoint_of_another_depth(theirs: int, ours: int) -> None:
    """Of a detector or of a backbone alone, read whole or as a start: the depths are named."""
    with torch.device("meta"):  # names and shapes are all that is compared
        file, model = detector(depth=theirs).state_dict(), detector(depth=ours)
        backbone = ResNet(theirs, pretrained=False).state_dict()
    remedy = f"it holds a ResNet {theirs}, but ResNet.depth is {ours}: set ResNet.depth to {theirs}, or take another"
    with pytest.raises(CheckpointError, match=remedy) as refused:
        load_weights(model, file, source="there.pth")
    assert "\n" not in str(refused.value)
    assert "use the config" not in str(refused.value)
    with pytest.raises(CheckpointError, match=f"there.pth holds a backbone only, .*{remedy}"):
        tune_weights(model, backbone, "there.pth", lambda count: None)


def test_rows_that_are_category_ids() -> None:
    with pytest.raises(CheckpointError, match=r"else set num_classes, and with .* -u num_classes=91 remap_mscoco_cat"):
        load_weights(detector(80), detector(91).state_dict(), source="there.pth")


@pytest.mark.parametrize("options", [{}, TWO_STAGES])
def test_rows_of_classes_are_found_by_name(options: dict[str, Any]) -> None:
    file, model = detector(3, **options), detector(2, **options)
    for parameter in file.parameters():
        torch.nn.init.normal_(parameter)
    mapping = ClassMap(("cat", "dog", "owl"), ("owl", "ape"), (2, None))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = tune_weights(model, file.state_dict(), "there.pth", lambda count: mapping if count == 3 else None)
    heads = [key for key in before if "class_embed" in key and key.endswith("weight")]
    assert {rows.name for rows in report.mapped if rows.name.endswith("weight")} == set(heads)
    assert len(heads) == (2 if not options else 6)  # each of the published names
    for key in heads:
        assert torch.equal(model.state_dict()[key][0], file.state_dict()[key][2])
        assert torch.equal(model.state_dict()[key][1], before[key][1])


def prefixed(prefix: str) -> Mapping[str, Tensor]:
    torch.manual_seed(5)
    return {prefix + key: value for key, value in ResNet(18, pretrained=False).state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "backbone.0.body."])
def test_a_file_with_a_backbone_only(prefix: str) -> None:
    model, file = detector(), prefixed(prefix)
    report = tune_weights(model, file, "resnet18.pth", lambda count: None)
    assert "the file holds a backbone only: encoder and decoder start anew" in report.notes
    assert torch.equal(model.backbone.state_dict()["layer4.1.conv2.weight"], file[f"{prefix}layer4.1.conv2.weight"])

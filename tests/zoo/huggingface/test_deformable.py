# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR of transformers: random weights of it, read from memory and from a folder, and equal outputs."""

import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import isdfine
from hf_cases import check_published, load_transformers
from isdfine.bench.twin import transformers_twin
from isdfine.core.errors import CheckpointError
from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.deformable_detr.model import DeformableDETR
from isdfine.zoo.encoders import DeformableEncoder
from isdfine.zoo.huggingface.weights import from_huggingface

CONFIGS = Path(__file__).parents[3] / "configs" / "detr"
FORMS: dict[str, dict[str, bool]] = {
    "plain": {"with_box_refine": False, "two_stage": False},
    "refine": {"with_box_refine": True, "two_stage": False},
    "two_stages": {"with_box_refine": True, "two_stage": True},
}


def theirs(form: str) -> nn.Module:
    transformers = load_transformers()
    small = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 48}
    widths = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    backbone = transformers.ResNetConfig(**widths, out_features=["stage2", "stage3", "stage4"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        config = transformers.DeformableDetrConfig(
            **small,
            **FORMS[form],
            backbone_config=backbone,
            num_queries=12,
            two_stage_num_proposals=12,
            num_labels=5,
            use_timm_backbone=False,
        )
        model: nn.Module = transformers.DeformableDetrForObjectDetection(config)
    for parameter in {id(one): one for one in model.parameters()}.values():  # away from zeros and ones
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def ours(form: str, weights: dict[str, Tensor]) -> nn.Module:
    names = {"with_box_refine": "box_refine"}
    options: dict[str, Any] = {names.get(key, key): value for key, value in FORMS[form].items()}
    sizes = {"hidden_dim": 64, "num_layers": 2, "dim_feedforward": 48, "num_queries": 12, "feat_channels": [64] * 4}
    encoder = DeformableEncoder((128, 256, 512), hidden_dim=64, dim_feedforward=32, num_encoder_layers=2)
    backbone = ResNet(18, normalize=False, pretrained=False)
    model = DeformableDETR(backbone, encoder, DeformableDETRTransformer(5, **sizes, **options))
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.parametrize("form", ["deformable_r50", "deformable_r50_twostage"])
def test_the_twin_of_a_config_has_its_weights(form: str) -> None:
    load_transformers()
    small = {
        "num_classes": 5,
        "ResNet": {"depth": 18, "weights": None, "pretrained": False, "normalize": False},
        "DeformableEncoder": {"in_channels": [128, 256, 512], "num_encoder_layers": 1},
        "DeformableDETRTransformer": {"num_layers": 2, "num_queries": 12},
    }
    config = isdfine.load_config(CONFIGS / f"{form}.yml").with_values(small)
    torch.manual_seed(5)
    model = config.build("model").eval()
    twin, images = transformers_twin(config, model).eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(twin(images).logits, model(images).logits, atol=1e-4, rtol=1e-4)

    def trained(one: nn.Module) -> int:
        return sum(each.numel() for each in one.parameters() if each.requires_grad)

    assert trained(twin) == trained(model)


@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_equal(form: str, tmp_path: Path) -> None:
    check_published(theirs(form), tmp_path, partial(ours, form), "Deformable DETR")


def test_timm_backbones_have_torchvision_names() -> None:
    state = {f"model.backbone.conv_encoder.model.{name}": torch.zeros(1) for name in ("conv1.weight", "bn1.bias")}
    state |= {"model.backbone.conv_encoder.model.layer1.0.downsample.1.running_var": torch.zeros(1)}
    named = from_huggingface({**state, "model.input_proj.0.0.weight": torch.zeros(1)})
    assert {re.sub("^backbone.0.body.", "", key) for key in named} == {
        *("conv1.weight", "bn1.bias", "layer1.0.downsample.1.running_var", "input_proj.0.0.weight")
    }


def test_a_missing_projection_is_named() -> None:
    names = ("model.input_proj.0.0.weight", "model.decoder.layers.0.self_attn.q_proj.bias")
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.k_proj\.bias is missing: the file is incomplete"):
        from_huggingface({name: torch.zeros(1) for name in names})

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR of transformers: random weights of it, read from memory and from a folder, and equal outputs."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import isdfine
from hf_cases import check_published, load_transformers
from isdfine.bench.twin import transformers_twin
from isdfine.core.errors import CheckpointError, ConfigError
from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.dab_detr.model import DABDETR
from isdfine.zoo.encoders import DenseEncoder
from isdfine.zoo.huggingface.weights import from_huggingface

CONFIGS = Path(__file__).parents[3] / "configs" / "detr"


def theirs(num_patterns: int) -> nn.Module:
    transformers = load_transformers()
    small = {"hidden_size": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 48}
    widths = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    backbone = transformers.ResNetConfig(**widths, out_features=["stage4"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        config = transformers.DabDetrConfig(
            **small,
            backbone_config=backbone,
            num_queries=12,
            num_patterns=num_patterns,
            num_labels=5,
            use_timm_backbone=False,
        )
        model: nn.Module = transformers.DabDetrForObjectDetection(config)
    for parameter in {id(one): one for one in model.parameters()}.values():  # away from zeros and ones
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def ours(num_patterns: int, weights: dict[str, Tensor]) -> nn.Module:
    sizes = {"hidden_dim": 64, "num_layers": 3, "dim_feedforward": 48, "num_queries": 12, "num_patterns": num_patterns}
    maps = {"feat_channels": [64], "feat_strides": [32]}
    decoder = DABDETRTransformer(5, **sizes, **maps, cross_attention="dense", activation="prelu")
    encoder = DenseEncoder((512,), hidden_dim=64, dim_feedforward=32, num_encoder_layers=2)
    model = DABDETR(ResNet(18, (3,), normalize=False, pretrained=False), encoder, decoder)
    model.load_state_dict(weights)
    return model.eval()


@pytest.mark.parametrize("num_patterns", [0, 3])
def test_outputs_are_equal(num_patterns: int, tmp_path: Path) -> None:
    check_published(theirs(num_patterns), tmp_path, partial(ours, num_patterns), "DAB-DETR")


def test_a_missing_projection_is_named() -> None:
    names = ("model.input_projection.weight", "model.encoder.layers.0.self_attn.q_proj.bias")
    with pytest.raises(CheckpointError, match=r"DAB-DETR: transformer\.encoder.*k_proj\.bias is missing: the file is"):
        from_huggingface({name: torch.zeros(1) for name in names})


def test_the_twin_of_a_config_has_its_weights() -> None:
    load_transformers()
    small = {
        "num_classes": 5,
        "ResNet": {"depth": 18, "weights": None, "pretrained": False, "normalize": False},
        "DenseEncoder": {"in_channels": [512], "num_encoder_layers": 1},
        "DABDETRTransformer": {"num_layers": 2, "num_queries": 12},
    }
    torch.manual_seed(5)
    config = isdfine.load_config(CONFIGS / "dab_r50.yml").with_values(small)
    model = config.build("model").eval()
    twin, images = transformers_twin(config, model).eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(twin(images).logits, model(images).logits, atol=1e-4, rtol=1e-4)
    trained = [sum(each.numel() for each in one.parameters() if each.requires_grad) for one in (twin, model)]
    assert trained[0] == trained[1]
    deep = {"ResNet": small["ResNet"], "DeformableEncoder": {"in_channels": [128, 256, 512]}, "num_classes": 5}
    config = isdfine.load_config(CONFIGS / "dab_deformable_r50.yml").with_values(deep)
    with pytest.raises(ConfigError, match=r"transformers has DAB-DETR with dense attention only: give a config with"):
        transformers_twin(config, config.build("model"))

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR, DN-DETR and DINO: what is said of a checkpoint of another form (of Deformable-DETR: in its folder)."""

from typing import Any

import pytest
import torch

from isdfine.core.checkpoint.weights import load_weights
from isdfine.core.errors import CheckpointError
from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.dab_detr.model import DABDETR
from isdfine.zoo.dino.decoder import DINOTransformer
from isdfine.zoo.dino.model import DINO
from isdfine.zoo.dn_detr.decoder import DNDETRTransformer
from isdfine.zoo.dn_detr.model import DNDETR
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder
from isdfine.zoo.padded import PaddedDETR

FORMS: dict[str, tuple[type[PaddedDETR], Any]] = {
    "dab": (DABDETR, DABDETRTransformer),
    "dn": (DNDETR, DNDETRTransformer),
    "dino": (DINO, DINOTransformer),
}
DENSE = {"cross_attention": "dense", "feat_channels": [32], "feat_strides": [32]}


def detector(name: str, options: dict[str, Any]) -> PaddedDETR:
    """Without numbers: names and shapes are all that is compared."""
    model, decoder = FORMS[name]
    dense = "cross_attention" in options
    sizes = {"hidden_dim": 32, "feat_channels": [32] * 4, "num_layers": 2, "dim_feedforward": 16, "num_queries": 6}
    narrow = {"hidden_dim": 32, "dim_feedforward": 16, "num_encoder_layers": 1}
    with torch.device("meta"):
        encoder = DenseEncoder((512,), **narrow) if dense else DeformableEncoder((128, 256, 512), **narrow)  # type: ignore[arg-type]
        backbone = ResNet(18, return_idx=[3] if dense else [1, 2, 3], pretrained=False)
        return model(backbone, encoder, decoder(5, **{**sizes, **options}))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("theirs", "ours", "remedy"),
    [
        ({"num_queries": 8}, {}, "num_queries is 6, the file has 8 queries: set num_queries: 8"),
        ({"box_head": "fdr"}, {}, "the file has distributions: set box_head: fdr"),
        ({}, {"box_head": "fdr"}, "the file has no distributions: set box_head: direct, or train them from it (-t)"),
        ({}, {"num_denoising": 0}, "the file has denoising queries: set num_denoising above 0"),
        (
            {"num_denoising": 0},
            {},
            "the file has no denoising queries: set num_denoising: 0, or train them from it (-t)",
        ),
        (DENSE, {}, "the file has dense attention: set cross_attention: dense and the encoder DenseEncoder"),
        ({}, DENSE, "deformable attention: set cross_attention: deformable and the encoder DeformableEncoder"),
    ],
)
def test_the_checkpoint_of_another_form(name: str, theirs: dict[str, Any], ours: dict[str, Any], remedy: str) -> None:
    if (name == "dab" and "denoising" in remedy) or (name == "dino" and "attention" in remedy):
        pytest.skip(f"{name} has no such option")
    with pytest.raises(CheckpointError) as refused:
        load_weights(detector(name, ours), detector(name, theirs).state_dict(), source="there.pth")
    assert remedy in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "use the config" not in str(refused.value)
    if not ours.get("num_denoising", True):
        assert "another family" not in str(refused.value)

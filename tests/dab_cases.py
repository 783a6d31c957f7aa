# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR and DN-DETR as published, with either attention."""

from typing import Any

from torch import nn

from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.dab_detr.model import DABDETR
from isdfine.zoo.dn_detr.decoder import DNDETRTransformer
from isdfine.zoo.dn_detr.model import DNDETR
from isdfine.zoo.encoders import DeformableEncoder, DenseEncoder

DENSE: dict[str, Any] = {
    "cross_attention": "dense", "feat_channels": (256,), "feat_strides": (32,), "activation": "prelu",
}  # fmt: skip


def published(name: str) -> nn.Module:
    """The model of a fixture, ``dab_r50`` or ``dn_deformable_r50``, whose images come normalised."""
    deep = "deformable" in name
    model, decoder = (DNDETR, DNDETRTransformer) if name.startswith("dn") else (DABDETR, DABDETRTransformer)
    backbone = ResNet(50, (1, 2, 3) if deep else (3,), normalize=False)
    encoder = DeformableEncoder(dim_feedforward=2048, dropout=0.0) if deep else DenseEncoder()
    return model(backbone, encoder, decoder(91, **({} if deep else DENSE)))

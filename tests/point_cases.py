# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny decoders of every family, that take distillation points."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isdfine.nn.types import QueryGroup
from isdfine.zoo.dab_detr.decoder import DABDETRTransformer
from isdfine.zoo.decoder import Decoder
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.dfine.decoder import DFINETransformer
from isdfine.zoo.dino.decoder import DINOTransformer
from isdfine.zoo.dn_detr.decoder import DNDETRTransformer
from isdfine.zoo.rtdetr.decoder import RTDETRTransformerv2

CLASSES, DIM = 3, 16
_DEEP: dict[str, Any] = {"num_levels": 2, "num_points": 2, "feat_channels": [DIM] * 2, "feat_strides": [16, 32]}
_DENSE: dict[str, Any] = {"cross_attention": "dense", "feat_channels": [DIM], "feat_strides": [32]}
FAMILIES: dict[str, Callable[..., Decoder]] = {
    "dfine": partial(DFINETransformer, **_DEEP, reg_max=8, num_denoising=4),
    "dfine learned": partial(DFINETransformer, **_DEEP, reg_max=8, num_denoising=0, learn_query_content=True),
    "rtdetr": partial(RTDETRTransformerv2, **_DEEP, num_denoising=4),
    "dino": partial(DINOTransformer, **_DEEP, num_denoising=4),
    "dab": partial(DABDETRTransformer, **_DEEP),
    "dab dense": partial(DABDETRTransformer, **_DENSE, num_patterns=2),
    "dn": partial(DNDETRTransformer, **_DEEP, num_denoising=2),
    "dn dense": partial(DNDETRTransformer, **_DENSE, num_denoising=2),
    "deformable": partial(DeformableDETRTransformer, **_DEEP, dropout=0.0),
    "deformable refined": partial(DeformableDETRTransformer, **_DEEP, dropout=0.0, box_refine=True),
    "deformable two-stage": partial(DeformableDETRTransformer, **_DEEP, dropout=0.0, box_refine=True, two_stage=True),
}


def decoder_of(family: str, **options: Any) -> Decoder:
    """Away from the zeros that training starts from; in train mode."""
    sizes: dict[str, Any] = {"hidden_dim": DIM, "nhead": 2, "dim_feedforward": 16, "num_layers": 2, "num_queries": 5}
    torch.manual_seed(3)
    decoder = FAMILIES[family](CLASSES, **(sizes | options))
    for name, weight in decoder.named_parameters():
        if not name.endswith("reg_scale"):
            nn.init.normal_(weight, std=0.1)
    return decoder


def features_of(decoder: Decoder) -> list[Tensor]:
    """Maps of two images of 64 x 128 pixels."""
    generator = torch.Generator().manual_seed(4)
    sizes = [(4, 8), (2, 4)][-len(decoder.feat_channels) :]
    return [torch.randn(2, DIM, *size, generator=generator) for size in sizes]


def targets_of() -> list[dict[str, Tensor]]:
    """Two boxes in the first image, one in the second."""
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.5], [0.3, 0.4, 0.2, 0.1]])
    return [{"labels": torch.tensor([2, 0]), "boxes": boxes}, {"labels": torch.tensor([1]), "boxes": boxes[1:]}]


def seen_by(decoder: Decoder, groups: list[QueryGroup], **options: Any) -> Any:
    """What a decoder says of ``features_of`` and further groups; random numbers begin anew."""
    torch.manual_seed(5)
    return decoder(features_of(decoder), groups=groups, **options)

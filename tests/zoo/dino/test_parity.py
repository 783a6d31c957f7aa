# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DINO with four scales against the published code (golden/detr/README.md): its queries belong to ranks."""

from functools import partial

import pytest
import torch
from torch import nn

from detr_golden import check_detections, check_eval, check_keys, check_step, fill, step_case
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo import denoising
from isdfine.zoo.deformable_detr.model import DETRPostProcessor
from isdfine.zoo.dino.decoder import DINOTransformer
from isdfine.zoo.dino.model import DINO
from isdfine.zoo.encoders import DeformableEncoder
from unit_cases import recorded_noise

NAME, SALT = "dino_r50_4scale", "p3:"
SLOW_STEPS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("train_nodn", "empty_train_dn")]


def detector(num_queries: int = 100) -> DINO:
    backbone = ResNet(50, normalize=False, pretrained=False)
    encoder = DeformableEncoder(dim_feedforward=2048, dropout=0.0, pe_temperature=20, pe_offset=0)
    return DINO(backbone, encoder, DINOTransformer(91, num_queries=num_queries))


@pytest.fixture(scope="module")
def filled() -> nn.Module:
    return fill(detector(), NAME, SALT)


def test_keys_shapes_aliases_and_counts() -> None:
    check_keys(NAME, partial(detector, 900))


@pytest.mark.slow  # the fast step below passes the same padded way
@pytest.mark.parametrize("prefix", ["pad_", ""])
def test_outputs_are_the_published_ones(filled: nn.Module, prefix: str) -> None:
    check_eval(filled, NAME, prefix, by_rank=True)


@pytest.mark.parametrize("kind", ["train_dn", *SLOW_STEPS])
def test_a_training_step_is_the_published_one(filled: nn.Module, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, meta, _, targets = step_case(f"{NAME}_{kind}")
    if kind == "train_dn":
        draws = {key: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("dn_draw/")}
        noise = recorded_noise(draws, targets, 2 * meta["num_dn_group"], 0.25)
        monkeypatch.setattr(denoising, "draw_noise", lambda *_: noise)
    elif kind == "train_nodn":
        monkeypatch.setitem(filled.decoder._modules, "sources", nn.ModuleList())
    weights = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
    matcher = HungarianMatcher(weights, use_focal_loss=True, alpha=0.25, gamma=2.0)
    terms = {"loss_focal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    criterion = DETRCriterion(matcher, terms, ["focal", "boxes"], num_classes=91)
    filled.zero_grad()
    check_step(filled, criterion, matcher, f"{NAME}_{kind}", by_rank=True)


def test_detections_of_the_recorded_outputs() -> None:
    check_detections(DETRPostProcessor(91), NAME)

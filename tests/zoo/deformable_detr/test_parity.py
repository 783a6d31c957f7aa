# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR against the published code (golden/detr/README.md)."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from detr_golden import check_detections, check_eval, check_keys, check_step, fill
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.nn.backbone.resnet import ResNet
from isdfine.zoo.deformable_detr.decoder import DeformableDETRTransformer
from isdfine.zoo.deformable_detr.model import DeformableDETR, DETRPostProcessor
from isdfine.zoo.encoders import DeformableEncoder

NAMES: dict[str, dict[str, Any]] = {
    "deformable_r50": {},
    "deformable_r50_twostage_refine": {"box_refine": True, "two_stage": True},
}
PLAIN, TWO_STAGES = NAMES


def detector(name: str) -> DeformableDETR:
    backbone = ResNet(50, normalize=False, pretrained=False)
    encoder = DeformableEncoder(dropout=0.0)
    return DeformableDETR(backbone, encoder, DeformableDETRTransformer(91, dropout=0.0, **NAMES[name]))


@pytest.fixture(scope="module")
def filled() -> Callable[[str], nn.Module]:
    return functools.cache(lambda name: fill(detector(name), name, ""))


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_aliases_and_counts(name: str) -> None:
    check_keys(name, lambda: detector(name))


SLOW = [(PLAIN, ""), (TWO_STAGES, "")]
FAST = [(PLAIN, "pad_"), (TWO_STAGES, "pad_")]


@pytest.mark.parametrize(("name", "prefix"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_outputs_are_the_published_ones(filled: Callable[[str], nn.Module], name: str, prefix: str) -> None:
    check_eval(filled(name), name, prefix)


@pytest.mark.parametrize("name", [TWO_STAGES, pytest.param(PLAIN, marks=pytest.mark.slow)])
def test_a_training_step_is_the_published_one(filled: Callable[[str], nn.Module], name: str) -> None:
    model = filled(name)
    weights = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
    matcher = HungarianMatcher(weights, use_focal_loss=True, alpha=0.25, gamma=2.0)
    terms = {"loss_focal": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    binary = name == TWO_STAGES
    scores = DETRCriterion(matcher, terms, ["focal", "boxes"], num_classes=91, binary_proposals=binary)
    check_step(model, scores, matcher, f"{name}_train_nodn")


@pytest.mark.parametrize("name", NAMES)
def test_detections_of_the_recorded_outputs(name: str) -> None:
    check_detections(DETRPostProcessor(91, num_top_queries=100), name)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR and DN-DETR against the published code, with either attention (golden/detr/README.md)."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dab_cases import published
from detr_golden import check_detections, check_eval, check_keys, check_step, fill, step_case
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.zoo import positive_denoising
from isdfine.zoo.deformable_detr.model import DETRPostProcessor
from unit_cases import recorded_noise

STEPS = {
    "dab_r50": "train_nodn",
    "dab_deformable_r50": "train_nodn",
    "dn_r50": "train_dn",
    "dn_deformable_r50": "train_dn",
}
FAST = [("dab_r50", "pad_"), ("dn_deformable_r50", "pad_"), ("dn_r50", "train_dn")]


@pytest.fixture(scope="module")
def filled() -> Callable[[str], nn.Module]:
    return functools.cache(lambda name: fill(published(name), name, ""))


@pytest.mark.parametrize("name", STEPS)
def test_keys_shapes_aliases_and_counts(name: str) -> None:
    check_keys(name, lambda: published(name))


CASES = [
    pytest.param(name, case, marks=() if (name, case) in FAST else pytest.mark.slow)
    for name, step in STEPS.items()
    for case in ("", "pad_", step)
]


@pytest.mark.parametrize(("name", "prefix"), [case for case in CASES if "train" not in case.values[1]])
def test_outputs_are_the_published_ones(filled: Callable[[str], nn.Module], name: str, prefix: str) -> None:
    check_eval(filled(name), name, prefix)


@pytest.mark.parametrize(("name", "step"), [case for case in CASES if "train" in case.values[1]])
def test_a_training_step_is_the_published_one(
    filled: Callable[[str], nn.Module], name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = HungarianMatcher({"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}, use_focal_loss=True)
    terms = {"loss_focal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    criterion = DETRCriterion(matcher, terms, ["focal", "boxes"], num_classes=91)
    if step == "train_dn":
        arrays, _, _, targets = step_case(f"{name}_{step}")
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("dn_draw/")}
        noise = recorded_noise(tensors, targets, 5, 0.2)
        monkeypatch.setattr(positive_denoising, "draw_noise", lambda *_: noise)
    check_step(filled(name), criterion, matcher, f"{name}_{step}")


@pytest.mark.parametrize("name", STEPS)
def test_detections_of_the_recorded_outputs(name: str) -> None:
    count = 100 if "deformable" in name else 300
    check_detections(DETRPostProcessor(91, num_top_queries=count), name)

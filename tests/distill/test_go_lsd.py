# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""GO-LSD's numbers are held by the golden tests of tests/losses; here are its options."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from isdfine.distill.layers import GOLSD
from isdfine.distill.objective import Objective
from isdfine.nn.types import Predictions
from isdfine.zoo.heads import DirectBoxHead
from losses.cases import official_criterion, random_case


def losses(case: Any, progress: float = 0.0, **options: Any) -> dict[str, torch.Tensor]:
    """GO-LSD's terms alone."""
    criterion = official_criterion(case.num_classes, case.reg_max)
    found = Objective(criterion, [GOLSD(**options)])(case.output, case.targets, progress)
    return {name: value for name, value in found.items() if "ddf" in name}


def test_the_weight_is_the_criterions_unless_it_is_given() -> None:
    case = random_case(0, dn_groups=1)
    official, given = losses(case), losses(case, weight=3.0)
    assert set(official) == {f"loss_ddf_{name}" for name in ("aux_0", "aux_1", "dn_0", "dn_1", "dn_2")}
    for name, value in official.items():
        torch.testing.assert_close(given[name], 2 * value)
    bare = official_criterion(4, 8, weight_dict={"loss_vfl": 1.0}, losses=["vfl"])
    with pytest.raises(
        ValueError, match=r"GOLSD\.weight is null and the criterion's weight_dict has no loss_ddf: give"
    ):
        Objective(bare, [GOLSD()])
    assert Objective(bare, [GOLSD(weight=2.0)]).distillers[0].weight == 2.0  # type: ignore[union-attr]


def test_options_survive_the_criterions_weight() -> None:
    given = GOLSD(None, 2.0, denoising=False, dn_padding="exclude", dn_counts="own", ramp=(0.1, 0.3))
    bound = given.bound(official_criterion(4, 8))
    assert (bound.weight, bound.temperature) == (1.5, 2.0)
    assert vars(bound) == {**vars(given), "weight": bound.weight}
    assert vars(bound.ramp) == vars(given.ramp)
    assert given.weight is None


def test_it_grows_with_the_ramp_and_is_nothing_before_it() -> None:
    case = random_case(1, dn_groups=1)
    full = losses(case)
    for progress, share in ((0.1, 0.0), (0.25, 0.5), (0.3, 1.0)):
        part = losses(case, progress, ramp=(0.2, 0.3))
        assert list(part) == list(full)
        for name, value in part.items():
            torch.testing.assert_close(value, share * full[name])
    assert not any(value.requires_grad for value in losses(case, 0.0, ramp=(0.2, 0.3)).values())


def test_denoising_can_be_left_out() -> None:
    case = random_case(2, dn_groups=1)
    full, part = losses(case), losses(case, denoising=False)
    assert part == {name: full[name] for name in ("loss_ddf_aux_0", "loss_ddf_aux_1")}


def test_one_layer_has_nobody_to_teach() -> None:
    assert losses(random_case(3, layers=1)) == {}
    assert losses(random_case(3, layers=1, dn_groups=1)) == {"loss_ddf_dn_0": 0}


def test_the_deepest_denoising_layer_is_a_zero_in_the_log() -> None:
    case = random_case(5, counts=(3, 2), dn_groups=1)
    value = losses(case)["loss_ddf_dn_2"]
    assert value == 0
    assert value.shape == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "GOLSD.temperature is 0.0: give a number above 0"),
        ({"temperature": float("nan")}, "GOLSD.temperature is nan: give a number above 0"),
        ({"weight": -1.0}, "GOLSD.weight is -1.0: give 0 or more"),
        ({"dn_padding": "no"}, "GOLSD.dn_padding: 'no' is none of 'include', 'exclude'"),
        ({"dn_counts": "no"}, "GOLSD.dn_counts: 'no' is none of 'shared', 'own'"),
        ({"ramp": (0.5, 0.2)}, r"GOLSD.ramp is \[0.5, 0.2\]"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GOLSD(**options)


def test_what_cannot_serve_it_is_refused() -> None:
    model = nn.Module()
    model.decoder = nn.Module()  # whose name the message says
    GOLSD().check(model, official_criterion(4, 8))
    with pytest.raises(
        ValueError, match=r"GOLSD weighs queries by the union of all .*use_uni_set: True, or take GOLSD"
    ):
        GOLSD().check(model, official_criterion(4, 8, use_uni_set=False))
    model.decoder.num_predicting_layers = 1  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"needs two decoder layers or more, but 1 predicts in training: raise Module\.num_layers"
    ):
        GOLSD().check(model, official_criterion(4, 8))
    model.decoder.box_head = DirectBoxHead([8])
    with pytest.raises(
        ValueError, match="GOLSD compares edge distributions, but the decoder's box_head is 'direct': set"
    ):
        GOLSD().check(model, official_criterion(4, 8))

    case = random_case(4)
    layers = [Predictions(layer.logits, layer.boxes) for layer in case.output.layers]
    criterion = official_criterion(4, 8, weight_dict={"loss_vfl": 1.0}, losses=["vfl"])
    with pytest.raises(ValueError, match="GOLSD compares edge distributions, but the output has none: it needs an FDR"):
        Objective(criterion, [GOLSD(1.0)])(replace(case.output, layers=layers), case.targets)

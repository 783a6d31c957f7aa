# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a matched step tells about its queries, and criteria without the union."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from isdfine.distill.objective import Objective
from isdfine.losses.matched import MatchedGroup
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from isdfine.nn.types import DetectorOutput, Predictions
from losses.cases import Case, official_criterion, random_case
from losses.reference import Objective as PlainObjective


def groups_of(case: Case, **options: Any) -> dict[str, MatchedGroup]:
    step = official_criterion(case.num_classes, case.reg_max, **options).match(case.output, case.targets)
    assert step.matching is step.groups[0]
    assert step.output is case.output
    return {group.name: group for group in step.groups}


def test_queries_with_a_box_are_those_of_the_union_and_of_the_fixed_pairs() -> None:
    case = random_case(0, counts=(3, 0, 5), dn_groups=2)
    groups = groups_of(case)
    union = PlainObjective(case.output, case.targets, case.reg_max).union
    found = groups[""].matched().view(3, 9)
    assert [set(row.nonzero().flatten().tolist()) for row in found] == [{q for q, _ in pairs} for pairs in union]
    assert all(torch.equal(groups[""].matched(index), groups[""].matched()) for index in range(5))
    assigned = case.output.groups["dn"].group.assigned
    assert assigned is not None
    assert torch.equal(groups["dn"].matched(), (assigned >= 0).flatten())


def test_overlaps_and_confidence_by_query() -> None:
    case = random_case(1, counts=(2, 4))
    group = groups_of(case)[""]
    overlaps, matched = group.overlaps(1, 3), group.matched()
    assert overlaps.shape == (2, 18)
    assert not overlaps.requires_grad
    assert not overlaps[:, ~matched].any()
    rows, numbers = (column[0, group.pairs.union] for column in (group.pairs.query_index, group.pairs.target_index))
    truth = torch.cat([target["boxes"] for target in case.targets])[numbers]
    for index, layer in enumerate(case.output.layers[1:3]):
        expected = paired_iou_and_giou(cxcywh_to_xyxy(layer.boxes.flatten(0, 1)[rows]), cxcywh_to_xyxy(truth))[0]
        torch.testing.assert_close(overlaps[index, rows], expected)
    expected = case.output.layers[2].logits.flatten(0, 1).sigmoid().amax(-1)
    torch.testing.assert_close(group.confidence(2, 3)[0], expected)
    assert not group.confidence(2, 3).requires_grad


def test_counts_serve_both_rules_for_padding() -> None:
    case = random_case(2, counts=(1, 4), dn_groups=2)
    groups = groups_of(case)
    size = 2 * 2 * 4 * 2  # groups x (positive, negative) x most targets x images
    padding = 2 * 2 * (4 - 1)
    dn = groups["dn"].counts
    assert dn.distilled("include") == (10, size - 10)
    assert dn.distilled("exclude") == (10, size - 10 - padding)
    matched = groups[""].matched().sum()
    for rule in ("include", "exclude"):
        assert groups[""].counts.distilled(rule) == (matched, 18 - matched)  # type: ignore[arg-type]


def own_matches(case: Case) -> PlainObjective:
    """The plain reference, with boxes and distributions of every set scored on its own matches."""

    class Own(PlainObjective):
        def score(self, name: str, one: Any, own: Any, norm: int, agreed: Any, norm_go: int) -> None:
            super().score(name, one, own, norm, own, norm)

        def distil(self, *_: Any) -> tuple[float, float]:
            return 1.0, 1.0

    return Own(case.output, case.targets, case.reg_max)


@pytest.mark.parametrize(
    "options",
    [{"counts": (3, 0, 5)}, {"counts": (2, 4), "dn_groups": 2}, {"counts": (12,), "dn_groups": 1}, {"counts": (0, 0)}],
    ids=str,
)
def test_without_the_union_every_set_is_scored_on_its_own_matches(options: Any) -> None:
    case = random_case(3, **options)
    criterion = official_criterion(case.num_classes, case.reg_max, use_uni_set=False)
    losses, expected = criterion(case.output, case.targets), own_matches(case).losses
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=2e-5, abs=1e-6), name
    leaves = list(case.inputs.values())
    found, other = (
        torch.autograd.grad(sum(terms.values(), torch.zeros(())), leaves, allow_unused=True)
        for terms in (losses, expected)
    )
    for name, gradient, reference in zip(case.inputs, found, other):
        plain = torch.zeros_like(gradient) if reference is None else reference
        torch.testing.assert_close(gradient, plain, atol=2e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_without_the_union_the_boxes_are_scored_otherwise_and_the_classes_alike() -> None:
    case = random_case(4, counts=(3, 5), dn_groups=1)
    united = official_criterion(4, 8)(case.output, case.targets)
    own = official_criterion(4, 8, use_uni_set=False)(case.output, case.targets)
    assert list(own) == list(united)
    changed = {name for name in united if own[name] != united[name]}
    assert changed == {name for name in united if "vfl" not in name and "dn" not in name}
    matched = [groups_of(case, use_uni_set=False)[""].matched(index) for index in range(3)]
    assert all(mask.sum() == 8 for mask in matched)
    assert not torch.equal(matched[0], matched[2])


@pytest.mark.parametrize("use_uni_set", [True, False])
def test_direct_heads_are_scored_without_distributions(use_uni_set: bool) -> None:
    case = random_case(5, counts=(2, 3), dn_groups=1)

    def direct(one: Predictions) -> Predictions:
        return Predictions(one.logits, one.boxes)

    output = case.output
    dn = replace(output.groups["dn"], layers=[direct(layer) for layer in output.groups["dn"].layers], initial=None)
    layers = [direct(layer) for layer in output.layers]
    bare = replace(output, layers=layers, initial=None, groups={"dn": dn}, up=None, reg_scale=None)
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    criterion = official_criterion(4, 8, weight_dict=weights, losses=["vfl", "boxes"], use_uni_set=use_uni_set)
    losses = criterion(bare, case.targets)
    sets = ["_aux_0", "_aux_1", "", "_enc_0", "_dn_0", "_dn_1", "_dn_2"]
    assert list(losses) == [f"loss_{kind}{suffix}" for suffix in sets for kind in ("vfl", "bbox", "giou")]
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(case.inputs[f"{head}.boxes"].grad is not None for head in ("l0", "l2", "enc", "dn1"))


@pytest.mark.parametrize("agnostic", [False, True])
def test_proposals_of_another_number_are_matched_and_scored_by_themselves(agnostic: bool) -> None:
    case = random_case(6, dn_groups=1)
    many = random_case(7, queries=30, agnostic=agnostic).output.proposals
    assert many is not None
    criterion = official_criterion(4, 8)
    terms = criterion(replace(case.output, proposals=many), case.targets)
    without = criterion(replace(case.output, proposals=None), case.targets)
    plain = official_criterion(many.logits.shape[-1], 8, losses=["vfl", "boxes"], use_uni_set=False)
    targets = [{**target, "labels": target["labels"] * (not agnostic)} for target in case.targets]
    alone = plain(DetectorOutput([many]), targets)
    assert {name for name in terms if name.endswith("_enc_0")} == {f"{name}_enc_0" for name in alone}
    for name, value in terms.items():
        expected = alone[name.removesuffix("_enc_0")] if name.endswith("_enc_0") else without[name]
        assert torch.equal(value, expected), name
    reference = PlainObjective(case.output, case.targets, case.reg_max)  # computed query by query, by other code
    pairs = reference.match_images(many)
    reference.score("_enc_0", many, pairs, reference.num_boxes, pairs, reference.num_boxes)
    for kind in ("vfl", "bbox", "giou"):
        name = f"loss_{kind}_enc_0"
        assert terms[name].item() == pytest.approx(reference.losses[name].item(), rel=2e-5), name
    assert list(Objective(criterion, [])(replace(case.output, proposals=many), case.targets)) == list(terms)

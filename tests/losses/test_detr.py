# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The criterion of the DETR family against the official code, on made-up outputs (golden/detr/README.md)."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from isdfine.core.errors import ConfigError
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.functions import focal_loss
from isdfine.nn.types import DetectorOutput, GroupOutput, Predictions, QueryGroup
from losses.cases import official_matcher
from unit_cases import check_gradients, check_losses, check_matches, draws, synthetic_sets, unit_cases

FAMILIES = {"dino": 1.0, "deformable": 2.0, "dab": 1.0}
OURS = {"loss_ce": "loss_focal", "_interm": "_enc_0", "_enc": "_enc_0"}


def criterion(weight: float = 1.0, **options: Any) -> DETRCriterion:
    weights = {"loss_focal": weight, "loss_bbox": 5.0, "loss_giou": 2.0}
    return DETRCriterion(official_matcher(), weights, ["focal", "boxes"], num_classes=7, **options)


def our_name(official: str) -> str:
    """``loss_ce_0`` is ``loss_focal_aux_0`` here, ``loss_ce_interm`` ``loss_focal_enc_0``."""
    stem = "_".join(official.split("_")[:2])
    rest = official.removeprefix(stem)
    return OURS.get(stem, stem) + (OURS.get(rest, f"_aux{rest}") if rest else "")


@pytest.mark.parametrize("batch", ["a", "overfull", "empty"])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_matches_are_the_official_ones(family: str, batch: str) -> None:
    arrays, described = unit_cases(family)
    prefix = f"criterion/{batch}/"
    facts = described[prefix]
    sets, targets, leaves = synthetic_sets(facts["counts"])
    binary = family == "deformable"
    scored = criterion(FAMILIES[family], binary_proposals=binary)
    output = DetectorOutput([sets[0], sets[2]], proposals=None if family == "dab" else sets[1], binary_proposals=binary)
    losses = scored(output, targets)
    facts = {**facts, "losses_weighted": {our_name(key): one for key, one in facts["losses_weighted"].items()}}
    assert set(losses) == set(facts["losses_weighted"])
    check_losses(losses, facts)
    check_gradients(losses, leaves, arrays, prefix, unused=leaves[2:4] if family == "dab" else ())
    check_matches(scored.matcher, sets, targets, arrays, prefix, binary=1 if binary else None)


def test_focal_value_and_gradient_are_the_official_ones() -> None:
    arrays, described = unit_cases("dino")
    logits = (draws(70, (2, 5, 7)) * 3).requires_grad_()
    _, row, label = torch.from_numpy(arrays["focal/target"]).flatten(0, 1)[None].nonzero(as_tuple=True)
    loss = focal_loss(logits.flatten(0, 1)[None], row[None], label[None], described["focal"]["num_boxes"])
    assert loss.item() == pytest.approx(described["focal"]["value"], rel=1e-5)
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.from_numpy(arrays["focal/grad"]), atol=1e-6, rtol=1e-4)


def test_proposals_of_every_cell_have_one_class_and_their_own_matches() -> None:
    sets, targets, _ = synthetic_sets((2, 0, 5))
    cells = Predictions(torch.full((3, 40, 7), -2.0), draws(400, (3, 40, 4), "uniform") * 0.4 + 0.3)
    cells.logits[:, -5:] = 1.5  # padded cells share one score, and a box of ones
    cells.boxes[:, -5:] = 1.0
    output = DetectorOutput([sets[0], sets[2]], proposals=cells, binary_proposals=True)
    step = criterion(binary_proposals=True).match(output, targets)
    assert step.proposals is not None
    (rows,), (found,) = step.proposals.pairs.query_index, step.proposals.pairs.target_index
    objects = [{**one, "labels": torch.zeros_like(one["labels"])} for one in targets]
    wanted = [
        (40 * image + int(query), int(target) + (0, 2, 2)[image])
        for image, pair in enumerate(official_matcher()(cells, objects))
        for query, target in zip(*pair)
    ]
    assert sorted(zip(rows.tolist(), found.tolist())) == sorted(wanted)
    losses = criterion(binary_proposals=True).terms(step)
    one_hot = torch.zeros(120, 7)
    one_hot[rows, 0] = 1
    p = cells.logits.flatten(0, 1).sigmoid()
    focal = -(one_hot * 0.25 * (1 - p) ** 2 * p.log() + (1 - one_hot) * 0.75 * p**2 * (1 - p).log()).sum()
    torch.testing.assert_close(losses["loss_focal_enc_0"], focal / 7)
    without = criterion(binary_proposals=True)(replace(output, proposals=sets[1]), targets)
    assert all(torch.equal(without[key], losses[key]) for key in losses if "enc" not in key)


def test_criterion_and_decoder_agree_on_what_proposals_are() -> None:
    sets, targets, _ = synthetic_sets((1,))
    for output in (DetectorOutput(sets), DetectorOutput(sets, proposals=sets[0])):
        with pytest.raises(ConfigError, match=r"is True, but the decoder makes no such proposals: set DETRCriterion"):
            criterion(binary_proposals=True)(output, targets)
    with pytest.raises(ConfigError, match=r"\(two_stage: True\) tell .* set binary_proposals: True of a DETRCriterion"):
        criterion()(DetectorOutput(sets, proposals=sets[0], binary_proposals=True), targets)


def test_messages_name_the_criterion_of_the_config() -> None:
    sets, targets, _ = synthetic_sets((1,))
    with pytest.raises(ConfigError, match=r"have 6 classes but DETRCriterion.num_classes is 7"):
        criterion()(DetectorOutput([replace(sets[0], logits=sets[0].logits[..., :6])]), targets)
    with pytest.raises(ValueError, match=r"DETRCriterion.gamma is -1.0: give 0 or more"):
        criterion(gamma=-1.0)


@pytest.mark.parametrize("scores_padding", [True, False])
def test_padded_slots_count_as_background_or_not_at_all(scores_padding: bool) -> None:
    sets, targets, _ = synthetic_sets((2, 0, 5))
    assigned = torch.arange(5).repeat(3, 2)
    padding = assigned >= torch.tensor([2, 0, 5])[:, None]
    empty = torch.zeros(3, 10, 4)
    group = QueryGroup(
        "dn",
        *(empty, empty),
        assigned=assigned.masked_fill(padding, -1),
        padding=padding,
        repeats=2,
        scores_padding=scores_padding,
    )
    logits = draws(420, (3, 10, 7)).requires_grad_()
    heads = [Predictions(logits, draws(421, (3, 10, 4), "uniform") * 0.4 + 0.3)]
    losses = criterion()(DetectorOutput([sets[0]], groups={"dn": GroupOutput(group, heads)}), targets)
    p, one_hot = logits.detach().sigmoid(), torch.zeros(3, 10, 7)
    for image, target in enumerate(targets):
        for slot in range(10):
            if not padding[image, slot]:
                one_hot[image, slot, target["labels"][slot % 5]] = 1
    focal = -(one_hot * 0.25 * (1 - p) ** 2 * p.log() + (1 - one_hot) * 0.75 * p**2 * (1 - p).log()).sum(-1)
    wanted = focal.sum() if scores_padding else focal[~padding].sum()
    torch.testing.assert_close(losses["loss_focal_dn_0"], wanted / 14)
    losses["loss_focal_dn_0"].backward()
    assert bool(logits.grad[padding].any()) == scores_padding
    assert logits.grad[~padding].all()

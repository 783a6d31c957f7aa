# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Distillation beside focal loss: DETRCriterion, denoising without negatives, proposals of every cell."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.test_objective import Operators
from isdfine.core import dist
from isdfine.distill.attention import AttentionDistillation
from isdfine.distill.context import Distiller
from isdfine.distill.diagnostics import Diagnostics
from isdfine.distill.layers import GOLSD, InterLayerDistillation
from isdfine.distill.objective import Objective
from isdfine.losses.detr import DETRCriterion
from isdfine.losses.functions import edge_kl
from isdfine.nn.types import Predictions
from isdfine.zoo.heads import DirectBoxHead
from losses.cases import Case, images_of, official_matcher, random_case
from nn.capture_cases import decoder, step, targets

WEIGHTS = {"loss_focal": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
DISTILLERS: dict[str, Callable[[], Distiller]] = {
    "go_lsd": GOLSD,
    "inter_layer": lambda: InterLayerDistillation(class_weight=0.5),
    "to_shallow": lambda: InterLayerDistillation("shallow_to_deep", match_weight="better", dn_padding="include"),
}


def criterion(case: Case, **options: Any) -> DETRCriterion:
    given = {"losses": ["focal", "boxes", "local"], "use_uni_set": True, "reg_max": case.reg_max, **options}
    return DETRCriterion(official_matcher(), WEIGHTS, num_classes=case.num_classes, **given)


def dn_case(seed: int, counts: tuple[int, ...]) -> Case:
    """Distributions, and three denoising groups that have positives alone."""
    return random_case(seed, counts, dn_groups=3, negatives=False)


def scored(case: Case, distiller: Distiller, **options: Any) -> dict[str, Tensor]:
    return Objective(criterion(case, **options), [distiller])(case.output, case.targets)


def with_cells(case: Case, images: slice) -> Case:
    """The same with proposals of 30 cells, more than there are queries, cut from those of a batch of two."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 30, case.num_classes, generator=generator)
    boxes = torch.rand(2, 30, 4, generator=generator) * 0.3 + 0.2
    proposals = Predictions(logits[images], boxes[images])
    return replace(case, output=replace(case.output, proposals=proposals, binary_proposals=True))


@pytest.mark.parametrize("make", DISTILLERS.values(), ids=list(DISTILLERS))
@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (0, 0)])
def test_padded_slots_change_no_loss_and_get_no_gradient(counts: Any, make: Callable[[], Distiller]) -> None:
    case, other = dn_case(1, counts), dn_case(1, counts)
    padding = case.output.groups["dn"].group.padding
    assert padding is not None
    assert bool(padding.any()) == (counts != (0, 0))
    for name, leaf in other.inputs.items():
        if name.startswith("dn"):
            leaf.data[padding] = 3 + leaf.data[padding].abs()
    losses, moved = scored(case, make()), scored(other, make())
    assert list(losses) == list(moved)
    assert all(torch.equal(losses[name], moved[name]) for name in losses)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    for name, leaf in case.inputs.items():
        if name.startswith("dn"):
            assert leaf.grad is not None
            assert not leaf.grad[padding].any()


def test_go_lsd_of_a_group_without_negatives_by_hand() -> None:
    case = dn_case(2, (3, 0, 5))
    losses = scored(case, GOLSD(dn_padding="exclude", dn_counts="own"))
    group = case.output.groups["dn"]
    real = ~group.group.padding
    own = criterion(case).match(case.output, case.targets).groups[1]
    edges = [layer.edge_logits.unflatten(-1, (4, -1)) for layer in group.layers]
    for layer in range(2):
        per_query = edge_kl(edges[layer], edges[2]) * own.overlaps(layer, layer + 1)[0].view_as(real)
        torch.testing.assert_close(losses[f"loss_ddf_dn_{layer}"], 1.5 * per_query[real].mean())
    assert losses["loss_ddf_dn_2"] == 0


@pytest.mark.parametrize("make", DISTILLERS.values(), ids=list(DISTILLERS))
@pytest.mark.parametrize("counts", [(3, 5), (0, 4)])
def test_the_mean_over_ranks_equals_one_process(
    counts: Any, make: Callable[[], Distiller], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terms_of(images: slice) -> dict[str, Tensor]:
        part = with_cells(images_of(case, images), images)
        return scored(part, make(), binary_proposals=True)

    case, ranks = dn_case(3, counts), [slice(0, 1), slice(1, 2)]
    whole = terms_of(slice(0, 2))
    assert "loss_focal_enc_0" in whole
    seen: list[Tensor] = []
    monkeypatch.setattr(dist, "mean", lambda counts: seen.append(counts) or counts)  # type: ignore[func-returns-value]
    for rank in ranks:
        terms_of(rank)
    first, second = seen[:2], seen[2:]  # the queries' and the proposals' counts of each rank
    for_both = [(one + other) / 2 for one, other in zip(first, second, strict=True)] * 2
    monkeypatch.setattr(dist, "mean", lambda _: for_both.pop(0))
    parts = [terms_of(rank) for rank in ranks]
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, value, msg=lambda text, n=name: f"{n}: {text}")


def test_what_cannot_serve_go_lsd_is_refused_with_the_remedy() -> None:
    case, model = dn_case(4, (1,)), nn.Module()
    model.decoder = nn.Module()
    GOLSD().check(model, criterion(case))
    with pytest.raises(ValueError, match=r"set DETRCriterion\.use_uni_set: True, or take GOLSD out") as refusal:
        GOLSD().check(model, criterion(case, use_uni_set=False))
    model.decoder.box_head = DirectBoxHead([8])
    with pytest.raises(ValueError, match=r"box_head is 'direct': set Module\.box_head: fdr, or take GOLSD") as direct:
        GOLSD().check(model, criterion(case))
    assert all("\n" not in str(one.value) for one in (refusal, direct))


@pytest.mark.parametrize("row_weight", ["uniform", "conf", "matched_only"])
def test_attention_distillation_needs_neither_distributions_nor_vfl(row_weight: str) -> None:
    model = decoder(box_head="direct", merge="residual")
    weights = {"loss_focal": 1.0, "loss_bbox": 5.0}
    scores = DETRCriterion(official_matcher(), weights, ["focal", "boxes"], num_classes=5)
    objective = Objective(scores, [AttentionDistillation(ramp=[0, 0], row_weight=row_weight, queries="all")])
    objective.distillers[0].check(model, scores)
    output = step(model, want=objective.want)
    losses = objective(output, targets(), 0.5)
    assert {"loss_attn_0", "loss_attn_1", "loss_focal_enc_0", "loss_focal_dn_2"} <= set(losses)
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_attn_0"] > 0


def test_diagnostics_of_a_group_without_negatives() -> None:
    case = dn_case(6, (3, 0, 5))
    objective = Objective(criterion(case), [GOLSD()])
    means = Diagnostics(objective.distillers)(objective.context(case.output, case.targets))
    assert {"iou_layer_0", "iou_dn_layer_2"} <= set(means)
    assert all(torch.isfinite(value) for mean in means.values() for value in mean)


def test_nothing_but_matching_waits_for_the_device() -> None:
    case = with_cells(dn_case(8, (2, 3)), slice(0, 2))
    objective = Objective(criterion(case, binary_proposals=True), [GOLSD()])
    with Operators() as seen:
        objective(case.output, case.targets)
    assert not {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"} & set(seen.names)


def test_a_number_that_is_none_stays_so() -> None:
    case = dn_case(7, (2, 3))
    case.inputs["l1.logits"].data[0, 0] = torch.nan
    losses = scored(case, GOLSD())
    assert losses["loss_focal_aux_1"].isnan()
    assert not losses["loss_focal_aux_0"].isnan()

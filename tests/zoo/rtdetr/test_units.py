# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of RT-DETR alone against the official code: attention, denoising queries, criteria, position table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from golden_cases import fill_detr
from isdfine.losses.matcher import HungarianMatcher
from isdfine.losses.rtdetr import RTDETRCriterion, RTDETRCriterionv2
from isdfine.nn.position import position_table
from isdfine.nn.queries import join_groups
from isdfine.nn.sampling import DeformableAttention
from isdfine.nn.types import DetectorOutput, QueryGroup
from isdfine.zoo.denoising import DenoisingNoise, DenoisingSetting, denoising_group
from unit_cases import check_gradients, check_losses, check_matches, close, draws, synthetic_sets, unit_cases


def cases() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return unit_cases("rtdetr")


@pytest.mark.parametrize(("case", "references"), [("v1", 2), ("v1", 4), ("v2", 4), ("v2_discrete", 4)])
def test_deformable_attention(case: str, references: int) -> None:
    arrays, described = cases()
    facts = described[f"msdeform/{case}"]
    sizes = (facts["d"], facts["heads"], facts["num_levels"], facts["num_points"])
    attention = DeformableAttention(*sizes, method=facts.get("method", "default"), projections=True)
    rows = {key: facts["key_prefix"] + key for key in attention.state_dict()}
    filled = fill_detr.fill_state_dict({rows[key]: value for key, value in attention.state_dict().items()})
    attention.load_state_dict({key: filled[rows[key]] for key in rows})
    sizes = facts["levels_hw"]
    cells = [height * width for height, width in sizes]
    query = draws(10, (2, 6, 64)).requires_grad_()
    value = draws(11, (2, sum(cells), 64)).requires_grad_()
    boxes = draws(12, (2, 6, 1, references), "uniform")[:, :, 0]
    boxes = torch.cat((boxes[..., :2], 0.05 + 0.5 * boxes[..., 2:]), -1)
    maps = [part.mT.unflatten(2, size) for part, size in zip(value.split(cells, dim=1), sizes)]
    result = attention(query, boxes, maps)
    result.square().sum().backward()
    prefix = f"msdeform/{case}_ref{references}/"
    close(result.detach(), arrays[prefix + "out"])
    assert query.grad is not None
    assert value.grad is not None
    close(query.grad, arrays[prefix + "grad_query"], atol=2e-4)
    close(value.grad, arrays[prefix + "grad_value"], atol=2e-4)


@pytest.mark.parametrize("case", ["a", "many", "empty"])
def test_denoising_queries(case: str) -> None:
    arrays, described = cases()
    facts, prefix = described[f"cdn_rtdetr/{case}/"], f"cdn_rtdetr/{case}/"
    got = {key.removeprefix(prefix): torch.from_numpy(value) for key, value in arrays.items() if key.startswith(prefix)}
    images = sum(key.startswith("target") and key.endswith("labels") for key in got)
    targets = [{key: got[f"target{image}_{key}"] for key in ("labels", "boxes")} for image in range(images)]
    table = fill_detr.fill_array("unit.denoising_class_embed.weight", (facts["classes"] + 1, 16))
    embedding = nn.Embedding.from_pretrained(torch.from_numpy(table))
    noise = DenoisingNoise(
        got["draw0_rand_like"], got["draw1_randint_like"], got["draw2_randint_like"], got["draw3_rand_like"]
    )
    scales = (facts["label_noise_ratio"], facts["box_noise_scale"])
    setting = DenoisingSetting(facts["num_denoising"], *scales, swap_crossed=False, dummy_group=True)
    group = denoising_group(targets, noise, embedding, setting)
    assert setting.layout_of(targets)[0] == facts["groups"]
    assert group.content.shape[1] == facts["split"][0]
    assert torch.equal(group.content, got["content"])
    inside = got["boxes_unact"].abs() < 11  # sizes cut to nothing stand for the smallest number of the logarithm
    torch.testing.assert_close(group.reference_logits[inside], got["boxes_unact"][inside], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(group.reference_logits, got["boxes_unact"], atol=1e-3, rtol=1e-4)
    side = described[f"cdn_rtdetr/{case}/attn_mask"]["shape"][0]
    wanted = np.unpackbits(arrays[f"{prefix}attn_mask"])[: side * side].reshape(side, side).astype(bool)
    content = torch.zeros(images, facts["queries"], 16)
    blocked = join_groups([group, QueryGroup("", content, content[..., :4])]).attn_mask
    assert torch.equal(blocked, torch.from_numpy(wanted))
    assert group.assigned is not None
    for image, assigned in enumerate(group.assigned):
        assert torch.equal((assigned >= 0).nonzero().squeeze(1), got[f"pos_idx{image}"].long())


@pytest.mark.parametrize(
    "case", [f"{kind}_{batch}" for kind in ("v1", "v2", "v2_iou") for batch in ("a", "overfull", "empty")]
)
def test_criterion(case: str) -> None:
    arrays, described = cases()
    facts, prefix = described[f"criterion/{case}/"], f"criterion/{case}/"
    sets, targets, leaves = synthetic_sets(facts["counts"])
    output = DetectorOutput([sets[0], sets[2]], proposals=sets[1])
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, use_focal_loss=True)
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    kind, options = (RTDETRCriterion, {}) if case.startswith("v1") else (RTDETRCriterionv2, {})
    if "iou" in case:
        options = {"boxes_weight_format": "iou"}
    criterion = kind(matcher, weights, ["vfl", "boxes"], 0.75, 2.0, num_classes=7, **options)
    losses = criterion(output, targets)
    assert set(losses) == set(facts["losses_weighted"])
    check_losses(losses, facts)
    check_gradients(losses, leaves, arrays, prefix)
    check_matches(matcher, sets, targets, arrays, prefix)


@pytest.mark.parametrize(("width", "height"), [(5, 5), (7, 4)])
def test_position_table(width: int, height: int) -> None:
    arrays, _ = cases()
    table = position_table(height, width, 64, temperature=10000)
    close(table.reshape(-1, 64), arrays[f"aifi_table/w{width}_h{height}"].reshape(-1, 64))

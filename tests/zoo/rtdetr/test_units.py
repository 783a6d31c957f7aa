# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of RT-DETR alone against the official code: attention, denoising queries, criteria, position table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr, load_golden
from isdfine.losses.matched import stack_sets, tabulate
from isdfine.losses.matcher import HungarianMatcher
from isdfine.losses.rtdetr import RTDETRCriterion, RTDETRCriterionv2
from isdfine.nn.position import position_table
from isdfine.nn.queries import join_groups
from isdfine.nn.sampling import DeformableAttention
from isdfine.nn.types import DetectorOutput, Predictions, QueryGroup
from isdfine.zoo.denoising import DenoisingNoise, DenoisingSetting, denoising_group

BASE = 1000


def cases() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, meta = load_golden("detr/units_rtdetr.npz")
    return arrays, meta["cases"]


def draws(seed: int, shape: tuple[int, ...], kind: str = "normal") -> Tensor:
    return torch.from_numpy(fill_detr.draws(BASE + seed, shape, kind))


def close(got: Tensor, wanted: np.ndarray, atol: float = 2e-5) -> None:
    torch.testing.assert_close(got, torch.from_numpy(wanted).to(got.dtype), atol=atol, rtol=1e-4)


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


def synthetic(case: str) -> tuple[DetectorOutput, list[Predictions], list[dict[str, Tensor]], list[Tensor]]:
    """Two layers (the last one is set 2) and the encoder's proposals (set 1), their targets and what has gradients."""
    counts = cases()[1][f"criterion/{case}/"]["counts"]
    leaves: list[Tensor] = []
    sets = []
    for index in range(3):
        logits = (draws(300 + index, (len(counts), 12, 7)) * 1.5 - 1).requires_grad_()
        uniform = draws(350 + index, (len(counts), 12, 4), "uniform")
        sizes = 0.03 + 0.37 * uniform[..., 2:]
        boxes = torch.cat((sizes / 2 + (1 - sizes) * uniform[..., :2], sizes), -1).requires_grad_()
        leaves += [logits, boxes]
        sets.append(Predictions(logits, boxes))
    truth = fill_detr.random_targets(BASE + 30, counts, 7)
    targets = [{key: torch.from_numpy(value) for key, value in one.items()} for one in truth]
    return DetectorOutput([sets[0], sets[2]], proposals=sets[1]), sets, targets, leaves


@pytest.mark.parametrize(
    "case", [f"{kind}_{batch}" for kind in ("v1", "v2", "v2_iou") for batch in ("a", "overfull", "empty")]
)
def test_criterion(case: str) -> None:
    arrays, described = cases()
    facts, prefix = described[f"criterion/{case}/"], f"criterion/{case}/"
    output, sets, targets, leaves = synthetic(case)
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, use_focal_loss=True)
    weights = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    kind, options = (RTDETRCriterion, {}) if case.startswith("v1") else (RTDETRCriterionv2, {})
    if "iou" in case:
        options = {"boxes_weight_format": "iou"}
    criterion = kind(matcher, weights, ["vfl", "boxes"], 0.75, 2.0, num_classes=7, **options)
    losses = criterion(output, targets)
    assert set(losses) == set(facts["losses_weighted"])
    for key, value in facts["losses_weighted"].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-5, abs=1e-6), key
    total = sum(losses.values(), torch.zeros(()))
    assert total.item() == pytest.approx(facts["total"], rel=1e-5)
    total.backward()
    for index in range(3):
        for leaf, part in zip(leaves[2 * index :], ("logits", "boxes")):
            assert leaf.grad is not None
            close(leaf.grad, arrays[f"{prefix}grad_{part}{index}"])
    wanted = [{tuple(pair) for pair in arrays[f"{prefix}match_call{call}"].tolist()} for call in range(3)]
    order = (2, 0, 1)  # the official code matches the last layer first
    for call, index in enumerate(order):
        pairs = {
            (image, int(query), int(target))
            for image, matched in enumerate(matcher(sets[index], targets))
            for query, target in zip(*matched)
        }
        assert pairs == wanted[call]
    if f"{prefix}cost_last_image0" in arrays:
        stack = stack_sets([("", sets[2])], 1)
        table = tabulate(targets, stack.batch, stack.boxes.device)
        costs = matcher.cost(stack, table)[0].split(list(table.counts))
        for image, cost in enumerate(costs):
            close(cost.mT, arrays[f"{prefix}cost_last_image{image}"])


@pytest.mark.parametrize(("width", "height"), [(5, 5), (7, 4)])
def test_position_table(width: int, height: int) -> None:
    arrays, _ = cases()
    table = position_table(height, width, 64, temperature=10000)
    close(table.reshape(-1, 64), arrays[f"aifi_table/w{width}_h{height}"].reshape(-1, 64))

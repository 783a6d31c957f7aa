# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Denoising queries of DINO and DN-DETR against the official code, from its recorded draws (golden/detr/README.md)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_cases import fill_detr
from isdfine.losses.detr import DETRCriterion
from isdfine.nn.queries import join_groups
from isdfine.nn.types import DetectorOutput, GroupOutput, Predictions, QueryGroup
from isdfine.zoo.denoising import Denoising, DenoisingSetting, denoising_group
from isdfine.zoo.positive_denoising import PositiveDenoising, PositiveSetting, positive_group
from losses.cases import official_matcher
from unit_cases import Targets, close, draws, recorded_noise, unit_cases

DN_CASES = [f"{batch}_{kind}" for kind in ("dense", "dense_pat3", "deformable") for batch in ("a", "one", "empty")]


def recorded(family: str, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any], Targets]:
    """Tensors and facts of one case, and its targets."""
    arrays, described = unit_cases(family)
    got = {key.removeprefix(prefix): torch.from_numpy(value) for key, value in arrays.items() if key.startswith(prefix)}
    images = sum(key.startswith("target") and key.endswith("labels") for key in got)
    targets = [{key: got[f"target{image}_{key}"] for key in ("labels", "boxes")} for image in range(images)]
    return got, described[prefix] | described[f"{prefix}attn_mask"], targets


def filled(key: str, rows: int, width: int) -> nn.Embedding:
    return nn.Embedding.from_pretrained(torch.from_numpy(fill_detr.fill_array(key, (rows, width))), freeze=False)


def check_group(group: QueryGroup, got: dict[str, Tensor], facts: dict[str, Any], queries: int) -> None:
    """Content, boxes and mask of a group that stands before this many matching queries."""
    size = facts["pad_size"]
    assert group.content.shape[1] == size
    assert torch.equal(group.content.detach(), got["content"][:, :size])
    close(group.reference_logits, got["boxes_unact"][:, :size].numpy(), atol=1e-4)
    side = facts["shape"][0]
    wanted = np.unpackbits(got["attn_mask"].numpy())[: side * side].reshape(side, side).astype(bool)
    content = torch.zeros(len(group.content), queries, 16)
    blocked = join_groups([group, QueryGroup("", content, content[..., :4])]).attn_mask
    if size:
        assert torch.equal(blocked, torch.from_numpy(wanted))
    else:
        assert blocked is None
        assert not wanted.any()


@pytest.mark.parametrize("case", ["a", "a_scale0.4", "many", "default", "empty"])
def test_contrastive_queries_are_dinos(case: str) -> None:
    got, facts, targets = recorded("dino", f"cdn_dino/{case}/")
    scales = (facts["label_noise_ratio"], facts["box_noise_scale"])
    options = {"swap_crossed": False, "few_are_groups": True, "centred_padding": True, "eps": 1e-3}
    setting = DenoisingSetting(facts["dn_number"], *scales, **options)
    copies = facts["pad_size"] // max(*(len(target["labels"]) for target in targets), 1)
    noise = recorded_noise(got, targets, copies, scales[0] / 2)
    embedding = filled("unit.label_enc.weight", facts["classes"] + 1, 16)
    group = denoising_group(targets, noise, embedding, setting)
    assert group.repeats == (facts["num_dn_group"] if facts["pad_size"] else 0)
    check_group(group, got, facts, facts["queries"])
    group.content.sum().backward()
    assert embedding.weight.grad is not None
    assert not embedding.weight.grad[-1].any()


def dn_case(case: str) -> tuple[QueryGroup, dict[str, Tensor], dict[str, Any], Targets]:
    """DN-DETR's group of one case; the fixture's queries are the first axis where attention is dense."""
    got, facts, targets = recorded("dn", f"dn/{case}/")
    if "dense" in case:
        got |= {key: got[key].transpose(0, 1) for key in ("content", "boxes_unact")}
    setting = PositiveSetting(facts["scalar"], facts["label_noise"], facts["box_noise"])
    copies = facts["scalar"] if facts["pad_size"] else 0
    noise = recorded_noise(got, targets, copies, setting.label_noise_ratio)
    embedding = filled("unit.label_enc.weight", facts["classes"] + 1, 15)
    return positive_group(targets, noise, embedding, setting), got, facts, targets


@pytest.mark.parametrize("case", DN_CASES)
def test_positive_queries_are_dn_detrs(case: str) -> None:
    group, got, facts, targets = dn_case(case)
    check_group(group, got, facts, facts["queries"] * (3 if "pat3" in case else 1))
    assert group.assigned is not None
    assert group.padding is not None
    assert torch.equal(group.assigned < 0, group.padding)
    if not facts["pad_size"]:
        assert group.repeats == 0
        group.content.sum().backward()  # the table is part of the graph
        return
    rows = {(image, slot) for image, slot in group.assigned.ge(0).nonzero().tolist()}
    images = torch.arange(len(targets)).repeat_interleave(torch.tensor([len(one["labels"]) for one in targets]))
    wanted = zip(images.repeat(facts["scalar"]).tolist(), got["map_known_indice"].tolist())
    assert rows == set(wanted)


@pytest.mark.parametrize("case", ["a_dense", "one_dense"])
def test_losses_of_positive_queries_are_dn_detrs(case: str) -> None:
    group, got, facts, targets = dn_case(case)
    shape = (len(targets), facts["pad_size"])
    leaves = [
        (
            draws(500 + index, (*shape, 7)).requires_grad_(),
            (draws(510 + index, (*shape, 4), "uniform") * 0.8 + 0.1).requires_grad_(),
        )
        for index in range(2)
    ]
    heads = [Predictions(*pair) for pair in leaves]
    matching = Predictions(torch.zeros(len(targets), 3, 7), torch.full((len(targets), 3, 4), 0.5))
    weights = {"loss_focal": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0}
    criterion = DETRCriterion(official_matcher(), weights, ["focal", "boxes"], num_classes=7)
    losses = criterion(DetectorOutput([matching] * 2, groups={"dn": GroupOutput(group, heads)}), targets)
    for ours, official in (("focal", "ce"), ("bbox", "bbox"), ("giou", "giou")):
        for layer, suffix in enumerate(("_0", "")):
            value = facts["losses_unweighted"][f"tgt_loss_{official}{suffix}"]
            assert losses[f"loss_{ours}_dn_{layer}"].item() == pytest.approx(value, rel=1e-5)
    sum(value for key, value in losses.items() if "_dn_" in key).backward()
    for layer, pair in enumerate(leaves):
        for leaf, part in zip(pair, ("logits", "boxes")):
            close(leaf.grad, got[f"loss_grad_{part}{layer}"].numpy())


SOURCES: dict[str, Callable[[], nn.Module]] = {
    "cdn": lambda: Denoising(3, 8, DenoisingSetting(4, 0.5, 1.0)),
    "dn": lambda: PositiveDenoising(nn.Embedding(4, 7), PositiveSetting()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_draw_by_the_seed_and_serve_batches_without_boxes(kind: str) -> None:
    source, features = SOURCES[kind](), [torch.zeros(2, 8, 4, 4)]
    targets = [{"labels": torch.tensor([1, 2]), "boxes": torch.rand(2, 4) / 4 + 0.3}] * 2
    groups = []
    for _ in range(2):
        torch.manual_seed(3)
        groups.append(source(features, targets))
    assert torch.equal(groups[0].reference_logits, groups[1].reference_logits)
    assert groups[0].content.shape == (2, {"cdn": 8, "dn": 10}[kind], 8)
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    empty = source(features, [nothing] * 2)
    assert empty.content.shape == (2, 0, 8)
    assert empty.reference_logits.shape == (2, 0, 4)
    assert empty.content.requires_grad
    with pytest.raises(ValueError, match=r"training with num_denoising > 0 needs targets: pass them, or set"):
        source(features, None)


def test_amounts_of_noise() -> None:
    targets = [
        {"labels": torch.zeros(20, dtype=torch.int64), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]]).repeat(20, 1)}
    ]
    table = nn.Embedding.from_pretrained(torch.arange(7.0).repeat_interleave(2).view(7, 2))
    torch.manual_seed(0)
    group = PositiveDenoising(table, PositiveSetting(100))([torch.zeros(1)], targets)
    changed = (group.content[0, :, 0] != 0).float().mean()
    assert abs(changed - 0.2 * 5 / 6) < 0.03  # a redrawn class may be the old one
    assert (group.content[..., 2] == 1).all()
    boxes = group.reference_logits.sigmoid()[0]
    low, high = boxes.amin(0), boxes.amax(0)
    torch.testing.assert_close(low, torch.tensor([0.46, 0.42, 0.12, 0.24]), atol=2e-3, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.54, 0.58, 0.28, 0.56]), atol=2e-3, rtol=0)

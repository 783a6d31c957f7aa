# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of a step: values worked out by hand, groups, missing parts, parts of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from isdfine.distill.context import DistillationContext, Distiller
from isdfine.distill.diagnostics import Diagnostics, WeightedMeans, attention_means, diagnosed
from isdfine.distill.objective import Objective
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from isdfine.nn.capture import CapturedAttention
from isdfine.nn.types import TRAINING, Want
from losses.cases import Case, images_of, official_criterion, random_case
from losses.test_criterion import Operators


def context_of(case: Case, **options: bool) -> DistillationContext:
    criterion = official_criterion(case.num_classes, case.reg_max, **options)
    return Objective(criterion, []).context(case.output, case.targets)


def means(measured: WeightedMeans) -> dict[str, float]:
    return {name: float(total / weight) for name, (total, weight) in measured.items()}


def with_edges(case: Case, *layers: Tensor) -> Case:
    """The case with one distribution for all edges of a layer; none where a layer is not given."""
    shape = case.output.layers[0].boxes.shape[:2]
    edges = [one.repeat(4).expand(*shape, -1) for one in layers]
    heads = [replace(head, edge_logits=logits) for head, logits in zip(case.output.layers, edges)]
    return replace(case, output=replace(case.output, layers=heads), reg_max=len(layers[0]) - 1)


def attention(queries: list[Tensor], keys: list[Tensor], **values: object) -> CapturedAttention:
    given = {"queries": tuple(queries), "keys": tuple(keys), "scores": (), "point_logits": (), "num_points": ()}
    given |= {"places": {"": slice(0, None)}, "attn_mask": None, "masks": {}, "padding": {}}
    return CapturedAttention(**{**given, **values})  # type: ignore[arg-type]


def test_hand_checked_values() -> None:
    bins = torch.arange(33.0)
    student, teacher = (-0.5 * ((bins - middle) / 2) ** 2 for middle in (16, 18))
    case = with_edges(random_case(0, layers=3), student, torch.zeros(33), teacher)
    found = means(Diagnostics()(context_of(case)))
    assert found["kl_matched_layer_0_from_2"] == pytest.approx(0.5, abs=1e-5)
    assert found["kl_unmatched_layer_0_from_2"] == pytest.approx(0.5, abs=1e-5)
    assert found["entropy_layer_1"] == pytest.approx(math.log(33), abs=1e-5)
    assert found["entropy_matched_layer_1"] == pytest.approx(3.4965, abs=1e-4)
    of_uniform = -math.log(33) - float(student.log_softmax(-1).mean())
    assert found["kl_matched_layer_0_from_1"] == pytest.approx(of_uniform, abs=1e-4)
    assert found["kl_matched_layer_1_from_2"] == pytest.approx(math.log(33) - found["entropy_layer_2"], abs=1e-4)


def test_perfect_boxes_overlap_fully() -> None:
    case = random_case(1, counts=(2, 2), queries=2, layers=2)
    truth = torch.stack([target["boxes"] for target in case.targets])
    layers = [case.output.layers[0], replace(case.output.layers[1], boxes=truth)]
    context = context_of(replace(case, output=replace(case.output, layers=layers)), use_uni_set=False)
    found = means(Diagnostics()(context))
    assert found["iou_layer_1"] == pytest.approx(1)
    assert 0 < found["iou_layer_0"] < 0.9


def test_means_are_those_of_a_loop_over_queries() -> None:
    case = random_case(2, dn_groups=2)
    context = context_of(case)
    found = means(Diagnostics()(context))
    matching = context.step.matching
    matched = matching.matched().tolist()
    rows, numbers = (of[0, matching.pairs.union] for of in (matching.pairs.query_index, matching.pairs.target_index))
    edges = [case.inputs[f"l{i}.corners"].detach().flatten(0, 1).unflatten(-1, (4, -1)) for i in range(3)]
    p, q = edges[2].softmax(-1), edges[0].softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean(-1)
    for name, wanted in (("kl_matched", True), ("kl_unmatched", False)):
        values = [float(one) for one, is_matched in zip(divergence, matched) if is_matched is wanted]
        assert found[f"{name}_layer_0_from_2"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert found["entropy_layer_0"] == pytest.approx(float(-(q * q.log()).sum(-1).mean()), rel=1e-5)
    boxes = case.output.layers[1].boxes.detach().flatten(0, 1)[rows]
    iou = paired_iou_and_giou(cxcywh_to_xyxy(boxes), context.step.matching.table.corners[numbers])[0]
    assert found["iou_layer_1"] == pytest.approx(float(iou.mean()), rel=1e-5)
    assert (found["km"], found["ku"]) == (4 * sum(matched), 4 * (len(matched) - sum(matched)))


def test_groups_leave_padded_slots_out() -> None:
    case = random_case(3, counts=(3, 0, 5), dn_groups=2)
    found = means(Diagnostics()(context_of(case)))
    # 2 groups of 5 positives and 5 negatives in 3 images; 8 boxes: 16 positives, as many real negatives
    assert (found["km_dn"], found["ku_dn"]) == (4 * 16, 4 * 16)
    padding = case.output.groups["dn"].group.padding
    assert padding is not None
    p = case.inputs["dn0.corners"].detach()[~padding].unflatten(-1, (4, -1)).softmax(-1)
    assert found["entropy_dn_layer_0"] == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)
    assert {"iou_dn_layer_2", "kl_matched_dn_layer_0_from_1", "entropy_matched_dn_layer_2"} <= found.keys()


@pytest.mark.parametrize("dn_groups", [0, 2])
def test_parts_of_a_batch_add_up_to_the_whole(dn_groups: int) -> None:
    """What ranks do: totals and counts are added, then divided."""
    case = random_case(4, counts=(3, 0, 5, 1), dn_groups=dn_groups)
    whole = Diagnostics()(context_of(case))
    first, second = (Diagnostics()(context_of(images_of(case, part))) for part in (slice(0, 2), slice(2, 4)))
    assert list(whole) == list(first) == list(second)
    for name, (total, weight) in whole.items():
        per_rank = 2 if name.startswith(("km", "ku")) else 1
        assert float(first[name].total + second[name].total) == pytest.approx(float(total), rel=1e-5)
        assert float(first[name].weight + second[name].weight) == per_rank * float(weight)


def test_a_batch_without_boxes_has_nothing_to_average() -> None:
    measured = Diagnostics()(context_of(random_case(5, counts=(0, 0))))
    empty = {name for name, mean in measured.items() if not mean.weight}
    assert empty == {name for name in measured if name.startswith("iou") or "_matched_" in name}
    assert all(torch.isfinite(mean.total) for mean in measured.values())


class _Upwards(Distiller):
    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return [(index + 1, index) for index in range(layers - 1)]

    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        return {"of_its_own": torch.tensor(0.25)}


def test_pairs_and_numbers_of_the_distillers_are_added() -> None:
    context = context_of(random_case(6, layers=4))
    usual = {name[11:] for name in Diagnostics()(context) if name.startswith("kl_matched")}
    assert usual == {f"layer_{pair}" for pair in ("0_from_3", "1_from_3", "2_from_3", "0_from_1", "1_from_2")}
    more = {name[11:] for name in Diagnostics([_Upwards()])(context) if name.startswith("kl_matched")}
    assert more - usual == {"layer_1_from_0", "layer_2_from_1", "layer_3_from_2"}
    assert means(Diagnostics([_Upwards()])(context))["of_its_own"] == 0.25


def test_heads_without_distributions_have_overlaps_only() -> None:
    case = random_case(7)
    heads = [replace(head, edge_logits=None, initial_boxes=None) for head in case.output.layers]
    criterion = official_criterion(4, 8, losses=["vfl", "boxes"], weight_dict={"loss_vfl": 1.0, "loss_bbox": 5.0})
    output = replace(case.output, layers=heads, up=None, reg_scale=None)
    measured = Diagnostics()(Objective(criterion, []).context(output, case.targets))
    assert list(measured) == ["iou_layer_0", "iou_layer_1", "iou_layer_2"]


def test_numbers_are_float32_without_a_graph_also_under_autocast() -> None:
    context = context_of(random_case(8, dn_groups=1))
    query = torch.randn(3, 2, 9, 4)
    context = replace(context, student=replace(context.student, attention=attention([query], [query])))
    plain = Diagnostics()(context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = Diagnostics()(context)
    for name, mean in mixed.items():
        assert mean.total.dtype == mean.weight.dtype == torch.float32, name
        assert not mean.total.requires_grad
        assert torch.equal(mean.total, plain[name].total), name


def test_entropy_of_attention() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).view(1, 1, 3, 2)
    captured = attention([query, query * 0], [query, query])
    maps = (query[0, 0] @ query[0, 0].T / math.sqrt(2)).softmax(-1)
    found = means(attention_means(captured))
    assert found["attention_entropy_layer_0"] == pytest.approx(float(-(maps * maps.log()).sum(-1).mean()), rel=1e-6)
    assert found["attention_entropy_layer_1"] == pytest.approx(math.log(3), rel=1e-6)


def test_blocked_keys_and_other_groups_are_not_attended_to() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 4, 5, 8)
    blocked = torch.zeros(5, 5, dtype=torch.bool)
    blocked[2:, :2] = blocked[:2, 2:] = True  # two denoising queries stand in front
    both = attention([query], [key], attn_mask=blocked, places={"dn": slice(0, 2), "": slice(2, 5)})
    alone = attention([query[:, :, 2:]], [key[:, :, 2:]])
    assert means(attention_means(both)) == pytest.approx(means(attention_means(alone)), rel=1e-6)
    logits = torch.randn(2, 5, 4, 12)
    points = attention(
        [], [], point_logits=(logits, torch.zeros(2, 5, 4, 12)), places={"dn": slice(0, 2), "": slice(2, 5)}
    )
    found = means(attention_means(points))
    assert list(found) == ["cross_attention_entropy_layer_0", "cross_attention_entropy_layer_1"]
    assert found["cross_attention_entropy_layer_1"] == pytest.approx(math.log(12), rel=1e-6)
    assert found["cross_attention_entropy_layer_0"] == pytest.approx(
        float(torch.distributions.Categorical(logits=logits[:, 2:]).entropy().mean()), rel=1e-5
    )


def test_cells_of_an_images_padding_are_not_attended_to() -> None:
    query, key = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 6, 4)
    hidden = torch.zeros(2, 6, dtype=torch.bool)
    hidden[1, 2:] = True
    given = attention([], [], dense_queries=(query,), dense_keys=(key,), key_padding_mask=hidden)
    logits = query @ key.mT / 2
    of_image = [torch.distributions.Categorical(logits=one).entropy().mean() for one in (logits[0], logits[1, ..., :2])]
    expected = {"dense_attention_entropy_layer_0": float(sum(of_image) / 2)}
    assert means(attention_means(given)) == pytest.approx(expected, rel=1e-5)
    free = attention([], [], dense_queries=(query,), dense_keys=(key * 0,))
    assert means(attention_means(free)) == pytest.approx({"dense_attention_entropy_layer_0": math.log(6)})


def test_self_attention_is_captured_where_there_is_any() -> None:
    class Offers(torch.nn.Module):
        attention_kinds = frozenset({"self_attention", "cross_attention"})
        num_attention_layers = num_predicting_layers = 2

    model = torch.nn.Sequential(Offers())
    assert diagnosed(model, TRAINING) == Want(layers=True, attention=frozenset({"self_attention"}))
    cross = Want(attention=frozenset({"cross_attention"}))
    assert diagnosed(model, cross).attention == {"self_attention", "cross_attention"}
    assert diagnosed(torch.nn.Linear(1, 1), TRAINING) == TRAINING


def test_captured_attention_is_measured_with_the_step() -> None:
    context = context_of(random_case(9))
    query = torch.randn(3, 2, 9, 4)
    context = replace(context, student=replace(context.student, attention=attention([query], [query])))
    assert "attention_entropy_layer_0" in Diagnostics()(context)


def test_nothing_waits_for_the_device() -> None:
    context = context_of(random_case(10, layers=6, dn_groups=2))
    with Operators() as seen:
        Diagnostics()(context)
    assert seen.names
    assert not {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"} & set(seen.names)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from isdfine.core import dist
from isdfine.losses.criterion import DFINECriterion
from isdfine.nn.types import Predictions
from losses.cases import (
    GOLDEN,
    WEIGHTS,
    golden_case,
    images_of,
    official_criterion,
    official_matcher,
    official_objective,
    random_case,
    union_match,
)
from losses.reference import Objective

BATCHES = [
    {"counts": (3, 0, 5)},
    {"counts": (2, 4), "dn_groups": 2},
    {"counts": (0, 3, 1), "dn_groups": 3, "agnostic": True},
    {"counts": (12,), "dn_groups": 1},
    {"counts": (0, 0)},
    {"counts": (4,), "layers": 1},
]


def score(case, **options):
    """All losses of a step with the official distillation."""
    return official_objective(case.num_classes, case.reg_max, **options)(case.output, case.targets)


def gradients(case, losses):
    leaves = list(case.inputs.values())
    found = torch.autograd.grad(sum(losses.values()), leaves, retain_graph=True, allow_unused=True)
    return dict(zip(case.inputs, found))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses_and_gradients(name):
    case, arrays, meta = golden_case(name)
    losses = score(case)
    assert set(losses) == set(meta["losses"])
    for key, expected in meta["losses"].items():
        assert losses[key].item() == pytest.approx(expected, rel=1e-5, abs=1e-7), key
    assert sum(losses.values()).item() == pytest.approx(meta["total"], rel=1e-5)
    for key, found in gradients(case, losses).items():
        expected = torch.from_numpy(arrays[f"grad/{key}"])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_matches(name):
    case, arrays, _ = golden_case(name)
    output = case.output
    sets = {f"aux_{i}": layer for i, layer in enumerate(output.layers[:-1])}
    sets |= {"final": output.layers[-1], "pre": output.initial, "enc_0": output.proposals}
    found = dict(zip(sets, official_criterion(2, 4).matcher.match_sets(list(sets.values()), case.targets)))
    found["go_union"] = union_match(list(found.values()))
    for key, indices in found.items():
        rows = {(b, q, t) for b, (query, target) in enumerate(indices) for q, t in zip(query.tolist(), target.tolist())}
        assert rows == set(map(tuple, arrays[f"match/{key}"].tolist())), key


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", BATCHES, ids=str)
def test_equals_the_plain_reference(options, seed):
    case = random_case(seed, **options)
    losses = score(case)
    expected = Objective(case.output, case.targets, case.reg_max).losses
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=2e-5, abs=1e-6), name
    for (name, found), other in zip(gradients(case, losses).items(), gradients(case, expected).values()):
        other = torch.zeros_like(found) if other is None else other
        torch.testing.assert_close(found, other, atol=2e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_no_targets_and_empty_groups_stay_connected():
    case, _, _ = golden_case("no_targets_dn")
    losses = score(case)
    assert all(losses[name] == 0 for name in losses if "_dn_" in name)
    assert all(losses[name].requires_grad for name in losses if "_dn_" in name)
    assert all(value is not None and torch.isfinite(value).all() for value in gradients(case, losses).values())


def test_weights_multiply_and_terms_without_weight_are_absent():
    case = random_case(0, dn_groups=1)
    plain = score(case)
    heavy = score(case, weight_dict={**WEIGHTS, "loss_giou": 6.0})
    torch.testing.assert_close(heavy["loss_giou_aux_0"], 3 * plain["loss_giou_aux_0"])
    torch.testing.assert_close(heavy["loss_vfl_pre"], plain["loss_vfl_pre"])
    some = score(case, weight_dict={"loss_vfl": 1.0, "loss_giou": 2.0}, losses=["vfl", "boxes"])
    assert {name: plain[name] for name in some} == some
    assert {name.split("_")[1] for name in some} == {"vfl", "giou"}


def test_focal_loss_replaces_vfl():
    case = random_case(1, agnostic=True, dn_groups=1)
    losses = score(case, weight_dict={"loss_focal": 1.0, "loss_bbox": 5.0}, losses=["focal", "boxes"])
    assert {"loss_focal", "loss_focal_aux_0", "loss_focal_enc_0", "loss_focal_dn_pre"} <= set(losses)
    assert all(torch.isfinite(value) for value in losses.values())


def test_direct_heads_need_no_distributions():
    case = random_case(2)
    layers = [Predictions(layer.logits, layer.boxes) for layer in case.output.layers]
    output = replace(case.output, layers=layers, up=None, reg_scale=None)
    criterion = official_criterion(4, 8, weight_dict={"loss_vfl": 1.0, "loss_bbox": 5.0}, losses=["vfl", "boxes"])
    expected = score(case)
    for name, value in criterion(output, case.targets).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("form", ["iou", "giou"])
def test_boxes_weight_format_acts_on_giou_and_vfl_only(form):
    case = random_case(3)
    plain, weighted = score(case), score(case, boxes_weight_format=form)
    torch.testing.assert_close(weighted["loss_bbox"], plain["loss_bbox"])
    assert weighted["loss_giou"] != plain["loss_giou"]
    assert (weighted["loss_vfl"] == plain["loss_vfl"]) == (form == "iou")


def test_shared_indices_use_the_last_layers_matches_everywhere():
    case = random_case(4)
    last = case.output.layers[-1]
    twins = replace(case.output, layers=[last] * 3, initial=last, proposals=last)
    case_2 = replace(case, output=twins)
    torch.testing.assert_close(score(case_2, share_matched_indices=True), score(case_2))
    shared = score(case, share_matched_indices=True)
    assert torch.equal(shared["loss_vfl"], score(case)["loss_vfl"])
    assert shared["loss_vfl_pre"] != score(case)["loss_vfl_pre"]


def test_padded_slots_and_own_counts_change_only_ddf_of_the_group():
    case = random_case(5, counts=(1, 4), dn_groups=2)
    plain = score(case)
    for options in ({"dn_padding": "exclude"}, {"dn_counts": "own"}):
        changed = {name for name, value in score(case, go_lsd=options).items() if value != plain[name]}
        assert changed == {"loss_ddf_dn_0", "loss_ddf_dn_1"}


def test_a_batch_is_scored_image_by_image_when_norms_agree():
    case = random_case(6, counts=(3, 3))
    whole = score(case)
    parts = [score(images_of(case, slice(b, b + 1))) for b in range(2)]
    for name in whole:
        if "vfl" in name:  # the union's size, which divides the box losses, may differ between images
            torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (11, 2)])
@pytest.mark.parametrize("options", [{}, {"go_lsd": {"dn_padding": "exclude", "dn_counts": "own"}}])
def test_the_mean_over_ranks_equals_one_process(monkeypatch, counts, options):
    case = random_case(7, counts=counts, dn_groups=2 if max(counts) else 0)
    whole = score(case, **options)
    ranks = [images_of(case, slice(b, b + 1)) for b in range(2)]
    seen = []
    monkeypatch.setattr(dist, "mean", lambda counts: seen.append(counts) or counts)
    for rank in ranks:
        score(rank, **options)
    assert len(seen) == 2  # one all-reduce per step
    average = torch.stack(seen).mean(0)
    monkeypatch.setattr(dist, "mean", lambda counts: average)
    parts = [score(rank, **options) for rank in ranks]
    for name, value in whole.items():
        torch.testing.assert_close(
            (parts[0][name] + parts[1][name]) / 2, value, msg=lambda text, n=name: f"{n}: {text}"
        )
    together = gradients(case, whole)
    for b, (rank, losses) in enumerate(zip(ranks, parts)):
        for name, found in gradients(rank, losses).items():
            torch.testing.assert_close(found / 2, together[name][b : b + 1], atol=1e-6, rtol=1e-4)


def test_a_permutation_of_queries_and_targets_changes_nothing():
    case = random_case(8, counts=(4, 2))
    order = torch.randperm(9)
    moved = replace(case, inputs={name: value.detach()[:, order] for name, value in case.inputs.items()})

    def permute(one):
        edges = None if one.edge_logits is None else one.edge_logits[:, order]
        initial = None if one.initial_boxes is None else one.initial_boxes[:, order]
        return Predictions(one.logits[:, order], one.boxes[:, order], edges, initial)

    output = case.output
    moved.output = replace(
        output,
        layers=[permute(layer) for layer in output.layers],
        initial=permute(output.initial),
        proposals=permute(output.proposals),
    )
    moved.targets = [{key: value.flip(0) for key, value in target.items()} for target in case.targets]
    before, after = score(case), score(moved)
    for name in ("loss_vfl", "loss_vfl_aux_0", "loss_vfl_pre", "loss_vfl_enc_0"):
        torch.testing.assert_close(after[name], before[name])


@pytest.mark.parametrize("logit", [30.0, -30.0])
def test_degenerate_inputs_give_finite_losses_and_gradients(logit):
    case = random_case(9, counts=(6, 0), dn_groups=1)
    same = case.targets[0]["boxes"]
    with torch.no_grad():
        same[1] = same[0]  # duplicate
        same[2] = torch.tensor([0.5, 0.5, 0.0, 0.0])  # a point
        same[3] = torch.tensor([0.5, 0.5, 0.0, 0.3])  # a line
        for name, value in case.inputs.items():
            if name.endswith("boxes"):
                value[0, :6] = same[: value.shape[1]]
                value[0, 4, 2:] = -0.1  # crossed edges
            else:
                value.copy_(torch.where(value > 0, logit, -logit))
        case.output.layers[0].initial_boxes[0, :3, 2:] = 0
    losses = score(case)
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(value).all() for value in gradients(case, losses).values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_predictions_reach_the_losses_by_name(value):
    case = random_case(10)
    with torch.no_grad():
        case.inputs["l1.logits"][0, 0] = value
        case.inputs["pre.boxes"][:] = value
    losses = score(case)
    assert not torch.isfinite(losses["loss_vfl_aux_1"])
    assert not torch.isfinite(losses["loss_bbox_pre"])
    assert torch.isfinite(losses["loss_vfl_enc_0"])


def test_autocast_is_left_and_low_precision_inputs_are_widened():
    case = random_case(11, dn_groups=1)
    expected = score(case)
    with torch.autocast("cpu", torch.bfloat16):
        inside = score(case)
    assert all(torch.equal(inside[name], expected[name]) for name in expected)

    def narrow(one):
        if one.edge_logits is None:
            return Predictions(one.logits.bfloat16(), one.boxes)
        return Predictions(one.logits.bfloat16(), one.boxes, one.edge_logits.bfloat16(), one.initial_boxes)

    output = case.output
    layers, heads = [narrow(layer) for layer in output.layers], {"initial": narrow(output.initial)}
    rounded = score(replace(case, output=replace(output, layers=layers, groups={}, **heads)))
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-2)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("counts", [(0,) * 8, (1,) * 8, tuple(range(8)), (40,) * 8])
def test_few_operators_and_none_that_waits_for_the_device(counts):
    case = random_case(12, counts=counts, queries=50, layers=6, dn_groups=1 if max(counts) else 0)
    with Operators() as seen:
        score(case)
    # detach makes no kernel; torch 2.6 dispatches it inside other operators, newer versions do not
    assert seen.names.total() - seen.names["detach"] <= 600
    waiting = {
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "equal",
        "is_nonzero",
        "_unique2",
        "unique_dim",
    }
    assert not waiting & set(seen.names)


def test_options_that_contradict_each_other_are_refused():
    def build(**options):
        return official_criterion(4, 8, **options)

    with pytest.raises(ValueError, match="no loss named mal; choose from vfl, focal, boxes, local"):
        build(losses=["mal", "boxes"])
    with pytest.raises(ValueError, match="no term named loss_vlf; choose from loss_vfl, loss_focal, loss_bbox"):
        build(weight_dict={"loss_vlf": 1.0})
    with pytest.raises(ValueError, match="no loss weighs anything; give weights to loss_vfl, loss_bbox, loss_giou"):
        build(losses=["vfl", "boxes"], weight_dict={"loss_vfl": 0.0, "loss_fgl": 1.0})
    with pytest.raises(ValueError, match="no loss weighs anything; give weights to those of at least one loss"):
        build(losses=[])
    with pytest.raises(ValueError, match="boxes_weight_format: 'ciou' is none of None, 'iou', 'giou'"):
        build(boxes_weight_format="ciou")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_dict": {"loss_vfl": -1.0}}, "DFINECriterion.weight_dict.loss_vfl is -1.0: give 0 or more"),
        ({"weight_dict": {"loss_vfl": float("nan")}}, "weight_dict.loss_vfl is nan: give 0 or more"),
        ({"weight_dict": {"loss_vfl": float("inf")}}, "weight_dict.loss_vfl is inf: give 0 or more"),
        ({"gamma": -2.0}, "DFINECriterion.gamma is -2.0: give 0 or more"),
        ({"gamma": float("nan")}, "DFINECriterion.gamma is nan"),
        ({"alpha": 5.0}, "DFINECriterion.alpha is 5.0: give a number from 0 to 1"),
        ({"alpha": -0.1}, "DFINECriterion.alpha is -0.1"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"reg_max": -1}, "reg_max must be at least 1, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    arguments = {"weight_dict": WEIGHTS, "losses": ["vfl", "boxes", "local"], **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        DFINECriterion(official_matcher(), **arguments)


def test_weights_without_their_loss_and_losses_without_weight_change_nothing():
    case = random_case(0, dn_groups=1)
    assert official_criterion(4, 8).idle == []
    plain = score(case)
    dropped = official_criterion(4, 8, losses=["vfl", "boxes"])
    assert dropped.idle == [
        "weight_dict.loss_fgl has no effect: no loss of ['vfl', 'boxes'] computes it",
        "weight_dict.loss_ddf has no effect: no loss of ['vfl', 'boxes'] computes it",
    ]
    found = dropped(case.output, case.targets)
    assert found == {name: loss for name, loss in plain.items() if name.split("_")[1] not in ("fgl", "ddf")}
    weightless = official_criterion(4, 8, weight_dict={"loss_vfl": 1.0})
    assert weightless.idle == [
        "the loss boxes has no effect: weight_dict has no loss_bbox or loss_giou",
        "the loss local has no effect: weight_dict has no loss_fgl or loss_ddf",
    ]
    assert {name.split("_")[1] for name in weightless(case.output, case.targets)} == {"vfl"}


def test_outputs_that_do_not_fit_are_refused():
    case = random_case(13, dn_groups=1)
    output = case.output

    def refuse(message, num_classes=4, reg_max=8, **changes):
        with pytest.raises(ValueError, match=message):
            official_criterion(num_classes, reg_max)(replace(output, **changes), case.targets)

    refuse(r"layers\[0\].logits have 4 classes but DFINECriterion.num_classes is 80", num_classes=80)
    refuse(r"layers\[0\].edge_logits have 36 values per query, but .*reg_max 16 .* = 68", reg_max=16)
    refuse("losses ask for 'local', but the output has no up and reg_scale", up=None)
    bare = [Predictions(layer.logits, layer.boxes) for layer in output.layers]
    refuse(r"losses ask for 'local', but layers\[0\] has no edge distributions", layers=bare)
    group = output.groups["dn"]
    unassigned = replace(group, group=replace(group.group, assigned=None))
    refuse("query group 'dn' has no assigned targets: .*, or supervised=False", groups={"dn": unassigned})
    crowded = replace(group, group=replace(group.group, repeats=99))
    refuse(r"query group 'dn' has 30 queries for 99 x 8 targets: repeats", groups={"dn": crowded})


def test_a_label_outside_the_head_is_refused_also_behind_an_agnostic_head():
    case = random_case(14, agnostic=True)
    case.targets[2]["labels"][1] = 7
    with pytest.raises(ValueError, match=r"label 7, but the head has 4 classes \(0..3\)"):
        score(case)


def test_it_is_built_from_plain_arguments_with_official_defaults():
    criterion = DFINECriterion(official_criterion(4, 8).matcher, {"loss_vfl": 1.0}, ["vfl"])
    assert (criterion.alpha, criterion.gamma, criterion.num_classes, criterion.reg_max) == (0.2, 2.0, 80, 32)
    assert not list(criterion.parameters())

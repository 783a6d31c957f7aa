# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.distill.layers import GOLSD, InterLayerDistillation
from isdfine.distill.objective import Objective
from isdfine.nn.types import Predictions
from isdfine.zoo.heads import DirectBoxHead
from losses.cases import Case, official_criterion, random_case
from losses.reference import Objective as PlainObjective
from losses.reference import distillation, overlap


def losses(case: Case, progress: float = 0.0, **options: Any) -> dict[str, Tensor]:
    """The distiller's terms alone, with factor 1 unless given."""
    distiller = InterLayerDistillation(**{"weight": 1.0, **options})
    objective = Objective(official_criterion(case.num_classes, case.reg_max), [distiller])
    found = objective(case.output, case.targets, progress)
    return {name: value for name, value in found.items() if "isd" in name}


def gradients(case: Case, total: Tensor) -> dict[str, Tensor]:
    """Gradients of the case's leaves that the total depends on at all."""
    found = torch.autograd.grad(total, list(case.inputs.values()), retain_graph=True, allow_unused=True)
    return {
        name: gradient for name, gradient in zip(case.inputs, found) if gradient is not None and bool(gradient.any())
    }


def with_equal_layers(case: Case) -> Case:
    """All layers say what the last one says (boxes may differ)."""
    with torch.no_grad():
        for name, value in case.inputs.items():
            group, dot, field = name.partition(".")
            if field in ("corners", "logits") and group[-1].isdigit():
                last = "dn2" if group.startswith("dn") else "l2"
                value.copy_(case.inputs[f"{last}{dot}{field}"])
    return case


@pytest.mark.parametrize("counts", [(3, 0, 5), (12,), (0, 0)])
@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [(0, 1), (1, 2), (2, 3)]),
        ({"span": 2}, [(0, 2), (1, 3), (2, 3)]),
        ({"match_weight": "teacher_iou"}, [(0, 1), (1, 2), (2, 3)]),
        ({"direction": "shallow_to_deep"}, [(1, 0), (2, 1), (3, 2)]),
        ({"direction": "shallow_to_deep", "match_weight": "student_iou"}, [(1, 0), (2, 1), (3, 2)]),
    ],
    ids=str,
)
def test_equals_the_plain_reference(counts: tuple[int, ...], options: Any, pairs: list[tuple[int, int]]) -> None:
    case = random_case(0, counts=counts, layers=4)
    found = losses(case, **options)
    union = PlainObjective(case.output, case.targets, case.reg_max).union
    truths, layers = [target["boxes"].double() for target in case.targets], case.output.layers
    weighs_student = options.get("match_weight", "student_iou" if "direction" not in options else "") == "student_iou"
    assert len(found) == 3
    for student, teacher in pairs:
        boxes = layers[student if weighs_student else teacher].boxes
        edges = [layers[layer].edge_logits for layer in (student, teacher)]
        of_images = [
            [(values[b].double(), logits[b].double().unflatten(-1, (4, -1))) for b in range(len(counts))]
            for values, logits in ((boxes, edges[0]), (layers[teacher].logits, edges[1]))
        ]
        expected, _ = distillation(*of_images, union, truths, None)
        name = "loss_isd" if student == 3 else f"loss_isd_aux_{student}"
        torch.testing.assert_close(found[name].double(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dn_padding", ["include", "exclude"])
@pytest.mark.parametrize("dn_counts", ["shared", "own"])
@pytest.mark.parametrize("counts", [(1, 4), (0, 0), (12, 2)])
def test_from_deep_to_shallow_over_two_layers_it_is_go_lsd(counts: Any, dn_padding: Any, dn_counts: Any) -> None:
    case = random_case(1, counts=counts, layers=2, dn_groups=2 if max(counts) else 0)
    rules = {"dn_padding": dn_padding, "dn_counts": dn_counts}
    criterion = official_criterion(case.num_classes, case.reg_max)
    official = Objective(criterion, [GOLSD(**rules)])(case.output, case.targets)
    ours = losses(case, weight=1.5, **rules)
    assert set(ours) == {"loss_isd_aux_0", *(["loss_isd_dn_0"] if max(counts) else [])}
    for name, value in ours.items():
        other = official[name.replace("isd", "ddf")]
        assert torch.equal(value, other)
        expected, found = gradients(case, other), gradients(case, value)
        assert set(found) == set(expected)
        for key, loss in expected.items():
            torch.testing.assert_close(found[key], loss, rtol=1e-6, atol=1e-8)


def divergence(student: Tensor, teacher: Tensor) -> float:
    """Weightless loss of one query from its edge logits (4, N + 1), in plain words: T^2 KL, mean over edges."""
    p, q = (teacher.detach().double() / 5).softmax(-1), (student.detach().double() / 5).softmax(-1)
    return float(25 * (p * (p.log() - q.log())).sum(-1).mean())


def denoising_reference(
    case: Case, student: int, teacher: int, match_weight: str, shares: tuple[float, float]
) -> float:
    """One pair of layers in the denoising group, query by query: padded slots count on neither side."""
    group = case.output.groups["dn"]
    assert group.group.assigned is not None
    assert group.group.padding is not None
    one, other = group.layers[student], group.layers[teacher]
    assert one.edge_logits is not None
    assert other.edge_logits is not None
    sides: tuple[list[float], list[float]] = ([], [])
    for b, owners in enumerate(group.group.assigned.tolist()):
        for q, owner in enumerate(owners):
            if group.group.padding[b, q]:
                continue
            value = divergence(one.edge_logits[b, q].view(4, -1), other.edge_logits[b, q].view(4, -1))
            weight = float(other.logits[b, q].detach().sigmoid().max())
            if owner >= 0:
                truth = case.targets[b]["boxes"][owner].double()
                ours, theirs = (float(overlap(layer.boxes[b, q].detach().double(), truth)[0]) for layer in (one, other))
                weight = {"student_iou": ours, "teacher_iou": theirs, "better": max(theirs - ours, 0.0)}[match_weight]
            sides[0 if owner >= 0 else 1].append(weight * value)
    means = [sum(side) / len(side) for side in sides]
    return (means[0] * shares[0] + means[1] * shares[1]) / sum(shares)


@pytest.mark.parametrize("dn_counts", ["shared", "own"])
@pytest.mark.parametrize("match_weight", ["student_iou", "teacher_iou", "better", None])
@pytest.mark.parametrize("direction", ["deep_to_shallow", "shallow_to_deep"])
def test_denoising_queries_are_weighed_by_overlap_where_positive_and_confidence_where_negative(
    direction: Any, match_weight: Any, dn_counts: Any
) -> None:
    case = random_case(15, counts=(1, 3), dn_groups=2)
    found = losses(case, direction=direction, match_weight=match_weight, dn_counts=dn_counts)
    default = "student_iou" if direction == "deep_to_shallow" else "teacher_iou"
    union = sum(map(len, PlainObjective(case.output, case.targets, case.reg_max).union))
    positive = 2 * (1 + 3)
    counts = (union, 2 * 9 - union) if dn_counts == "shared" else (positive, positive)
    for student, teacher in ((0, 1), (1, 2)) if direction == "deep_to_shallow" else ((1, 0), (2, 1)):
        shares = math.sqrt(counts[0]), math.sqrt(counts[1])
        expected = denoising_reference(case, student, teacher, match_weight or default, shares)
        assert found[f"loss_isd_dn_{student}"].item() == pytest.approx(expected, rel=2e-5)


def test_a_span_over_all_layers_is_go_lsd() -> None:
    case = random_case(2, counts=(3, 2), layers=4)
    official = Objective(official_criterion(4, 8), [GOLSD(1.0)])(case.output, case.targets)
    for name, value in losses(case, span=9).items():
        torch.testing.assert_close(value, official[name.replace("isd", "ddf")])


@pytest.mark.parametrize("direction", ["deep_to_shallow", "shallow_to_deep"])
@pytest.mark.parametrize("options", [{}, {"detach_chain": True}, {"class_weight": 1.0}], ids=str)
def test_layers_that_agree_cost_nothing(direction: Any, options: dict[str, Any]) -> None:
    case = with_equal_layers(random_case(3, counts=(2, 4), dn_groups=1))
    found = losses(case, direction=direction, **options)
    assert len(found) == (8 if "class_weight" in options else 4)
    assert all(value == 0 for value in found.values())
    edges = sum(value for name, value in found.items() if "cls" not in name)
    assert isinstance(edges, Tensor)
    assert edges.requires_grad
    assert not gradients(case, edges)


def permuted(case: Case, order: Tensor, *, targets: bool = True) -> Case:
    """The same queries in another order, and the boxes of every image backwards."""

    def move(one: Predictions) -> Predictions:
        edges, initial = one.edge_logits, one.initial_boxes
        return Predictions(
            one.logits[:, order],
            one.boxes[:, order],
            None if edges is None else edges[:, order],
            None if initial is None else initial[:, order],
        )

    output = case.output
    assert output.initial is not None
    assert output.proposals is not None
    layers, heads = [move(layer) for layer in output.layers], {"initial": output.initial, "proposals": output.proposals}
    moved = replace(output, layers=layers, **{name: move(head) for name, head in heads.items()})
    backwards = [{key: value.flip(0) for key, value in target.items()} for target in case.targets]
    return replace(case, output=moved, targets=backwards if targets else case.targets)


@pytest.mark.parametrize(
    "options", [{}, {"direction": "shallow_to_deep"}, {"match_weight": "better"}, {"span": 2}], ids=str
)
def test_a_permutation_of_queries_changes_nothing(options: Any) -> None:
    case = random_case(16, counts=(4, 2, 0), layers=4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    before, after = (
        losses(inputs, class_weight=0.5, **options) for inputs in (case, permuted(case, order, targets=False))
    )
    assert len(before) == 6
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("direction", ["deep_to_shallow", "shallow_to_deep"])
def test_a_permutation_of_queries_and_targets_changes_nothing(direction: Any) -> None:
    # one target per image: with more, ties in the vote of the union fall by number
    case = random_case(4, counts=(1, 1, 0), layers=4)
    before = losses(case, direction=direction, class_weight=0.5)
    after = losses(permuted(case, torch.randperm(9)), direction=direction, class_weight=0.5)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize(
    ("direction", "students"),
    [("deep_to_shallow", {"_aux_0": "l0", "_aux_1": "l1", "_dn_0": "dn0", "_dn_1": "dn1"}),
     ("shallow_to_deep", {"_aux_1": "l1", "": "l2", "_dn_1": "dn1", "_dn_2": "dn2"})],
)  # fmt: skip
def test_no_gradient_reaches_a_teacher(direction: Any, students: dict[str, str]) -> None:
    case = random_case(5, counts=(2, 3), dn_groups=1)
    found = losses(case, direction=direction, class_weight=0.5)
    assert set(found) == {f"{name}{suffix}" for name in ("loss_isd", "loss_isd_cls") for suffix in students}
    for suffix, layer in students.items():
        assert set(gradients(case, found[f"loss_isd{suffix}"])) == {f"{layer}.corners"}
        assert set(gradients(case, found[f"loss_isd_cls{suffix}"])) == {f"{layer}.logits"}


@pytest.mark.parametrize("direction", ["deep_to_shallow", "shallow_to_deep"])
def test_the_chain_of_logits_can_be_cut(direction: Any) -> None:
    case = random_case(6, counts=(3, 2), layers=4)
    heads = [torch.randn(2, 9, 4 * 9, requires_grad=True) for _ in range(4)]
    chain = [sum(heads[: index + 1], torch.zeros(())) for index in range(4)]
    layers = [replace(layer, edge_logits=logits) for layer, logits in zip(case.output.layers, chain)]
    chained = replace(case, output=replace(case.output, layers=layers))

    def reached(value: Tensor) -> list[int]:
        found = torch.autograd.grad(value, heads, retain_graph=True, allow_unused=True)
        return [index for index, gradient in enumerate(found) if gradient is not None and gradient.abs().max() > 1e-6]

    plain, cut = losses(chained, direction=direction), losses(chained, direction=direction, detach_chain=True)
    for name, value in plain.items():
        student = 3 if name == "loss_isd" else int(name[-1])
        assert torch.equal(cut[name], value)
        assert reached(value) == list(range(student + 1))
        assert reached(cut[name]) == [student]


def test_only_better_teachers_are_followed() -> None:
    case = random_case(7, counts=(4, 3), queries=5)
    whole = losses(case, match_weight="better", unmatched=False)
    assert all(value > 0 for value in whole.values())
    with torch.no_grad():
        for index in range(3):  # every layer finds its targets as well as the next: nobody is better
            case.inputs[f"l{index}.boxes"].copy_(case.inputs["l0.boxes"])
    assert all(value == 0 for value in losses(case, match_weight="better", unmatched=False).values())
    with torch.no_grad():  # the last layer is worst, the first best
        case.inputs["l1.boxes"][..., :2] += 0.1
        case.inputs["l2.boxes"][..., :2] += 0.3
    forwards = losses(case, match_weight="better", unmatched=False)
    backwards = losses(case, match_weight="better", unmatched=False, direction="shallow_to_deep")
    assert all(backwards[name] > forwards.get(name, 0) for name in backwards)


def test_without_unmatched_queries_only_their_mean_is_left() -> None:
    case = random_case(8, counts=(4, 2), dn_groups=1)
    matched = losses(case, unmatched=False)
    with torch.no_grad():  # scores of 0 take away the weight of queries without a box
        for name, value in case.inputs.items():
            if name.endswith("logits") and name[:2] in ("dn", "l0", "l1", "l2"):
                value.fill_(-200.0)
    step = official_criterion(4, 8).match(case.output, case.targets)
    for name, value in losses(case, dn_counts="own", dn_padding="include").items():
        group = step.groups[1 if "dn" in name else 0]
        boxed = group.matched().sum()
        if "dn" in name:  # fixed pairs; the union of the others has changed with the scores
            share = boxed.sqrt() / (boxed.sqrt() + (group.stack.rows - boxed).sqrt())
            torch.testing.assert_close(value, matched[name] * share)
    none = random_case(8, counts=(0, 0))
    assert all(value == 0 for value in losses(none, unmatched=False).values())


def test_padded_denoising_slots_and_counts() -> None:
    case = random_case(9, counts=(1, 4), dn_groups=2)
    plain = losses(case)
    for options in ({"dn_padding": "include"}, {"dn_counts": "own"}):
        changed = {name for name, value in losses(case, **options).items() if value != plain[name]}
        assert changed == {"loss_isd_dn_0", "loss_isd_dn_1"}
    with torch.no_grad():  # what padded slots say is not looked at
        padding = case.output.groups["dn"].group.padding
        case.inputs["dn0.corners"][padding] += 1.0
        case.inputs["dn2.logits"][padding] += 3.0
    assert losses(case) == plain
    assert losses(case, denoising=False) == {name: value for name, value in plain.items() if "dn" not in name}


def test_the_class_scores_are_weighted_like_the_boxes() -> None:
    case = random_case(10, counts=(2, 3))
    both = losses(case, class_weight=0.25)
    assert {name: value for name, value in both.items() if "cls" not in name} == losses(case)
    alone = losses(case, weight=0.0, class_weight=0.5)
    assert all(value == 0 for name, value in alone.items() if "cls" not in name)
    step = official_criterion(4, 8).match(case.output, case.targets).matching
    matched, conf = step.matched(), step.confidence(1, 2)[0]
    p, q = (case.inputs[f"l{index}.logits"].detach().double().sigmoid().flatten(0, 1) for index in (1, 0))
    per_query = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)
    weighted = per_query * torch.where(matched, step.overlaps(0, 1)[0], conf)
    counts = [mask.sum().sqrt() for mask in (matched, ~matched)]
    means = [weighted[mask].mean() for mask in (matched, ~matched)]
    expected = sum(mean * count for mean, count in zip(means, counts)) / sum(counts)
    torch.testing.assert_close(alone["loss_isd_cls_aux_0"].double(), 0.5 * expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(both["loss_isd_cls_aux_0"].double(), 0.25 * expected, rtol=1e-5, atol=0)


def test_it_grows_with_the_ramp() -> None:
    case = random_case(11, dn_groups=1)
    full = losses(case, class_weight=1.0)
    for progress, share in ((0.0, 0.0), (0.15, 0.5), (0.2, 1.0)):
        part = losses(case, progress, class_weight=1.0, ramp=(0.1, 0.2))
        assert list(part) == list(full)
        for name, value in part.items():
            torch.testing.assert_close(value, share * full[name])


def test_low_precision_gives_nearly_the_same() -> None:
    case = random_case(12, counts=(3, 2), dn_groups=1)
    options: dict[str, Any] = {"class_weight": 0.5}
    expected = losses(case, **options)
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses(case, **options)
    assert all(torch.equal(inside[name], value) for name, value in expected.items())

    def narrow(one: Predictions) -> Predictions:
        assert one.edge_logits is not None
        return replace(one, logits=one.logits.bfloat16(), edge_logits=one.edge_logits.bfloat16())

    output = case.output
    dn = replace(output.groups["dn"], layers=[narrow(layer) for layer in output.groups["dn"].layers])
    rounded = replace(output, layers=[narrow(layer) for layer in output.layers], groups={"dn": dn})
    for name, value in losses(replace(case, output=rounded), **options).items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-2)


def test_agnostic_proposals_do_not_shift_the_layers_scores() -> None:
    plain, agnostic = random_case(13, counts=(2, 2)), random_case(13, counts=(2, 2), agnostic=True)
    for value in (losses(plain, class_weight=1.0), losses(agnostic, class_weight=1.0)):
        assert set(value) == {f"loss_isd{kind}_aux_{i}" for kind in ("", "_cls") for i in (0, 1)}
        assert all(loss.isfinite() for loss in value.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "InterLayerDistillation.direction: 'up' is none of 'deep_to_shallow', 'shallow_to_deep'"),
        ({"match_weight": "x"}, "match_weight: 'x' is none of None, 'student_iou', 'teacher_iou', 'better'"),
        ({"span": 0}, "InterLayerDistillation.span is 0: give the distance"),
        ({"weight": -1.0}, "InterLayerDistillation.weight is -1.0: give 0 or more"),
        ({"class_weight": float("inf")}, "InterLayerDistillation.class_weight is inf: give 0 or more"),
        ({"temperature": 0.0}, "InterLayerDistillation.temperature is 0.0: give a number above 0"),
        ({"ramp": (0.2, 0.1)}, r"InterLayerDistillation.ramp is \[0.2, 0.1\]"),
        ({"dn_padding": "no"}, "InterLayerDistillation.dn_padding: 'no' is none of"),
        ({"dn_counts": "no"}, "InterLayerDistillation.dn_counts: 'no' is none of"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterLayerDistillation(**options)


def test_defaults() -> None:
    one, other = InterLayerDistillation(), InterLayerDistillation("shallow_to_deep")
    assert (one.direction, one.span, one.weight, one.temperature) == ("deep_to_shallow", 1, 1.5, 5.0)
    assert (one.match_weight, other.match_weight) == ("student_iou", "teacher_iou")
    assert (one.detach_chain, one.class_weight, one.unmatched, one.denoising) == (False, 0.0, True, True)
    assert (one.dn_padding, one.dn_counts) == ("exclude", "shared")
    assert one.ramp(0.0) == 1.0


def test_what_cannot_serve_it_is_refused() -> None:
    name, model = "InterLayerDistillation", nn.Module()
    model.decoder = nn.Module()
    InterLayerDistillation().check(model, official_criterion(4, 8))
    with pytest.raises(ValueError, match=f"{name} weighs queries by the union of all matches, but the criterion"):
        InterLayerDistillation().check(model, official_criterion(4, 8, use_uni_set=False))
    model.decoder.num_predicting_layers = 1  # type: ignore[assignment]
    with pytest.raises(ValueError, match=f"{name} needs two decoder layers or more, but 1 predicts in training: raise"):
        InterLayerDistillation().check(model, official_criterion(4, 8))
    model.decoder.box_head = DirectBoxHead([8])
    with pytest.raises(ValueError, match=f"{name} compares edge distributions, but the decoder's box_head is 'direct'"):
        InterLayerDistillation().check(model, official_criterion(4, 8))
    with pytest.raises(ValueError, match=f"{name} needs two decoder layers or more, but the output has one"):
        losses(random_case(14, layers=1))

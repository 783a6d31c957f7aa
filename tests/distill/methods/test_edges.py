# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""LD and GO-LSD from a teacher."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.cases import context_of, over_ranks, random_context, raw
from isdfine.distill.methods.go_lsd import DistillGOLSD, LayerEdges, refined_boxes, truth_loss
from isdfine.distill.methods.ld import LD
from isdfine.distill.objective import Objective
from isdfine.distill.rebin import EdgeFrame, edge_distance, edge_divergence, rebin
from isdfine.distill.taught import check_cacheable
from isdfine.losses.functions import ddf_loss, edge_kl
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from isdfine.nn.edges import decode_corners, weighting
from isdfine.nn.types import Want
from losses.cases import Case, official_criterion, random_case
from taught_cases import BINS, CLASSES, batch, copied, detector, lesson, step, taught, terms_of

NOW: dict[str, Any] = {"start": None}


def as_copy(case: Case, *, layers: bool = True) -> Case:
    """The case as a teacher of itself: ``layers``: every layer says what the last one does."""
    if layers:
        for name, value in case.inputs.items():
            if name[0] == "l" and name[1] != "2":
                value.data.copy_(case.inputs[f"l2{name[2:]}"].data)
    return case


def test_edge_divergence_is_that_of_logits_where_frames_are_equal() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, 4, 9, generator=random) for _ in range(2))
    student.requires_grad_()
    target = (teacher[0] / 2.5).softmax(-1)
    found = edge_divergence(student, target, 2.5)
    torch.testing.assert_close(found, edge_kl(student, teacher[0], 2.5))
    assert found.shape == (3, 5)
    same = (student.detach()[0] / 5).log_softmax(-1).exp()
    equal = edge_divergence(student, same, 5.0)
    assert not equal[0].any()
    assert equal[1:].all()
    assert not torch.autograd.grad(equal[0].sum(), student)[0].any()
    sure = torch.zeros(5, 4, 9)
    sure[..., 3] = 1  # most bins of a transported distribution may be empty
    expected = -(student / 5).log_softmax(-1)[..., 3].mean(-1) * 25
    torch.testing.assert_close(edge_divergence(student, sure, 5.0), expected)
    torch.testing.assert_close(
        edge_distance(student, sure, 5.0), ((student / 5).softmax(-1) - sure).square().sum((-2, -1)) / 4
    )


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    case = as_copy(random_case(0))
    context = context_of(case, case)
    for method in (
        LD(pairing="hungarian"),
        DistillGOLSD(pairing="hungarian", threshold=0.0, **NOW),
        DistillGOLSD(pairing="hungarian", transport="raw", distance="smooth_l2", **NOW),
        DistillGOLSD(pairing="hungarian", temperature=1.0, layers="last", **NOW),
    ):
        losses = raw(method, context)
        assert tuple(losses) == method.names
        assert all(abs(loss) < 1e-6 for loss in losses.values()), losses


def by_hand(context: Any, method: Any) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """Pairs, the teacher's transported distributions (P, 4, N + 1), and what was clipped."""
    pairs = method.pairs(context, context.teacher)
    frames = [
        EdgeFrame.of(
            output.layers[-1].initial_boxes[pairs.image, queries],
            output.layers[-1].edge_logits.shape[-1] // 4 - 1,
            0.5,
            4,
        )
        for output, queries in ((context.teacher.output, pairs.teacher), (context.student, pairs.student))
    ]
    last = context.teacher.output.layers[-1].edge_logits[pairs.image, pairs.teacher].unflatten(-1, (4, -1))
    moved, clipped = rebin((last / method.temperature).softmax(-1), *frames)
    return [tuple(map(int, row)) for row in zip(*pairs)], moved, clipped.amax(-1)


@pytest.mark.parametrize("teacher_bins", [8, 16])
@pytest.mark.parametrize("unmatched", [True, False])
def test_go_lsd_by_its_definition(teacher_bins: int, unmatched: bool) -> None:
    context = random_context(1, reg_max=teacher_bins)
    method = DistillGOLSD(temperature=3.0, unmatched=unmatched, **NOW)
    pairs, moved, clipped = by_hand(context, method)
    group, theirs = context.step.matching, context.teacher.output.layers[-1]  # type: ignore[union-attr]
    rows, targets = (index[2, group.pairs.union] for index in (group.pairs.query_index, group.pairs.target_index))
    truth = dict(zip(rows.tolist(), targets.tolist()))
    total, dropped = torch.zeros(()), 0
    for layer in context.student.layers:
        parts: dict[bool, list[Tensor]] = {True: [], False: []}
        for number, (image, query, partner, _) in enumerate(pairs):
            if clipped[number] > 0.5:
                dropped += 1
                continue
            divergence = edge_divergence(layer.edge_logits[image, query].unflatten(-1, (4, -1)), moved[number], 3.0)  # type: ignore[index]
            target = truth.get(image * 9 + query)
            if target is None:
                parts[False].append(divergence * theirs.logits[image, partner].sigmoid().max())
            else:
                box = cxcywh_to_xyxy(layer.boxes[image, query]).detach()
                parts[True].append(divergence * paired_iou_and_giou(box, group.table.corners[target])[0])
        if not unmatched:
            parts[False] = []
        shares = {tag: len(values) ** 0.5 for tag, values in parts.items()}
        means = {tag: torch.stack(values).mean() for tag, values in parts.items() if values}
        total = total + sum(shares[tag] * mean for tag, mean in means.items()) / sum(shares.values())
    assert 0 < dropped < 3 * len(pairs)
    torch.testing.assert_close(raw(method, context)["loss_golsd"], total)
    torch.testing.assert_close(method(context)["loss_golsd"], 1.5 * total)
    found = method.diagnostics(context)["golsd_clipped"]
    assert 0 < found < 1


def test_equal_frames_and_anchors_give_the_loss_of_self_distillation() -> None:
    student, teacher = random_case(2), random_case(2)
    for name in ("l2.corners", "l1.corners", "l0.corners"):
        teacher.inputs[name].data += torch.randn_like(teacher.inputs[name])
    context = context_of(student, teacher)
    method = DistillGOLSD(pairing="hungarian", threshold=0.0, layers="last", **NOW)
    group = context.step.matching
    edges = [case.output.layers[-1].edge_logits.flatten(0, 1).unflatten(-1, (4, -1)) for case in (student, teacher)]  # type: ignore[union-attr]
    expected = ddf_loss(edges[0], edges[1], group.overlaps(2, 3)[0], group.confidence(2, 3)[0], group.matched(2), 5.0)
    torch.testing.assert_close(raw(method, context)["loss_golsd"], expected)
    everywhere = context_of(student, teacher)
    both = [
        raw(DistillGOLSD(pairing="hungarian", threshold=0.0, transport=how, **NOW), everywhere)
        for how in ("raw", "rebin")
    ]  # type: ignore[arg-type]
    torch.testing.assert_close(*both)
    teacher.output.layers[-1].initial_boxes.mul_(1.1)  # type: ignore[union-attr]
    moved = context_of(student, teacher)
    other = [
        raw(DistillGOLSD(pairing="hungarian", threshold=0.0, transport=how, **NOW), moved) for how in ("raw", "rebin")
    ]  # type: ignore[arg-type]
    torch.testing.assert_close(other[0], both[0])
    assert (other[1]["loss_golsd"] - both[1]["loss_golsd"]).abs() > 1e-3


def test_ld_by_its_definition() -> None:
    context = random_context(3)
    method = LD()
    pairs, moved, clipped = by_hand(context, method)
    group, theirs = context.step.matching, context.teacher.output.layers[-1]  # type: ignore[union-attr]
    rows = {*group.pairs.query_index[2, group.pairs.union].tolist()}
    expected, regions = dict.fromkeys(method.names, torch.zeros(())), [0, 0, 0]
    for layer in context.student.layers:
        sums, norms = [torch.zeros(())] * 3, [0.0] * 3
        for number, (image, query, partner, _) in enumerate(pairs):
            logits, known = layer.logits[image, query], theirs.logits[image, partner]
            edges = layer.edge_logits[image, query].unflatten(-1, (4, -1))  # type: ignore[union-attr]
            divergence = edge_divergence(edges, moved[number], 10.0) * 4 / 9
            weight = logits.sigmoid().max().item()
            p, q = (known / 2).sigmoid(), (logits / 2).sigmoid()
            classes = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
            here = group.table.image == image
            box = cxcywh_to_xyxy(layer.boxes[image, query]).detach()
            best = max([0.0, *paired_iou_and_giou(box, group.table.corners[here])[0].tolist()])
            kept, has_box = bool(clipped[number] <= 0.5), image * 9 + query in rows
            inside = (has_box and kept, not has_box and kept and 0.25 <= best <= 0.5, has_box)
            for part, (value, mass) in enumerate(((divergence, weight), (divergence, weight), (classes, 1.0))):
                if inside[part]:
                    sums[part], norms[part] = sums[part] + mass * value, norms[part] + mass
                    regions[part] += 1
        for name, total, norm, divisor in zip(method.names, sums, norms, (4, 16, 1)):
            expected[name] = expected[name] + total / max(norm, 1) / divisor
    assert min(regions) > 2
    found = raw(method, context)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    factors = {"loss_ld": 0.25, "loss_ld_vlr": 0.25, "loss_ld_cls": 10.0}
    assert method.parts == factors
    torch.testing.assert_close(method(context), {name: factor * found[name] for name, factor in factors.items()})
    assert [*raw(LD(main=0, class_weight=0), context)] == ["loss_ld_vlr"]
    alone = replace(context, student=replace(context.student, layers=context.student.layers[-1:]))
    torch.testing.assert_close(raw(LD(layers="last"), context), raw(LD(), alone))
    assert raw(LD(layers="last"), context)["loss_ld"] < found["loss_ld"]


def test_gradients_reach_edges_alone() -> None:
    student, teacher = random_case(4), random_case(104, queries=7)
    for method, names in ((DistillGOLSD(**NOW), {"corners"}), (LD(), {"corners", "logits"})):
        for value in (*student.inputs.values(), *teacher.inputs.values()):
            value.grad = None
        torch.stack([*raw(method, context_of(student, teacher)).values()]).sum().backward()
        touched = {
            name.split(".")[1] for name, value in student.inputs.items() if value.grad is not None and value.grad.any()
        }
        assert touched == names
        assert all(value.grad is None for value in teacher.inputs.values())
        assert all(student.inputs[f"l{layer}.corners"].grad.any() for layer in range(3))  # type: ignore[union-attr]


@pytest.mark.parametrize("pairing", ["hungarian", "union", "gt_anchor"])
def test_the_order_of_queries_and_the_number_of_processes_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, pairing: Any
) -> None:
    student, teacher = random_case(5), random_case(105, queries=7)
    moved = random_case(5), random_case(105, queries=7)
    for (case, other), queries in zip(zip((student, teacher), moved), (9, 7)):
        order = torch.randperm(queries)
        for name, value in case.inputs.items():
            other.inputs[name].data[:] = value.data[:, order]
        for layer in other.output.layers:
            layer.initial_boxes.copy_(case.output.layers[0].initial_boxes[:, order])  # type: ignore[union-attr, index]
    ld = LD(pairing=pairing, vlr=0.25 if pairing == "union" else 0)  # hungarian: too few for weights above 1
    for method in (DistillGOLSD(pairing=pairing, **NOW), ld):
        whole = raw(method, context_of(student, teacher))
        torch.testing.assert_close(raw(method, context_of(*moved)), whole)
        apart = over_ranks(monkeypatch, lambda context, method=method: raw(method, context), student, teacher)  # type: ignore[misc]
        torch.testing.assert_close(apart, whole)


def test_nothing_to_pair() -> None:
    for counts, queries in (((0, 0), 9), ((4, 1), 1)):
        context = context_of(random_case(6, counts, queries=queries), random_case(106, counts, queries=queries))
        for method in (DistillGOLSD(**NOW), LD(), DistillGOLSD(pairing="gt_anchor", **NOW)):
            assert all(loss.isfinite() for loss in raw(method, context).values())


def test_a_student_without_distributions_gets_a_projection() -> None:
    student = detector(0, box_head="direct", num_layers=3)
    teacher = detector(1, dim=24, num_queries=6)
    method = DistillGOLSD(start={"mode": "step", "value": 2}, bins={"reg_max": 6})
    objective = taught_boxes(student, teacher, method)
    assert method.projection is not None
    assert [layer.weight.shape for layer in method.projection.layers] == [(28, 16)] * 3
    assert torch.equal(method.projection.offsets, weighting(6, 0.5, 4))
    assert method.projection.scale == 4
    before = terms_of(objective, student)
    assert before["loss_golsd"] == before["loss_golsd_fgl"] == 0
    context = step(objective, student, batch((3, 0), padded=True), step_number=2)
    losses = method(context)
    assert tuple(losses) == method.names
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    found = method.diagnostics(context)
    torch.testing.assert_close(losses["loss_golsd_fgl"].detach(), 0.15 * found["raw_golsd_fgl"])
    for loss in losses.values():
        student.zero_grad()
        loss.backward(retain_graph=True)
        assert student.backbone.patch.weight.grad.any(), "the trunk learns"
        assert not any(w.grad is not None and w.grad.any() for w in student.decoder.box_head.layers[-1].parameters())
    assert all(weight.grad is not None and weight.grad.any() for weight in method.projection.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not [name for name in student.state_dict() if "projection" in name]
    assert [name for name in objective.state_dict() if "projection" in name]
    last = DistillGOLSD(layers="last", **NOW)
    taught_boxes(student, teacher, last)
    assert last.projection is not None
    assert len(last.projection.layers) == 1
    assert last.projection.reg_max == BINS
    losses = raw(last, step(taught_boxes(student, teacher, last), student))
    assert all(loss > 0 for loss in losses.values())


def taught_boxes(student: Any, teacher: nn.Module, method: DistillGOLSD) -> Any:
    """The objective of a student whose criterion scores no distributions."""
    known = lesson(teacher)
    method.prepare(student, known.teacher, known.classes)
    return Objective(official_criterion(CLASSES, BINS, losses=["vfl", "boxes"]), [method], known)


def test_a_projection_learns_the_truth_as_a_head_of_distributions_does() -> None:
    case = random_case(7)
    criterion = official_criterion(4, 8)
    output, group = case.output, criterion.match(case.output, case.targets).matching
    expected = criterion(case.output, case.targets)
    edges = output.layers[1].edge_logits.unflatten(-1, (4, -1))[None]  # type: ignore[union-attr]
    boxes = output.layers[1].initial_boxes
    assert boxes is not None
    layer = LayerEdges(slice(1, 2), edges, EdgeFrame.of(boxes, 8, 0.5, 4))
    # in the second layer the head's boxes are those of the distributions, in random cases they are others
    output.layers[1].boxes.data.copy_(decode_corners(boxes, edges[0], layer.frame.offsets, layer.frame.scale))
    expected = criterion.terms(criterion.match(output, case.targets))["loss_fgl_aux_1"]
    group = criterion.match(output, case.targets).matching
    torch.testing.assert_close(0.15 * truth_loss([layer], group), expected)
    torch.testing.assert_close(truth_loss([layer, layer], group), 2 * truth_loss([layer], group))


def test_a_layer_refines_the_boxes_of_the_one_before() -> None:
    output = random_case(8).output
    assert output.proposals is not None
    assert torch.equal(refined_boxes(output, 2), output.layers[1].boxes)
    assert torch.equal(refined_boxes(output, 0), output.proposals.boxes)
    assert torch.equal(refined_boxes(replace(output, proposals=None), 0), output.layers[0].boxes)
    assert torch.equal(refined_boxes(replace(output, binary_proposals=True), 0), output.layers[0].boxes)
    assert not refined_boxes(output, 1).requires_grad


def test_a_step_of_a_student_with_distributions() -> None:
    student, teacher = detector(0), detector(1, dim=24, num_layers=3, reg_max=16)
    methods = [LD(), DistillGOLSD(**NOW)]
    objective = taught(student, teacher, *methods)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = step(objective, student, batch((3, 0), padded=True))
    for method in methods:
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in method(context).values())
        assert not [*method.parameters()]
    assert methods[1].names == ("loss_golsd",)
    same = detector(2)
    twin = DistillGOLSD(pairing="hungarian", layers="last", **NOW)
    assert terms_of(taught(same, copied(same), twin), same)["loss_golsd"].abs() < 1e-6


@pytest.mark.parametrize("name", ["LD", "DistillGOLSD"])
def test_the_teacher_is_asked_for_its_last_layer_alone(name: str) -> None:
    """Unless another one detects: the numbers are those of all layers."""
    student, make = detector(0), {"LD": LD, "DistillGOLSD": lambda: DistillGOLSD(**NOW)}[name]
    for options, layers in (({}, 1), ({"num_layers": 3, "eval_idx": 1}, 3)):
        teacher, method = detector(1, **options), make()
        context = step(taught(student, teacher, method), student)
        assert len(context.teacher.output.layers) == layers
        whole = lesson(teacher).teacher(context.images, want=Want(layers=True))
        asked = replace(context.teacher, output=whole)
        assert all(torch.equal(loss, method.losses(context, asked)[key]) for key, loss in raw(method, context).items())
        check_cacheable(method)


def test_it_starts_after_three_epochs_unless_it_is_told() -> None:
    assert (DistillGOLSD().start.mode, DistillGOLSD().start.value, DistillGOLSD().start.ramp) == ("epoch", 3, 1000)
    assert DistillGOLSD(start=None).start.mode == "step"
    assert DistillGOLSD(start=None).start.value == 0
    assert (DistillGOLSD().weight, DistillGOLSD().temperature) == (1.5, 5.0)
    assert LD().temperature == 10


def prepared(student: Any, teacher: Any, method: Any) -> None:
    known = lesson(teacher)
    method.prepare(student, known.teacher, known.classes)


def test_models_that_cannot_serve_are_refused() -> None:
    fdr, direct, other = detector(0), detector(0, box_head="direct"), detector(1, reg_max=16)
    for student, teacher, method, message in (
        (
            fdr,
            direct,
            LD(),
            r"LD learns from .*, but the teacher \(DFINETransformer\) has none: take a teacher with box",
        ),
        (fdr, direct, DistillGOLSD(), r"DistillGOLSD learns from edge distributions, but the teacher"),
        (
            direct,
            fdr,
            LD(),
            r"LD teaches .* decoder \(DFINETransformer\) has none: set DFINETransformer\.box_head: fdr",
        ),
        (fdr, other, LD(transport="raw"), r"LD\.transport: raw compares .* student has 8 and the teacher 16: choose"),
        (direct, other, DistillGOLSD(transport="raw", bins={"reg_max": 8}), r"DistillGOLSD\.transport: raw compares"),
        (fdr, other, DistillGOLSD(fgl=0.2), r"bins and fgl are for students without distributions, and this one has"),
        (direct, fdr, DistillGOLSD(bins={"reg_max": 7}), r"DistillGOLSD\.bins: reg_max must be even and at least 4"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared(student, teacher, method)
    nameless = SimpleNamespace(decoder=nn.Identity())
    with pytest.raises(ValueError, match=r"but Identity does not say how wide they are \(widths\)"):
        prepared(nameless, fdr, DistillGOLSD())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LD(temperature=0.0), r"LD\.temperature is 0\.0: give a number above 0"),
        (lambda: LD(pairing="shared"), r"LD\.pairing: 'shared' is none of 'gt_anchor', 'hungarian', 'union'"),
        (lambda: LD(transport="shared_ref"), r"LD\.transport: 'shared_ref' is none of 'rebin', 'raw'"),  # type: ignore[arg-type]
        (lambda: LD(pairing="gt_anchor"), r"LD\.vlr teaches queries without a box, which pairing: gt_anchor leaves"),
        (lambda: LD(main=0, vlr=0, class_weight=0), r"LD teaches nothing: give one of main, vlr and class_weight"),
        (lambda: LD(main=-1), r"LD\.main is -1: give 0 or more"),
        (lambda: DistillGOLSD(layers="first"), r"DistillGOLSD\.layers: 'first' is none of 'all', 'last'"),  # type: ignore[arg-type]
        (lambda: DistillGOLSD(distance="l1"), r"DistillGOLSD\.distance: 'l1' is none of 'ddf', 'smooth_l2'"),  # type: ignore[arg-type]
        (lambda: DistillGOLSD(bins={"a": 1}), r"DistillGOLSD\.bins has no a: it has reg_max, up and reg_scale"),
        (lambda: DistillGOLSD(fgl=-1.0), r"DistillGOLSD\.fgl is -1\.0: give 0 or more"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

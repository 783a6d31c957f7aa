# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Logit mimicking and box imitation."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import isdfine
from builders import write_micro_config
from distill.cases import context_of, over_ranks, random_context, raw
from isdfine.distill.kernels import confidence
from isdfine.distill.methods.box import BoxDistillation
from isdfine.distill.methods.go_lsd import DistillGOLSD
from isdfine.distill.methods.ld import LD
from isdfine.distill.methods.logit import LogitDistillation
from isdfine.distill.paired import PredictionDistiller
from isdfine.losses.functions import class_kl
from isdfine.nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from losses.cases import random_case
from point_cases import decoder_of
from taught_cases import batch, copied, detector, step, taught, terms_of

LOGITS: list[dict[str, Any]] = [
    {},
    {"temperature": 4.0},
    {"kernel": "softmax", "temperature": 10.0},
    {"kernel": "qfl"},
    {"kernel": "mse"},
    {"kernel": "mse", "space": "logit"},
]


@pytest.mark.parametrize("layers", ["uniform", "last_only"])
@pytest.mark.parametrize("options", [*LOGITS, None])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(options: dict[str, Any] | None, layers: Any) -> None:
    common = {"pairing": "hungarian", "layers": layers}
    method = BoxDistillation(mse=1.0, **common) if options is None else LogitDistillation(**options, **common)
    losses = raw(method, context_of(case := random_case(0), case))
    assert tuple(losses) == method.names
    assert all(abs(loss) < 1e-6 for loss in losses.values())


def test_losses_by_their_definition() -> None:
    context = random_context(1, layers=6)
    logit, box = LogitDistillation(temperature=2.0), BoxDistillation(mse=1.0)
    assert context.teacher is not None
    mine, theirs = context.student.layers, context.teacher.output.layers
    pairs = [tuple(map(int, row)) for row in zip(*logit.pairs(context, context.teacher)[:3])]
    assert len(pairs) > 21
    expected = dict.fromkeys(("loss_logit", "loss_box_l1", "loss_box_giou", "loss_box_mse"), torch.zeros(()))
    for layer, other in ((0, 1), (1, 3), (2, 5)):
        sums, norm = dict.fromkeys(expected, torch.zeros(())), 0.0
        for image, query, partner in pairs:
            s, t = mine[layer].logits[image, query], theirs[other].logits[image, partner]
            conf, p, q = t.sigmoid().max(), (t / 2).sigmoid(), (s / 2).sigmoid()
            divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() * 4
            ours, known = mine[layer].boxes[image, query], theirs[other].boxes[image, partner]
            giou = paired_iou_and_giou(cxcywh_to_xyxy(ours), cxcywh_to_xyxy(known))[1]
            gap = ours - known
            norm += conf.item()
            for name, value in zip(sums, (divergence, gap.abs().mean(), 1 - giou, gap.square().mean())):
                sums[name] = sums[name] + conf * value
        expected = {name: value + sums[name] / max(norm, 1.0) for name, value in expected.items()}
    found = raw(logit, context) | raw(box, context)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    for name, factor in (("loss_box_l1", 5), ("loss_box_giou", 2), ("loss_box_mse", 1)):
        torch.testing.assert_close(box(context)[name], factor * found[name])
    assert [*raw(BoxDistillation(l1=0.0, giou=0.0, mse=1.0), context)] == ["loss_box_mse"]


def test_which_layer_learns_from_which() -> None:
    context = random_context(2, layers=5)
    names: list[Any] = ["uniform", "final_to_all", "last_only"]
    methods = [LogitDistillation(layers=name) for name in names]
    before = [raw(method, context)["loss_logit"] for method in methods]
    assert len({round(value.item(), 5) for value in before}) == 3
    assert context.teacher is not None
    for layer in context.teacher.output.layers[:-1]:
        layer.logits.copy_(context.teacher.output.layers[-1].logits)
    after = [raw(method, context)["loss_logit"] for method in methods]
    torch.testing.assert_close(after, [before[1], before[1], before[2]])


def test_only_common_classes_are_taught() -> None:
    student, teacher = random_case(3), random_case(103, num_classes=3)
    context = context_of(student, teacher, [2, None, 0, 1])
    loss = raw(LogitDistillation(), context)["loss_logit"]
    (slope,) = torch.autograd.grad(loss, student.inputs["l2.logits"])
    assert slope[..., [0, 2, 3]].any()
    assert not slope[..., 1].any()
    for layer in teacher.output.layers:
        layer.logits.data = layer.logits.data[..., [2, 0, 1]]
    again = context_of(student, teacher, [0, None, 1, 2])
    torch.testing.assert_close(raw(LogitDistillation(), again)["loss_logit"], loss)
    boxes = (raw(BoxDistillation(), one)["loss_box_l1"] for one in (context, again))
    torch.testing.assert_close(*boxes)


@pytest.mark.parametrize("pairing", ["hungarian", "union", "gt_anchor"])
def test_the_order_of_queries_does_not_matter(pairing: Any) -> None:
    student, teacher = random_case(4), random_case(104, queries=7)
    methods = [LogitDistillation(pairing=pairing), BoxDistillation(pairing=pairing)]
    before = [raw(method, context_of(student, teacher)) for method in methods]
    moved = random_case(4), random_case(104, queries=7)
    order, theirs = torch.randperm(9), torch.randperm(7)
    for name, value in student.inputs.items():
        moved[0].inputs[name].data[:] = value.data[:, order]
    for name, value in teacher.inputs.items():
        moved[1].inputs[name].data[:] = value.data[:, theirs]
    after = [raw(method, context_of(*moved)) for method in methods]
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("pairing", ["hungarian", "union"])
def test_many_processes_are_one(monkeypatch: pytest.MonkeyPatch, pairing: Any) -> None:
    student, teacher = random_case(5, (3, 0, 5)), random_case(105, (3, 0, 5), queries=7)
    for method in (LogitDistillation(pairing=pairing), BoxDistillation(pairing=pairing)):
        whole = raw(method, context_of(student, teacher))
        apart = over_ranks(monkeypatch, lambda context, method=method: raw(method, context), student, teacher)  # type: ignore[misc]
        torch.testing.assert_close(apart, whole)


def test_methods_that_pair_alike_share_the_pairs_of_a_step() -> None:
    context, other = random_context(7), random_context(8)
    first, second = LogitDistillation(), BoxDistillation()
    pairs = first.pairs(context, context.teacher)  # type: ignore[arg-type]
    assert second.pairs(context, context.teacher) is pairs  # type: ignore[arg-type]
    for method, given in ((first, other), (first, replace(context)), (BoxDistillation(pairing="hungarian"), context)):
        assert method.pairs(given, given.teacher) is not pairs  # type: ignore[arg-type]
    sure, surer = (LogitDistillation(pairing="hungarian", threshold=share) for share in (0.5, 0.8))
    marked = [method.pairs(context, context.teacher).matched.sum() for method in (sure, surer)]  # type: ignore[arg-type]
    assert marked[0] > marked[1]


def test_nothing_to_pair() -> None:
    for counts, queries in (((0, 0), 9), ((4, 1), 1)):
        context = context_of(random_case(6, counts, queries=queries), random_case(106, counts, queries=queries))
        for pairing in ("union", "gt_anchor", "hungarian"):
            for method in (LogitDistillation(pairing=pairing), BoxDistillation(pairing=pairing)):  # type: ignore[arg-type]
                losses = raw(method, context)
                assert all(loss.isfinite() for loss in losses.values())
                if pairing == "gt_anchor" and not any(counts):
                    assert all(loss == 0 and loss.requires_grad for loss in losses.values())


def test_a_step_trains_the_student_alone() -> None:
    student, teacher = detector(0), detector(1, dim=24, num_queries=5)
    methods: list[PredictionDistiller] = [LogitDistillation(), BoxDistillation(mse=1.0)]
    objective = taught(student, teacher, *methods)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = step(objective, student, batch((3, 0), padded=True))
    scores, boxes = ([*head.layers.parameters()] for head in (student.decoder.score_head, student.decoder.box_head))
    for method, heads in zip(methods, (scores, boxes)):
        losses = method(context)
        assert all(loss.isfinite() and loss > 0 and loss.dtype == torch.float32 for loss in losses.values())
        student.zero_grad()
        torch.stack([*losses.values()]).sum().backward(retain_graph=True)
        assert student.backbone.patch.weight.grad.any()
        assert all(weight.grad is not None and weight.grad.any() for weight in heads)
        if heads is boxes:
            assert all(weight.grad is None or not weight.grad.any() for weight in scores)
        assert not [*method.parameters()]
    assert all(weight.grad is None for weight in teacher.parameters())


def test_shared_queries() -> None:
    student = detector(0, learn_query_content=True)
    logit, box = LogitDistillation(pairing="shared"), BoxDistillation(pairing="shared")
    equal = terms_of(taught(student, copied(student, learn_query_content=True), logit, box), student)
    assert all(equal[name].abs() < 1e-6 for name in (*logit.names, *box.names))
    teacher = detector(1, dim=24, num_queries=5, num_layers=3)
    objective = taught(student, teacher, logit := LogitDistillation(pairing="shared"))
    context = step(objective, student)
    assert context.teacher is not None
    group = context.student.groups[logit.group]
    assert torch.equal(group.group.reference_logits, context.teacher.output.taps["queries"].reference_logits)
    assert not group.group.supervised
    mine, theirs = group.layers[1].logits.flatten(0, 1), context.teacher.output.layers[2].logits.flatten(0, 1)
    loss = class_kl(mine, theirs) * confidence(theirs)
    last = raw(logit, context)["loss_logit"]
    logit.layers = "last_only"
    torch.testing.assert_close(raw(logit, context)["loss_logit"], loss.sum() / confidence(theirs).sum())
    assert last > raw(logit, context)["loss_logit"], "the first layer learns too"
    last.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in logit.parameters())
    assert [*dict(logit.named_parameters())] == ["enter.project.weight"]


def test_configs_build_them(tmp_path: Path) -> None:
    listed = [
        "{type: LogitDistillation, weight: 2.0, kernel: softmax, temperature: 4, pairing: hungarian, threshold: 0.3}",
        "{type: BoxDistillation, l1: 0, giou: 0, mse: 1, layers: final_to_all}",
        "{type: LD, vlr: 0, pairing: gt_anchor, start: {mode: step, value: 10}}",
        "{type: DistillGOLSD, temperature: 2.5, transport: raw, bins: {reg_max: 16}, start: {mode: plateau}}",
    ]
    config = isdfine.load_config(write_micro_config(tmp_path, images=1), [f"distillers=[{', '.join(listed)}]"])
    logit, box, ld, golsd = config.build("distillers")
    assert (logit.weight, logit.kernel.kind, logit.kernel.temperature, logit.aligner.threshold) == (
        2,
        "softmax",
        4,
        0.3,
    )
    assert (box.parts, box.layers) == ({"loss_box_mse": 1}, "final_to_all")
    assert (ld.names, ld.start.value) == (("loss_ld", "loss_ld_cls"), 10)
    assert (golsd.temperature, golsd.transport, golsd.bins, golsd.start.mode) == (
        2.5,
        "raw",
        {"reg_max": 16},
        "plateau",
    )
    assert isinstance(ld, LD)
    assert isinstance(golsd, DistillGOLSD)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitDistillation(kernel="kl"), r"LogitDistillation: kernel: 'kl' is none of 'binary', 'softmax'"),  # type: ignore[arg-type]
        (lambda: LogitDistillation(kernel="mse", temperature=2), r"LogitDistillation: kernel\.temperature is read by"),
        (lambda: LogitDistillation(layers="all"), r"LogitDistillation\.layers: 'all' is none of 'last_only'"),
        (lambda: LogitDistillation(pairing="index"), r"LogitDistillation\.pairing: 'index' is none of"),
        (lambda: LogitDistillation(threshold=0.5), r"LogitDistillation: threshold is read by pairing: hungarian"),
        (lambda: BoxDistillation(l1=-1.0), r"BoxDistillation\.l1 is -1\.0: give 0 or more"),
        (lambda: BoxDistillation(l1=0, giou=0), r"BoxDistillation compares nothing: give one of l1, giou and mse"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_queries_at_points_are_not_for_a_student_with_boxes() -> None:
    student, teacher = (SimpleNamespace(decoder=decoder_of(family)) for family in ("dab", "deformable"))
    with pytest.raises(
        ValueError, match=r"LogitDistillation\.pairing: shared gives .* start at points and the student's"
    ):
        LogitDistillation(pairing="shared").prepare(student, SimpleNamespace(model=teacher), None)  # type: ignore[arg-type]


def test_a_criterion_that_does_not_tell_its_matches() -> None:
    with pytest.raises(
        ValueError, match=r"BoxDistillation \(pairing: union\) reads which .* choose pairing: hungarian"
    ):
        BoxDistillation().check(None, SimpleNamespace())  # type: ignore[arg-type]
    BoxDistillation(pairing="hungarian").check(None, SimpleNamespace())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"LD \(pairing: hungarian\) reads .* take another criterion or method"):
        LD(pairing="hungarian").check(None, SimpleNamespace())  # type: ignore[arg-type]

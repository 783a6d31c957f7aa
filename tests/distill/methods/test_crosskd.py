# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from isdfine.distill.context import DistillationContext
from isdfine.distill.features import maps_of
from isdfine.distill.methods.crosskd import CrossKD, cross_losses
from isdfine.distill.teacher import CommonClasses, Teacher, TeacherOutput
from isdfine.losses.matched import MatchedStep
from isdfine.nn.types import Predictions, Want
from isdfine.zoo.detr import DETR
from point_cases import decoder_of
from taught_cases import CLASSES, Maps, Neck, batch, copied, detector, step, taught

MODES = ["memory_cross", "query_cross"]


def layer(logits: list[list[float]], boxes: list[list[float]]) -> Predictions:
    """One image."""
    return Predictions(torch.tensor([logits]), torch.tensor([boxes]))


def test_values_by_hand() -> None:
    left, right, away = [0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5], [0.25, 0.5, 0.3, 0.5]
    logit = 1.38629436  # of 0.8
    target = layer([[1.0, -50.0], [logit, -50.0]], [left, right])
    crossed = layer([[0.0, -50.0], [logit, -50.0]], [left, left])
    # class: .160158 of the first query / 2. Boxes: the second's weight .8 of 1.5310586; L1 .5 / 4, GIoU 0
    weight = 0.8 / (0.8 + 0.7310586)
    found = cross_losses([crossed], [target], 1.0)
    torch.testing.assert_close(found, torch.tensor([0.160158 / 2, 0.125 * weight, weight]), atol=2e-6, rtol=0)
    torch.testing.assert_close(cross_losses([crossed] * 3, [target] * 3, 1.0), 3 * found)
    # exponent 0: entropy at 1 and 0 is .6931472, at .8 it is .5004024; weights below 1 in all are divided by 1
    faint = layer([[0.0], [0.0]], [left, away])
    plain = cross_losses([layer([[0.0], [0.0]], [left, left])], [faint], 0.0)
    torch.testing.assert_close(plain, torch.tensor([0.6931472, 0.05 * 0.5, 0.5 * (1 - 0.3 / 0.5)]), atol=1e-6, rtol=0)
    fainter = layer([[-4.0], [-4.0]], [left, away])
    score = 0.01798621
    small = cross_losses([layer([[-4.0], [-4.0]], [left, left])], [fainter], 1.0)
    torch.testing.assert_close(small, torch.tensor([0, 0.05 * score, 0.4 * score]), atol=1e-6, rtol=0)


def test_the_target_has_no_gradient() -> None:
    crossed, target = (Predictions(torch.randn(1, 4, 3), torch.rand(1, 4, 4) / 2 + 0.2) for _ in range(2))
    for tensor in (crossed.logits, crossed.boxes, target.logits, target.boxes):
        tensor.requires_grad_()
    cross_losses([crossed], [target], 1.0).sum().backward()
    assert crossed.logits.grad.any()
    assert crossed.boxes.grad.any()
    assert target.logits.grad is None
    assert target.boxes.grad is None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(mode: Any, padded: bool) -> None:
    student = detector(0)
    method = CrossKD(mode=mode, adapter="none")
    losses = method(step(taught(student, copied(student), method), student, batch((3, 0), padded=padded)))
    assert tuple(losses) == method.names
    assert all(loss.abs() < 1e-5 for loss in losses.values()), losses


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode: Any) -> None:
    """They pass through the teacher and leave nothing there; the student's heads learn nothing."""
    student, teacher, method = detector(0), detector(1, dim=24), CrossKD(2.0, mode=mode, l1=3.0)
    before = copy.deepcopy(teacher.state_dict())
    context = step(taught(student, teacher, method), student, batch((3, 0), padded=True))
    losses = method(context)
    raw = method.diagnostics(context)
    assert losses["loss_crosskd_l1"].item() == pytest.approx(6 * raw["raw_crosskd_l1"].item())
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(teacher.state_dict()[key], before[key]) for key in before)
    assert all(weight.grad is not None and weight.grad.any() for weight in method.adapters.parameters())
    assert student.backbone.patch.weight.grad.any()
    decoder = {
        name: weight.grad is not None and bool(weight.grad.any()) for name, weight in student.decoder.named_parameters()
    }
    assert any(decoder.values()) == (mode == "query_cross")
    assert decoder["layers.0.linear1.weight"] == (mode == "query_cross")
    assert not any(found for name, found in decoder.items() if "head" in name)
    assert all(weight.grad.any() for weight in method.query_adapters.parameters())
    assert len(method.query_adapters) == (2 if mode == "query_cross" else 0)


def test_memory_cross_compares_with_what_the_teacher_said() -> None:
    """Other queries of the student change nothing, another memory does."""
    student, teacher, method = detector(0), detector(1), CrossKD()
    objective = taught(student, teacher, method)
    context = step(objective, student)
    found = method.losses(context, context.teacher)
    nn.init.normal_(student.decoder.layers[0].linear1.weight)
    again = step(objective, student)
    assert all(torch.equal(found[name], loss) for name, loss in method.losses(again, again.teacher).items())
    decoder, taps = teacher.decoder, context.teacher.output.taps
    crossed = decoder.predict_from(taps["layer_starts"], taps["queries"], maps_of(context.student, "memory"))
    expected = cross_losses(crossed, context.teacher.output.layers, 1.0)
    torch.testing.assert_close(torch.stack([*found.values()]), expected)


def test_query_cross_compares_two_memories_by_the_students_queries() -> None:
    student, teacher, method = detector(0), detector(1), CrossKD(mode="query_cross", exponent=0.5)
    context = step(taught(student, teacher, method), student)
    found = method.losses(context, context.teacher)
    taps = context.student.taps
    both = [
        teacher.decoder.predict_from(taps["layer_starts"], taps["queries"], maps_of(output, "memory"))
        for output in (context.student, context.teacher.output)
    ]
    torch.testing.assert_close(torch.stack([*found.values()]), cross_losses(*both, 0.5))
    # the first layer starts from the student's queries, not from the teacher's
    assert not torch.allclose(both[1][0].boxes, context.teacher.output.layers[0].boxes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["deformable", "dino", "dab"])
def test_families(family: str, mode: Any) -> None:
    """Points with a position of their own, norms behind layers, forms of reference boxes; other widths."""
    student, teacher = (
        DETR(Maps(dim), Neck(dim), decoder_of(family, hidden_dim=dim, feat_channels=[dim, dim])) for dim in (16, 32)
    )
    method, answering = CrossKD(mode=mode), Teacher(teacher)
    classes = CommonClasses.of(range(3), 3)
    method.prepare(student, answering, classes)
    (images, targets), want = batch((2, 1)), Want(layers=True) | method.want
    output = student.train()(images, [{**target, "labels": target["labels"] % 3} for target in targets], want=want)
    context = DistillationContext(output, MatchedStep(output), 0.0, images=images)
    answer = TeacherOutput(answering(images, want=method.teacher_want), classes, answering)
    losses = method.losses(context, answer)
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    assert student.backbone.patch.weight.grad.any()
    assert all(weight.grad is not None for weight in method.parameters())


def test_the_teachers_precision_and_images() -> None:
    student, teacher = detector(0), detector(1)
    found = {}
    for name, options in {"fp32": {}, "bf16": {"precision": "bf16"}, "resized": {"resize": [96, 160]}}.items():
        method = CrossKD()
        objective = taught(student, teacher, method)
        objective.lesson = replace(objective.lesson, teacher=Teacher(teacher, **options))
        context = step(objective, student, batch((3, 1), padded=True))
        losses = torch.stack([*method.losses(context, context.teacher).values()])
        assert losses.dtype == torch.float32
        assert torch.isfinite(losses).all()
        found[name] = losses
    assert 0 < (found["bf16"] - found["fp32"]).abs().max() < 0.05 * found["fp32"].max()
    assert not torch.allclose(found["resized"], found["fp32"])


@pytest.mark.parametrize(
    ("student", "classes", "mode", "text"),
    [
        ({}, [1, 0, 2, 3], "memory_cross", r"CrossKD compares the teacher's heads .* other classes"),
        (
            {"num_layers": 3},
            range(CLASSES),
            "query_cross",
            r"3 layers, box_head fdr of reg_max 8.* choose memory_cross",
        ),
        ({"reg_max": 16}, range(CLASSES), "query_cross", r"reg_max 16"),
    ],
)
def test_what_cannot_be_crossed(student: dict, classes: Any, mode: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        taught(detector(0, **student), detector(1), CrossKD(mode=mode), classes=classes)


def test_bad_input() -> None:
    more = {"num_levels": 3, "num_points": [2, 2, 2]}
    with pytest.raises(ValueError, match=r"CrossKD: the teacher's decoder reads 3 levels, of which .* \[0, 1\]"):
        taught(detector(0), detector(1, **more), CrossKD())
    with pytest.raises(ValueError, match=r"CrossKD compares all decoder layers"):
        taught(detector(0), detector(1, aux_loss=False), CrossKD())
    with pytest.raises(ValueError, match=r"CrossKD: adapter: none, but the student has 16"):
        taught(detector(0), detector(1, dim=24), CrossKD(adapter="none"))
    with pytest.raises(ValueError, match=r"CrossKD\.mode"):
        CrossKD(mode="head")
    with pytest.raises(ValueError, match=r"CrossKD\.exponent"):
        CrossKD(exponent=-1.0)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""FitNet, FGD, MGD and LCMD in a training step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from distill.test_objective import Operators
from isdfine.distill.features import FeatureDistiller
from isdfine.distill.methods.fgd import FGD
from isdfine.distill.methods.fitnet import FitNet, fitnet_loss
from isdfine.distill.methods.lcmd import LCMD
from isdfine.distill.methods.mgd import MGD, mgd_loss
from isdfine.nn.types import MemoryTap
from taught_cases import batch, copied, detector, lesson, step, taught, terms_of

METHODS: dict[str, Callable[..., FeatureDistiller]] = {"fitnet": FitNet, "fgd": FGD, "mgd": MGD, "lcmd": LCMD}


@pytest.mark.parametrize("make", METHODS.values(), ids=list(METHODS))
def test_a_step_trains_student_and_adapters_alone(make: Callable[..., FeatureDistiller]) -> None:
    student, teacher, method = detector(0), detector(1, dim=24), make()
    objective = taught(student, teacher, method)
    context = step(objective, student, batch((3, 0), padded=True))
    losses = method(context)
    assert tuple(losses) == method.names
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    for name, loss in losses.items():
        raw = method.diagnostics(context)[f"raw_{name.removeprefix('loss_')}"]
        torch.testing.assert_close(loss.detach(), method.weight * method.parts.get(name, 1) * raw)
    torch.stack([*losses.values()]).sum().backward()
    assert all(weight.grad is not None for weight in method.parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert student.backbone.patch.weight.grad.any()
    assert not any(
        weight.grad.any() for name, weight in student.named_parameters() if weight.grad is not None and "head" in name
    )
    assert any("adapters" in name for name, _ in objective.named_parameters())


@pytest.mark.parametrize("make", [FitNet, FGD, LCMD])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(make: Callable[..., FeatureDistiller]) -> None:
    student = detector(0)
    method = make(adapter="none")
    terms = terms_of(taught(student, copied(student), method), student, batch((3, 0), padded=True))
    assert [terms[name].item() for name in method.names] == [0] * len(method.names)


@pytest.mark.parametrize("make", METHODS.values(), ids=list(METHODS))
def test_nothing_waits_for_the_device(make: Callable[..., FeatureDistiller]) -> None:
    student, method = detector(0), make()
    context = step(taught(student, detector(1), method), student, batch((3, 0), padded=True))
    with Operators() as seen:
        method(context)
    assert seen.names
    assert not {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "lift_fresh"} & set(seen.names)


@pytest.mark.parametrize("tap", ["backbone", "neck", "memory"])
def test_taps(tap: Any) -> None:
    student, teacher = detector(0), detector(1)
    objective = taught(student, teacher, FitNet(tap=tap))
    context = step(objective, student)
    mine, theirs = context.student.taps[tap], context.teacher.output.taps[tap]
    if isinstance(mine, MemoryTap):
        mine, theirs = mine.tokens.split([24, 6], dim=1), theirs.tokens.split([24, 6], dim=1)
    expected = torch.stack([(one - other).square().mean() for one, other in zip(mine, theirs)]).mean()
    torch.testing.assert_close(objective.distillers[0](context)["loss_fitnet"], expected)


def test_cells_of_the_memory_are_rows_of_maps() -> None:
    student, method = detector(0), LCMD()
    context = step(taught(student, detector(1), method), student)
    tokens = context.student.taps["memory"].tokens
    maps = method.maps(context, context.teacher)
    assert torch.equal(maps[0].student[1, :, 2, 3], tokens[1, 2 * 6 + 3])
    assert torch.equal(maps[1].student[1, :, 1, 0], tokens[1, 24 + 1 * 3])


def test_masks_follow_the_targets() -> None:
    student, method = detector(0), LCMD()
    images, targets = batch((1, 0))
    targets[0]["boxes"] = torch.tensor([[0.75, 0.25, 0.5, 0.5]])  # the upper right quarter
    context = step(taught(student, detector(1), method), student, (images, targets))
    maps = method.maps(context, context.teacher)
    owned = [cells.foreground[0].nonzero().tolist() for cells in method.box_cells(context, maps)]
    assert owned == [[[row, column] for row in (0, 1) for column in (3, 4, 5)], [[0, 1], [0, 2]]]
    losses = method.losses(context, context.teacher)
    errors = [(level.student - level.teacher).square().sum(1) for level in maps]
    inside = errors[0][0, :2, 3:].sum() / 6 + errors[1][0, 0, 1:].sum() / 2
    torch.testing.assert_close(losses["loss_lcmd_fg"], inside / 2)
    outside = [errors[0][0].sum() - errors[0][0, :2, 3:].sum(), errors[1][0].sum() - errors[1][0, 0, 1:].sum()]
    empty = errors[0][1].sum() / 24 + errors[1][1].sum() / 6
    torch.testing.assert_close(losses["loss_lcmd_bg"], (outside[0] / 18 + outside[1] / 4 + empty) / 2)


def test_readings_of_the_masks_reach_the_memory() -> None:
    student, found = detector(0), {}
    for unit, rounding in (("cell", "covered"), ("input", "covered"), ("cell", "inclusive")):
        method = LCMD(unit=unit, rounding=rounding)  # type: ignore[arg-type]
        images, targets = batch((1,))
        targets[0]["boxes"] = torch.tensor([[0.75, 0.25, 0.5, 0.5]])  # 2 x 3 and 1 x 2 cells
        context = step(taught(student, detector(1), method), student, (images, targets))
        maps = method.maps(context, context.teacher)
        errors = [(level.student - level.teacher).square().sum(1)[0] for level in maps]
        loss = method.losses(context, context.teacher)["loss_lcmd_fg"]
        found[unit, rounding] = loss, errors
    loss, (fine, coarse) = found["input", "covered"]
    torch.testing.assert_close(loss, (fine[:2, 3:].sum() + coarse[0, 1:].sum()) / (32 * 48))
    loss, (fine, coarse) = found["cell", "inclusive"]
    torch.testing.assert_close(loss, fine[:3, 3:].sum() / 12 + coarse[:2, 1:].sum() / 6)


def test_mgd_is_the_sum_over_its_levels() -> None:
    student, method = detector(0), MGD(masked=0)
    context = step(taught(student, detector(1), method), student)
    maps = method.maps(context, context.teacher)
    levels = [mgd_loss(level, generator, torch.ones(())) for level, generator in zip(maps, method.generators)]
    torch.testing.assert_close(method.losses(context, context.teacher)["loss_mgd"], levels[0] + levels[1])


def test_levels_pair_by_stride_or_as_they_are_told() -> None:
    student, teacher = detector(0), detector(1)
    teacher.encoder.strides = (32, 64)
    chosen = FitNet()
    context = step(taught(student, teacher, chosen), student)
    assert chosen.pairs == [(1, 0)]
    (pair,) = chosen.maps(context, context.teacher)
    assert pair.student.shape == pair.teacher.shape == (2, 16, 4, 6), "the student's map takes the teacher's size"
    torch.testing.assert_close(chosen.losses(context, context.teacher)["loss_fitnet"], fitnet_loss(pair))
    told = FitNet(level_map={0: 1})
    told.prepare(student, lesson(teacher).teacher, lesson(teacher).classes)
    assert told.pairs == [(0, 1)]


def test_further_levels_of_the_memory() -> None:
    method = FitNet(tap="memory")
    student, teacher = detector(0, num_levels=3, num_points=[2, 2, 2]), detector(1)
    loss = terms_of(taught(student, teacher, method), student, batch(size=(64, 128)))["loss_fitnet"]
    assert method.pairs == [(0, 0), (1, 1)]
    assert loss > 0


def test_a_teacher_that_sees_larger_images() -> None:
    student, teacher, method = detector(0), detector(1), LCMD()
    objective = taught(student, teacher, method)
    objective.lesson.teacher.resize = (128, 192)
    context = step(objective, student, batch((3, 1), padded=True))
    assert [level.size for level in method.maps(context, context.teacher)] == [(8, 12), (4, 6)]
    assert [int(level.valid[1].sum()) for level in method.maps(context, context.teacher)] == [8 * 6, 4 * 3]


def test_adapters() -> None:
    student, teacher = detector(0), detector(1, dim=24)
    for method, count in ((FitNet(), 2), (LCMD(), 1), (FitNet(tap="memory"), 2)):
        taught(student, teacher, method)
        assert [tuple(layer.weight.shape) for layer in method.adapters] == [(24, 16, 1, 1)] * count
    always = FitNet(adapter="always")
    taught(student, detector(1), always)
    assert all(isinstance(layer, nn.Conv2d) for layer in always.adapters)


def test_the_teachers_side_of_relations_may_be_frozen() -> None:
    student, method = detector(0), FGD(gl_teacher="frozen")
    terms = terms_of(taught(student, detector(1), method), student)
    assert terms["loss_fgd_gl"] > 0
    assert not any(weight.requires_grad for weight in method.teacher_context.parameters())
    assert all(weight.requires_grad for weight in method.student_context.parameters())


def test_published_factors() -> None:
    assert list(FGD().parts.values()) == [1e-3, 5e-4, 5e-4, 5e-6]
    assert (FGD().weight, FGD().temperature) == (1, 0.5)
    assert (MGD().weight, MGD().masked) == (2e-5, 0.65)
    assert list(LCMD().parts.values()) == [5e-5, 1e-7]
    assert FitNet().weight == 1


def test_bad_input_is_refused() -> None:
    student, teacher = detector(0), detector(1, dim=24)
    with pytest.raises(ValueError, match=r"FitNet: adapter: none, but the student has 16 channels and the teacher 24"):
        taught(student, teacher, FitNet(adapter="none"))
    with pytest.raises(ValueError, match=r"MGD: level_map names level 2 of the teacher"):
        taught(student, teacher, MGD(level_map={0: 2}))
    teacher.encoder.strides = (4, 8)
    with pytest.raises(ValueError, match=r"FGD: student and teacher have no level in common"):
        taught(student, teacher, FGD())
    del teacher.encoder.channels
    with pytest.raises(
        ValueError,
        match=r"but the encoder of the teacher \(Neck\) does not say what it gives at the tap neck: give it channels",
    ):
        taught(student, teacher, FitNet())
    for make, text in (
        (lambda: FitNet(tap="head"), r"FitNet\.tap: 'head' is none of 'backbone', 'neck', 'memory'"),
        (lambda: LCMD(adapter="no"), r"LCMD\.adapter: 'no' is none of"),
        (lambda: MGD(masked=1.5), r"MGD\.masked is 1.5: give a number from 0 to 1"),
        (lambda: FGD(temperature=0), r"FGD\.temperature is 0"),
        (lambda: FGD(relation=-1), r"FGD\.relation is -1"),
        (lambda: FGD(gl_teacher="off"), r"FGD\.gl_teacher: 'off'"),
        (lambda: LCMD(mask="off"), r"LCMD\.mask: 'off'"),
        (lambda: LCMD(unit="feet"), r"LCMD\.unit: 'feet'"),
        (lambda: LCMD(rounding="up"), r"LCMD\.rounding: 'up'"),
        (lambda: LCMD(foreground=-1), r"LCMD\.foreground is -1"),
        (lambda: LCMD(background=-1), r"LCMD\.background is -1"),
    ):
        with pytest.raises(ValueError, match=text):
            make()

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isdfine.distill.context import DistillationContext
from isdfine.distill.layers import GOLSD
from isdfine.distill.objective import Objective
from isdfine.distill.start import Moment, Start
from isdfine.distill.taught import TeacherDistiller
from isdfine.distill.teacher import CommonClasses, Teacher, TeacherOutput
from isdfine.nn.types import Want
from losses.cases import official_criterion
from taught_cases import BINS, CLASSES, batch, detector, step, taught, terms_of


class Tokens(TeacherDistiller):
    """Adapted tokens become like the teacher's."""

    want = teacher_want = Want(taps=frozenset({"memory"}))
    names = ("loss_tokens",)

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        self.adapter = nn.Linear(16, 16)

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        seen = self.adapter(context.student.taps["memory"].tokens.float())
        return {"loss_tokens": (seen - taught.output.taps["memory"].tokens).square().mean()}


def test_a_step_learns_from_the_teacher_and_leaves_it_alone() -> None:
    student, teacher = detector(0), detector(1)
    before = copy.deepcopy(teacher.state_dict())
    objective = taught(student, teacher, Tokens(2.0))
    context = step(objective, student)
    terms = objective.terms(context)
    raw = objective.distillers[0].diagnostics(context)["raw_tokens"]
    assert torch.equal(terms["loss_tokens"].detach(), 2 * raw)
    assert raw > 0
    torch.stack([*terms.values()]).sum().backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not teacher.training
    assert all(torch.equal(teacher.state_dict()[key], before[key]) for key in before)
    assert all(weight.grad is not None for weight in objective.parameters() if weight.requires_grad)
    kept = [*student.state_dict(), *objective.state_dict(), *dict(objective.named_modules())]
    assert not any("teacher" in key for key in kept)
    student.train()
    objective.train()
    assert not teacher.training


def test_one_forward_pass_for_all_methods() -> None:
    student, teacher = detector(0), detector(1)
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    terms_of(taught(student, teacher, Tokens(), Tokens(3.0)), student)
    assert len(calls) == 1


def test_mixing() -> None:
    student, teacher = detector(0), detector(1)
    found = {}
    for alpha, beta in [(1.0, 1.0), (0.5, 0.25)]:
        torch.manual_seed(7)
        objective = taught(student, teacher, Tokens(2.0), alpha=alpha, beta=beta)
        torch.manual_seed(3)
        found[alpha] = terms_of(objective, student)
    for name, loss in found[1.0].items():
        assert torch.equal(found[0.5][name], loss * (0.5 if name == "loss_tokens" else 0.25)), name


def test_without_a_teacher_nothing_changes() -> None:
    student = detector(0)
    torch.manual_seed(3)
    alone = terms_of(Objective(official_criterion(CLASSES, BINS), []), student)
    objective = taught(student, detector(1), Tokens(0.0))
    torch.manual_seed(3)
    beside = terms_of(objective, student)
    assert all(torch.equal(beside[name], loss) for name, loss in alone.items())
    assert beside["loss_tokens"] == 0


def test_before_its_start_a_method_costs_nothing_and_keeps_the_graph() -> None:
    student, teacher = detector(0), detector(1)
    calls: list[int] = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    objective = taught(student, teacher, Tokens(2.0, start={"mode": "step", "value": 5, "ramp": 4}))
    terms = terms_of(objective, student, step_number=4)
    assert terms["loss_tokens"] == 0
    assert not calls
    torch.stack([*terms.values()]).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in objective.distillers.parameters())
    context = step(objective, student, step_number=7)
    terms = objective.terms(context)
    assert torch.equal(terms["loss_tokens"].detach(), objective.distillers[0].diagnostics(context)["raw_tokens"])
    assert calls == [1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outputs_are_float32_in_any_precision(precision: Any) -> None:
    teacher, (images, _) = detector(1), batch()
    found = Teacher(teacher, precision=precision)(images, want=Want(layers=True, taps=frozenset({"memory", "neck"})))
    tensors = [found.layers[0].logits, found.layers[1].boxes, found.taps["memory"].tokens, *found.taps["neck"]]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    exact = Teacher(teacher)(images, want=Want(layers=True))
    close = (found.layers[1].logits - exact.layers[1].logits).abs().max()
    assert close == 0 if precision == "fp32" else 0 < close < 0.2


def test_resized_images() -> None:
    teacher, (images, _) = detector(1), batch()
    want = Want(taps=frozenset({"neck"}))
    shapes = [tuple(level.shape[-2:]) for level in Teacher(teacher, resize=[96, 160])(images, want=want).taps["neck"]]
    assert shapes == [(6, 10), (3, 5)]
    with pytest.raises(ValueError, match=r"teacher\.resize is \[64\]: give \[height, width\]"):
        Teacher(teacher, resize=[64])


def test_common_classes() -> None:
    logits = torch.arange(4.0)
    some = CommonClasses.of([2, None, 0], 4)
    assert some.of_student(logits[:3]).tolist() == [0, 2]
    assert some.of_teacher(logits).tolist() == [2, 0]
    assert not some.identical
    assert len(some) == 2
    assert CommonClasses.of([0, 1], 2).identical
    assert not CommonClasses.of([0, 1], 3).identical


def test_ratio_of_gradients() -> None:
    student, teacher = detector(0), detector(1)
    objective = taught(student, teacher, Tokens(2.0), Tokens(1.0), GOLSD(1.5))
    terms = terms_of(objective, student)
    ratio = objective.gradient_ratio(terms, student)
    parts = []
    for of_teacher in (True, False):
        loss = sum(loss for name, loss in terms.items() if ("tokens" in name) == of_teacher)
        student.zero_grad()
        loss.backward(retain_graph=True)
        gradients = [weight.grad.flatten() for weight in student.parameters() if weight.grad is not None]
        parts.append(torch.cat(gradients).norm())
    torch.testing.assert_close(ratio, parts[0] / parts[1])
    assert ratio is not None
    assert ratio > 0
    alone = taught(student, teacher, Tokens(), beta=0.0)
    assert alone.gradient_ratio(terms_of(alone, student), student) is None, "all others count nothing"


def test_names_that_change_are_refused() -> None:
    method = Tokens()
    method.names = ("loss_other",)
    student = detector(0)
    objective = taught(student, detector(1), method)
    with pytest.raises(ValueError, match="Tokens returns the losses loss_tokens, but its names are loss_other"):
        terms_of(objective, student)


def moments(*epochs: int, of: int = 10) -> list[Moment]:
    return [Moment(step, epoch, step / of) for step, epoch in enumerate(epochs)]


def test_starts() -> None:
    by_step = Start(mode="step", value=2, ramp=2)
    assert [by_step.factor(moment) for moment in moments(0, 0, 0, 0, 0, 0)] == [0, 0, 0, 0.5, 1, 1]
    by_epoch = Start(mode="epoch", value=1)
    assert [by_epoch.factor(moment) for moment in moments(0, 0, 1, 1)] == [0, 0, 1, 1]
    resumed = Start(mode="epoch", value=1, ramp=4)
    resumed.load_state_dict(by_epoch.state_dict())
    assert resumed.factor(Moment(4, 2, 0.4)) == 0.5, "it began at step 2"


def plateau(losses: list[float], **options: Any) -> list[float]:
    """Factors of a start that sees these losses, one step an epoch."""
    start = Start(mode="plateau", halflife=0.01, **options)
    found = []
    for moment, loss in zip(moments(*range(len(losses)), of=100), losses):
        found.append(start.factor(moment))
        start.observe(torch.tensor(loss), moment)
        again = Start(mode="plateau", halflife=0.01, **options)
        again.load_state_dict(start.state_dict())
        start = again  # as after a kill
    return found


def test_a_plateau_starts() -> None:
    assert plateau([9, 8, 7, 7, 7, 7, 7], patience=2) == [0, 0, 0, 0, 0, 0, 1]
    assert plateau([9, 8, 7, 6, 5, 4, 3], patience=2) == [0] * 7
    assert plateau([9, 8, 7, 6, 5, 4, 3], patience=2, max_share=0.04) == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"mode": "loss"}, r"Tokens\.start\.mode"),
        ({"mode": "epoch", "patience": 2}, r"Tokens\.start: epoch does not read patience"),
        ({"value": -1}, r"Tokens\.start: value, ramp"),
        ({"speed": 1}, r"Tokens\.start: step does not read speed"),
    ],
)
def test_bad_starts(setting: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Tokens(start=setting)
    with pytest.raises(ValueError, match=r"Tokens\.weight"):
        Tokens(-1.0)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Random outputs of a student and its teacher, matched, without a model: for tests of what compares the two."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from isdfine.core import dist
from isdfine.distill.context import DistillationContext
from isdfine.distill.teacher import CommonClasses, TeacherOutput
from isdfine.nn.types import DetectorOutput, Predictions
from losses.cases import Case, images_of, official_criterion, random_case

Losses = dict[str, Tensor]


def context_of(
    student: Case, teacher: Case, classes: Sequence[int | None] | None = None, **criterion: Any
) -> DistillationContext:
    """A step of both; ``classes``: the teacher's column of each of the student's classes, None for the same ones."""
    step = official_criterion(student.num_classes, student.reg_max, **criterion).match(student.output, student.targets)
    common = CommonClasses.of(range(teacher.num_classes) if classes is None else classes, teacher.num_classes)
    answer = TeacherOutput(detached(teacher.output), common, None)  # type: ignore[arg-type]
    return DistillationContext(student.output, step, 0.0, teacher=answer)


def random_context(seed: int = 0, counts: tuple[int, ...] = (3, 0, 5), **teacher: Any) -> DistillationContext:
    """A step of a student with 3 layers and 9 queries, and another teacher."""
    return context_of(random_case(seed, counts), random_case(seed + 100, counts, **{"queries": 7, **teacher}))


def detached(output: DetectorOutput) -> DetectorOutput:
    """As a teacher returns it."""
    return replace(output, layers=[Predictions(*map(_cut, vars(layer).values())) for layer in output.layers])


def _cut(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def raw(method: Any, context: DistillationContext) -> Losses:
    """A method's losses without factors."""
    found: Losses = method.losses(context, context.teacher)
    return found


def over_ranks(
    monkeypatch: pytest.MonkeyPatch, compute: Callable[[DistillationContext], Losses], student: Case, teacher: Case
) -> Losses:
    """Losses averaged over ranks that have one image each, as gradients are."""
    parts = [slice(index, index + 1) for index in range(len(student.targets))]
    seen: list[list[Tensor]] = []

    def note(tensor: Tensor) -> Tensor:
        seen[-1].append(tensor.detach())
        return tensor.detach()

    for part in parts:
        seen.append([])
        monkeypatch.setattr(dist, "mean", note)
        compute(context_of(images_of(student, part), images_of(teacher, part)))
    means = [torch.stack(tensors).mean(0) for tensors in zip(*seen, strict=True)]
    losses = []
    for part in parts:
        given = iter(means)
        monkeypatch.setattr(dist, "mean", lambda tensor, given=given: next(given))
        losses.append(compute(context_of(images_of(student, part), images_of(teacher, part))))
    monkeypatch.undo()
    return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What every method has in common that learns from a teacher beside the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.errors import check_non_negative
from ..nn.types import DetectorOutput, QueryGroup, Target, Want
from .context import DistillationContext, Distiller
from .start import Moment, Start
from .teacher import CommonClasses, Teacher, TeacherOutput


@dataclass(frozen=True)
class Batch:
    """A step before anybody has looked at it."""

    images: Tensor
    """(B, 3, H, W) in [0, 1]."""
    targets: Sequence[Target]
    image_sizes: Tensor | None
    """(B, 2) height and width in pixels of each image inside its canvas; None where the images fill it."""
    moment: Moment


class TeacherDistiller(Distiller):
    """A distiller whose student learns from a teacher: the base of all such methods.

    A method says what it reads of both (``want`` of the student, ``teacher_want``), makes its adapters in
    :meth:`prepare` and returns raw losses from :meth:`losses`; weight and start are applied here.

    Args:
        weight: factor of all its losses, 0 or more.
        start: when it begins, ``{mode: step, value: 1000, ramp: 500}``, see :class:`~isdfine.distill.start.Start`; None
            for the first step.

    Raises:
        ValueError: a value out of its range, with the name of the class.
    """

    teacher_want: Want = Want(layers=True)
    """What the teacher must return for it."""
    live: bool = False
    """Whether it reads more of the teacher than its predictions and the tap ``hidden``, such as its modules, so that a
    cache of its answers cannot serve it; other taps and further queries say so by themselves."""
    names: tuple[str, ...] = ()
    """Of its losses, always the same ones. A method with a number of losses that depends on the models sets it in
    :meth:`prepare`."""

    def __init__(self, weight: float = 1.0, start: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        check_non_negative(f"{type(self).__name__}.weight", weight)
        self.weight = weight
        self.parts: dict[str, float] = {}
        """Factors of single losses by name, beside ``weight``; 1 for others."""
        self.start = Start.of(f"{type(self).__name__}.start", start)
        self._raw: dict[str, Tensor] = {}

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        """Make adapters and check what both models offer, once, before the first step.

        Raises:
            ValueError: a model that cannot serve this method; taps that are missing are found elsewhere.
        """

    def teacher_groups(self, batch: Batch) -> list[QueryGroup]:
        """Further queries for the teacher's decoder, unsupervised; names are unique over all methods."""
        return []

    def student_groups(self, batch: Batch, taught: TeacherOutput) -> list[QueryGroup]:
        """Further queries for the student's decoder, when the teacher has answered."""
        return []

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        """Raw scalars in float32 by the names of :attr:`names`; called outside autocast.

        Raises:
            ValueError: an output lacks what the method reads.
        """
        raise NotImplementedError(f"{type(self).__name__} must return its losses from losses(context, taught)")

    def factor(self, moment: Moment) -> float:
        """Weight times the rise after the start; where it is 0 nothing is computed, and the teacher need not run."""
        return self.weight * self.start.factor(moment)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        factor = self.factor(moment_of(context))
        if context.teacher is None or not factor:
            return dict.fromkeys(self.names, self._nothing(context))
        raw = self.losses(context, context.teacher)
        if raw.keys() != set(self.names):
            raise ValueError(
                f"{type(self).__name__} returns the losses {', '.join(sorted(raw))}, but its names are "
                f"{', '.join(sorted(self.names))}: they must be the same at every step"
            )
        self._raw = {f"raw_{name.removeprefix('loss_')}": loss.detach() for name, loss in raw.items()}
        return {name: factor * self.parts.get(name, 1.0) * loss for name, loss in raw.items()}

    def _nothing(self, context: DistillationContext) -> Tensor:
        """0 with the adapters in its graph: every rank has gradients of the same weights at every step."""
        self._raw = {}
        zero = context.student.layers[-1].boxes.new_zeros((), dtype=torch.float32)
        return sum((weight.float().sum() * 0 for weight in self.parameters() if weight.requires_grad), zero)

    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        return self._raw


def moment_of(context: DistillationContext) -> Moment:
    """Where in the run a step stands."""
    return Moment(context.step_number, context.epoch, context.progress)


class Answers(Protocol):
    """A cache of what the teacher says: its layers, FDR's first head and bins, and the tap ``hidden``."""

    def open(self, want: Want) -> None:
        """Before the first step: what all methods together want."""

    def answer(self, batch: Batch, ask: Callable[[], DetectorOutput]) -> DetectorOutput:
        """What the teacher says of a batch; ``ask`` has it look at it. The same either way, in half precision."""


def check_cacheable(method: TeacherDistiller) -> None:
    """Refuse a method that reads what a cache does not hold (ValueError)."""
    needs = [f"tap {tap}" for tap in sorted(method.teacher_want.taps - {"hidden"})]
    needs += ["attention"] if method.teacher_want.attention else []
    needs += ["answer to further queries"] if type(method).teacher_groups is not TeacherDistiller.teacher_groups else []
    needs += ["modules"] if method.live else []
    if needs:
        raise ValueError(
            f"{type(method).__name__} needs the teacher's {', '.join(needs)}, and teacher.cache holds its predictions "
            "only: remove teacher.cache, or this method"
        )


def acting_at(methods: Sequence[TeacherDistiller], moment: Moment) -> list[TeacherDistiller]:
    """Those that have begun and have a weight."""
    return [method for method in methods if method.factor(moment)]


def wanted(methods: Sequence[TeacherDistiller]) -> Want:
    """What the teacher must return for all of them."""
    return reduce(or_, (method.teacher_want for method in methods), Want())


@dataclass(frozen=True)
class Lesson:
    """The teacher of a run, its methods and how their losses are mixed with those of the ground truth.

    Args:
        cache: where its answers are kept, if anywhere.
        alpha: factor of the losses of methods with a teacher, 0 or more.
        beta: factor of all others, above 0 unless the student is to learn from the teacher alone.

    Source of the mix: alpha * distillation + beta * ground truth, as in arXiv:1503.02531 (section 2).
    """

    teacher: Teacher
    classes: CommonClasses
    alpha: float = 1.0
    beta: float = 1.0
    cache: Answers | None = None

    def ask(self, methods: Sequence[TeacherDistiller], batch: Batch) -> TeacherOutput | None:
        """The teacher's answer for all methods, in one forward pass; None where none of them acts at this step."""
        acting = acting_at(methods, batch.moment)
        if not acting:
            return None
        groups = [group for method in acting for group in method.teacher_groups(batch)]
        want = wanted(acting if self.cache is None else methods)  # what is kept does not depend on who begins when
        ask = partial(self.teacher, batch.images, batch.image_sizes, groups=groups, want=want)
        output: DetectorOutput = ask() if self.cache is None else self.cache.answer(batch, ask)
        return TeacherOutput(output, self.classes, self.teacher)

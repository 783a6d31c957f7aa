# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What methods have in common whose student answers the teacher's distillation points as the teacher does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..core.errors import check_choice, check_non_negative
from ..nn.types import DetectorOutput, Predictions, QueryGroup, Want
from .adapters import LAYER_PAIRINGS, LayerPairing, layers_to_teach
from .context import DistillationContext
from .kernels import ClassKernel, box_giou, box_l1, confidence, weight_norm, weighted_mean
from .points import PointInput, general_points, placed, point_decoder, specific_points, step_generator
from .taught import Batch, TeacherDistiller
from .teacher import CommonClasses, Teacher, TeacherOutput

Norm = Literal["weight_sum", "none", "kddetr"]
_TERMS = {"cls": 1.0, "l1": 5.0, "giou": 2.0}


class PointLosses(NamedTuple):
    """Scalars, summed over the layers."""

    classes: Tensor
    l1: Tensor
    giou: Tensor


def point_losses(
    student: Sequence[Predictions],
    teacher: Sequence[Predictions],
    weights: Tensor,
    kernel: ClassKernel,
    classes: CommonClasses,
    norm: Norm = "weight_sum",
) -> PointLosses:
    """How far the student's answers are from the teacher's, point by point.

    Args:
        student, teacher: of one decoder layer each, K pairs in all, with G points per image.
        weights: (K or 1, B, G) of the points.
        kernel: between class scores.
        classes: that both know; scores of others are not compared.
        norm: ``weight_sum``: a layer's sums over points are divided by that of their weights (``weight_norm``);
            ``none``: by nothing; ``kddetr``: those of the boxes by this process's own, those of the classes by how many
            classes there are.
    """
    weights = weights.expand(len(student), -1, -1).flatten(1)
    mine, theirs = (torch.stack([layer.boxes for layer in layers]).flatten(1, 2) for layers in (student, teacher))
    scores = torch.stack([classes.of_student(layer.logits) for layer in student]).flatten(1, 2)
    known = torch.stack([classes.of_teacher(layer.logits) for layer in teacher]).flatten(1, 2)
    distances = (kernel(scores, known), box_l1(mine, theirs), box_giou(mine, theirs))  # (K, B * G) each
    if norm == "kddetr":
        own = weights.sum(-1).clamp(min=torch.finfo(torch.float32).tiny)
        norms = (weights.new_tensor(max(len(classes), 1)), own, own)
    else:
        norms = (weight_norm(weights) if norm == "weight_sum" else weights.new_ones(()),) * 3
    return PointLosses(*(weighted_mean(each, weights, divisor).sum() for each, divisor in zip(distances, norms)))


class PointDistiller(TeacherDistiller):
    """A student that says of the teacher's points what the teacher says: ``loss_NAME_cls``, ``_l1`` and ``_giou``.

    Args:
        weight, start: see :class:`~isdfine.distill.taught.TeacherDistiller`.
        general: random boxes of every step; 300 for DAB-DETR and Deformable-DETR, 900 for DINO.
        specific: the teacher's own queries are points too.
        content: what random boxes hold: the mean of what the ``teacher`` has learned, if it has, or ``zero``.
        kernel: between class scores.
        layers: which layer of the teacher teaches which, see :func:`~isdfine.distill.adapters.layers_to_teach`; None
            for a method that chooses itself.
        norm: see :func:`point_losses`.
        factors: of the losses ``cls``, ``l1`` and ``giou``; 1, 5 and 2 where not given.

    Where widths differ a linear layer brings the points' content to the student's.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    stem: ClassVar[str]
    """Between ``loss_`` and the term."""

    def __init__(
        self,
        weight: float,
        *,
        general: int,
        specific: bool,
        kernel: ClassKernel,
        layers: LayerPairing | None,
        norm: Norm,
        factors: Mapping[str, float] | None,
        start: Mapping[str, Any] | None,
        content: Literal["teacher", "zero"] = "teacher",
    ) -> None:
        super().__init__(weight, start)
        name = type(self).__name__
        check_non_negative(f"{name}.general", general)
        check_choice(f"{name}.content", content, ("teacher", "zero"))
        check_choice(f"{name}.layers", layers, (None, *LAYER_PAIRINGS))
        check_choice(f"{name}.norm", norm, get_args(Norm))
        for term, factor in (factors or {}).items():
            check_choice(f"{name}.factors", term, tuple(_TERMS))
            check_non_negative(f"{name}.factors.{term}", factor)
        self.general, self.specific, self.zero = general, specific, content == "zero"
        self.kernel, self.layers, self.norm = kernel, layers, norm
        self.parts = {f"loss_{self.stem}_{term}": factor for term, factor in (_TERMS | dict(factors or {})).items()}
        self.names = tuple(self.parts)
        self.want = Want(layers=True)
        self.teacher_want = Want(layers=True, taps=frozenset({"queries"} if specific else ()))
        self._teacher: tuple[Teacher, ...] = ()  # no part of this module
        self.enter: PointInput

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        name = type(self).__name__
        mine, theirs = point_decoder(name, "student", student), point_decoder(name, "teacher", teacher.model)
        if self.specific and theirs.reference_dim < mine.reference_dim:
            raise ValueError(
                f"{name}: the teacher's own queries start at points, the student's at boxes: set specific: False"
            )
        if self.kernel.kind == "softmax" and len(classes) == 1:
            raise ValueError(f"{name}: a softmax over the one class in common says nothing: choose kernel: binary")
        self._teacher = (teacher,)
        self.enter = PointInput(mine, theirs.widths[0])

    def points(self, batch: Batch, generator: torch.Generator) -> list[QueryGroup]:
        """Points that are made without the teacher's answer: equal ones whenever asked with an equal generator."""
        if not self.general:
            return []
        decoder = point_decoder(type(self).__name__, "teacher", self._teacher[0].model)
        name = self.group_name("general")
        return [general_points(name, decoder, self.general, len(batch.images), generator, zero=self.zero)]

    def group_name(self, kind: str) -> str:
        """Of a group of points; no other method has it."""
        return f"{self.stem} {kind} {id(self)}"

    def teacher_groups(self, batch: Batch) -> list[QueryGroup]:
        decoder = point_decoder(type(self).__name__, "teacher", self._teacher[0].model)
        return [placed(points, decoder) for points in self._points(batch)]

    def student_groups(self, batch: Batch, taught: TeacherOutput) -> list[QueryGroup]:
        points = self._points(batch)
        if self.specific:
            points.append(specific_points(self.group_name("specific"), taught.output.taps["queries"]))
        return [self.enter(group) for group in points]

    def _points(self, batch: Batch) -> list[QueryGroup]:
        return self.points(batch, step_generator(batch.moment.step, batch.images.device))

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        mine, theirs, padding = self.answers(context.student, taught.output)
        pairs = self.layer_choice(len(mine), len(theirs))
        teachers = [theirs[teacher] for _, teacher in pairs]
        weights = torch.stack([_weight(layer.logits, taught.classes) for layer in self.weighing(theirs, teachers)])
        weights = weights.masked_fill(padding, 0)
        students = [mine[student] for student, _ in pairs]
        found = point_losses(students, teachers, weights, self.kernel, taught.classes, self.norm)
        return dict(zip(self.names, found))

    def layer_choice(self, student: int, teacher: int) -> list[tuple[int, int]]:
        """(student, teacher) layers of models with so many."""
        return layers_to_teach(student, teacher, self.layers or "uniform")

    def weighing(self, teacher: Sequence[Predictions], paired: Sequence[Predictions]) -> Sequence[Predictions]:
        """Whose scores say what points weigh: of one layer for all pairs, or of one for each."""
        return teacher[-1:]

    def answers(
        self, student: DetectorOutput, teacher: DetectorOutput
    ) -> tuple[list[Predictions], list[Predictions], Tensor]:
        """What both say of all points, layer by layer, and (B, G) which of these only fill up the batch."""
        sides: list[tuple[list[Predictions], list[Predictions]]] = []
        padding: list[Tensor] = []
        for name, said in student.groups.items():
            if name.endswith(f" {id(self)}"):
                specific = name == self.group_name("specific")
                sides.append((said.layers, teacher.layers if specific else teacher.groups[name].layers))
                none = torch.zeros_like(said.layers[-1].boxes[..., 0], dtype=torch.bool)
                padding.append(none if said.group.padding is None else said.group.padding)
        mine, theirs = zip(*sides)
        return _joined(mine), _joined(theirs), torch.cat(padding, 1)


def _joined(groups: Sequence[Sequence[Predictions]]) -> list[Predictions]:
    """Layers of several groups -> layers of all their queries."""
    return [
        Predictions(torch.cat([group.logits for group in layer], 1), torch.cat([group.boxes for group in layer], 1))
        for layer in zip(*groups)
    ]


def _weight(logits: Tensor, classes: CommonClasses) -> Tensor:
    """(B, G) how sure the teacher is of a class that both know, or of any where there is none."""
    return confidence(classes.of_teacher(logits) if len(classes) else logits)

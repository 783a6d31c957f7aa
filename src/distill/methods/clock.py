# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""CLoCKDistill: the teacher's memory, and its answers to the ground truth (Lan and Tian, arXiv:2502.10683)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import check_choice, check_counts, check_share
from ...core.registry import register
from ...nn.types import Predictions, QueryGroup
from ..adapters import LayerPairing, layers_to_teach
from ..context import DistillationContext
from ..kernels import ClassKernel, Kernel
from ..point_distiller import Norm, PointDistiller
from ..points import FrozenTeller, Teller, label_rows, point_decoder, target_points, told_by_teacher
from ..taught import Batch, TeacherDistiller
from ..teacher import CommonClasses, Teacher, TeacherOutput
from .lcmd import LCMD

Embed = Literal["teacher", "random_frozen"]


@register
class TCLD(PointDistiller):
    """Target-aware consistent logit distillation, one half of :class:`CLoCKDistill`: points are copies of the ground
    truth, beside those of KD-DETR; each layer's weigh how sure the teacher's layer is.

    Args:
        n_copies: of every ground-truth box; those of one copy read each other.
        copy_noise: how far an edge of the second copy, and of later ones, moves at most in halves of its box, 0 to 1.
        embed: content of these points: the ``teacher``'s embedding of classes for denoising, or ``random_frozen`` as in
            the paper: random embeddings of class and box that nobody trains. None: the teacher's where it has one.
        temperature: of ``kernel``.
        layers: None: layer by layer, or the last from the last where the models have not as many.
        weight, general, specific, kernel, norm, factors, start: see
            :class:`~isdfine.distill.point_distiller.PointDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    stem = "tcld"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        general: int = 300,
        specific: bool = True,
        n_copies: int = 3,
        copy_noise: float = 0.0,
        embed: Embed | None = None,
        kernel: Kernel = "binary",
        temperature: float = 1.0,
        layers: LayerPairing | None = None,
        norm: Norm = "weight_sum",
        factors: Mapping[str, float] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            weight,
            general=general,
            specific=specific,
            kernel=ClassKernel(kernel, temperature),
            layers=layers,
            norm=norm,
            factors=factors,
            start=start,
        )
        check_counts(n_copies=n_copies)
        check_share("TCLD.copy_noise", copy_noise)
        check_choice("TCLD.embed", embed, (None, "teacher", "random_frozen"))
        self.n_copies, self.copy_noise, self.embed = n_copies, copy_noise, embed
        self.teller: Teller
        self.rows: Tensor

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        super().prepare(student, teacher, classes)
        decoder = point_decoder("TCLD", "teacher", teacher.model)
        self.register_buffer("rows", label_rows(classes.student, classes.teacher), persistent=False)
        any_label = torch.zeros(1, dtype=torch.int64, device=next(teacher.model.parameters()).device)
        told = decoder.class_content(any_label) is not None
        if self.embed == "teacher" and not told:
            raise ValueError(
                "TCLD.embed: the teacher has no embedding of classes, as it was built without denoising queries: "
                "choose random_frozen"
            )
        known = int(classes.teacher.max()) + 1 if len(classes) else 1
        by_teacher = told and self.embed != "random_frozen"
        self.teller = told_by_teacher(decoder) if by_teacher else FrozenTeller(known, decoder.widths[0])

    def points(self, batch: Batch, generator: torch.Generator) -> list[QueryGroup]:
        known = (self.group_name("target"), batch.targets, self.rows, self.teller)
        general = super().points(batch, generator)  # drawn first
        return [*general, target_points(*known, copies=self.n_copies, noise=self.copy_noise, generator=generator)]

    def layer_choice(self, student: int, teacher: int) -> list[tuple[int, int]]:
        chosen = self.layers or ("uniform" if student == teacher else "last_only")
        return layers_to_teach(student, teacher, chosen)

    def weighing(self, teacher: Sequence[Predictions], paired: Sequence[Predictions]) -> Sequence[Predictions]:
        return paired


@register
class CLoCKDistill(TeacherDistiller):
    """The teacher's memory (:class:`~isdfine.distill.methods.lcmd.LCMD`) and its answers (:class:`TCLD`), with the
    paper's weights.

    Args:
        weight, start: of both, see :class:`~isdfine.distill.taught.TeacherDistiller`.
        memory, targets: the two, where they are not those of the paper; their own weights count, a ``start`` of
            their own is refused.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        memory: LCMD | None = None,
        targets: TCLD | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, start)
        self.memory, self.targets = memory or LCMD(), targets or TCLD()
        for name, half in (("memory", self.memory), ("targets", self.targets)):
            if half.start.mode != "step" or half.start.value or half.start.ramp:
                raise ValueError(f"CLoCKDistill.{name}.start is not read: give CLoCKDistill.start, that of both")
            self.parts |= {loss: half.weight * half.parts.get(loss, 1.0) for loss in half.names}
        self.names = tuple(self.parts)
        self.want = self.memory.want | self.targets.want
        self.teacher_want = self.memory.teacher_want | self.targets.teacher_want

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        self.memory.prepare(student, teacher, classes)
        self.targets.prepare(student, teacher, classes)

    def teacher_groups(self, batch: Batch) -> list[QueryGroup]:
        return self.targets.teacher_groups(batch)

    def student_groups(self, batch: Batch, taught: TeacherOutput) -> list[QueryGroup]:
        return self.targets.student_groups(batch, taught)

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        return self.memory.losses(context, taught) | self.targets.losses(context, taught)

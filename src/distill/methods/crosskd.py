# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""CrossKD (Wang et al., arXiv:2306.11369) for the DETR family: the teacher's decoder reads what the student sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from ...core.errors import check_choice, check_non_negative
from ...core.registry import register
from ...nn.types import DetectorOutput, LayerStart, Predictions, QueryGroup, Want
from ..adapters import AdapterUse, token_adapter
from ..context import DistillationContext, predicting_layers
from ..features import FeatureDistiller, maps_of
from ..kernels import box_giou, box_l1, confidence, quality_focal, weight_norm, weighted_mean
from ..teacher import CommonClasses, Teacher, TeacherOutput

CrossMode = Literal["memory_cross", "query_cross"]


def cross_losses(crossed: Sequence[Predictions], target: Sequence[Predictions], exponent: float) -> Tensor:
    """How far the teacher's heads are from themselves on what the student sees.

    Args:
        crossed: of the student's memory, (B, Q, ..) per decoder layer.
        target: of the teacher's, likewise; detached here.
        exponent: of the quality focal loss, see :func:`~isdfine.distill.kernels.quality_focal`.

    Returns: (3,), sums over the layers: class loss per query, then L1 (mean of the four numbers) and 1 - GIoU, both
        weighted by the target's best score and divided by the weights' sum.
    """
    logits, known = (torch.stack([layer.logits.float() for layer in side]) for side in (crossed, target))
    classes = quality_focal(logits, known.detach().sigmoid(), exponent).mean((1, 2))
    weights = confidence(known).flatten(1)  # (L, B * Q)
    norm = weight_norm(weights)
    both = [torch.stack([layer.boxes for layer in side]).flatten(1, 2) for side in (crossed, target)]
    boxes = (weighted_mean(distance(*both), weights, norm) for distance in (box_l1, box_giou))
    return torch.stack([classes, *boxes]).sum(1)


@register
class CrossKD(FeatureDistiller):
    """The teacher's decoder layers read the student's memory; what its heads then say should not change.

    Sums over the teacher's decoder layers: ``loss_crosskd_cls``, ``loss_crosskd_l1``, ``loss_crosskd_giou``
    (:func:`cross_losses`). The student's heads learn from the ground truth alone.

    Args:
        weight: factor of all three.
        mode: ``memory_cross``: every layer reads the teacher's own queries at the teacher's boxes; the student's
            backbone and encoder learn. ``query_cross``: it reads the student's queries at the student's boxes, and the
            target is what it says of these with the teacher's memory; the student's decoder layers learn too.
        exponent: of the class loss: 1, or 0 for plain cross entropy, which is not 0 where both agree.
        cls, l1, giou: factors of one loss each.
        adapter: of the memory, see :func:`~isdfine.distill.adapters.token_adapter`; all levels share one.
        start: see :class:`~isdfine.distill.taught.TeacherDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    one_adapter = True
    live = True
    names = ("loss_crosskd_cls", "loss_crosskd_l1", "loss_crosskd_giou")

    def __init__(
        self,
        weight: float = 1.0,
        *,
        mode: CrossMode = "memory_cross",
        exponent: float = 1.0,
        cls: float = 1.0,
        l1: float = 1.0,
        giou: float = 1.0,
        adapter: AdapterUse = "auto",
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, tap="memory", adapter=adapter, start=start)
        check_choice("CrossKD.mode", mode, get_args(CrossMode))
        for name, factor in (("exponent", exponent), ("cls", cls), ("l1", l1), ("giou", giou)):
            check_non_negative(f"CrossKD.{name}", factor)
        self.mode: CrossMode = mode
        self.exponent = exponent
        self.parts = dict(zip(self.names, (cls, l1, giou)))
        queries = Want(taps=frozenset({"queries", "layer_starts"}))
        self.teacher_want = self.want | Want(layers=True)
        if mode == "memory_cross":
            self.teacher_want = self.teacher_want | queries
        else:
            self.want = self.want | queries
        self.query_adapters = nn.ModuleList()

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        super().prepare(student, teacher, classes)
        decoder: Any = teacher.decoder
        if not hasattr(decoder, "predict_from"):
            raise ValueError(
                f"CrossKD sends the student's memory through the teacher's decoder, but {type(decoder).__name__} has "
                "no predict_from: build it as a Decoder, or choose another method"
            )
        if not classes.identical:
            raise ValueError(
                "CrossKD compares the teacher's heads with themselves, but student and teacher have other classes, or "
                "the same in another order: give the student the teacher's classes, or choose another method"
            )
        levels = len(decoder.projection)
        if [level for _, level in self.pairs] != [*range(levels)]:
            raise ValueError(
                f"CrossKD: the teacher's decoder reads {levels} levels, of which the student has "
                f"{[level for _, level in self.pairs]}: give it the same strides, or choose another method"
            )
        if predicting_layers(teacher.model) != len(decoder.widths):
            raise ValueError("CrossKD compares all decoder layers, but the teacher predicts after its last alone")
        if self.mode == "query_cross":
            self._prepare_queries(getattr(student, "decoder", student), decoder)

    def _prepare_queries(self, student: Any, teacher: Any) -> None:
        """Adapters of the queries before every layer, and of their positions; ValueError where they do not fit."""
        kinds = [_queries_of(decoder) for decoder in (student, teacher)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"CrossKD.mode: query_cross lets the teacher's layers read the student's queries, but these have "
                f"{kinds[0]} and the teacher's {kinds[1]}: choose memory_cross"
            )
        pairs = [(student.widths[0], teacher.widths[0]), *zip(student.widths, teacher.widths)]
        self.query_adapters = nn.ModuleList(token_adapter(*pair, self.adapter) for pair in pairs[:-1])

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        memory = [level.student for level in self.maps(context, taught)]
        teacher, decoder = taught.teacher, cast(Any, taught.teacher.decoder)
        padding = _padding(context, teacher)
        with teacher.autocast(memory[0].device):
            if self.mode == "memory_cross":
                given = taught.output.taps["layer_starts"], taught.output.taps["queries"]
                targets: list[Predictions] = taught.output.layers
            else:
                given = self._as_teacher_reads(context.student)
                with torch.no_grad():
                    targets = decoder.predict_from(*given, maps_of(taught.output, "memory"), padding)
            crossed = decoder.predict_from(*given, memory, padding)
        return dict(zip(self.names, cross_losses(crossed, targets, self.exponent).unbind()))

    def _as_teacher_reads(self, student: DetectorOutput) -> tuple[list[LayerStart], QueryGroup]:
        """The student's queries before every layer in the teacher's width, and their group."""
        starts = [
            start._replace(content=adapter(start.content.float()), normed=adapter(start.normed.float()))
            for adapter, start in zip(self.query_adapters, student.taps["layer_starts"])
        ]
        group: QueryGroup = student.taps["queries"]
        position = group.position
        if position is not None:  # attention adds it to the content, so one map serves both
            position = self.query_adapters[0](position.float())
        return starts, replace(group, content=starts[0].content, position=position)


def _queries_of(decoder: Any) -> str:
    """What must be alike for the layers of one decoder to read the queries of another."""
    head = getattr(decoder, "box_head", None)
    bins = getattr(head, "bins", None)
    return (
        f"{len(getattr(decoder, 'widths', ()))} layers, box_head {getattr(head, 'kind', None)}"
        f"{'' if bins is None else f' of reg_max {bins.reg_max}'}, "
        f"{type(getattr(decoder, 'position', None)).__name__} at {getattr(decoder, 'reference_dim', None)} numbers"
    )


def _padding(context: DistillationContext, teacher: Teacher) -> Any:
    """What the teacher's decoder read of the padding, as ``DETR.padding_of`` gives it; None without any."""
    if context.image_sizes is None:
        return None
    assert context.images is not None, "a teacher answers images"
    canvas, sizes = teacher.place(context.images, context.image_sizes.to(context.images.device))
    model: Any = teacher.model
    return model.padding_of(sizes, canvas)

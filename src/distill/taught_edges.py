# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What methods have in common whose student learns the teacher's edge distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..core.errors import check_choice, check_positive
from ..losses.functions import soften
from ..losses.matched import MatchedStep
from ..nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ..nn.types import DetectorOutput, Predictions, Want
from .context import DistillationContext
from .paired import PairedDistiller
from .pairing import QueryPairs
from .rebin import EdgeFrame, rebin
from .teacher import CommonClasses, Teacher, TeacherOutput

TaughtLayers = Literal["all", "last"]
Transport = Literal["rebin", "raw"]
_MOST_CLIPPED = 0.5
"""Pairs of which an edge lies with more than this probability beyond the student's bins teach nothing."""


class EdgeTarget(NamedTuple):
    """What the teacher's distributions are for the student."""

    probabilities: Tensor
    """(P, 4, N + 1) in the student's frame, softened."""
    kept: Tensor
    """(P,) bool, False where too much of them lies beyond the student's bins."""


class QueryTruth(NamedTuple):
    """The ground-truth boxes of chosen queries."""

    corners: Tensor
    """(P, 4) xyxy, zeros where there is none."""
    known: Tensor
    """(P,) bool."""

    def overlaps(self, boxes_cxcywh: Tensor) -> Tensor:
        """IoU (..., P) of boxes (..., P, 4) with the truth, detached; 0 without one."""
        return paired_iou_and_giou(cxcywh_to_xyxy(boxes_cxcywh.detach().float()), self.corners)[0] * self.known


class EdgeDistiller(PairedDistiller):
    """A method that compares edge distributions with those of the teacher's last layer.

    Args:
        weight, pairing, threshold, start: see :class:`~isdfine.distill.paired.PairedDistiller`.
        temperature: T of both softmaxes, above 0.
        layers: of the student, ``all`` or the ``last``.
        transport: ``rebin``: the teacher's distributions as the student's bins see them, since those of two models
            begin at different boxes (:func:`~isdfine.distill.rebin.rebin`). ``raw``: bin by bin, to show what that
            costs.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    reads_matches = True

    def __init__(
        self,
        weight: float,
        temperature: float,
        *,
        layers: TaughtLayers = "all",
        transport: Transport = "rebin",
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        check_positive(f"{type(self).__name__}.temperature", temperature)
        check_choice(f"{type(self).__name__}.layers", layers, get_args(TaughtLayers))
        check_choice(f"{type(self).__name__}.transport", transport, get_args(Transport))
        self.temperature = temperature
        self.first = 0 if layers == "all" else -1  # of the student's layers
        self.transport: Transport = transport
        self._clipped: Tensor | None = None

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        self.student_bins(student, self.teacher_bins(teacher))
        self.teacher_want = last_layer(teacher)

    def teacher_bins(self, teacher: Teacher) -> Any:
        """The teacher's bins (``reg_max``, ``up``, ``reg_scale``); ValueError where it has none."""
        if (bins := bins_of(teacher.model)) is None:
            raise ValueError(
                f"{type(self).__name__} learns from edge distributions, but the teacher "
                f"({type(teacher.decoder).__name__}) has none: take a teacher with box_head: fdr, or distil its boxes "
                "with BoxDistillation"
            )
        return bins

    def student_bins(self, student: nn.Module, theirs: Any) -> Any:
        """The student's; ValueError where it has none, or others than the teacher's in ``raw`` transport."""
        decoder = getattr(student, "decoder", student)
        if (bins := bins_of(student)) is None:
            raise ValueError(
                f"{type(self).__name__} teaches edge distributions, but the student's decoder "
                f"({type(decoder).__name__}) has none: set {type(decoder).__name__}.box_head: fdr, or choose "
                "DistillGOLSD or BoxDistillation"
            )
        self.check_raw(bins.reg_max, theirs.reg_max)
        return bins

    def check_raw(self, mine: int, theirs: int) -> None:
        """Refuse to compare other numbers of bins one by one (ValueError)."""
        if self.transport == "raw" and mine != theirs:
            raise ValueError(
                f"{type(self).__name__}.transport: raw compares bin with bin, but the student has {mine} and the "
                f"teacher {theirs}: choose rebin"
            )

    @torch.no_grad()
    def target(self, taught: TeacherOutput, pairs: QueryPairs, student: EdgeFrame) -> EdgeTarget:
        """The teacher's distributions for the student's queries, in the frame (P, 4) of these."""
        edges = taught.output.layers[-1].edge_logits
        assert edges is not None, "asked for at build"
        probabilities = soften(edges[pairs.image, pairs.teacher].unflatten(-1, (4, -1)), self.temperature).exp()
        if self.transport == "raw":
            return EdgeTarget(probabilities, torch.ones_like(pairs.matched))
        moved, clipped = rebin(probabilities, frame_of(taught.output, pairs.image, pairs.teacher), student)
        self._clipped = clipped.sum() / max(clipped.numel(), 1)
        return EdgeTarget(moved, clipped.amax(-1) <= _MOST_CLIPPED)

    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        found = super().diagnostics(context)
        if found and self._clipped is not None:
            found = found | {f"{self.names[0].removeprefix('loss_')}_clipped": self._clipped}
        return found


def last_layer(teacher: Teacher) -> Want:
    """What makes a teacher's last layer the last that it returns: nothing where it is the one that detects, so that a
    cache keeps that one alone."""
    decoder: Any = teacher.decoder
    return Want(layers=decoder.eval_idx + 1 < len(decoder.layers))


def bins_of(model: nn.Module) -> Any:
    """The bins of a model's FDR head, None where it has none."""
    return getattr(getattr(getattr(model, "decoder", model), "box_head", None), "bins", None)


def frame_of(output: DetectorOutput, image: Tensor, query: Tensor) -> EdgeFrame:
    """The frame (P, 4) of chosen queries of a model with an FDR head, whose layers share one."""
    last = output.layers[-1]
    assert last.initial_boxes is not None, "asked for at build"
    assert last.edge_logits is not None
    assert output.up is not None
    assert output.reg_scale is not None
    bins = last.edge_logits.shape[-1] // 4 - 1
    return EdgeFrame.of(last.initial_boxes[image, query].float(), bins, output.up.detach(), output.reg_scale.detach())


def stacked_edges(layers: Sequence[Predictions], pairs: QueryPairs) -> Tensor:
    """(K, P, 4, N + 1) float32 logits of the student's paired queries in K layers."""
    every = [layer.edge_logits for layer in layers]
    rows = [edges[pairs.image, pairs.student].float() for edges in every if edges is not None]
    stacked: Tensor = torch.stack(rows).unflatten(-1, (4, -1))
    return stacked


def truth_of(step: MatchedStep, image: Tensor, query: Tensor) -> QueryTruth:
    """The box of each chosen query (P,) of the student, by the union of matches or those of the final layer."""
    group = step.matching
    found = group.pairs.query_index[group.stack.last_layer, group.pairs.union]
    targets = group.pairs.target_index[group.stack.last_layer, group.pairs.union]
    corners = torch.cat((group.table.corners, group.table.corners.new_zeros(1, 4)))
    owner = torch.full_like(group.stack.boxes[0, :, 0], len(group.table), dtype=torch.int64).scatter(0, found, targets)
    owner = owner[image * group.stack.queries + query]
    return QueryTruth(corners[owner], owner < len(group.table))

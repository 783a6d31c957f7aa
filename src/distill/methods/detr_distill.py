# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DETRDistill: the teacher's predictions, features and queries (Chang et al., arXiv:2211.10156)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import dist
from ...core.errors import check_choice, check_counts
from ...core.registry import register
from ...losses.criterion import Criterion, DFINECriterion
from ...losses.matched import MatchedStep
from ...nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ...nn.types import Predictions, QueryGroup, Want
from ..adapters import AdapterUse, layers_to_teach
from ..boxmask import padded_boxes
from ..context import DistillationContext
from ..features import FeatureDistiller, PairedMaps
from ..kernels import ClassKernel, box_giou, box_l1, confidence
from ..pairing import best_pairs, in_students_columns, pair_costs
from ..points import PointInput, point_decoder, specific_points
from ..taught import Batch
from ..teacher import CommonClasses, Teacher, TeacherOutput

Part = Literal["logits", "features", "queries"]
PARTS: tuple[str, ...] = get_args(Part)
_TERMS = {
    "logits": {"loss_detrdistill_cls": 1.0, "loss_detrdistill_l1": 5.0, "loss_detrdistill_giou": 2.0},
    "features": {"loss_detrdistill_features": 1.0},
    "queries": {"loss_detrdistill_queries": 1.0},
}
LEAST = 0.01
"""What a cell of the features weighs at least, before the largest becomes 1."""


def paired_predictions(
    student: Sequence[Predictions], teacher: Sequence[Predictions], classes: CommonClasses, threshold: float = 0.0
) -> Tensor:
    """Cross entropy of class scores, L1 and 1 - GIoU of boxes that are paired one to one in each layer (3,).

    Args:
        student, teacher: of one layer each; the pairs cost least.
        classes: that both know.
        threshold: best score of the teacher's query below which a pair does not count.

    Returns: sums over pairs and layers, divided by the pairs of a layer, averaged over ranks.
    """
    logits = torch.stack([classes.of_student(layer.logits) for layer in student]).float()  # (K, B, Q, C)
    known = torch.stack([classes.of_teacher(layer.logits) for layer in teacher]).float()
    boxes, targets = (torch.stack([layer.boxes for layer in layers]).float() for layers in (student, teacher))
    mine, theirs = best_pairs(pair_costs(logits, boxes, known, targets)).unbind(2)  # (K, B, P) each
    logits, boxes = (rows.gather(2, mine[..., None].expand(-1, -1, -1, rows.shape[-1])) for rows in (logits, boxes))
    known, targets = (rows.gather(2, theirs[..., None].expand(-1, -1, -1, rows.shape[-1])) for rows in (known, targets))
    entropy = ClassKernel("qfl", exponent=0.0)(logits, known)
    counted = confidence(known) >= threshold if known.shape[-1] else torch.ones_like(entropy, dtype=torch.bool)
    distances = torch.stack((entropy, 4 * box_l1(boxes, targets), box_giou(boxes, targets)))  # (3, K, B, P)
    norm = dist.mean(counted.sum((1, 2)).float()).clamp(min=1)
    return (distances.masked_fill(~counted, 0).sum((2, 3)) / norm).sum(1)


def query_votes(
    hidden: Tensor, teacher: Predictions, boxes: Tensor, present: Tensor, classes: CommonClasses, count: int = 100
) -> Tensor:
    """What the teacher's best queries look for: their directions, summed with what each is worth (B, D).

    Args:
        hidden: (B, Q, D) the teacher's queries.
        teacher: what it predicts of them.
        boxes: (B, M, 4) ground truth, cxcywh.
        present: (B, M) bool, which of them are there.
        classes: that both know.
        count: (query, class) pairs with the highest scores; each is worth its score times the largest IoU with a box,
            or its score in images without boxes.
    """
    scores = classes.of_teacher(teacher.logits).float().sigmoid()  # (B, Q, C)
    predicted, truth = (cxcywh_to_xyxy(given.float()) for given in (teacher.boxes, boxes))
    overlap = paired_iou_and_giou(predicted[:, :, None], truth[:, None])[0].masked_fill(~present[:, None], 0)
    best = F.pad(overlap, (0, 1)).amax(-1).masked_fill(~present.any(1)[:, None], 1)  # (B, Q)
    top, index = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
    query = index // max(scores.shape[-1], 1)
    worth = top * best.gather(1, query)
    directions = F.normalize(hidden.float(), dim=-1).gather(1, query[..., None].expand(-1, -1, hidden.shape[-1]))
    return (worth[..., None] * directions).sum(1)


def target_aware_loss(maps: PairedMaps, votes: Tensor) -> Tensor:
    """Squared difference of maps weighed cell by cell with how much they agree with the votes (B, D), a scalar."""
    agreement = torch.einsum("bdhw,bd->bhw", F.normalize(maps.teacher, dim=1), votes).clamp(min=LEAST)
    agreement = agreement.masked_fill(~maps.valid, 0)
    mask = agreement / agreement.flatten(1).amax(1).clamp(min=LEAST)[:, None, None]
    error = (mask[:, None] * (maps.teacher - maps.student)).square().mean(1)
    return (error.flatten(1).sum(1) / maps.valid.flatten(1).sum(1)).mean()


@register
class DETRDistill(FeatureDistiller):
    """Three parts, each summed over decoder layers that pair ``uniform``.

    ``logits``: every layer's queries become like the teacher's, paired one to one at the least cost
    (``loss_detrdistill_cls``, ``_l1``, ``_giou``). ``features``: the maps behind the encoder become like the teacher's
    where these agree with what its best queries look for. ``queries``: the student's decoder answers the teacher's
    queries beside its own and is scored by the criterion as the teacher's answers match the ground truth.

    Args:
        parts: which of them.
        pos_only: of ``logits``: only pairs whose teacher's query has a best score of 0.5 or more.
        top: of ``features``: the teacher's (query, class) pairs with the highest scores that count.
        weight, adapter, level_map, start: see :class:`~isdfine.distill.features.FeatureDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        parts: Sequence[Part] = ("logits", "features", "queries"),
        pos_only: bool = False,
        top: int = 100,
        adapter: AdapterUse = "auto",
        level_map: Mapping[int, int] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(weight, tap="neck", adapter=adapter, level_map=level_map, start=start)
        if not parts:
            raise ValueError(f"DETRDistill.parts is empty: name some of {', '.join(PARTS)}")
        for part in parts:
            check_choice("DETRDistill.parts", part, PARTS)
        check_counts(top=top)
        self.chosen, self.threshold, self.top = frozenset(parts), 0.5 if pos_only else 0.0, top
        self.parts = {name: factor for part in PARTS if part in parts for name, factor in _TERMS[part].items()}
        self.names = tuple(self.parts)
        taps = {"features": {"neck", "hidden"}, "queries": {"queries"}}
        self.want = Want(layers=True, taps=frozenset({"neck"} if "features" in parts else ()))
        self.teacher_want = Want(layers=True, taps=frozenset().union(*(taps.get(part, set()) for part in parts)))
        self.enter: PointInput | None = None
        self._criterion: tuple[DFINECriterion, ...] = ()  # no part of this module

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        if "queries" not in self.chosen:
            return
        if not isinstance(criterion, DFINECriterion):
            raise ValueError(
                f"DETRDistill has queries scored by the criterion, but {type(criterion).__name__} does not match as "
                "DFINECriterion does: take another, or leave queries out of DETRDistill.parts"
            )
        self._criterion = (criterion,)

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        if "features" in self.chosen:
            super().prepare(student, teacher, classes)
            width = point_decoder("DETRDistill", "teacher", teacher.model).widths[0]
            if self._channels != width:
                raise ValueError(
                    f"DETRDistill compares the teacher's maps ({self._channels} channels) with its queries ({width}), "
                    "which needs equal widths: leave features out of DETRDistill.parts"
                )
        if "queries" in self.chosen:
            mine, theirs = (
                point_decoder("DETRDistill", role, model)
                for role, model in (("student", student), ("teacher", teacher.model))
            )
            if theirs.reference_dim < mine.reference_dim:
                raise ValueError(
                    "DETRDistill: the teacher's queries start at points, the student's at boxes: leave queries out of "
                    "DETRDistill.parts"
                )
            self.enter = PointInput(mine, theirs.widths[0])

    def make_layers(self, widths: list[int]) -> None:
        self._channels = widths[0]

    @property
    def group(self) -> str:
        """Name of the teacher's queries in the student's decoder; no other method has it."""
        return f"DETRDistill {id(self)}"

    def student_groups(self, batch: Batch, taught: TeacherOutput) -> list[QueryGroup]:
        if self.enter is None:
            return []
        return [self.enter(specific_points(self.group, taught.output.taps["queries"]))]

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        theirs, classes = taught.output.layers, taught.classes
        layers = layers_to_teach(len(context.student.layers), len(theirs), "uniform")
        teachers = [theirs[layer] for _, layer in layers]
        found: dict[str, Tensor] = {}
        if "logits" in self.chosen:
            terms = paired_predictions(context.student.layers, teachers, classes, self.threshold)
            found |= dict(zip(_TERMS["logits"], terms.unbind()))
        if "features" in self.chosen:
            truth, hidden, maps = (
                padded_boxes(context.step.matching.table),
                taught.output.taps["hidden"],
                self.maps(context, taught),
            )
            votes = [query_votes(hidden[layer], theirs[layer], *truth, classes, self.top) for _, layer in layers]
            losses = [target_aware_loss(level, vote) for vote in votes for level in maps]
            found["loss_detrdistill_features"] = torch.stack(losses).sum()
        if "queries" in self.chosen:
            count = context.student.layers[-1].logits.shape[-1]
            guides = [in_students_columns(layer, classes, count) for layer in teachers]
            (criterion,) = self._criterion
            group = criterion.match_as(context.student.groups[self.group], guides, context.step.matching.table)
            scored = criterion.terms(MatchedStep(context.student, [group]))
            found["loss_detrdistill_queries"] = torch.stack([*scored.values()]).sum()
        return found

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""GO-LSD from a teacher: every decoder layer learns the edge distributions of the teacher's last layer, as the layers
of one model do among themselves (D-FINE, arXiv:2410.13842, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ...core import dist
from ...core.errors import check_choice, check_non_negative
from ...core.registry import register
from ...losses.functions import decoupled_mean, fgl_loss
from ...losses.matched import MatchedGroup
from ...nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ...nn.edges import decode_corners, encode_targets, weighting
from ...nn.types import DetectorOutput, Want
from ..context import DistillationContext, predicting_layers
from ..kernels import confidence
from ..paired import named
from ..pairing import QueryPairs
from ..rebin import EdgeFrame, edge_distance, edge_divergence
from ..taught_edges import EdgeDistiller, bins_of, frame_of, last_layer, stacked_edges, truth_of
from ..teacher import CommonClasses, Teacher, TeacherOutput

Distance = Literal["ddf", "smooth_l2"]
FGL_SHARE = 0.1
"""With the weight 1.5 the FGL loss of a projection has the weight 0.15, as in D-FINE."""


class EdgeProjection(nn.Module):
    """Edge distributions for a decoder without: one linear layer per decoder layer, in training only.

    Args:
        widths: channels of the queries after each layer.
        reg_max, up, reg_scale: N, a and s of the bins, see :func:`~isdfine.nn.edges.weighting`.
    """

    offsets: Tensor
    scale: Tensor

    def __init__(self, widths: list[int], reg_max: int, up: float, reg_scale: float) -> None:
        super().__init__()
        if reg_max < 4 or reg_max % 2 or up <= 0 or reg_scale <= 0:
            raise ValueError("reg_max must be even and at least 4, up and reg_scale above 0")
        self.reg_max = reg_max
        self.register_buffer("offsets", weighting(reg_max, up, reg_scale), persistent=False)
        self.register_buffer("scale", torch.tensor(float(reg_scale)), persistent=False)
        self.layers = nn.ModuleList(nn.Linear(width, 4 * (reg_max + 1)) for width in widths)

    def frame(self, boxes: Tensor) -> EdgeFrame:
        """Of boxes (..., 4) that the distributions refine."""
        return EdgeFrame(boxes.detach().float(), self.offsets, self.scale)


class LayerEdges(NamedTuple):
    """Distributions of the student in K neighbouring layers that share a frame, of all queries or of pairs."""

    layers: slice
    logits: Tensor
    """(K, ..., 4, N + 1)."""
    frame: EdgeFrame
    """With boxes (..., 4)."""


@register
class DistillGOLSD(EdgeDistiller):
    """``loss_golsd``: decoupled distillation focal loss (DDF) between each layer and the teacher's last, summed over
    layers. Pairs with a ground-truth box weigh the overlap of the student's box with it, others the teacher's best
    score.

    A student without edge distributions gets a linear layer per decoder layer that makes them around the box that the
    layer refines, in training only; ``loss_golsd_fgl`` teaches these the ground truth (FGL), and the gradients of both
    reach the decoder.

    Args:
        weight: factor of all.
        temperature: T of both softmaxes; DDF is multiplied by its square.
        unmatched: teach queries without a box too.
        distance: ``ddf``, or ``smooth_l2``: squared differences of the softened probabilities in place of the
            divergence, without T^2.
        bins: ``{reg_max: 32, up: 0.5, reg_scale: 4}`` of a student without distributions; None for the teacher's.
        fgl: factor of FGL beside ``weight``; None for 0.1, read for a student without distributions.
        options: ``layers``, ``transport``, ``pairing``, ``threshold``, ``start``, see
            :class:`~isdfine.distill.taught_edges.EdgeDistiller`. Without ``start`` it begins after 3 epochs and rises
            over 1000 steps, made for 24 epochs; null: at once.

    Raises:
        ValueError: an option that is unknown, out of its range or not read.
    """

    def __init__(
        self,
        weight: float = 1.5,
        temperature: float = 5.0,
        *,
        unmatched: bool = True,
        distance: Distance = "ddf",
        bins: Mapping[str, Any] | None = None,
        fgl: float | None = None,
        **options: Any,
    ) -> None:
        options.setdefault("start", {"mode": "epoch", "value": 3, "ramp": 1000})
        super().__init__(weight, temperature, **options)
        check_choice("DistillGOLSD.distance", distance, get_args(Distance))
        if odd := sorted((bins or {}).keys() - {"reg_max", "up", "reg_scale"}):
            raise ValueError(f"DistillGOLSD.bins has no {odd[0]}: it has reg_max, up and reg_scale")
        if fgl is not None:
            check_non_negative("DistillGOLSD.fgl", fgl)
        self.unmatched, self.bins, self.fgl = unmatched, bins, fgl
        self.distance = edge_divergence if distance == "ddf" else edge_distance
        self.names = ("loss_golsd",)
        self.projection: EdgeProjection | None = None

    def prepare(self, student: nn.Module, teacher: Teacher, classes: CommonClasses) -> None:
        theirs = self.teacher_bins(teacher)
        self.teacher_want = last_layer(teacher)
        if bins_of(student) is not None:
            self.student_bins(student, theirs)
            if self.bins is not None or self.fgl is not None:
                raise ValueError(
                    "DistillGOLSD: bins and fgl are for students without distributions, and this one has its own: "
                    "leave them out"
                )
            return
        decoder = getattr(student, "decoder", student)
        if not (widths := getattr(decoder, "widths", None)):
            raise ValueError(
                f"DistillGOLSD makes distributions of queries, but {type(decoder).__name__} does not say how wide they "
                "are (widths): take another method, such as BoxDistillation"
            )
        widths = widths[-predicting_layers(student) :][self.first :]  # a head for every layer that is taught
        given = {"reg_max": theirs.reg_max, "up": float(theirs.up), "reg_scale": abs(float(theirs.reg_scale))}
        self.projection = named("DistillGOLSD.bins", EdgeProjection, widths, **(given | dict(self.bins or {})))
        self.check_raw(self.projection.reg_max, theirs.reg_max)
        self.want = Want(taps=frozenset({"hidden"}))
        self.parts = {"loss_golsd_fgl": FGL_SHARE if self.fgl is None else self.fgl}
        self.names = ("loss_golsd", "loss_golsd_fgl")

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        pairs, student = self.pairs(context, taught), context.student
        truth = truth_of(context.step, pairs.image, pairs.student)
        sure = confidence(taught.classes.of_teacher(taught.output.layers[-1].logits))[pairs.image, pairs.teacher]
        has_box = pairs.matched & truth.known
        projected = [] if self.projection is None else self.projected(self.projection, student)
        losses = []
        for edges in self.paired_edges(student, projected, pairs):
            target, kept = self.target(taught, pairs, edges.frame)
            boxes = torch.stack([layer.boxes[pairs.image, pairs.student] for layer in student.layers[edges.layers]])
            weights = torch.where(has_box, truth.overlaps(boxes), sure)
            matched = has_box & kept
            ignored = ~kept if self.unmatched else ~matched
            sizes = dist.mean(torch.stack((matched.sum(), (~(matched | ignored)).sum())).float())
            counts = sizes[0], sizes[1]
            distance = self.distance(edges.logits, target, self.temperature) * weights
            losses.append(decoupled_mean(distance, matched, counts, ignored=ignored, rows=counts).sum())
        found = {"loss_golsd": torch.stack(losses).sum()}
        if projected:
            found["loss_golsd_fgl"] = truth_loss(projected, context.step.matching)
        return found

    def paired_edges(
        self, student: DetectorOutput, projected: list[LayerEdges], pairs: QueryPairs
    ) -> Iterator[LayerEdges]:
        """The student's distributions for the pairs: its own, or those of the projection."""
        if not projected:
            count = len(student.layers)
            chosen = slice(range(count)[self.first], count)
            frame = frame_of(student, pairs.image, pairs.student)
            yield LayerEdges(chosen, stacked_edges(student.layers[chosen], pairs), frame)
        for layers, edges, frame in projected:
            frame = frame._replace(boxes=frame.boxes[pairs.image, pairs.student])
            yield LayerEdges(layers, edges[:, pairs.image, pairs.student], frame)

    def projected(self, projection: EdgeProjection, student: DetectorOutput) -> list[LayerEdges]:
        """Distributions (1, B, Q, 4, N + 1) and frame (B, Q, 4) of each layer that is taught."""
        numbers = range(len(student.layers))[self.first :]
        hidden = student.taps["hidden"][-len(numbers) :]
        return [
            LayerEdges(
                slice(number, number + 1),
                head(queries.float()).unflatten(-1, (4, -1))[None],
                projection.frame(refined_boxes(student, number)),
            )
            for number, queries, head in zip(numbers, hidden, projection.layers)
        ]


def truth_loss(projected: list[LayerEdges], group: MatchedGroup) -> Tensor:
    """FGL of distributions (1, B, Q, 4, N + 1) of queries that have a box, summed over layers."""
    last, union = group.stack.last_layer, group.pairs.union
    rows, targets = group.pairs.query_index[last, union], group.pairs.target_index[last, union]
    truth, losses = group.table.corners[targets], []
    for _, logits, frame in projected:
        boxes, edges = frame.boxes.flatten(0, 1)[rows], logits[0].flatten(0, 1)[rows]
        bins = encode_targets(boxes, truth, frame.offsets, frame.scale)
        decoded = decode_corners(boxes, edges.detach(), frame.offsets, frame.scale)
        overlap = paired_iou_and_giou(cxcywh_to_xyxy(decoded), truth)[0]
        losses.append(fgl_loss(edges, *bins, overlap, group.counts.union))
    return torch.stack(losses).sum()


def refined_boxes(student: DetectorOutput, layer: int) -> Tensor:
    """(B, Q, 4) the boxes that a decoder layer starts from, detached: the layer's before, the proposals, or where
    those are not known the layer's own."""
    if layer:
        return student.layers[layer - 1].boxes.detach()
    own, proposals = student.layers[0].boxes, student.proposals
    known = proposals is not None and proposals.boxes.shape == own.shape and not student.binary_proposals
    return (proposals.boxes if known and proposals is not None else own).detach()

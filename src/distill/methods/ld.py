# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""LD: localization distillation, the teacher's edge distributions for queries on and beside objects (Zheng et al.,
arXiv:2102.12252)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import check_non_negative, check_positive
from ...core.registry import register
from ...losses.functions import class_kl
from ...losses.matched import TargetTable
from ...nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou
from ...nn.types import Predictions
from ..boxmask import padded_boxes
from ..context import DistillationContext
from ..kernels import confidence, weight_norm, weighted_mean
from ..pairing import QueryPairs
from ..rebin import edge_divergence
from ..taught_edges import EdgeDistiller, frame_of, stacked_edges, truth_of
from ..teacher import TeacherOutput

VALUABLE = (0.25, 0.5)
"""Overlap with a ground-truth box from which on, and up to which, a query without one is worth teaching."""
_MAIN, _BESIDE = 4.0, 16.0
"""What the published sums are divided by."""


@register
class LD(EdgeDistiller):
    """Every decoder layer learns the edge distributions of the teacher's last: ``loss_ld`` for queries with a box,
    ``loss_ld_vlr`` for those without one that overlap with one (the valuable localization region), and
    ``loss_ld_cls``, the class scores of the former.

    Divergences are means over bins, weighted by the student's best class score and divided by the sum of these weights
    over all processes; layers are summed.

    Args:
        weight: factor of all three.
        temperature: T of both softmaxes; losses are multiplied by its square.
        main, vlr, class_weight: factors of one each. What has 0 is not computed.
        class_temperature: of the class scores.
        options: ``layers``, ``transport``, ``pairing``, ``threshold``, ``start``, see
            :class:`~isdfine.distill.taught_edges.EdgeDistiller`.

    Raises:
        ValueError: an option that is unknown, out of its range or not read, or all three factors 0.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 10.0,
        *,
        main: float = 0.25,
        vlr: float = 0.25,
        class_weight: float = 10.0,
        class_temperature: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(weight, temperature, **options)
        for name, factor in (("main", main), ("vlr", vlr), ("class_weight", class_weight)):
            check_non_negative(f"LD.{name}", factor)
        check_positive("LD.class_temperature", class_temperature)
        if vlr and self.aligner.mode == "gt_anchor":
            raise ValueError("LD.vlr teaches queries without a box, which pairing: gt_anchor leaves out: set vlr: 0")
        self.class_temperature = class_temperature
        given = {"loss_ld": main, "loss_ld_vlr": vlr, "loss_ld_cls": class_weight}
        self.parts = {name: factor for name, factor in given.items() if factor}
        if not self.parts:
            raise ValueError("LD teaches nothing: give one of main, vlr and class_weight a factor above 0")
        self.names = tuple(self.parts)

    def losses(self, context: DistillationContext, taught: TeacherOutput) -> dict[str, Tensor]:
        pairs, layers = self.pairs(context, taught), context.student.layers[self.first :]
        scores = confidence(torch.stack([layer.logits[pairs.image, pairs.student] for layer in layers]))  # (K, P)
        truth = truth_of(context.step, pairs.image, pairs.student)
        main = pairs.matched & truth.known
        found: dict[str, Tensor] = {}
        if "loss_ld" in self.parts or "loss_ld_vlr" in self.parts:
            target, kept = self.target(taught, pairs, frame_of(context.student, pairs.image, pairs.student))
            edges = stacked_edges(layers, pairs)
            divergence = edge_divergence(edges, target, self.temperature) * 4 / target.shape[-1]
            beside = valuable(layers, context.step.matching.table, pairs) & ~truth.known & kept
            found["loss_ld"] = _mean(divergence, scores * (main & kept)) / _MAIN
            found["loss_ld_vlr"] = _mean(divergence, scores * beside) / _BESIDE
        if "loss_ld_cls" in self.parts:
            known = taught.classes.of_teacher(taught.output.layers[-1].logits)[pairs.image, pairs.teacher]
            logits = [taught.classes.of_student(layer.logits)[pairs.image, pairs.student] for layer in layers]
            distance = class_kl(torch.stack(logits), known, self.class_temperature) / known.shape[-1]
            found["loss_ld_cls"] = _mean(distance, main.expand_as(distance).float())
        return {name: found[name] for name in self.names}


def _mean(per_pair: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of (K, P), summed over layers."""
    return weighted_mean(per_pair, weights, weight_norm(weights)).sum()


def valuable(layers: Sequence[Predictions], table: TargetTable, pairs: QueryPairs) -> Tensor:
    """(K, P) bool: whether the box of a query in each layer overlaps with the ground truth as :data:`VALUABLE` says."""
    boxes = torch.stack([layer.boxes[pairs.image, pairs.student] for layer in layers]).detach()
    truth, present = padded_boxes(table)
    truth, present = truth[pairs.image], present[pairs.image]  # (P, T)
    overlaps = paired_iou_and_giou(cxcywh_to_xyxy(boxes.float())[..., None, :], cxcywh_to_xyxy(truth))[0] * present
    best = F.pad(overlaps, (0, 1)).amax(-1)  # the further column is for batches without boxes
    return (best >= VALUABLE[0]) & (best <= VALUABLE[1])

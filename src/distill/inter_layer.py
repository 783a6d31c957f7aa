# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Inter-layer self-distillation: neighbouring decoder layers teach each other (docs/method.md 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..core.errors import check_choice, check_non_negative, check_positive
from ..core.registry import register
from ..losses.criterion import Criterion
from ..losses.functions import class_kl, soften, softened_kl, zero_where_equal
from ..losses.matched import DnPadding, MatchedGroup, MatchedStep
from .checks import (
    check_distributions,
    check_layers,
    check_union,
    edge_logits_of,
)
from .context import DistillationContext, Distiller
from .mixing import DnCounts, Mixing
from .pairs import DIRECTIONS, Direction, check_span, pairs
from .ramp import Ramp

_NAME = "InterLayerDistillation"
MatchWeight = Literal["student_iou", "teacher_iou", "better"]


@register
class InterLayerDistillation(Distiller):
    """Every decoder layer but one learns the edge distributions of the next deeper, or of the previous, layer.

    The loss of a pair has the form of DDF; pairs are summed, as GO-LSD's are. It takes GO-LSD's place: list one of
    the two.

    Args:
        direction: ``deep_to_shallow`` (the next deeper layer teaches) or ``shallow_to_deep`` (the previous one teaches,
            which holds refinement back: expect something of it at small weight only).
        span: distance of student and teacher in layers, cut off at the ends. 1 is inter-layer; L - 1 is GO-LSD.
        weight: factor of the loss (lambda_inter); 1.5 spends as much as DDF does.
        temperature: T of both softmaxes, above 0.
        match_weight: of queries with a box: overlap of the student's box, of the teacher's, or how much the teacher's
            overlap is ``better`` (0 where it is not). None: ``student_iou`` for deep_to_shallow, else ``teacher_iou``.
        unmatched: also distil queries without a box, weighted by the teacher's confidence.
        detach_chain: keep the gradient out of the layers before the student, which its logits are added to.
        class_weight: factor of the same loss on class scores (binary KL, T = 1); 0 for none.
        ramp: see :class:`~isdfine.distill.ramp.Ramp`.
        denoising: distil inside the extra query groups too.
        dn_padding: whether padded denoising slots are unmatched queries (as the official GO-LSD has it).
        dn_counts: whether denoising groups mix the two means by the matching queries' counts (``shared``) or by their
            ``own``.

    Raises:
        ValueError: an option out of its range.
    """

    compares = "edge distributions"

    def __init__(
        self,
        direction: Direction = "deep_to_shallow",
        span: int = 1,
        weight: float = 1.5,
        temperature: float = 5.0,
        *,
        match_weight: MatchWeight | None = None,
        unmatched: bool = True,
        detach_chain: bool = False,
        class_weight: float = 0.0,
        ramp: Sequence[float] = (0.0, 0.0),
        denoising: bool = True,
        dn_padding: DnPadding = "exclude",
        dn_counts: DnCounts = "shared",
    ) -> None:
        super().__init__()
        who = _NAME
        check_choice(f"{who}.direction", direction, DIRECTIONS)
        check_choice(f"{who}.match_weight", match_weight, (None, *get_args(MatchWeight)))
        check_span(f"{who}.span", span)
        check_non_negative(f"{who}.weight", weight)
        check_non_negative(f"{who}.class_weight", class_weight)
        check_positive(f"{who}.temperature", temperature)
        self.direction = direction
        self.span = span
        self.weight = weight
        self.temperature = temperature
        default: MatchWeight = "student_iou" if direction == "deep_to_shallow" else "teacher_iou"
        self.match_weight: MatchWeight = match_weight or default
        self.detach_chain = detach_chain
        self.class_weight = class_weight
        self.ramp = Ramp(ramp, f"{who}.ramp")
        self.mixing = Mixing(who, denoising=denoising, dn_padding=dn_padding, dn_counts=dn_counts, unmatched=unmatched)

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        check_distributions(_NAME, model)
        check_layers(_NAME, model)
        check_union(_NAME, criterion)

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return [(student - 1, teacher - 1) for student, teacher in pairs(layers, self.direction, self.span)]

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        ramp = self.ramp(context.progress)
        named: dict[str, Tensor] = {}
        for group in self.mixing.groups(context.step):
            couples = self.layer_pairs(len(edge_logits_of(group, _NAME)))
            if not couples:
                raise ValueError(f"{_NAME} needs two decoder layers or more, but the output has one")
            students, teachers = ([pair[side] for pair in couples] for side in (0, 1))
            for name, losses in self._losses(group, students, teachers, context.step, ramp).items():
                suffixes = (group.stack.suffixes[student] for student in students)
                named |= {f"{name}{suffix}": loss for suffix, loss in zip(suffixes, losses.unbind())}
        return named

    def _losses(
        self, group: MatchedGroup, students: list[int], teachers: list[int], step: MatchedStep, ramp: float
    ) -> dict[str, Tensor]:
        """Weighted losses of one group by name, one value per pair; nothing is computed where the factor is 0."""
        factors = {"loss_isd": self.weight * ramp}
        if self.class_weight:
            factors["loss_isd_cls"] = self.class_weight * ramp
        nothing = group.stack.boxes.new_zeros(len(students))
        losses = dict.fromkeys(factors, nothing)
        if not any(factors.values()):
            return losses
        share = self.mixing.share(group, step)
        edges, scores = edge_logits_of(group, _NAME), group.stack.logits[0]
        overlap = self._overlap(group.overlaps(0, len(edges)), students, teachers)
        confidence = pick(group.confidence(0, len(edges)), teachers)
        if factors["loss_isd"]:
            loss = share.mean(self._edge_divergence(edges, students, teachers), overlap, confidence)
            loss = zero_where_equal(loss, pick(edges, students), pick(edges, teachers))
            losses["loss_isd"] = loss * factors["loss_isd"]
        if factors.get("loss_isd_cls"):
            divergence = class_kl(pick(scores, students), pick(scores, teachers))
            losses["loss_isd_cls"] = share.mean(divergence, overlap, confidence) * factors["loss_isd_cls"]
        return losses

    def _edge_divergence(self, edges: Tensor, students: list[int], teachers: list[int]) -> Tensor:
        """(pairs, R) from the logits (K, R, 4, N + 1) of all layers; most are student and teacher, softened once."""
        softened = soften(cut_chain(edges) if self.detach_chain else edges, self.temperature)
        return softened_kl(pick(softened, students), pick(softened, teachers), self.temperature)

    def _overlap(self, overlaps: Tensor, students: list[int], teachers: list[int]) -> Tensor:
        """(pairs, R) weight of queries with a box, from the overlaps (K, R) of all layers."""
        if self.match_weight == "better":
            return (pick(overlaps, teachers) - pick(overlaps, students)).clamp(min=0)
        return pick(overlaps, students if self.match_weight == "student_iou" else teachers)


def pick(layers: Tensor, chosen: Sequence[int]) -> Tensor:
    """Chosen layers of a stack (K, ...): a view where they are neighbours, never an index on the device."""
    first = chosen[0]
    if list(chosen) == list(range(first, first + len(chosen))):
        return layers[first : first + len(chosen)]
    return torch.stack([layers[index] for index in chosen])


def cut_chain(edges: Tensor) -> Tensor:
    """The same logits z_l = head_l + z_{l-1}, whose gradient reaches head_l but no layer before (K, ...)."""
    before = edges[:-1]
    return torch.cat((edges[:1], edges[1:] + (before.detach() - before)))

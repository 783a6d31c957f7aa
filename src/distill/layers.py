# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Self-distillation between edge distributions of decoder layers: GO-LSD and inter-layer (docs/method.md 7.1, 7.2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..core.errors import check_choice, check_non_negative, check_positive
from ..core.registry import register
from ..losses.criterion import Criterion
from ..losses.functions import class_kl, ddf_loss, decoupled_mean, soften, softened_kl, zero_where_equal
from ..losses.matched import DnPadding, MatchedGroup, MatchedStep
from .context import (
    DIRECTIONS,
    Direction,
    DistillationContext,
    Distiller,
    Ramp,
    check_layers,
    check_span,
    layer_pairs,
)

DnCounts = Literal["shared", "own"]
MatchWeight = Literal["student_iou", "teacher_iou", "better"]


@dataclass(frozen=True)
class Normaliser:
    """The two sets of queries over which one group's losses average; see
    :func:`~isdfine.losses.functions.decoupled_mean`."""

    matched: Tensor
    """(R,) bool."""
    ignored: Tensor | None
    """(R,) bool, neither matched nor unmatched."""
    divisors: tuple[Tensor, Tensor]
    """Of the two means."""
    counts: tuple[Tensor, Tensor]
    """Their square roots mix the two means."""

    def mean(self, per_query: Tensor, iou: Tensor, confidence: Tensor) -> Tensor:
        """Means of (..., R) values, weighted by overlap where matched, by confidence elsewhere."""
        weighted = per_query * torch.where(self.matched, iou.detach(), confidence.detach())
        return decoupled_mean(weighted, self.matched, self.counts, ignored=self.ignored, rows=self.divisors)


class EdgeDistillation(Distiller):
    """What GO-LSD and its relatives share: which queries of which groups are distilled, and how they are averaged.

    Args:
        weight: factor of the loss, or None where the criterion says it.
        temperature: T of both softmaxes, above 0.
        denoising: distil inside the extra query groups too.
        dn_padding: ``include``: padded denoising slots are unmatched queries; ``exclude``: they do not count.
        dn_counts: denoising groups mix the two means by the matching queries' counts (``shared``) or by their ``own``.
        unmatched: whether queries without a box are distilled.
        ramp: see :class:`~isdfine.distill.context.Ramp`.

    Raises:
        ValueError: an option out of its range.
    """

    compares = "edge distributions"

    def __init__(
        self,
        weight: float | None,
        temperature: float,
        *,
        denoising: bool,
        dn_padding: DnPadding,
        dn_counts: DnCounts,
        unmatched: bool = True,
        ramp: Sequence[float],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_positive(f"{name}.temperature", temperature)
        if weight is not None:
            check_non_negative(f"{name}.weight", weight)
        check_choice(f"{name}.dn_padding", dn_padding, ("include", "exclude"))
        check_choice(f"{name}.dn_counts", dn_counts, ("shared", "own"))
        self.weight, self.temperature = weight, temperature
        self.denoising, self.unmatched = denoising, unmatched
        self.dn_padding: DnPadding = dn_padding
        self.dn_counts: DnCounts = dn_counts
        self.ramp = Ramp(ramp, f"{name}.ramp")

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        name = type(self).__name__
        head = getattr(getattr(getattr(model, "decoder", model), "box_head", None), "kind", "fdr")
        if head != "fdr":
            raise ValueError(
                f"{name} compares edge distributions, but the decoder's box_head is {head!r}: set "
                f"DFINETransformer.box_head: fdr, or take {name} out (distillers: [] for none)"
            )
        check_layers(name, model)
        if not getattr(criterion, "use_uni_set", False):
            raise ValueError(
                f"{name} weighs queries by the union of all matches, but the criterion matches every layer on its own: "
                f"set {type(criterion).__name__}.use_uni_set: True, or take {name} out (distillers: [] for none)"
            )

    def groups(self, step: MatchedStep) -> Sequence[MatchedGroup]:
        """The groups that are distilled."""
        return step.groups if self.denoising else step.groups[:1]

    def edge_logits(self, group: MatchedGroup) -> Tensor:
        """(K, R, 4, N + 1) edge logits of a group's layers.

        Raises:
            ValueError: the model has no distributions.
        """
        if group.stack.edge_logits is None:
            place = f"group {group.name!r}" if group.name else "the output"
            raise ValueError(
                f"{type(self).__name__} compares edge distributions, but {place} has none: it needs an FDR head"
            )
        return group.stack.edge_logits

    def normaliser(self, group: MatchedGroup, step: MatchedStep) -> Normaliser:
        """Queries and numbers of one group."""
        matched = group.matched()
        divisors = group.counts.distilled(self.dn_padding)
        counts = step.matching.counts.distilled(self.dn_padding) if self.dn_counts == "shared" else divisors
        if not self.unmatched:
            none = torch.zeros_like(divisors[0])
            return Normaliser(matched, ~matched, (divisors[0], none), (counts[0], none))
        return Normaliser(matched, group.pairs.padding if self.dn_padding == "exclude" else None, divisors, counts)


@register
class GOLSD(EdgeDistillation):
    """Global optimal localization self-distillation (D-FINE section 4.2; docs/method.md 7.1): the deepest layer teaches
    all others, by the loss DDF.

    Args:
        weight: factor of the loss; None takes ``weight_dict.loss_ddf`` of the criterion, as official files give it.
        temperature: T of both softmaxes, above 0.
        denoising: distil inside the extra query groups too.
        dn_padding: whether padded denoising slots are unmatched queries (``include`` is the official way).
        dn_counts: whether denoising groups mix the two means by the matching queries' counts (``shared``, official) or
            by their ``own``.
        ramp: see :class:`~isdfine.distill.context.Ramp`.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        weight: float | None = None,
        temperature: float = 5.0,
        *,
        denoising: bool = True,
        dn_padding: DnPadding = "include",
        dn_counts: DnCounts = "shared",
        ramp: Sequence[float] = (0.0, 0.0),
    ) -> None:
        super().__init__(
            weight, temperature, denoising=denoising, dn_padding=dn_padding, dn_counts=dn_counts, ramp=ramp
        )

    def bound(self, criterion: Criterion) -> GOLSD:
        if self.weight is not None:
            return self
        weights: Mapping[str, float] = getattr(criterion, "weight_dict", {})
        if "loss_ddf" not in weights:
            raise ValueError(
                "GOLSD.weight is null and the criterion's weight_dict has no loss_ddf: give one of the two"
            )
        bound = copy.copy(self)
        bound.weight = weights["loss_ddf"]
        return bound

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return [(index, layers - 1) for index in range(layers - 1)]

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        assert self.weight is not None, "bound() gives the weight"
        factor = self.weight * self.ramp(context.progress)
        named: dict[str, Tensor] = {}
        for group in self.groups(context.step):
            edges, last = self.edge_logits(group), group.stack.last_layer
            losses = edges.new_zeros(last)
            if factor and last:
                losses = self._losses(group, edges, last, context.step) * factor
            if group.name:  # in extra groups the deepest layer against itself has an official name in the log
                losses = torch.cat((losses, losses.new_zeros(1)))
            named |= {f"loss_ddf{suffix}": loss for suffix, loss in zip(group.stack.suffixes, losses.unbind())}
        return named

    def _losses(self, group: MatchedGroup, edges: Tensor, last: int, step: MatchedStep) -> Tensor:
        """DDF of the layers before the last, (last,)."""
        norm, overlaps = self.normaliser(group, step), group.overlaps(0, last)
        confidence = group.confidence(last, last + 1)[0]
        return ddf_loss(
            edges[:last],
            edges[last],
            overlaps,
            confidence,
            norm.matched,
            self.temperature,
            norm.counts,
            ignored=norm.ignored,
            rows=norm.divisors,
        )


@register
class InterLayerDistillation(EdgeDistillation):
    """Every decoder layer but one learns the edge distributions of the next deeper, or of the previous, layer
    (docs/method.md 7.2).

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
        ramp: see :class:`~isdfine.distill.context.Ramp`.
        denoising: distil inside the extra query groups too.
        dn_padding: whether padded denoising slots are unmatched queries (as the official GO-LSD has it).
        dn_counts: whether denoising groups mix the two means by the matching queries' counts (``shared``) or by their
            ``own``.

    Raises:
        ValueError: an option out of its range.
    """

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
        super().__init__(
            weight,
            temperature,
            denoising=denoising,
            dn_padding=dn_padding,
            dn_counts=dn_counts,
            unmatched=unmatched,
            ramp=ramp,
        )
        name = type(self).__name__
        check_choice(f"{name}.direction", direction, DIRECTIONS)
        check_choice(f"{name}.match_weight", match_weight, (None, *get_args(MatchWeight)))
        check_span(f"{name}.span", span)
        check_non_negative(f"{name}.class_weight", class_weight)
        self.direction: Direction = direction
        self.span = span
        default: MatchWeight = "student_iou" if direction == "deep_to_shallow" else "teacher_iou"
        self.match_weight: MatchWeight = match_weight or default
        self.detach_chain = detach_chain
        self.class_weight = class_weight

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return [(student - 1, teacher - 1) for student, teacher in layer_pairs(layers, self.direction, self.span)]

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        ramp = self.ramp(context.progress)
        named: dict[str, Tensor] = {}
        for group in self.groups(context.step):
            couples = self.layer_pairs(len(self.edge_logits(group)))
            if not couples:
                raise ValueError(f"{type(self).__name__} needs two decoder layers or more, but the output has one")
            students, teachers = ([pair[side] for pair in couples] for side in (0, 1))
            for name, losses in self._losses(group, students, teachers, context.step, ramp).items():
                suffixes = (group.stack.suffixes[student] for student in students)
                named |= {f"{name}{suffix}": loss for suffix, loss in zip(suffixes, losses.unbind())}
        return named

    def _losses(
        self, group: MatchedGroup, students: list[int], teachers: list[int], step: MatchedStep, ramp: float
    ) -> dict[str, Tensor]:
        """Weighted losses of one group by name, one value per pair; nothing is computed where the factor is 0."""
        factors = {"loss_isd": (self.weight or 0.0) * ramp}
        if self.class_weight:
            factors["loss_isd_cls"] = self.class_weight * ramp
        nothing = group.stack.boxes.new_zeros(len(students))
        losses = dict.fromkeys(factors, nothing)
        if not any(factors.values()):
            return losses
        norm = self.normaliser(group, step)
        edges, scores = self.edge_logits(group), group.stack.logits[0]
        overlap = self._overlap(group.overlaps(0, len(edges)), students, teachers)
        confidence = pick(group.confidence(0, len(edges)), teachers)
        if factors["loss_isd"]:
            loss = norm.mean(self._edge_divergence(edges, students, teachers), overlap, confidence)
            loss = zero_where_equal(loss, pick(edges, students), pick(edges, teachers))
            losses["loss_isd"] = loss * factors["loss_isd"]
        if factors.get("loss_isd_cls"):
            divergence = class_kl(pick(scores, students), pick(scores, teachers))
            losses["loss_isd_cls"] = norm.mean(divergence, overlap, confidence) * factors["loss_isd_cls"]
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

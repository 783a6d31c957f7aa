# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Self-distillation between edge distributions of decoder layers: GO-LSD and inter-layer (docs/method.md 7.1, 7.2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..core.errors import check_choice, check_non_negative
from ..core.registry import register
from ..losses.criterion import Criterion
from ..losses.functions import class_kl, ddf_loss, decoupled_mean, soften, softened_kl
from ..losses.matched import DnPadding, MatchedGroup, MatchedStep
from .context import Direction, DistillationContext, LayerDistillation, check_layers

DnCounts = Literal["shared", "own"]
MatchWeight = Literal["student_iou", "teacher_iou", "better"]


class DistilledQueries(NamedTuple):
    """The queries of one group over which losses average; see :func:`~isdfine.losses.functions.decoupled_mean`."""

    matched: Tensor
    """(R,) bool."""
    ignored: Tensor | None
    """(R,) bool, neither matched nor unmatched."""
    divisors: tuple[Tensor, Tensor]
    """Of the two means."""
    counts: tuple[Tensor, Tensor]
    """Their square roots mix the two means."""


class EdgeDistillation(LayerDistillation):
    """What GO-LSD and its relatives share: the loss DDF between pairs of layers.

    Args:
        weight, temperature, options: see :class:`~isdfine.distill.context.LayerDistillation`.
        denoising: distil inside the extra query groups too.
        dn_padding: ``include``: padded denoising slots are unmatched queries; ``exclude``: they do not count.
        dn_counts: denoising groups mix the two means by the matching queries' counts (``shared``) or by their ``own``.

    Raises:
        ValueError: an option out of its range.
    """

    compares = "edge distributions"
    loss: ClassVar[str]
    """What logs call it."""
    unmatched = True
    """Whether queries without a box are distilled."""
    match_weight: MatchWeight = "student_iou"
    """What a query with a box weighs; one without weighs the teacher's confidence."""
    class_weight = 0.0
    """Factor of the same loss on class scores."""

    def __init__(
        self,
        weight: float | None,
        temperature: float,
        *,
        denoising: bool = True,
        dn_padding: DnPadding = "include",
        dn_counts: DnCounts = "shared",
        **options: Any,
    ) -> None:
        super().__init__(weight, temperature, **options)
        name = type(self).__name__
        check_choice(f"{name}.dn_padding", dn_padding, ("include", "exclude"))
        check_choice(f"{name}.dn_counts", dn_counts, ("shared", "own"))
        self.denoising = denoising
        self.dn_padding: DnPadding = dn_padding
        self.dn_counts: DnCounts = dn_counts

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        name = type(self).__name__
        decoder = getattr(model, "decoder", model)
        head = getattr(getattr(decoder, "box_head", None), "kind", "fdr")
        if head != "fdr":
            raise ValueError(
                f"{name} compares edge distributions, but the decoder's box_head is {head!r}: set "
                f"{type(decoder).__name__}.box_head: fdr, or take {name} out (distillers: [] for none)"
            )
        check_layers(name, model)
        if not getattr(criterion, "use_uni_set", False):
            raise ValueError(
                f"{name} weighs queries by the union of all matches, but the criterion matches every layer on its own: "
                f"set {type(criterion).__name__}.use_uni_set: True, or take {name} out (distillers: [] for none)"
            )

    def layer_pairs(self, layers: int) -> list[tuple[int, int]]:
        return self.pairs(layers)

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for group in context.step.groups if self.denoising else context.step.groups[:1]:
            if group.stack.edge_logits is None:
                place = f"group {group.name!r}" if group.name else "the output"
                raise ValueError(
                    f"{type(self).__name__} compares edge distributions, but {place} has none: it needs an FDR head"
                )
            pairs = self.layer_pairs(len(group.stack.edge_logits))
            students = [*(student for student, _ in pairs), group.stack.last_layer]
            for name, losses in self.losses(group, group.stack.edge_logits, pairs, context).items():
                suffixes = (group.stack.suffixes[student] for student in students)
                named |= {f"{name}{suffix}": loss for suffix, loss in zip(suffixes, losses.unbind())}
        return named

    def losses(
        self, group: MatchedGroup, edges: Tensor, pairs: Sequence[tuple[int, int]], context: DistillationContext
    ) -> dict[str, Tensor]:
        """Weighted losses of one group by name, one per pair; one more would be the deepest layer's.

        Args:
            edges: (K, R, 4, N + 1) logits of its layers.
        """
        factors = {self.loss: self.factor(context)}
        if self.class_weight:
            factors[f"{self.loss}_cls"] = self.class_weight * self.ramp(context.progress)
        named = dict.fromkeys(factors, edges.new_zeros(len(pairs)))
        if not pairs or not any(factors.values()):
            return named
        students, teachers = ([pair[side] for pair in pairs] for side in (0, 1))
        matched, ignored, divisors, counts = self.queries(group, context.step)
        overlap, confidence = self.query_weights(group, students, teachers)
        if factors[self.loss]:
            loss = ddf_loss(
                pick(edges, students),
                pick(edges, teachers),
                overlap,
                confidence,
                matched,
                self.temperature,
                counts,
                ignored=ignored,
                rows=divisors,
                divergence=self.divergence(edges, students, teachers),
            )
            named[self.loss] = loss * factors[self.loss]
        if self.class_weight:
            scores = group.stack.logits[0]
            weighted = class_kl(pick(scores, students), pick(scores, teachers))
            weighted = weighted * torch.where(matched, overlap, confidence)
            loss = decoupled_mean(weighted, matched, counts, ignored=ignored, rows=divisors)
            named[f"{self.loss}_cls"] = loss * factors[f"{self.loss}_cls"]
        return named

    def divergence(self, edges: Tensor, students: Sequence[int], teachers: Sequence[int]) -> Tensor | None:
        """(pairs, R) T^2 KL of every query; None leaves that to DDF itself."""
        return None

    def query_weights(
        self, group: MatchedGroup, students: Sequence[int], teachers: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """(1 or pairs, R) twice: what queries weigh that have a box, and that have none."""
        layers, last = group.stack.last_layer + 1, max(teachers)
        if min(teachers) == last:
            confidence = group.confidence(last, last + 1)
        else:
            confidence = pick(group.confidence(0, layers), teachers)
        if self.match_weight == "better":
            overlaps = group.overlaps(0, layers)
            return (pick(overlaps, teachers) - pick(overlaps, students)).clamp(min=0), confidence
        chosen = students if self.match_weight == "student_iou" else teachers
        first = min(chosen)
        overlaps = group.overlaps(first, max(chosen) + 1)
        return pick(overlaps, [layer - first for layer in chosen]), confidence

    def queries(self, group: MatchedGroup, step: MatchedStep) -> DistilledQueries:
        """Queries and numbers of one group."""
        matched = group.matched()
        divisors = group.counts.distilled(self.dn_padding)
        counts = step.matching.counts.distilled(self.dn_padding) if self.dn_counts == "shared" else divisors
        if not self.unmatched:
            none = torch.zeros_like(divisors[0])
            return DistilledQueries(matched, ~matched, (divisors[0], none), (counts[0], none))
        ignored = group.pairs.padding if self.dn_padding == "exclude" else None
        return DistilledQueries(matched, ignored, divisors, counts)


@register
class GOLSD(EdgeDistillation):
    """Global optimal localization self-distillation (D-FINE section 4.2; docs/method.md 7.1): the deepest layer teaches
    all others, by the loss DDF.

    Args:
        weight: factor of the loss; None takes ``weight_dict.loss_ddf`` of the criterion, as official files give it.
        temperature, denoising, dn_padding, dn_counts, ramp: see :class:`EdgeDistillation`; ``include`` and ``shared``
            are the official way.

    Raises:
        ValueError: an option out of its range.
    """

    loss = "loss_ddf"

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

    def losses(
        self, group: MatchedGroup, edges: Tensor, pairs: Sequence[tuple[int, int]], context: DistillationContext
    ) -> dict[str, Tensor]:
        (losses,) = super().losses(group, edges, pairs, context).values()
        # in extra groups the deepest layer against itself has an official name in the log
        return {self.loss: torch.cat((losses, losses.new_zeros(1))) if group.name else losses}


@register
class InterLayerDistillation(EdgeDistillation):
    """Every decoder layer but one learns the edge distributions of the next deeper, or of the previous, layer
    (docs/method.md 7.2).

    The loss of a pair has the form of DDF; pairs are summed, as GO-LSD's are. It takes GO-LSD's place: list one of
    the two.

    Args:
        direction, span, temperature, options: see :class:`~isdfine.distill.context.LayerDistillation` and
            :class:`EdgeDistillation`.
        weight: factor of the loss (lambda_inter); 1.5 spends as much as DDF does.
        match_weight: of queries with a box: overlap of the student's box, of the teacher's, or how much the teacher's
            overlap is ``better`` (0 where it is not). None: ``student_iou`` for deep_to_shallow, else ``teacher_iou``.
        unmatched: also distil queries without a box, weighted by the teacher's confidence.
        detach_chain: keep the gradient out of the layers before the student, which its logits are added to.
        class_weight: factor of the same loss on class scores (binary KL, T = 1); 0 for none.

    Raises:
        ValueError: an option out of its range.
    """

    loss = "loss_isd"

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
        dn_padding: DnPadding = "exclude",
        **options: Any,
    ) -> None:
        super().__init__(weight, temperature, dn_padding=dn_padding, direction=direction, span=span, **options)
        name = type(self).__name__
        check_choice(f"{name}.match_weight", match_weight, (None, *get_args(MatchWeight)))
        check_non_negative(f"{name}.class_weight", class_weight)
        self.match_weight = match_weight or ("student_iou" if direction == "deep_to_shallow" else "teacher_iou")
        self.unmatched, self.detach_chain, self.class_weight = unmatched, detach_chain, class_weight

    def losses(
        self, group: MatchedGroup, edges: Tensor, pairs: Sequence[tuple[int, int]], context: DistillationContext
    ) -> dict[str, Tensor]:
        if not pairs:
            raise ValueError(f"{type(self).__name__} needs two decoder layers or more, but the output has one")
        return super().losses(group, edges, pairs, context)

    def divergence(self, edges: Tensor, students: Sequence[int], teachers: Sequence[int]) -> Tensor:
        # most layers are student and teacher, and softened once
        softened = soften(cut_chain(edges) if self.detach_chain else edges, self.temperature)
        return softened_kl(pick(softened, students), pick(softened, teachers), self.temperature)


def pick(layers: Tensor, chosen: Sequence[int]) -> Tensor:
    """Chosen layers of a stack (K, ...), or (1, ...) where all are the same layer: a view where they are neighbours,
    never an index on the device."""
    first, count = chosen[0], 1 if len({*chosen}) == 1 else len(chosen)
    if list(chosen) == list(range(len(layers))):
        return layers
    if list(chosen[:count]) == list(range(first, first + count)):
        return layers[first : first + count]
    return torch.stack([layers[index] for index in chosen])


def cut_chain(edges: Tensor) -> Tensor:
    """The same logits z_l = head_l + z_{l-1}, whose gradient reaches head_l but no layer before (K, ...)."""
    before = edges[:-1]
    return torch.cat((edges[:1], edges[1:] + (before.detach() - before)))

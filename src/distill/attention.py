# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Attention-weight self-distillation: neighbouring decoder layers attend alike (docs/method.md 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import dist
from ..core.errors import check_choice, check_non_negative, check_positive
from ..core.registry import register
from ..losses.criterion import Criterion
from ..nn.capture import (
    CROSS_ATTENTION,
    DENSE_CROSS_ATTENTION,
    SELF_ATTENTION,
    SELF_ATTENTION_MAPS,
    CapturedAttention,
    attention_of,
)
from ..nn.types import Want
from .captured import choose_rows, dense_maps, key_mask, point_maps, query_weights, row_weights, self_attention_maps
from .context import DIRECTIONS, Direction, DistillationContext, Distiller, Ramp, check_span, layer_pairs
from .maps import DIVERGENCES, Compared, LayerMaps, attn_kl, compare_layers, some_weight

__all__ = ["AttentionDistillation", "attn_kl"]

NAMES = {SELF_ATTENTION: "attn", CROSS_ATTENTION: "attn_cross", DENSE_CROSS_ATTENTION: "attn_dense"}
"""How logs call a kind of attention."""
OPTIONS = {
    SELF_ATTENTION: "self_attention: True",
    SELF_ATTENTION_MAPS: "maps: explicit",
    CROSS_ATTENTION: "cross_mode",
    DENSE_CROSS_ATTENTION: "dense_cross: True",
}
"""What asks for a kind of attention."""


@register
class AttentionDistillation(Distiller):
    """Divergence of a decoder layer's attention from its neighbour's, head by head, averaged over the pairs of layers.

    Args:
        weight: factor of the loss (lambda_attn), 0 or more.
        direction: ``deep_to_shallow`` (the next deeper layer teaches) or ``shallow_to_deep`` (the previous one does).
        span: distance of student and teacher in layers, cut off at the ends.
        temperature: tau of both maps, above 0; the loss is multiplied by its square.
        self_attention: compare attention among queries.
        cross_mode: compare the weights of deformable sampling points: ``levels`` adds them up per feature level first,
            ``points`` compares them one by one (points of two layers need not lie at the same place); ``off``, which
            YAML reads as False, does not.
        dense_cross: compare attention to every cell of the memory; for decoders that have it.
        queries: ``match``: the matching queries alone, which read no others; ``all``: the whole matrix.
        query_subsample: rows of the maps that count in a step, chosen at random, the same in all layers; None for all.
        row_weight: ``uniform``; ``conf``: the best class score in the teacher's layer; ``matched_only``: queries that
            have a box.
        ramp: see :class:`~isdfine.distill.context.Ramp`; the maps of a run's first steps are nearly uniform.
        loss: ``kl`` of the student from the teacher, ``js``, or ``mse``: squared differences summed over the keys.
        entropy_guard: drop the loss of pairs whose teacher has more than 0.98 of the largest possible entropy on
            average (the mean is still over all pairs).
        maps: ``recompute`` them from queries and keys, or take the ``explicit`` ones through which the layer's output
            then goes instead of the fused attention: slower, the same loss without dropout.

    Raises:
        ValueError: an option that is unknown or out of its range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        direction: Direction = "deep_to_shallow",
        span: int = 1,
        temperature: float = 1.0,
        *,
        self_attention: bool = True,
        cross_mode: Literal["off", "levels", "points", False] = "off",
        dense_cross: bool = False,
        queries: Literal["match", "all"] = "match",
        query_subsample: int | None = None,
        row_weight: Literal["uniform", "conf", "matched_only"] = "uniform",
        ramp: Sequence[float] = (0.1, 0.2),
        loss: Literal["kl", "js", "mse"] = "kl",
        entropy_guard: bool = False,
        maps: Literal["recompute", "explicit"] = "recompute",
    ) -> None:
        super().__init__()
        who = "AttentionDistillation"
        check_non_negative(f"{who}.weight", weight)
        check_positive(f"{who}.temperature", temperature)
        check_span(f"{who}.span", span)
        check_choice(f"{who}.direction", direction, DIRECTIONS)
        check_choice(f"{who}.cross_mode", cross_mode or "off", ("off", "levels", "points"))
        check_choice(f"{who}.queries", queries, ("match", "all"))
        check_choice(f"{who}.row_weight", row_weight, ("uniform", "conf", "matched_only"))
        check_choice(f"{who}.loss", loss, tuple(DIVERGENCES))
        check_choice(f"{who}.maps", maps, ("recompute", "explicit"))
        if maps == "explicit" and not self_attention:
            raise ValueError(f"{who}.maps: explicit concerns self_attention, which is off: set it, or maps: recompute")
        if query_subsample is not None:
            check_positive(f"{who}.query_subsample", query_subsample)
        self.weight, self.span = weight, span
        self.direction: Direction = direction
        self.temperature, self.loss, self.row_weight = temperature, loss, row_weight
        self.everything, self.query_subsample = queries == "all", query_subsample
        self.ramp = Ramp(ramp, f"{who}.ramp")
        self.entropy_guard = entropy_guard
        self.by_level = cross_mode == "levels"
        self.explicit = maps == "explicit"
        wanted = {
            SELF_ATTENTION: self_attention,
            CROSS_ATTENTION: (cross_mode or "off") != "off",
            DENSE_CROSS_ATTENTION: dense_cross,
        }
        self.kinds = tuple(kind for kind, asked in wanted.items() if asked)
        self.want = Want(attention=frozenset(self.kinds) | ({SELF_ATTENTION_MAPS} if self.explicit else frozenset()))
        if not self.kinds:
            raise ValueError(
                f"{who} compares nothing: set self_attention: True, cross_mode: levels or dense_cross: True, or take "
                "it out of distillers"
            )

    def check(self, model: nn.Module, criterion: Criterion) -> None:
        for kind in (*self.kinds, *sorted(self.want.attention)):  # what stands in no option of its own comes last
            try:
                attention_of(model, {kind})
            except ValueError as error:
                raise ValueError(f"AttentionDistillation.{OPTIONS[kind]}: {error}") from error
        decoder = attention_of(model, self.want.attention)
        layers = decoder.num_attention_layers
        if layers < 2:
            raise ValueError(
                f"AttentionDistillation compares decoder layers, but {type(model).__name__} has {layers}: "
                "set num_layers to 2 or more, or take it out of distillers"
            )
        if self.row_weight != "uniform" and decoder.num_predicting_layers < layers:
            raise ValueError(
                f"AttentionDistillation.row_weight: {self.row_weight} reads the predictions of all {layers} decoder "
                f"layers, but {type(decoder).__name__} predicts after the last alone: set its aux_loss: True, or "
                "row_weight: uniform"
            )
        if self.row_weight != "uniform" and not hasattr(criterion, "use_uni_set"):
            raise ValueError(
                f"AttentionDistillation.row_weight: {self.row_weight} reads the matched step of a DFINECriterion, but "
                f"the criterion is a {type(criterion).__name__}: set row_weight: uniform"
            )

    def attention_pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher) decoder layers, 0-based, of a model with this many."""
        return [(student - 1, teacher - 1) for student, teacher in layer_pairs(layers, self.direction, self.span)]

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        attention = _attention(context)
        factor = self.weight * self.ramp(context.progress)
        named: dict[str, Tensor] = {}
        for kind in self.kinds:
            couples = self.attention_pairs(_layers(attention, kind))
            if not factor:  # the same for every rank: nothing is computed, and nothing can disturb the run
                losses = [context.student.layers[-1].boxes.new_zeros((), dtype=torch.float32) for _ in couples]
            else:
                losses = self._losses(kind, couples, context)
            named |= {
                f"loss_{NAMES[kind]}_{student}": loss * (factor / len(couples))
                for (student, _), loss in zip(couples, losses)
            }
        return named

    @torch.no_grad()
    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        """``attn_kept_0``, ..: 1 where the entropy guard keeps the pair of that student, else 0; none without it.

        The guard decides for all ranks together: call it on every rank.
        """
        if not self.entropy_guard:
            return {}
        named = {}
        for kind in self.kinds:
            couples = self.attention_pairs(_layers(_attention(context), kind))
            compared, _ = self._compared(kind, couples, context)
            for (student, _), kept in zip(couples, _kept(compared)):
                named[f"{NAMES[kind]}_kept_{student}"] = kept
        return named

    def _losses(self, kind: str, couples: Sequence[tuple[int, int]], context: DistillationContext) -> list[Tensor]:
        """tau^2 times the weighted mean divergence of every pair."""
        compared, totals = self._compared(kind, couples, context)
        scales = self.temperature**2 / some_weight(totals)
        if self.entropy_guard:
            scales = scales * _kept(compared)
        return [divergence * scale for divergence, scale in zip(compared.divergence, scales.unbind())]

    def _compared(
        self, kind: str, couples: Sequence[tuple[int, int]], context: DistillationContext
    ) -> tuple[Compared, Tensor]:
        """Sums per pair, and the sums of their weights, averaged over ranks, (pairs,)."""
        maps, weights = self._weighted(kind, couples, context)
        images, heads = maps.shape[:2]
        totals = torch.stack([one.expand(images, -1, -1).sum() * heads for one in weights])
        compared = compare_layers(
            maps, couples, weights, kind=self.loss, tau=self.temperature, entropy=self.entropy_guard
        )
        return compared, dist.mean(totals)

    def _weighted(
        self, kind: str, couples: Sequence[tuple[int, int]], context: DistillationContext
    ) -> tuple[LayerMaps, list[Tensor]]:
        """The maps, and the weights of their rows per pair, (1 or B, 1, R)."""
        attention, everything = _attention(context), self.everything
        rows = choose_rows(attention, self.query_subsample, context.progress, everything=everything)
        if kind == SELF_ATTENTION:
            mask = key_mask(attention, rows, everything=everything)
            maps = self_attention_maps(attention, rows, mask, explicit=self.explicit)
        elif kind == CROSS_ATTENTION:
            maps = point_maps(attention, rows, by_level=self.by_level)
        else:
            maps = dense_maps(attention, rows)
        base = row_weights(attention, rows, maps.mask, everything=everything)
        if self.row_weight == "uniform":
            return maps, [base] * len(couples)
        layers = [teacher if self.row_weight == "conf" else student for student, teacher in couples]
        omega = [query_weights(context.step, attention, self.row_weight, layer) for layer in layers]
        return maps, [base * rows.of(one, 1)[:, None] for one in omega]


def _attention(context: DistillationContext) -> CapturedAttention:
    if context.student.attention is None:
        raise ValueError(
            "AttentionDistillation needs the decoder's attention, which the output does not hold: "
            "call the model with want=objective.want"
        )
    return context.student.attention


def _layers(attention: CapturedAttention, kind: str) -> int:
    found = {
        SELF_ATTENTION: attention.queries,
        CROSS_ATTENTION: attention.point_logits,
        DENSE_CROSS_ATTENTION: attention.dense_queries,
    }
    captured = found[kind]
    if not captured:
        raise ValueError(
            f"AttentionDistillation compares {kind}, which was not captured: call the model with want=objective.want"
        )
    return len(captured)


def _kept(compared: Compared) -> Tensor:
    """(pairs,) 1 where the teacher says something, else 0."""
    return (dist.mean(torch.stack(compared.excess)) <= 0).to(torch.float32)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Attention-weight self-distillation: neighbouring decoder layers attend alike (docs/method.md 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..core import dist
from ..core.errors import check_choice, check_positive
from ..core.registry import register
from ..losses.criterion import Criterion
from ..losses.matched import MatchedStep, to_device
from ..nn.capture import (
    CROSS_ATTENTION,
    DENSE_CROSS_ATTENTION,
    SELF_ATTENTION,
    SELF_ATTENTION_MAPS,
    CapturedAttention,
    attention_of,
)
from ..nn.types import Want
from .context import DistillationContext, LayerDistillation
from .maps import DIVERGENCES, Compared, LayerMaps, attn_kl, compare_layers, some_weight, valid_rows

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
class AttentionDistillation(LayerDistillation):
    """Divergence of a decoder layer's attention from its neighbour's, head by head, averaged over the pairs of layers.

    Args:
        weight, temperature, direction, span: see :class:`~isdfine.distill.context.LayerDistillation`; the weight is
            lambda_attn, the temperature tau.
        self_attention: compare attention among queries.
        cross_mode: compare the weights of deformable sampling points: ``levels`` adds them up per feature level first,
            ``points`` compares them one by one (points of two layers need not lie at the same place); ``off``, which
            YAML reads as False, does not.
        dense_cross: compare attention to every cell of the memory; for decoders that have it.
        queries: ``match``: the matching queries alone, which read no others; ``all``: the whole matrix.
        query_subsample: rows of the maps that count in a step, chosen at random, the same in all layers; None for all.
        row_weight: ``uniform``; ``conf``: the best class score in the teacher's layer; ``matched_only``: queries that
            have a box.
        ramp: shares of the run's optimiser steps between which the loss fades in; the first maps are nearly uniform.
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
        *,
        temperature: float = 1.0,
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
        **pairs: Any,
    ) -> None:
        super().__init__(weight, temperature, ramp=ramp, **pairs)
        who = "AttentionDistillation"
        for option, value, choices in (
            ("cross_mode", cross_mode or "off", ("off", "levels", "points")),
            ("queries", queries, ("match", "all")),
            ("row_weight", row_weight, ("uniform", "conf", "matched_only")),
            ("loss", loss, tuple(DIVERGENCES)),
            ("maps", maps, ("recompute", "explicit")),
        ):
            check_choice(f"{who}.{option}", value, choices)
        if maps == "explicit" and not self_attention:
            raise ValueError(f"{who}.maps: explicit concerns self_attention, which is off: set it, or maps: recompute")
        if query_subsample is not None:
            check_positive(f"{who}.query_subsample", query_subsample)
        self.loss, self.row_weight, self.entropy_guard = loss, row_weight, entropy_guard
        self.every_group, self.query_subsample = queries == "all", query_subsample
        self.by_level, self.explicit = cross_mode == "levels", maps == "explicit"
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
        if self.row_weight == "uniform":
            return
        who = f"AttentionDistillation.row_weight: {self.row_weight} reads the"
        if decoder.num_predicting_layers < layers:
            raise ValueError(
                f"{who} predictions of all {layers} decoder layers, but {type(decoder).__name__} predicts after the "
                "last alone: set its aux_loss: True, or row_weight: uniform"
            )
        if not hasattr(criterion, "use_uni_set"):
            raise ValueError(
                f"{who} matched step of a DFINECriterion, but the criterion is a {type(criterion).__name__}: set "
                "row_weight: uniform"
            )

    def forward(self, context: DistillationContext) -> dict[str, Tensor]:
        attention, factor = _attention(context), self.factor(context)
        named: dict[str, Tensor] = {}
        for kind in self.kinds:
            pairs = self.pairs(_layers(attention, kind))
            if factor:  # the same for every rank
                losses = self._losses(kind, pairs, context)
            else:
                losses = [context.student.layers[-1].boxes.new_zeros((), dtype=torch.float32) for _ in pairs]
            named |= {
                f"loss_{NAMES[kind]}_{student}": loss * (factor / len(pairs))
                for (student, _), loss in zip(pairs, losses)
            }
        return named

    @torch.no_grad()
    def diagnostics(self, context: DistillationContext) -> dict[str, Tensor]:
        """``attn_kept_0``, ..: 1 where the entropy guard keeps the pair of that student, else 0; none without it.

        The guard decides for all ranks together: call it on every rank.
        """
        named = {}
        for kind in self.kinds if self.entropy_guard else ():
            pairs = self.pairs(_layers(_attention(context), kind))
            compared, _ = self._compared(kind, pairs, context)
            for (student, _), kept in zip(pairs, _kept(compared)):
                named[f"{NAMES[kind]}_kept_{student}"] = kept
        return named

    def _losses(self, kind: str, pairs: Sequence[tuple[int, int]], context: DistillationContext) -> list[Tensor]:
        """tau^2 times the weighted mean divergence of every pair."""
        compared, totals = self._compared(kind, pairs, context)
        scales = self.temperature**2 / some_weight(totals)
        if self.entropy_guard:
            scales = scales * _kept(compared)
        return [divergence * scale for divergence, scale in zip(compared.divergence, scales.unbind())]

    def _compared(
        self, kind: str, pairs: Sequence[tuple[int, int]], context: DistillationContext
    ) -> tuple[Compared, Tensor]:
        """Sums per pair, and the sums of their weights, averaged over ranks, (pairs,)."""
        maps, weights = self._weighted(kind, pairs, context)
        images, heads = maps.shape[:2]
        totals = torch.stack([weight.expand(images, -1, -1).sum() * heads for weight in weights])
        compared = compare_layers(
            maps, pairs, weights, kind=self.loss, tau=self.temperature, entropy=self.entropy_guard
        )
        return compared, dist.mean(totals)

    def _weighted(
        self, kind: str, pairs: Sequence[tuple[int, int]], context: DistillationContext
    ) -> tuple[LayerMaps, list[Tensor]]:
        """The maps, and the weights of their rows per pair, (1 or B, 1, R)."""
        rows = Rows(_attention(context), self.query_subsample, context.progress, every_group=self.every_group)
        if kind == SELF_ATTENTION:
            maps = self_attention_maps(rows, explicit=self.explicit)
        elif kind == CROSS_ATTENTION:
            maps = point_maps(rows, by_level=self.by_level)
        else:
            maps = dense_maps(rows)
        base = rows.weights(maps.mask)
        if self.row_weight == "uniform":
            return maps, [base] * len(pairs)
        layers = [teacher if self.row_weight == "conf" else student for student, teacher in pairs]
        of_queries = [query_weights(context.step, rows.attention, self.row_weight, layer) for layer in layers]
        return maps, [base * rows.of(weights, 1)[:, None] for weights in of_queries]


def _attention(context: DistillationContext) -> CapturedAttention:
    if context.student.attention is None:
        raise ValueError(
            "AttentionDistillation needs the decoder's attention, which the output does not hold: "
            "call the model with want=objective.want"
        )
    return context.student.attention


def _layers(attention: CapturedAttention, kind: str) -> int:
    captured = {
        SELF_ATTENTION: attention.queries,
        CROSS_ATTENTION: attention.point_logits,
        DENSE_CROSS_ATTENTION: attention.dense_queries,
    }[kind]
    if not captured:
        raise ValueError(
            f"AttentionDistillation compares {kind}, which was not captured: call the model with want=objective.want"
        )
    return len(captured)


def _kept(compared: Compared) -> Tensor:
    """(pairs,) 1 where the teacher says something, else 0."""
    return (dist.mean(torch.stack(compared.excess)) <= 0).to(torch.float32)


class Rows:
    """Queries whose rows of the maps are compared, R of them; their keys are J queries, all of some groups.

    The choice of ``count`` rows is a function of ``progress``: the same on every rank and after a restart, and the
    run's own random numbers stay untouched.

    Args:
        attention: of all groups, which lie one after the other on its query axis.
        count: rows to choose at random; None for all J.
        progress: share of the run that is done.
        every_group: the rows and keys are those of all groups, else the matching queries' alone.
    """

    def __init__(self, attention: CapturedAttention, count: int | None, progress: float, *, every_group: bool) -> None:
        self.attention, self.every_group = attention, every_group
        self.places = attention.places if every_group else {"": attention.places[""]}
        self.start = min(place.start for place in self.places.values())
        self.keys = max(place.stop for place in self.places.values()) - self.start
        self.index: Tensor | None = None
        """(R,) int64 in 0..J-1; None for all."""
        if count is not None and count < self.keys:
            bits = int(np.float64(progress).view(np.uint64))
            index = np.sort(np.random.default_rng(bits).permutation(self.keys)[:count])
            self.index = to_device(index, attention.of_some_kind[0].device)

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """The rows of a tensor over the whole query axis: (.., Q, ..) -> (.., R, ..)."""
        return self.pick(self.keys_of(tensor, axis), axis)

    def keys_of(self, tensor: Tensor, axis: int) -> Tensor:
        """The keys of a tensor over the whole query axis: (.., Q, ..) -> (.., J, ..)."""
        return tensor.narrow(axis, self.start, self.keys)

    def pick(self, tensor: Tensor, axis: int) -> Tensor:
        """The rows of a tensor over the keys: (.., J, ..) -> (.., R, ..)."""
        return tensor if self.index is None else tensor.index_select(axis, self.index)

    @cached_property
    def padding(self) -> Tensor | None:
        """(B, J) bool, slots that only fill up the batch; None where no group has any."""
        given = self.attention.padding
        if not any(name in given for name in self.places):
            return None
        like = next(iter(given.values()))
        parts = [
            given.get(name, like.new_zeros(len(like), place.stop - place.start)) for name, place in self.places.items()
        ]
        return torch.cat(parts, dim=1)

    def key_mask(self) -> Tensor | None:
        """(1 or B, 1, 1 or R, J) bool, queries that a row may not read and padded slots; None where there are none."""
        among = self.attention.attn_mask if self.every_group else self.attention.masks.get("")
        mask = None if among is None else self.pick(among, 0)[None, None]
        if self.padding is None:
            return mask
        keys = self.padding[:, None, None]
        return keys if mask is None else mask | keys

    def weights(self, mask: Tensor | None) -> Tensor:
        """(1 or B, 1, R) float32: 0 for padded slots and for rows without any valid key, else 1."""
        ones = torch.ones(1, 1, self.keys, device=self.attention.of_some_kind[0].device)
        weights = self.pick(ones, 2)
        if self.padding is not None:
            weights = weights * self.pick(~self.padding, 1)[:, None]
        return weights if mask is None else weights * valid_rows(mask)


def query_weights(step: MatchedStep, attention: CapturedAttention, kind: str, layer: int) -> Tensor:
    """(B, Q) what a query counts, all groups in their order on the query axis; detached.

    Args:
        step: the matched step.
        attention: of the same step.
        kind: ``conf`` for the best class score in decoder layer ``layer``, ``matched_only`` for 1 where the query has
            a box in that layer, else 0. Queries of a group that is not supervised count 0.
        layer: 0-based.

    Raises:
        ValueError: the output does not have predictions of every layer.
    """
    groups = {group.name: group for group in step.groups}
    parts = []
    layers = len(attention.of_some_kind)
    for name, place in attention.places.items():
        if name not in groups:  # not supervised
            parts.append(step.matching.stack.boxes.new_zeros(step.matching.stack.batch, place.stop - place.start))
            continue
        group = groups[name]
        if group.stack.last_layer + 1 != layers:
            raise ValueError(
                f"AttentionDistillation.row_weight {kind} reads the predictions of all {layers} decoder layers, but "
                f"the output has those of {group.stack.last_layer + 1}: set aux_loss: True, or row_weight: uniform"
            )
        weights = group.confidence(layer, layer + 1)[0] if kind == "conf" else group.matched(layer).float()
        parts.append(weights.view(group.stack.batch, group.stack.queries))
    return torch.cat(parts, dim=1)


def self_attention_maps(rows: Rows, *, explicit: bool = False) -> LayerMaps:
    """Every layer's attention among queries, (B, heads, R, J); ``explicit`` takes the captured scores."""
    attention, mask = rows.attention, rows.key_mask()
    projected = [(rows.of(query, 2), rows.keys_of(key, 2)) for query, key in zip(attention.queries, attention.keys)]
    if not explicit:
        return _product_maps(projected, mask)
    tensors = [(rows.keys_of(rows.of(scores, 2), 3),) for scores in attention.scores]
    return LayerMaps(tensors, lambda scores: scores, mask, _product_maps(projected, mask).shape)


def dense_maps(rows: Rows) -> LayerMaps:
    """Every layer's attention to the S cells of the memory, (B, heads, R, S)."""
    attention = rows.attention
    padded = attention.key_padding_mask
    projected = [(rows.of(query, 2), key) for query, key in zip(attention.dense_queries, attention.dense_keys)]
    return _product_maps(projected, None if padded is None else padded[:, None, None])


def _product_maps(projected: Sequence[tuple[Tensor, Tensor]], mask: Tensor | None) -> LayerMaps:
    """Maps whose scores are products of (B, heads, R, d) and (B, heads, J, d)."""
    query, key = projected[0]
    return LayerMaps(projected, _scaled_product, mask, (*query.shape[:3], key.shape[2]))


def point_maps(rows: Rows, *, by_level: bool) -> LayerMaps:
    """Every layer's weights of sampling points (B, heads, R, P), or their sums per level (B, heads, R, levels)."""
    levels = rows.attention.num_points
    logits = [(rows.of(layer, 1),) for layer in rows.attention.point_logits]
    images, chosen, heads, points = logits[0][0].shape
    scores_of = partial(_level_scores, num_points=levels) if by_level else _point_scores
    return LayerMaps(logits, scores_of, None, (images, heads, chosen, len(levels) if by_level else points))


def _scaled_product(query: Tensor, key: Tensor) -> Tensor:
    """(B, heads, R, d) and (B, heads, J, d) -> (B, heads, R, J)."""
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.mT
    return scores


def _point_scores(logits: Tensor) -> Tensor:
    """(B, R, heads, P) -> (B, heads, R, P)."""
    return logits.transpose(1, 2)


def _level_scores(logits: Tensor, num_points: Sequence[int]) -> Tensor:
    """(B, R, heads, P) -> (B, heads, R, levels): log of the summed probabilities, up to a constant per row."""
    levels = logits.transpose(1, 2).split(list(num_points), dim=-1)
    return torch.stack([level.logsumexp(dim=-1) for level in levels], dim=-1)

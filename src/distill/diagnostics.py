# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What to look at when layers teach layers: how far apart they are, how good and how sure (docs/diagnostics.md).

Everything is computed in float32, without a graph and without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..losses.functions import edge_kl
from ..losses.matched import MatchedGroup
from ..nn.capture import SELF_ATTENTION, CapturedAttention, offers_attention
from ..nn.types import Want
from .context import DistillationContext, Distiller, counted, told_apart

_EDGES = 4


class WeightedMean(NamedTuple):
    """A mean before the division: add both numbers over ranks, then divide; a weight of 0 means that there is none."""

    total: Tensor
    """Scalar."""
    weight: Tensor
    """Scalar."""


WeightedMeans = dict[str, WeightedMean]


class Diagnostics:
    """Numbers about one training step, by name.

    ``docs/diagnostics.md`` explains every name. Names end in the 0-based decoder layer; those of an extra query group
    carry its name first (``iou_dn_layer_0``). The pairs of ``kl_..`` are every layer with the deepest, every layer with
    the next deeper one, and those of the distillers, which add numbers of their own (:meth:`Distiller.diagnostics`).

    Args:
        distillers: whose pairs and numbers are reported too.
    """

    def __init__(self, distillers: Iterable[Distiller] = ()) -> None:
        self._distillers = tuple(distillers)

    @torch.no_grad()
    def __call__(self, context: DistillationContext) -> WeightedMeans:
        """Measure one step.

        Args:
            context: as distillers get it; heads without distributions have overlaps only.
        """
        means: WeightedMeans = {}
        with torch.autocast(context.student.layers[-1].boxes.device.type, enabled=False):
            for group in context.step.groups:
                means |= _overlaps(group)
                if group.stack.edge_logits is not None:
                    pairs = self._pairs(len(group.stack.edge_logits))
                    means |= _distributions(group, group.stack.edge_logits, pairs)
            if context.student.attention is not None:
                means |= attention_means(context.student.attention)
            if context.gradient_ratio is not None:
                means["teacher_gradient_ratio"] = _mean(context.gradient_ratio)
            for count, distiller in counted(self._distillers):
                named = told_apart(distiller.diagnostics(context), count)
                means |= {name: _mean(value.float()) for name, value in named.items()}
        return means

    def _pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher), each once."""
        last = layers - 1
        listed = [pair for distiller in self._distillers for pair in distiller.layer_pairs(layers)]
        usual = [pair for index in range(last) for pair in ((index, last), (index, index + 1))]
        return list(dict.fromkeys([*usual, *listed]))


def diagnosed(model: nn.Module, want: Want) -> Want:
    """What to ask of a model that is diagnosed: what distillers want, and self-attention.

    Self-attention is asked for where the model offers it, and costs nothing then: its queries and keys are alive until
    the backward pass in any case.
    """
    more = want | Want(attention=frozenset({SELF_ATTENTION}))
    return more if offers_attention(model, more.attention) else want


def _overlaps(group: MatchedGroup) -> WeightedMeans:
    iou = group.boxes.iou[:, group.pairs.union]
    suffix, count = _suffix(group), iou.new_full((), iou.shape[1])
    return {f"iou{suffix}_layer_{i}": WeightedMean(iou[i].sum(), count) for i in range(group.stack.last_layer + 1)}


def _distributions(group: MatchedGroup, edges: Tensor, pairs: Iterable[tuple[int, int]]) -> WeightedMeans:
    """Divergences and entropies of (K, R, 4, N + 1) edge logits."""
    suffix, counts = _suffix(group), group.counts
    padding = group.pairs.padding
    real = torch.ones_like(group.stack.boxes[0, :, 0]) if padding is None else (~padding).float()
    means: WeightedMeans = {
        f"km{suffix}": _mean(counts.with_box * _EDGES),
        f"ku{suffix}": _mean((counts.without_box - counts.padding) * _EDGES),
    }
    matched = [group.matched(i).float() for i in range(len(edges))]
    for i, logits in enumerate(edges):
        of_query = _entropy(logits).mean(-1)
        means[f"entropy{suffix}_layer_{i}"] = _weighted_mean(of_query, real)
        means[f"entropy_matched{suffix}_layer_{i}"] = _weighted_mean(of_query, matched[i])
    for student, teacher in pairs:
        divergence = edge_kl(edges[student], edges[teacher], 1.0)
        which = f"{suffix}_layer_{student}_from_{teacher}"
        means[f"kl_matched{which}"] = _weighted_mean(divergence, matched[student])
        means[f"kl_unmatched{which}"] = _weighted_mean(divergence, real * (1 - matched[student]))
    return means


def attention_means(attention: CapturedAttention) -> WeightedMeans:
    """Entropies of the matching queries' attention, per layer that was captured."""
    place = attention.places[""]
    means: WeightedMeans = {}
    mask = None if attention.attn_mask is None else attention.attn_mask[place]
    for i, (queries, keys) in enumerate(zip(attention.queries, attention.keys)):
        # image by image: this is the moment of the step at which most memory is taken, and a batch of maps is large
        images = [_map_entropy(query[:, place], key, mask) for query, key in zip(queries, keys)]
        means[f"attention_entropy_layer_{i}"] = _mean(torch.stack(images))
    for i, logits in enumerate(attention.point_logits):
        means[f"cross_attention_entropy_layer_{i}"] = _mean(_entropy(logits[:, place].float()))
    padded = attention.key_padding_mask
    for i, (queries, keys) in enumerate(zip(attention.dense_queries, attention.dense_keys)):
        unread = [None] * len(keys) if padded is None else padded.expand(len(keys), -1)
        images = [_map_entropy(query[:, place], key, cells) for query, key, cells in zip(queries, keys, unread)]
        means[f"dense_attention_entropy_layer_{i}"] = _mean(torch.stack(images))
    return means


def _map_entropy(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Mean entropy of one image's map, from (heads, Qm, d) and (heads, J, d); mask (Qm or 1, J) or (J,)."""
    scores = (query.float() * query.shape[-1] ** -0.5) @ key.float().mT  # (heads, Qm, J)
    return _entropy(scores if mask is None else scores.masked_fill(mask, -torch.inf)).mean()


def _entropy(logits: Tensor) -> Tensor:
    """Of the softmax over the last dimension, in nats; minus infinity is a choice that there is not."""
    terms: Tensor = torch.special.entr(logits.softmax(-1))
    return terms.sum(-1)


def _weighted_mean(values: Tensor, weights: Tensor) -> WeightedMean:
    return WeightedMean((values * weights).sum(), weights.sum())


def _mean(values: Tensor) -> WeightedMean:
    return WeightedMean(values.mean(), values.new_ones(()))


def _suffix(group: MatchedGroup) -> str:
    return f"_{group.name}" if group.name else ""

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""From what decoder layers captured to maps that can be compared: rows, masks, weights (docs/method.md 7.3).

The query axis holds several groups. ``place`` is the part of it that is compared: the matching queries, or everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..losses.matched import MatchedStep, to_device
from ..nn.capture import CapturedAttention
from .maps import LayerMaps, valid_rows


@dataclass(frozen=True)
class Rows:
    """Queries whose rows of the maps are compared; R of them."""

    place: slice
    """Part of the query axis; its J queries are the keys."""
    index: Tensor | None
    """(R,) int64 inside ``place``; None for all."""

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """The rows of a tensor over the whole query axis: (.., Q, ..) -> (.., R, ..)."""
        return self.pick(self.keys_of(tensor, axis), axis)

    def keys_of(self, tensor: Tensor, axis: int) -> Tensor:
        """The keys of a tensor over the whole query axis: (.., Q, ..) -> (.., J, ..)."""
        start, stop, _ = self.place.indices(tensor.shape[axis])
        return tensor.narrow(axis, start, stop - start)

    def pick(self, tensor: Tensor, axis: int) -> Tensor:
        """The rows of a tensor over ``place``: (.., J, ..) -> (.., R, ..)."""
        return tensor if self.index is None else tensor.index_select(axis, self.index)


def choose_rows(attention: CapturedAttention, count: int | None, progress: float, *, everything: bool) -> Rows:
    """The matching queries or all, and of them ``count`` at random.

    The choice is a function of ``progress``: the same on every rank and after a restart, and the run's own random
    numbers stay untouched.
    """
    place = slice(0, max(one.stop for one in attention.places.values())) if everything else attention.places[""]
    queries = place.stop - place.start
    if count is None or count >= queries:
        return Rows(place, None)
    bits = int(np.float64(progress).view(np.uint64))
    index = np.sort(np.random.default_rng(bits).permutation(queries)[:count])
    return Rows(place, to_device(index, attention.of_some_kind[0].device))


def key_mask(attention: CapturedAttention, rows: Rows, *, everything: bool) -> Tensor | None:
    """(1 or B, 1, 1 or R, J) bool, queries that a row may not read and padded slots; None where there are none."""
    mask: Tensor | None = None
    among = attention.attn_mask if everything else attention.masks.get("")
    if among is not None:
        mask = rows.pick(among, 0)[None, None]
    padding = _padding(attention, everything)
    if padding is not None:
        keys = padding[:, None, None]
        mask = keys if mask is None else mask | keys
    return mask


def row_weights(attention: CapturedAttention, rows: Rows, mask: Tensor | None, *, everything: bool) -> Tensor:
    """(1 or B, 1, R) float32: 0 for padded slots and for rows without any valid key, else 1."""
    device = attention.of_some_kind[0].device
    queries = rows.place.stop - rows.place.start
    weights = rows.pick(torch.ones(1, 1, queries, device=device), 2)
    padding = _padding(attention, everything)
    if padding is not None:
        weights = weights * rows.pick(~padding, 1)[:, None]
    return weights if mask is None else weights * valid_rows(mask)


def _padding(attention: CapturedAttention, everything: bool) -> Tensor | None:
    """(B, J) bool, or None where no group has padded slots."""
    names = attention.places if everything else [""]
    if not any(name in attention.padding for name in names):
        return None
    like = next(iter(attention.padding.values()))
    parts = [
        attention.padding.get(name, like.new_zeros(len(like), place.stop - place.start))
        for name, place in attention.places.items()
        if name in names
    ]
    return torch.cat(parts, dim=1)


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
        rows = group.confidence(layer, layer + 1)[0] if kind == "conf" else group.matched(layer).float()
        parts.append(rows.view(group.stack.batch, group.stack.queries))
    return torch.cat(parts, dim=1)


def self_attention_maps(
    attention: CapturedAttention, rows: Rows, mask: Tensor | None, *, explicit: bool = False
) -> LayerMaps:
    """Every layer's attention among queries, (B, heads, R, J).

    Args:
        attention: with queries and keys; ``explicit``: with scores, which are then taken.
        rows: what to compare.
        mask: see :func:`key_mask`.
    """
    projected = [(rows.of(query, 2), rows.keys_of(key, 2)) for query, key in zip(attention.queries, attention.keys)]
    images, heads, chosen, _ = projected[0][0].shape
    shape = (images, heads, chosen, projected[0][1].shape[2])
    if explicit:
        scores = [(rows.keys_of(rows.of(one, 2), 3),) for one in attention.scores]
        return LayerMaps(scores, _as_they_are, mask, shape)
    return LayerMaps(projected, _scaled_product, mask, shape)


def point_maps(attention: CapturedAttention, rows: Rows, *, by_level: bool) -> LayerMaps:
    """Every layer's weights of sampling points (B, heads, R, P), or their sums per level (B, heads, R, levels)."""
    logits = [(rows.of(one, 1),) for one in attention.point_logits]
    images, chosen, heads, points = logits[0][0].shape
    keys = len(attention.num_points) if by_level else points
    scores_of = partial(_level_scores, num_points=attention.num_points) if by_level else _point_scores
    return LayerMaps(logits, scores_of, None, (images, heads, chosen, keys))


def dense_maps(attention: CapturedAttention, rows: Rows) -> LayerMaps:
    """Every layer's attention to the S cells of the memory, (B, heads, R, S)."""
    projected = [(rows.of(query, 2), key) for query, key in zip(attention.dense_queries, attention.dense_keys)]
    images, heads, chosen, _ = projected[0][0].shape
    padded = attention.key_padding_mask
    mask = None if padded is None else padded[:, None, None]
    return LayerMaps(projected, _scaled_product, mask, (images, heads, chosen, projected[0][1].shape[2]))


def _as_they_are(scores: Tensor) -> Tensor:
    return scores


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

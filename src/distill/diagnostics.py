# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What to look at when layers teach layers: how far apart they are, how good and how sure (spec section 6).

Everything is computed in float32, without a graph and without waiting for the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.functions import edge_kl
from ..losses.step import MatchedGroup
from ..nn.capture import CapturedAttention
from .context import DistillationContext, Distiller

_EDGES = 4


class Tally(NamedTuple):
    """A mean before the division: add both numbers over ranks, then divide; a weight of 0 means that there is none."""

    total: Tensor
    """Scalar."""
    weight: Tensor
    """Scalar."""


Tallies = dict[str, Tally]


class Diagnostics:
    """Numbers about one training step, by name.

    Names end in the 0-based decoder layer; those of an extra query group carry its name first (``iou_dn_layer_0``).

    - ``iou_layer_l``: overlap of matched boxes with their targets, on the pairs of the box losses.
    - ``kl_matched_layer_s_from_t``, ``kl_unmatched_layer_s_from_t``: KL(P_t || P_s) in nats per edge, at temperature 1
      and without any weight, for s the student and t the teacher. Pairs: every layer with the deepest, every layer with
      the next deeper one, and those of the distillers.
    - ``entropy_layer_l``, ``entropy_matched_layer_l``: of the edge distributions P_l, in nats; ln(N + 1) if uniform.
    - ``km``, ``ku``: matched and unmatched distributions (4 edges a query) of a rank, padded denoising slots left out.
    - ``attention_entropy_layer_l``, ``cross_attention_entropy_layer_l``: of what a matching query attends to among all
      queries that it may read, and among the sampling points, in nats, mean over heads; where attention is captured.
    - what the distillers add themselves (:meth:`Distiller.diagnostics`).

    Args:
        distillers: whose pairs and numbers are reported too.
    """

    def __init__(self, distillers: Iterable[Distiller] = ()) -> None:
        self._distillers = tuple(distillers)

    @torch.no_grad()
    def __call__(self, context: DistillationContext) -> Tallies:
        """Measure one step.

        Args:
            context: as distillers get it; heads without distributions have overlaps only.
        """
        tallies: Tallies = {}
        with torch.autocast(context.step.matching.stack.boxes.device.type, enabled=False):
            for group in context.step.groups:
                tallies |= _overlaps(group)
                if group.stack.edge_logits is not None:
                    pairs = self._pairs(len(group.stack.edge_logits))
                    tallies |= _distributions(group, group.stack.edge_logits, pairs)
            if context.student.attention is not None:
                tallies |= attention_tallies(context.student.attention)
            for one in self._distillers:
                tallies |= {name: _mean(value.float()) for name, value in one.diagnostics(context).items()}
        return tallies

    def _pairs(self, layers: int) -> list[tuple[int, int]]:
        """(student, teacher), each once."""
        last = layers - 1
        listed = [pair for one in self._distillers for pair in one.layer_pairs(layers)]
        usual = [pair for index in range(last) for pair in ((index, last), (index, index + 1))]
        return list(dict.fromkeys([*usual, *listed]))


def _overlaps(group: MatchedGroup) -> Tallies:
    iou = group.boxes.iou[:, group.pairs.agreed]
    suffix, count = _suffix(group), iou.new_full((), iou.shape[1])
    return {f"iou{suffix}_layer_{i}": Tally(iou[i].sum(), count) for i in range(group.stack.teacher + 1)}


def _distributions(group: MatchedGroup, edges: Tensor, pairs: Iterable[tuple[int, int]]) -> Tallies:
    """Divergences and entropies of (K, R, 4, N + 1) edge logits."""
    suffix, counts = _suffix(group), group.counts
    padding = group.pairs.padding
    real = torch.ones_like(group.stack.boxes[0, :, 0]) if padding is None else (~padding).float()
    one = real.new_ones(())
    tallies: Tallies = {
        f"km{suffix}": Tally(counts.matched * _EDGES, one),
        f"ku{suffix}": Tally((counts.unmatched - counts.padding) * _EDGES, one),
    }
    matched = [group.matched(i).float() for i in range(len(edges))]
    for i, logits in enumerate(edges):
        of_query = _entropy(logits).mean(-1)
        tallies[f"entropy{suffix}_layer_{i}"] = _tally(of_query, real)
        tallies[f"entropy_matched{suffix}_layer_{i}"] = _tally(of_query, matched[i])
    for student, teacher in pairs:
        divergence = edge_kl(edges[student], edges[teacher], 1.0)
        which = f"{suffix}_layer_{student}_from_{teacher}"
        tallies[f"kl_matched{which}"] = _tally(divergence, matched[student])
        tallies[f"kl_unmatched{which}"] = _tally(divergence, real * (1 - matched[student]))
    return tallies


def attention_tallies(attention: CapturedAttention) -> Tallies:
    """Entropies of the matching queries' attention, per layer that was captured."""
    place = attention.places[""]
    tallies: Tallies = {}
    for i, (query, key) in enumerate(zip(attention.queries, attention.keys)):
        scores = query[:, :, place].float() @ key.float().mT * query.shape[-1] ** -0.5  # (B, heads, Qm, Q)
        if attention.blocked is not None:
            scores = scores.masked_fill(attention.blocked[place], -torch.inf)
        tallies[f"attention_entropy_layer_{i}"] = _mean(_entropy(scores))
    for i, logits in enumerate(attention.point_logits):
        tallies[f"cross_attention_entropy_layer_{i}"] = _mean(_entropy(logits[:, place].float()))
    return tallies


def _entropy(logits: Tensor) -> Tensor:
    """Of the softmax over the last dimension, in nats; minus infinity is a choice that there is not."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def _tally(values: Tensor, weights: Tensor) -> Tally:
    return Tally((values * weights).sum(), weights.sum())


def _mean(values: Tensor) -> Tally:
    return Tally(values.mean(), values.new_ones(()))


def _suffix(group: MatchedGroup) -> str:
    return f"_{group.name}" if group.name else ""

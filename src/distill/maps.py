# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Divergence of attention maps: rows of probabilities over keys, some of them masked (docs/method.md 7.3).

A map is (..., R, J): R rows (readers), J keys. A mask is bool, True = masked, and broadcasts to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

UNINFORMATIVE = 0.98
"""Of the largest possible entropy: a teacher's map above it on average says next to nothing."""
_CHUNK, _CHUNK_CPU = 1 << 22, 1 << 20
"""Elements of a map that are worked on at once: larger maps are cut by images, so that memory does not grow with B.
Chunks that stay in a CPU's cache take two thirds of the time; an accelerator would wait for the launches."""
_NO_WEIGHT = 1e-20
"""Rows that weigh less than this together do not count: its inverse, times any factor and loss scale, is finite."""


def log_map(scores: Tensor, mask: Tensor | None, tau: float) -> Tensor:
    """Log-softmax over the keys at temperature ``tau``, in float32 at least.

    Masked entries end up near the dtype's lowest number. A row without any valid key is uniform: give it no weight.
    """
    scores = _at_least_float32(scores)
    if tau != 1:
        scores = scores / tau
    if mask is not None:
        scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
    return scores.log_softmax(dim=-1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _kept(product: Tensor, mask: Tensor | None) -> Tensor:
    """Zero at masked entries, whatever stands there."""
    return product if mask is None else product.masked_fill(mask, 0)


def kl_rows(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(teacher || student) of every row, (..., R), from two log maps."""
    return _kept(teacher.exp() * (teacher - student), mask).sum(dim=-1)


def js_rows(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence of every row, (..., R), from two log maps; at most ln 2."""
    middle = torch.logaddexp(student, teacher) - math.log(2)
    both = teacher.exp() * (teacher - middle) + student.exp() * (student - middle)
    return 0.5 * _kept(both, mask).sum(dim=-1)


def mse_rows(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the probabilities summed over the keys of every row, (..., R), from two log maps."""
    return _kept((student.exp() - teacher.exp()).square(), mask).sum(dim=-1)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "kl": kl_rows,
    "js": js_rows,
    "mse": mse_rows,
}


def entropy_rows(log: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy of every row of a log map in nats, (..., R)."""
    return -_kept(log.exp() * log, mask).sum(dim=-1)


def valid_rows(mask: Tensor) -> Tensor:
    """Rows with at least one key that is not masked, bool (..., R)."""
    return ~mask.all(dim=-1)


def weighted_mean(rows: Tensor, weights: Tensor) -> Tensor:
    """Mean of (..., R) with weights that broadcast to it; 0, still part of the graph, where they add up to 0."""
    return (rows * weights).sum() / some_weight(weights.expand_as(rows).sum())


def some_weight(totals: Tensor) -> Tensor:
    """Sums of weights to divide by: 1 where there is no weight, for a tiny number there would turn 0 into NaN."""
    return totals.masked_fill(totals < _NO_WEIGHT, 1)


def attn_kl(
    S_s: Tensor,
    S_t: Tensor,
    mask: Tensor | None = None,
    tau: float = 1.0,
    row_w: Tensor | None = None,
) -> Tensor:
    """tau^2 times the mean KL of the teacher's from the student's attention map (docs/method.md 7.3).

    Args:
        S_s: (..., R, J) scores of the student before the softmax.
        S_t: of the teacher, same shape; no gradient flows into it.
        mask: bool, True = masked key, broadcasts to the scores; the same for both.
        tau: temperature, above 0.
        row_w: weights of the rows, at least 0, broadcast to (..., R); None for equal ones. Rows without a valid key
            have weight 0 in any case.

    Returns: a scalar of at least 0; 0 if no row has weight.
    """
    rows = kl_rows(log_map(S_s, mask, tau), log_map(S_t.detach(), mask, tau), mask)
    weights = rows.new_ones(()) if row_w is None else row_w.to(rows)
    if mask is not None:
        weights = weights * valid_rows(mask)
    return tau**2 * weighted_mean(rows, weights)


@dataclass(frozen=True)
class LayerMaps:
    """The maps of all layers, as the tensors that they are computed from."""

    tensors: Sequence[tuple[Tensor, ...]]
    """Per layer, each (B, ...)."""
    scores_of: Callable[..., Tensor]
    """Tensors of one layer, in float32 at least -> (B, heads, R, J) scores."""
    mask: Tensor | None
    """(1 or B, 1, 1 or R, J) bool, the same for every layer; None where nothing is masked."""
    shape: tuple[int, int, int, int]
    """(B, heads, R, J)."""


@dataclass(frozen=True)
class Compared:
    """Outcome for every (student, teacher) pair."""

    divergence: list[Tensor]
    """Scalars: weighted sums over images, heads and rows, not multiplied by tau^2."""
    excess: list[Tensor]
    """Scalars, without gradient: the same sums of the teacher's entropy minus ``UNINFORMATIVE`` times the largest
    possible, in nats; empty if not asked for."""


@dataclass
class _LayerMap:
    """One layer's map of a few images."""

    leaves: tuple[Tensor, ...]
    log: Tensor


def compare_layers(
    maps: LayerMaps,
    pairs: Sequence[tuple[int, int]],
    weights: Sequence[Tensor],
    *,
    kind: str,
    tau: float,
    entropy: bool = False,
) -> Compared:
    """Divergence of the student's map from the teacher's for pairs of layers.

    The gradient is taken at once and only it is kept, which is as small as the layers' own tensors: in memory are the
    maps of two layers and a few images, not three maps per layer until the backward pass. A layer's log map is
    computed once for its roles as student and teacher.

    Args:
        maps: see :class:`LayerMaps`.
        pairs: (student, teacher) layers, 0-based; a layer is the student of at most one pair.
        weights: of the rows, (1 or B, 1, R) per pair; not differentiated.
        kind: ``kl``, ``js`` or ``mse``.
        tau: temperature of both maps.
        entropy: compute ``excess``.

    Returns: what has a gradient has it to the tensors of the students only.
    """
    images = maps.shape[0]
    chunk = _CHUNK_CPU if maps.tensors[0][0].device.type == "cpu" else _CHUNK
    step = max(1, chunk // max(1, math.prod(maps.shape[1:])))
    compare = _Comparison(maps, pairs, weights, DIVERGENCES[kind], tau, entropy)
    with torch.autocast(maps.tensors[0][0].device.type, enabled=False):  # scores are products, which it would halve
        parts = [compare.chunk(slice(start, start + step)) for start in range(0, images, step)]
    divergence = [torch.stack(sums).sum() for sums in zip(*(part.divergence for part in parts))]
    excess = [torch.stack(sums).sum() for sums in zip(*(part.excess for part in parts))]
    if torch.is_grad_enabled():
        for index, (student, _) in enumerate(pairs):
            gradients = [torch.cat(pieces) for pieces in zip(*(part.gradients[index] for part in parts))]
            divergence[index] = _KnownGradient.apply(divergence[index], *maps.tensors[student], *gradients)
    return Compared(divergence, excess)


class _Chunk(NamedTuple):
    """Sums over a few images per pair."""

    divergence: list[Tensor]
    excess: list[Tensor]
    gradients: list[tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Comparison:
    """The arguments of :func:`compare_layers`."""

    maps: LayerMaps
    pairs: Sequence[tuple[int, int]]
    weights: Sequence[Tensor]
    rows_of: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    tau: float
    entropy: bool

    def chunk(self, images: slice) -> _Chunk:
        """Some images of the batch."""
        mask = None if self.maps.mask is None else _images(self.maps.mask, images)
        result = _Chunk([], [], [])
        alive: dict[int, _LayerMap] = {}
        for index, pair in enumerate(self.pairs):
            for layer in set(pair) - set(alive):
                alive[layer] = self._map(layer, images, mask)
            student, target = alive[pair[0]], alive[pair[1]].log.detach()
            weights = _images(self.weights[index], images)
            with torch.set_grad_enabled(student.log.requires_grad):
                total = (self.rows_of(student.log, target, mask) * weights).sum()
            if student.log.requires_grad:
                result.gradients.append(torch.autograd.grad(total, student.leaves))
                student.log = student.log.detach()
            result.divergence.append(total.detach())
            if self.entropy:
                result.excess.append((_excess_rows(target, mask) * weights).sum())
            needed = {layer for later in self.pairs[index + 1 :] for layer in later}
            alive = {layer: one for layer, one in alive.items() if layer in needed}
        return result

    def _map(self, layer: int, images: slice, mask: Tensor | None) -> _LayerMap:
        """A layer's log map, with a graph of its own if the layer learns."""
        learns = torch.is_grad_enabled() and any(student == layer for student, _ in self.pairs)
        cut = [_at_least_float32(tensor[images].detach()) for tensor in self.maps.tensors[layer]]
        leaves = tuple(tensor.detach().requires_grad_(learns) for tensor in cut)
        return _LayerMap(leaves, log_map(self.maps.scores_of(*leaves), mask, self.tau))


class _KnownGradient(torch.autograd.Function):
    """A scalar whose gradient is known already: arguments are the scalar, k tensors and their k gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        half = len(tensors) // 2
        ctx.dtypes = [tensor.dtype for tensor in tensors[:half]]
        ctx.save_for_backward(*tensors[half:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [(upstream * one).to(dtype) for one, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return (None, *gradients, *(None for _ in gradients))


def _images(tensor: Tensor, images: slice) -> Tensor:
    """The images' part of a tensor that may be the same for all of them."""
    return tensor if tensor.shape[0] == 1 else tensor[images]


def _excess_rows(log: Tensor, mask: Tensor | None) -> Tensor:
    """Entropy of every row above ``UNINFORMATIVE`` of the largest possible, in nats, (..., R)."""
    if mask is None:
        most: Tensor | float = math.log(log.shape[-1])
    else:
        most = (~mask).sum(dim=-1).clamp_min(1).log()
    return entropy_rows(log, mask) - UNINFORMATIVE * most

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Divergence of attention maps: rows of probabilities over keys, some of them masked (docs/method.md 7.3).

A map is (..., R, J): R rows (readers), J keys. A mask is bool, True = masked, and broadcasts to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    Returns: a scalar of at least 0; 0, still part of the graph, if no row has weight.
    """
    rows = kl_rows(log_map(S_s, mask, tau), log_map(S_t.detach(), mask, tau), mask)
    weights = rows.new_ones(()) if row_w is None else row_w.to(rows)
    if mask is not None:
        weights = weights * valid_rows(mask)
    return tau**2 * ((rows * weights).sum() / some_weight(weights.expand_as(rows).sum()))


class LayerMaps(NamedTuple):
    """The maps of all layers, as the tensors that they are computed from."""

    tensors: Sequence[tuple[Tensor, ...]]
    """Per layer, each (B, ...)."""
    scores_of: Callable[..., Tensor]
    """Tensors of one layer, in float32 at least -> (B, heads, R, J) scores."""
    mask: Tensor | None
    """(1 or B, 1, 1 or R, J) bool, the same for every layer; None where nothing is masked."""
    shape: tuple[int, int, int, int]
    """B, heads, R, J."""


class Compared(NamedTuple):
    """Sums over images, heads and weighted rows, per pair of layers."""

    divergence: list[Tensor]
    excess: list[Tensor]
    """The teacher's entropy above ``UNINFORMATIVE`` of the largest possible, in nats; empty if not asked for."""
    gradients: list[tuple[Tensor, ...]]
    """Of the students' tensors, while they are no part of a graph; empty where they are."""


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
    maps of two layers and a few images, not three maps per layer until the backward pass.

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
    with torch.autocast(maps.tensors[0][0].device.type, enabled=False):  # scores are products, which it would halve
        parts = [
            _compare_images(_of_images(maps, some), pairs, [_cut(rows, some) for rows in weights], kind, tau, entropy)
            for some in (slice(start, start + step) for start in range(0, images, step))
        ]
    divergence = [torch.stack(sums).sum() for sums in zip(*(part.divergence for part in parts))]
    excess = [torch.stack(sums).sum() for sums in zip(*(part.excess for part in parts))]
    if torch.is_grad_enabled():
        for index, (student, _) in enumerate(pairs):
            gradients = [torch.cat(pieces) for pieces in zip(*(part.gradients[index] for part in parts))]
            divergence[index] = _KnownGradient.apply(divergence[index], *maps.tensors[student], *gradients)
    return Compared(divergence, excess, [])


def _of_images(maps: LayerMaps, images: slice) -> LayerMaps:
    """The maps of a part of the batch."""
    tensors = [tuple(tensor[images] for tensor in layer) for layer in maps.tensors]
    return maps._replace(tensors=tensors, mask=None if maps.mask is None else _cut(maps.mask, images))


def _cut(tensor: Tensor, images: slice) -> Tensor:
    """The images' part of a tensor that may be the same for all of them."""
    return tensor if tensor.shape[0] == 1 else tensor[images]


def _compare_images(
    maps: LayerMaps, pairs: Sequence[tuple[int, int]], weights: Sequence[Tensor], kind: str, tau: float, entropy: bool
) -> Compared:
    """Some images of the batch; a layer's log map is computed once for its roles as student and teacher."""
    students = {student for student, _ in pairs} if torch.is_grad_enabled() else set()
    result = Compared([], [], [])
    logs: dict[int, tuple[tuple[Tensor, ...], Tensor]] = {}
    """Of the layers that are still needed: tensors at which their gradient begins, and log map."""
    for index, (student, teacher) in enumerate(pairs):
        for layer in {student, teacher} - set(logs):
            cut = (_at_least_float32(tensor.detach()) for tensor in maps.tensors[layer])
            leaves = tuple(tensor.requires_grad_(layer in students) for tensor in cut)
            logs[layer] = leaves, log_map(maps.scores_of(*leaves), maps.mask, tau)
        leaves, log = logs[student]
        target = logs[teacher][1].detach()
        total = (DIVERGENCES[kind](log, target, maps.mask) * weights[index]).sum()
        if log.requires_grad:
            result.gradients.append(torch.autograd.grad(total, leaves))
            logs[student] = leaves, log.detach()
        result.divergence.append(total.detach())
        if entropy:
            result.excess.append((_excess_rows(target, maps.mask) * weights[index]).sum())
        needed = {layer for pair in pairs[index + 1 :] for layer in pair}
        logs = {layer: kept for layer, kept in logs.items() if layer in needed}
    return result


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
        gradients = [(upstream * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes)]
        return (None, *gradients, *(None for _ in gradients))


def _excess_rows(log: Tensor, mask: Tensor | None) -> Tensor:
    """Entropy of every row above ``UNINFORMATIVE`` of the largest possible, in nats, (..., R)."""
    most = math.log(log.shape[-1]) if mask is None else (~mask).sum(dim=-1).clamp_min(1).log()
    return entropy_rows(log, mask) - UNINFORMATIVE * most

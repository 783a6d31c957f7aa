# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Losses as pure functions: no pair is chosen, no weight and no name is given here (that is the criterion's work).

Every function works in float32 and takes prediction sets stacked in front: leading dimensions (S, ...) that are not
reduced come back, so one call scores all decoder layers. A divisor is a number or a scalar tensor.

Where many elements have a gradient in closed form, the forward pass computes both in one go: autograd would keep and
walk through a handful of tensors of the logits' size; here one is kept, the gradient itself. The gradient of a gradient
is not available there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Number = float | Tensor
_NO_ROWS = 1e-6
"""Divisor in place of an empty count: the sum above it is 0, and so is the mean."""


def _class_index(logits: Tensor, row: Tensor, label: Tensor) -> Tensor:
    """Place of (row, label) in the flattened logits: (..., M) in 0..R*C-1."""
    return row * logits.shape[-1] + label


def vfl_loss(
    logits: Tensor, row: Tensor, label: Tensor, quality: Tensor, norm: Number, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """Varifocal loss (Zhang et al. 2021): the score of a matched query learns its overlap, all others learn 0.

    Args:
        logits: (..., R, C) raw scores of R queries.
        row: (..., M) matched queries, each at most once.
        label: (..., M) their classes in 0..C-1.
        quality: (..., M) overlap of their boxes with the truth, no gradient flows into it.
        norm: what the sum is divided by.
        alpha: weight of the negatives.
        gamma: exponent that quietens easy negatives.

    Returns: (...) sum over queries and classes / norm.
    """
    flat = logits.float().flatten(-2)  # (..., R*C)
    quality = quality.detach().to(flat.dtype)
    total: Tensor = VarifocalSum.apply(flat, _class_index(logits, row, label), quality, alpha, gamma)
    return total / norm


def focal_loss(
    logits: Tensor, row: Tensor, label: Tensor, norm: Number, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017) against one-hot targets.

    Args:
        logits: (..., R, C) raw scores of R queries.
        row: (..., M) matched queries, each at most once.
        label: (..., M) their classes in 0..C-1.
        norm: what the sum is divided by.
        alpha: weight of the positives; negatives weigh 1 - alpha.
        gamma: exponent that quietens easy examples.

    Returns: (...) sum over queries and classes / norm.
    """
    flat = logits.float().flatten(-2)  # (..., R*C)
    total: Tensor = FocalSum.apply(flat, _class_index(logits, row, label), alpha, gamma)
    return total / norm


def l1_loss(predicted_cxcywh: Tensor, target_cxcywh: Tensor, norm: Number) -> Tensor:
    """Absolute box error summed over the pairs.

    Args:
        predicted_cxcywh, target_cxcywh: (..., M, 4) fractions of the image; row i belongs to row i. M may be 0.
        norm: what the sum is divided by.

    Returns: (...) sum / norm.
    """
    return (predicted_cxcywh.float() - target_cxcywh.float()).abs().sum((-2, -1)) / norm


def giou_loss(giou: Tensor, norm: Number, pair_weight: Tensor | None = None) -> Tensor:
    """One minus generalised IoU, summed over the pairs.

    Args:
        giou: (..., M) from ``nn.boxes.paired_iou_and_giou``.
        norm: what the sum is divided by.
        pair_weight: (..., M) optional factor per pair, detached here.

    Returns: (...) sum / norm.
    """
    loss = 1 - giou
    if pair_weight is not None:
        loss = loss * pair_weight.detach()
    return loss.sum(-1) / norm


def fgl_loss(
    edge_logits: Tensor, left: Tensor, left_weight: Tensor, right_weight: Tensor, iou: Tensor, norm: Number
) -> Tensor:
    """Fine-grained localization loss (FGL, D-FINE section 4.1; docs/method.md 6.6).

    Args:
        edge_logits: (..., M, 4, N + 1) distributions of matched queries.
        left: (M, 4) int64 left bins from ``nn.edges.encode_targets``; its dimensions are the ones that are summed.
        left_weight, right_weight: (M, 4) of the bins ``left`` and ``left + 1``.
        iou: (..., M) overlap of each decoded box with its truth, detached here.
        norm: what the sum is divided by.

    Returns: (...) overlap-weighted cross entropy, summed over edges and pairs / norm.
    """
    bins = torch.stack((left, left + 1), -1)
    shares = torch.stack((left_weight, right_weight), -1)  # (M, 4, 2)
    log_p = edge_logits.float().log_softmax(-1)
    picked = log_p.gather(-1, bins.expand(*log_p.shape[:-1], 2))
    per_pair = -(picked * shares).sum((-2, -1)) * iou.detach()
    return per_pair.flatten(per_pair.dim() - left.dim() + 1).sum(-1) / norm


def ddf_loss(
    student: Tensor,
    teacher: Tensor,
    iou: Tensor,
    conf: Tensor,
    matched_mask: Tensor,
    temperature: float = 5.0,
    counts: tuple[Number, Number] | None = None,
    *,
    ignored: Tensor | None = None,
    rows: tuple[Number, Number] | None = None,
    divergence: Tensor | None = None,
) -> Tensor:
    """Decoupled distillation focal loss (DDF, D-FINE section 4.2; docs/method.md 7.1).

    Args:
        student: (..., Q, 4, N + 1) edge logits.
        teacher: (Q, 4, N + 1) or (..., Q, 4, N + 1) edge logits, one for all students or one for each; detached here.
        iou: (..., Q) weight where matched: overlap of the student's box with its truth; detached here.
        conf: (Q,) or (..., Q) weight where not matched: confidence of the teacher; detached here.
        matched_mask: (Q,) bool; its dimensions (for example B, Q) are the ones that are averaged.
        temperature: T of both softmaxes; the loss is scaled by T^2.
        counts: numbers of matched and unmatched rows under the square roots, when not this call's own.
        ignored: (Q,) bool, queries that count as neither (padding of denoising groups).
        rows: numbers of matched and unmatched queries that the two means divide by (averages over ranks).
        divergence: (..., Q) of every query, where it is known already; else :func:`edge_kl`.

    Returns: (...) the two means, mixed by the square roots of their counts. Exactly 0, with zero gradient, where the
        student equals the teacher bit for bit.
    """
    per_query = edge_kl(student, teacher, temperature) if divergence is None else divergence
    per_query = per_query * torch.where(matched_mask, iou.detach(), conf.detach())
    loss = decoupled_mean(per_query, matched_mask, counts, ignored=ignored, rows=rows)
    return zero_where_equal(loss, student, teacher)


def edge_kl(student: Tensor, teacher: Tensor, temperature: float = 5.0) -> Tensor:
    """T^2 KL(teacher || student) of edge distributions softened by T, averaged over the 4 edges.

    Args:
        student, teacher: (..., 4, N + 1) logits; the teacher is detached here and may lack leading dimensions.

    Returns: (...) at least 0.
    """
    divergence: Tensor = SoftenedKL.apply(student.float(), teacher.detach().float(), temperature)
    return divergence


def soften(edge_logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (..., N + 1) at temperature T; computed once where a layer is both student and teacher."""
    return (edge_logits.float() / temperature).log_softmax(-1)


def softened_kl(log_student: Tensor, log_teacher: Tensor, temperature: float) -> Tensor:
    """:func:`edge_kl` of what :func:`soften` returned."""
    log_teacher = log_teacher.detach()
    return (log_teacher.exp() * (log_teacher - log_student)).sum((-2, -1)) * (temperature**2 / 4)


def zero_where_equal(loss: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss (...), exactly 0 and without gradient where logits (..., *) of student and teacher are equal bit for
    bit: their probabilities add up to 1 but for rounding, and that alone would give a gradient."""
    differ = (student != teacher.detach()).flatten(loss.dim())
    if differ.shape[-1]:  # four truth values at a time, for edges come in fours: one by one takes as long as comparing
        differ = differ.view(torch.int32)
    return loss.masked_fill(differ.sum(-1) == 0, 0)


def class_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of independent sigmoid scores, summed over classes (docs/method.md 7.2).

    Args:
        student, teacher: (..., C) logits; the teacher is detached here.

    Returns: (...) at least 0; finite for any finite logits.
    """
    teacher = teacher.detach().float() / temperature
    student = student.float() / temperature
    yes = F.logsigmoid(teacher) - F.logsigmoid(student)
    no = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return (teacher.sigmoid() * yes + (-teacher).sigmoid() * no).sum(-1) * temperature**2


def decoupled_mean(
    per_query: Tensor,
    matched_mask: Tensor,
    counts: tuple[Number, Number] | None = None,
    *,
    ignored: Tensor | None = None,
    rows: tuple[Number, Number] | None = None,
) -> Tensor:
    """Mean over matched and mean over unmatched queries, mixed by the square roots of their counts.

    Args:
        per_query: (..., Q) weighted values.
        matched_mask, counts, ignored, rows: see :func:`ddf_loss`.

    Returns: (...) ; 0 without any query.
    """
    unmatched_mask = ~matched_mask if ignored is None else ~(matched_mask | ignored)
    first = per_query.dim() - matched_mask.dim()
    masks = torch.stack((matched_mask, unmatched_mask)).flatten(1).float()  # (2, Q)
    # product and sum, not a matrix product: that would run in TF32 where a user allows it
    sums = (per_query.flatten(first).unsqueeze(-2) * masks).sum(-1)  # (..., 2)
    numbers = masks.sum(-1)
    means = sums / (numbers if rows is None else _pair(rows, numbers)).clamp(min=_NO_ROWS)
    shares = (numbers if counts is None else _pair(counts, numbers)).sqrt()
    return (means * shares).sum(-1) / shares.sum().clamp(min=_NO_ROWS)


def _pair(values: tuple[Number, Number], like: Tensor) -> Tensor:
    """Two numbers or scalar tensors as one (2,) tensor."""
    tensors = [value if isinstance(value, Tensor) else like.new_full((), value) for value in values]
    return torch.stack(tensors).to(like.dtype)


class VarifocalSum(torch.autograd.Function):
    """Varifocal loss summed over the last dimension; see :func:`isdfine.losses.functions.vfl_loss`.

    With weight w and target t an element costs w (softplus(x) - t x), and the target is 0 but for the M matched ones,
    where it is the weight too.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, place: Tensor, quality: Tensor, alpha: float, gamma: float) -> Tensor:
        """Args: flat (..., R*C) float32 logits, place and quality (..., M). Returns: (...)."""
        score = flat.sigmoid()
        weight = score.pow(gamma).mul_(alpha).scatter_(-1, place, quality)
        total = _softplus(flat, score).mul_(weight).sum(-1)
        square = quality * quality
        total -= (flat.gather(-1, place) * square).sum(-1)
        gradient = score.mul_(weight).scatter_add_(-1, place, -square)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits alone."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[..., None], None, None, None, None


class FocalSum(torch.autograd.Function):
    """Focal loss summed over the last dimension; see :func:`isdfine.losses.functions.focal_loss`.

    A negative costs (1 - alpha) p^gamma softplus(x); a positive costs alpha (1 - p)^gamma softplus(-x), which is the
    same formula of -x.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, place: Tensor, alpha: float, gamma: float) -> Tensor:
        """Args: flat (..., R*C) float32 logits, place (..., M) of the positives. Returns: (...)."""
        loss, gradient = _focal_negatives(flat, 1 - alpha, gamma)
        of_positives, slope = _focal_negatives(-flat.gather(-1, place), alpha, gamma)
        ctx.save_for_backward(gradient.scatter_(-1, place, -slope))
        return loss.scatter_(-1, place, of_positives).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the logits alone."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[..., None], None, None, None


def _focal_negatives(logits: Tensor, weight: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Loss and its slope, of the logits' shape, where no score should be: weight p^gamma softplus(x)."""
    score = logits.sigmoid()
    entropy = _softplus(logits, score)
    factor = score.pow(gamma).mul_(weight)
    slope = (1 - score).mul_(entropy).mul_(gamma).add_(score).mul_(factor)
    return entropy.mul_(factor), slope


def _softplus(logits: Tensor, score: Tensor) -> Tensor:
    """log(1 + exp(x)) of logits x with sigmoid(x) = ``score``, to 3e-7.

    A CPU takes ten times as long for log1p as for log: there it is max(x, 0) - log(max(p, 1 - p)).
    """
    if logits.device.type != "cpu":
        return F.softplus(logits)
    rest = 1 - score
    return F.relu(logits).sub_(torch.maximum(score, rest, out=rest).log_())


class SoftenedKL(torch.autograd.Function):
    """Scaled KL(teacher || student) of softened distributions; see :func:`isdfine.losses.functions.edge_kl`."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Args: float32 logits (..., 4, N + 1), the teacher's may lack leading dimensions. Returns: (...)."""
        log_teacher = (teacher / temperature).log_softmax(-1)
        share = log_teacher.exp()
        softened = student / temperature
        log_student = softened.log_softmax(-1)
        scale = temperature**2 / 4
        total = torch.sub(log_teacher, log_student, out=softened).mul_(share).sum((-2, -1)).mul_(scale)
        ctx.save_for_backward(log_student.exp_().sub_(share).mul_(scale / temperature))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the student alone."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[..., None, None], None, None

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Losses over many elements whose gradient is known in closed form: the forward pass computes both in one go.

Autograd would keep and walk through a handful of tensors of the logits' size; here one is kept, the gradient itself.
The gradient of a gradient is not available.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""How far a query's class scores and box are from the teacher's, and what a query weighs, as pure functions.

Scores are logits of independent sigmoids, as every detector here has them. All is computed in float32, and nothing
gives the teacher a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core import dist
from ..core.errors import check_choice, check_non_negative, check_positive
from ..losses.functions import Number, class_kl
from ..nn.boxes import cxcywh_to_xyxy, paired_iou_and_giou

Kernel = Literal["binary", "softmax", "qfl", "mse"]
ScoreSpace = Literal["prob", "logit"]
_SOFTENED = ("binary", "softmax")


@dataclass(frozen=True)
class ClassKernel:
    """Distance of a query's class scores from the teacher's.

    Attributes:
        kind: ``binary``: KL divergence of independent sigmoids, summed over classes. ``softmax``: KL divergence of the
            softmax over classes (arXiv:1503.02531); blind to a constant added to all scores of a query, so it does not
            teach whether there is an object. ``qfl``: quality focal loss (arXiv:2006.04388), summed over classes.
            ``mse``: squared difference, averaged over classes.
        temperature: T that divides the logits of ``binary`` and ``softmax``, whose loss is multiplied by T^2.
        exponent: of the difference of scores in ``qfl``; with 0 it is plain cross entropy, which is not 0 where
            student and teacher agree.
        space: what ``mse`` compares: scores (``prob``) or logits.

    Raises:
        ValueError: an unknown or impossible value, or one that the kind does not read.
    """

    kind: Kernel = "binary"
    temperature: float = 1.0
    exponent: float = 1.0
    space: ScoreSpace = "prob"

    def __post_init__(self) -> None:
        check_choice("kernel", self.kind, get_args(Kernel))
        check_choice("kernel.space", self.space, get_args(ScoreSpace))
        check_positive("kernel.temperature", self.temperature)
        check_non_negative("kernel.exponent", self.exponent)
        for name, changed, readers in (
            ("temperature", self.temperature != 1, _SOFTENED),
            ("exponent", self.exponent != 1, ("qfl",)),
            ("space", self.space != "prob", ("mse",)),
        ):
            if changed and self.kind not in readers:
                raise ValueError(f"kernel.{name} is read by {' and '.join(readers)}, not by {self.kind}: leave it out")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Distance of every query.

        Args:
            student, teacher: (..., C) logits, shapes that broadcast; the teacher is detached here.

        Returns: (...) float32, 0 or more.
        """
        student, teacher = student.float(), teacher.detach().float()
        if self.kind == "binary":
            return class_kl(student, teacher, self.temperature)
        if self.kind == "softmax":
            return softmax_kl(student, teacher, self.temperature)
        if self.kind == "qfl":
            return quality_focal(student, teacher.sigmoid(), self.exponent)
        if self.space == "prob":
            student, teacher = student.sigmoid(), teacher.sigmoid()
        return (student - teacher).square().mean(-1)


def softmax_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softmax over classes.

    Args:
        student, teacher: (..., C) float32 logits; the teacher has no gradient.

    Returns: (...).
    """
    known, learned = (teacher / temperature).log_softmax(-1), (student / temperature).log_softmax(-1)
    return (known.exp() * (known - learned)).sum(-1) * temperature**2


def quality_focal(logits: Tensor, scores: Tensor, exponent: float) -> Tensor:
    """Quality focal loss (arXiv:2006.04388) of soft targets, summed over classes.

    Args:
        logits: (..., C) float32 of the student.
        scores: (..., C) in [0, 1], of the teacher.
        exponent: of the absolute difference of both scores, which weighs the cross entropy.

    Returns: (...).
    """
    wide, targets = torch.broadcast_tensors(logits, scores)
    entropy = F.binary_cross_entropy_with_logits(wide, targets, reduction="none")
    if exponent:
        entropy = entropy * (wide.sigmoid() - targets).abs().pow(exponent)
    return entropy.sum(-1)


def confidence(logits: Tensor) -> Tensor:
    """Best class score (...) in (0, 1) of (..., C) logits, detached: what a teacher's query weighs."""
    return logits.detach().float().amax(-1).sigmoid()


def weight_norm(weights: Tensor) -> Tensor:
    """What a weighted sum is divided by: the sum of the weights, averaged over ranks, at least 1.

    With it, W processes have the gradient of one process with all their images, wherever the sum exceeds 1.

    Args:
        weights: (..., P) of the pairs.

    Returns: (...) float32.
    """
    return dist.mean(weights.float().sum(-1)).clamp(min=1)


def box_l1(student_cxcywh: Tensor, teacher_cxcywh: Tensor) -> Tensor:
    """Absolute difference of boxes, the mean of the four numbers.

    Args:
        student_cxcywh, teacher_cxcywh: (..., 4) fractions of the image; the teacher is detached here.

    Returns: (...) float32.
    """
    return (student_cxcywh.float() - teacher_cxcywh.detach().float()).abs().mean(-1)


def box_mse(student_cxcywh: Tensor, teacher_cxcywh: Tensor) -> Tensor:
    """Squared difference of boxes, the mean of the four numbers; see :func:`box_l1`."""
    return (student_cxcywh.float() - teacher_cxcywh.detach().float()).square().mean(-1)


def box_giou(student_cxcywh: Tensor, teacher_cxcywh: Tensor) -> Tensor:
    """One minus the generalised IoU of boxes, in [0, 2]; see :func:`box_l1`. 0 for equal boxes that have an area."""
    student, teacher = cxcywh_to_xyxy(student_cxcywh.float()), cxcywh_to_xyxy(teacher_cxcywh.detach().float())
    return 1 - paired_iou_and_giou(student, teacher)[1]


def weighted_mean(per_pair: Tensor, weights: Tensor, norm: Number) -> Tensor:
    """Weighted sum over the pairs / ``norm`` (see :func:`weight_norm`).

    Args:
        per_pair: (..., P).
        weights: (..., P), detached here.

    Returns: (...); 0 without pairs.
    """
    return (per_pair * weights.detach()).sum(-1) / norm

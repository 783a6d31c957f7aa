# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Logit mimicking: class scores of a query become like those of the teacher's query it is paired with (Hinton et al.,
arXiv:1503.02531)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...core.registry import register
from ...nn.types import Predictions
from ..kernels import ClassKernel, Kernel, ScoreSpace
from ..paired import PredictionDistiller, named


@register
class LogitDistillation(PredictionDistiller):
    """``loss_logit``: distance of the class scores, averaged over pairs with the teacher's best score as weight.

    Args:
        weight: factor of the loss.
        kernel, temperature, exponent, space: the distance, see :class:`~isdfine.distill.kernels.ClassKernel`.
        options: ``pairing``, ``threshold``, ``layers``, ``start``, see
            :class:`~isdfine.distill.paired.PredictionDistiller`.

    Raises:
        ValueError: an option that is unknown, out of its range, or not read.
    """

    names = ("loss_logit",)

    def __init__(
        self,
        weight: float = 1.0,
        *,
        kernel: Kernel = "binary",
        temperature: float = 1.0,
        exponent: float = 1.0,
        space: ScoreSpace = "prob",
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        self.kernel: ClassKernel = named(type(self).__name__, ClassKernel, kernel, temperature, exponent, space)

    def distances(self, student: Predictions, teacher: Predictions) -> dict[str, Tensor]:
        return {"loss_logit": self.kernel(student.logits, teacher.logits)}

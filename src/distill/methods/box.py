# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Box imitation: the box of a query becomes like that of the teacher's query it is paired with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...core.errors import check_non_negative
from ...core.registry import register
from ...nn.types import Predictions
from ..kernels import box_giou, box_l1, box_mse
from ..paired import PredictionDistiller

_DISTANCES = {"loss_box_l1": box_l1, "loss_box_giou": box_giou, "loss_box_mse": box_mse}


@register
class BoxDistillation(PredictionDistiller):
    """``loss_box_l1``, ``loss_box_giou`` and ``loss_box_mse``: distances of the boxes, averaged over pairs with the
    teacher's best score as weight.

    Args:
        weight: factor of all three.
        l1, giou, mse: factors of one each; the mean absolute difference of the four numbers, 1 - generalised IoU, and
            the mean squared difference. What has 0 is not computed.
        options: ``pairing``, ``threshold``, ``layers``, ``start``, see
            :class:`~isdfine.distill.paired.PredictionDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range, or all three factors 0.
    """

    def __init__(
        self, weight: float = 1.0, *, l1: float = 5.0, giou: float = 2.0, mse: float = 0.0, **options: Any
    ) -> None:
        super().__init__(weight, **options)
        for name, factor in (("l1", l1), ("giou", giou), ("mse", mse)):
            check_non_negative(f"BoxDistillation.{name}", factor)
        self.parts = {name: factor for name, factor in zip(_DISTANCES, (l1, giou, mse)) if factor}
        if not self.parts:
            raise ValueError("BoxDistillation compares nothing: give one of l1, giou and mse a factor above 0")
        self.names = tuple(self.parts)

    def distances(self, student: Predictions, teacher: Predictions) -> dict[str, Tensor]:
        return {name: _DISTANCES[name](student.boxes, teacher.boxes) for name in self.names}

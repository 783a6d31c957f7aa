# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The training objective of RT-DETR (arXiv 2304.08069, 2407.17140): every prediction set on its own matches."""

from __future__ import annotations

from typing import Any

from ..core.registry import register
from .criterion import DFINECriterion
from .matcher import HungarianMatcher


@register
class RTDETRCriterionv2(DFINECriterion):
    """RT-DETRv2's losses, under its names: :class:`DFINECriterion` without a union of matches.

    Args:
        matcher, weight_dict, losses, alpha, gamma, options: as there; ``reg_max`` is for decoders of ``box_head: fdr``.
        use_uni_set: as there; the distiller ``GOLSD`` needs the union.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        losses: list[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        *,
        use_uni_set: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(matcher, weight_dict, losses, alpha, gamma, use_uni_set=use_uni_set, **options)


@register
class RTDETRCriterion(RTDETRCriterionv2):
    """RT-DETR's losses: those of the second version, where the encoder's proposals count as one more layer's.

    Args:
        matcher, weight_dict, losses, alpha, gamma, options: as there.
        eos_coef: of a softmax loss that is not available here; sigmoid losses have no class for nothing.
    """

    proposals_as_layer = True

    def __init__(
        self,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        losses: list[str],
        alpha: float = 0.2,
        gamma: float = 2.0,
        eos_coef: float = 1e-4,
        **options: Any,
    ) -> None:
        super().__init__(matcher, weight_dict, losses, alpha, gamma, **options)


@register
class SetCriterion(RTDETRCriterion):
    """:class:`RTDETRCriterion` under the name that RT-DETR's first repository has for it."""

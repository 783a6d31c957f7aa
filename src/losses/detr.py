# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The training objective of Deformable-DETR, DAB-DETR, DN-DETR and DINO: focal loss, every set on its own matches."""

from __future__ import annotations

from typing import Any

from ..core.registry import register
from .criterion import DFINECriterion
from .matcher import HungarianMatcher


@register
class DETRCriterion(DFINECriterion):
    """Losses of the DETR family (arXiv 2010.04159, 2201.12329, 2203.01305, 2203.03605): :class:`DFINECriterion` with
    focal loss's usual numbers and without a union of matches.

    ``losses: [focal, boxes]`` weigh 1 (Deformable-DETR: 2), 5 and 2; decoders of ``box_head: fdr`` add ``local``.

    Args:
        matcher, weight_dict, losses, alpha, gamma, options: as there.
        use_uni_set: as there; the distiller ``GOLSD`` needs the union.
        binary_proposals: the encoder's proposals, one per cell of the memory, learn to tell objects from background by
            their first class alone; they have matches of their own and are no part of the union (Deformable-DETR in two
            stages). False: proposals, if any, learn true classes (DINO).

    Raises:
        ValueError: as there. ConfigError from :meth:`match` where ``binary_proposals`` finds no proposals.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        losses: list[str],
        alpha: float = 0.25,
        gamma: float = 2.0,
        *,
        use_uni_set: bool = False,
        binary_proposals: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(matcher, weight_dict, losses, alpha, gamma, use_uni_set=use_uni_set, **options)
        self.binary_proposals = binary_proposals

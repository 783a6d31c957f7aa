# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR (arXiv 2010.04159) and the post-processor of its family."""

from __future__ import annotations

from ...core.registry import register
from ..dfine.postprocess import DFINEPostProcessor
from ..padded import PaddedDETR


@register
class DeformableDETR(PaddedDETR):
    """``ResNet``, ``DeformableEncoder``, ``DeformableDETRTransformer``, see :class:`PaddedDETR`.

    Checkpoints of the published code load as they are, and its code those written here.
    """


@register
class DETRPostProcessor(DFINEPostProcessor):
    """:class:`DFINEPostProcessor` for Deformable-DETR (100 detections per image), DAB-DETR, DN-DETR and DINO (300)."""

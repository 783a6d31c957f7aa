# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DN-DETR (arXiv 2203.01305)."""

from __future__ import annotations

from ...core.registry import register
from ..padded import PaddedDETR


@register
class DNDETR(PaddedDETR):
    """``ResNet``, ``DenseEncoder`` or ``DeformableEncoder``, ``DNDETRTransformer``, see :class:`PaddedDETR`.

    Checkpoints of the published code load as they are, and its code those written here.
    """

    family = "DN-DETR"  # without denoising queries the tensors can have DAB-DETR's names

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR (arXiv 2201.12329)."""

from __future__ import annotations

from ...core.registry import register
from ..padded import PaddedDETR


@register
class DABDETR(PaddedDETR):
    """``ResNet``, ``DenseEncoder`` or ``DeformableEncoder``, ``DABDETRTransformer``, see :class:`PaddedDETR`.

    Checkpoints of the published code load as they are, and its code those written here.
    """

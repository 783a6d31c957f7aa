# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE (arXiv 2410.13842) under its official name."""

from __future__ import annotations

from ...core.registry import register
from ..detr import DETR


@register
class DFINE(DETR):
    """Backbone, encoder and decoder, as official files write them; see :class:`DETR`."""

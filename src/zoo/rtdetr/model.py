# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR (arXiv 2304.08069) and RT-DETRv2 (arXiv 2407.17140) under the names of their official files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from ...core.registry import register
from ..detr import DETR
from ..dfine.postprocess import DFINEPostProcessor


@register
class RTDETR(DETR):
    """Backbone, encoder, decoder, see :class:`DETR`: the detectors differ in their parts only.

    Attributes:
        part_defaults: arguments that a config with ``model: RTDETR`` means where it does not give them: RT-DETR's and
            D-FINE's files call different parts ``HybridEncoder``, and RT-DETR trains in one stage.
    """

    part_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "HybridEncoder": {"fusion": "csp", "downsample": "conv"},
            "BatchImageCollateFunction": {"restart": False},
        }
    )


@register
class RTDETRPostProcessor(DFINEPostProcessor):
    """:class:`DFINEPostProcessor` under RT-DETR's name."""

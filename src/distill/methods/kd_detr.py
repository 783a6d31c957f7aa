# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""KD-DETR: both decoders answer the same points (Wang et al., arXiv:2211.08071)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core.errors import check_choice
from ...core.registry import register
from ..adapters import LayerPairing
from ..kernels import ClassKernel, Kernel
from ..point_distiller import Norm, PointDistiller

Preset = Literal["default", "kddetr"]
_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"kernel": "binary", "temperature": 1.0, "layers": "uniform", "norm": "weight_sum"},
    "kddetr": {"kernel": "softmax", "temperature": 10.0, "layers": "final_to_all", "norm": "kddetr"},
}


@register
class KDDETR(PointDistiller):
    """Random boxes (general points) and the teacher's own queries (specific ones), weighted by how sure the teacher's
    last layer is.

    Args:
        preset: what ``kernel``, ``temperature``, ``layers`` and ``norm`` are where they are not given. ``default``:
            independent sigmoids, layer by layer, all sums divided by that of the weights. ``kddetr``: as released: a
            softmax with T = 10, every layer learns from the teacher's last, and see ``norm``.
        temperature: of ``kernel``.
        weight, general, specific, content, kernel, layers, norm, factors, start: see
            :class:`~isdfine.distill.point_distiller.PointDistiller`.

    Raises:
        ValueError: an option that is unknown or out of its range, or no points at all.
    """

    stem = "kddetr"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        general: int = 300,
        specific: bool = True,
        content: Literal["teacher", "zero"] = "teacher",
        preset: Preset = "default",
        kernel: Kernel | None = None,
        temperature: float | None = None,
        layers: LayerPairing | None = None,
        norm: Norm | None = None,
        factors: Mapping[str, float] | None = None,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("KDDETR.preset", preset, tuple(_PRESETS))
        if not general and not specific:
            raise ValueError("KDDETR has no points: set general above 0, or specific: True")
        given = {"kernel": kernel, "temperature": temperature, "layers": layers, "norm": norm}
        chosen = _PRESETS[preset] | {key: value for key, value in given.items() if value is not None}
        super().__init__(
            weight,
            general=general,
            specific=specific,
            content=content,
            kernel=ClassKernel(chosen["kernel"], chosen["temperature"]),
            layers=chosen["layers"],
            norm=chosen["norm"],
            factors=factors,
            start=start,
        )

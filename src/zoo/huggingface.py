# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Models of ``transformers`` and ours, whatever their family: which table applies, weights and ``config.json`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .dfine import huggingface as dfine
from .dfine import huggingface_config as dfine_config
from .rtdetr import huggingface as rtdetr
from .rtdetr import huggingface_config as rtdetr_config

_RTDETR = "RTDETR"


def transformers_family(state: Mapping[str, Tensor]) -> str:
    """Name of the family whose weights these are, in transformers' names."""
    return "RT-DETR" if rtdetr.is_rtdetr_state(state) else "D-FINE"


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of transformers under our names."""
    convert = rtdetr.from_huggingface if rtdetr.is_rtdetr_state(state) else dfine.from_huggingface
    return convert(state)


def to_huggingface(state: Mapping[str, Tensor], data: Mapping[str, Any]) -> dict[str, Tensor]:
    """Our weights under the names of a folder of transformers; ``data`` is the config of the model."""
    return rtdetr.to_huggingface(state) if data.get("model") == _RTDETR else dfine.to_huggingface(state)


def config_from_huggingface(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], *, image_size: Sequence[int] = (640, 640)
) -> dict[str, Any]:
    """Sections of ours that describe the model of a ``config.json``."""
    family = rtdetr_config if content.get("model_type") in rtdetr_config.MODEL_TYPES else dfine_config
    return family.config_from_huggingface(content, weights, image_size=image_size)


def config_to_huggingface(
    data: Mapping[str, Any], *, num_classes: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """``config.json`` for the model of a config of ours."""
    family = rtdetr_config if data.get("model") == _RTDETR else dfine_config
    return family.config_to_huggingface(data, num_classes=num_classes, names=names)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Take the decoder layers that only training runs out of a config and its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..core.config import Config
from ..core.errors import CheckpointError

_OF_A_LAYER = r"decoder\.(?:decoder\.layers|decoder\.lqe_layers|dec_score_head|dec_bbox_head)\.(\d+)\..*"
"""Keys that belong to one decoder layer."""
_COUNTS = ("num_layers", "num_decoder_layers")
"""The argument that says how many there are, and RT-DETR's first name of it."""


def drop_training_layers(config: Config, weights: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor], str | None]:
    """The same detector without the layers after ``eval_idx``: in eval mode its predictions are the same.

    Args:
        config: of the model, whose ``DFINE.decoder`` is a ``DFINETransformer``.
        weights: its state dict, not fused.

    Returns: config with ``num_layers`` up to ``eval_idx`` and no ``layer_scale``, the remaining weights, and what was
        left out in words; the very same config and None where there are no such layers.

    Raises:
        CheckpointError: weights that have no layers after ``eval_idx`` although the config says so, or more.
    """
    path = _decoder_of(config)
    count = next(
        (f"{path}.{name}" for name in _COUNTS if config.get(f"{path}.{name}") is not None), f"{path}.num_layers"
    )
    layers, eval_idx = config.get(count, 6), config.get(f"{path}.eval_idx", -1)
    kept = range(layers)[eval_idx] + 1
    if kept == layers:
        return config, dict(weights), None
    numbers = {key: int(layer[1]) for key in weights if (layer := re.fullmatch(_OF_A_LAYER, key))}
    found_layers = max(numbers.values(), default=-1) + 1
    if found_layers != layers:
        raise CheckpointError(
            f"{config.path}: {path} has {layers} decoder layers, the weights have {found_layers}: use the config they "
            "were trained with (layers that only training runs are perhaps left out already: num_layers, eval_idx)"
        )
    remaining = {key: value for key, value in weights.items() if numbers.get(key, -1) < kept}
    values = {count: kept, f"{path}.eval_idx": -1, f"{path}.layer_scale": 1}
    what = f"left out {layers - kept} of {layers} decoder layers, which only training runs"
    return config.with_values(values), remaining, what


def _decoder_of(config: Config) -> str:
    """Dotted key of the decoder's arguments: a section of its own, or inline in the detector's."""
    model = config.get("model", "DFINE")
    detector = model if isinstance(model, str) else "model"
    slot = config.get(f"{detector}.decoder", "DFINETransformer")
    return slot if isinstance(slot, str) else f"{detector}.decoder"

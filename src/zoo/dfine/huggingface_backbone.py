# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``backbone_config`` of ``transformers``' D-FINE and our ``HGNetv2`` section, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import CheckpointError
from ...nn.backbone.hgnetv2 import VARIANTS, Stage, Variant

_DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "hidden_act": "relu",
    "stem_channels": [3, 32, 48],
    "stem_strides": [2, 1, 1, 2, 1],
    "stage_in_channels": [48, 128, 512, 1024],
    "stage_mid_channels": [48, 96, 192, 384],
    "stage_out_channels": [128, 512, 1024, 2048],
    "stage_num_blocks": [1, 1, 3, 1],
    "stage_downsample": [False, True, True, True],
    "stage_downsample_strides": [2, 2, 2, 2],
    "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_numb_of_layers": [6, 6, 6, 6],
}
"""Those of their ``HGNetV2Config``: ``config.json`` leaves out entries that have them (size B4)."""


def backbone_from_huggingface(content: Mapping[str, Any]) -> dict[str, Any]:
    theirs = content.get("backbone_config")
    if not isinstance(theirs, Mapping) or theirs.get("model_type") != "hgnet_v2":
        found = theirs.get("model_type") if isinstance(theirs, Mapping) else content.get("backbone")
        raise CheckpointError(f"config.json: the backbone is {found!r}, only HGNetV2 ('hgnet_v2') can be converted")
    given = {**_DEFAULTS, **theirs}
    found_sizes = {key: _plain(given[key]) for key in _DEFAULTS}
    name = next((one for one, variant in VARIANTS.items() if _sizes(variant) == found_sizes), None)
    if name is None:
        raise CheckpointError(
            f"config.json: backbone_config is none of HGNetV2 {', '.join(VARIANTS)}: stage_out_channels "
            f"{found_sizes['stage_out_channels']}, stage_num_blocks {found_sizes['stage_num_blocks']}, stem_channels "
            f"{found_sizes['stem_channels']}"
        )
    indices = given.get("out_indices") or [
        int(str(one).removeprefix("stage")) for one in given.get("out_features") or ()
    ]
    return {
        "name": name,
        "return_idx": [index - 1 for index in indices or (2, 3, 4)],
        "use_lab": bool(given.get("use_learnable_affine_block", False)),
        "freeze_norm": bool(content.get("freeze_backbone_batch_norms", True)),
        "freeze_at": -1,
        "freeze_stem_only": True,
        "pretrained": False,
    }


def backbone_to_huggingface(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments["name"] not in VARIANTS:
        raise CheckpointError(f"HGNetv2.name is {arguments['name']!r}: choose one of {', '.join(VARIANTS)}")
    variant = VARIANTS[arguments["name"]]
    indices = [index + 1 for index in arguments["return_idx"]]
    sizes = _sizes(variant)
    return {
        "model_type": "hgnet_v2",
        **sizes,
        "embedding_size": variant.stem[1],
        "hidden_sizes": sizes["stage_out_channels"],
        "depths": sizes["stage_num_blocks"],
        "out_indices": indices,
        "out_features": [f"stage{index}" for index in indices],
        "use_learnable_affine_block": bool(arguments["use_lab"]),
    }


def _sizes(variant: Variant) -> dict[str, Any]:
    """One of our backbones in their terms, comparable with ``_DEFAULTS``."""

    def of(read: Callable[[Stage], int]) -> list[int]:
        return [read(stage) for stage in variant.stages]

    return {
        **_DEFAULTS,
        "stem_channels": [3, *variant.stem],
        "stage_in_channels": of(lambda stage: stage.in_channels),
        "stage_mid_channels": of(lambda stage: stage.mid_channels),
        "stage_out_channels": of(lambda stage: stage.out_channels),
        "stage_num_blocks": of(lambda stage: stage.blocks),
        "stage_numb_of_layers": [variant.layers] * len(variant.stages),
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``backbone_config`` of ``transformers``, and our sections ``HGNetv2`` and ``PResNet``, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.errors import CheckpointError
from ...nn.backbone.hgnetv2 import VARIANTS, Variant
from ...nn.backbone.resnet import BLOCKS, STAGE_WIDTHS

_HGNET: dict[str, Any] = {
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
_RESNET: dict[str, Any] = {
    "num_channels": 3,
    "hidden_act": "relu",
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
"""Defaults of their ``HGNetV2Config`` and ``RTDetrResNetConfig``: ``config.json`` leaves out entries that have them."""
_STAGES = (2, 3, 4)


def hgnet_from_huggingface(content: Mapping[str, Any]) -> dict[str, Any]:
    theirs = _section(content, "hgnet_v2", "HGNetV2")
    name = _size(theirs, _HGNET, {name: _hgnet(variant) for name, variant in VARIANTS.items()}, "HGNetV2")
    return {
        "name": name,
        "return_idx": _indices(theirs),
        "use_lab": bool(theirs.get("use_learnable_affine_block", False)),
        "freeze_norm": bool(content.get("freeze_backbone_batch_norms", True)),
        "freeze_at": -1,
        "freeze_stem_only": True,
        "pretrained": False,
    }


def hgnet_to_huggingface(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments["name"] not in VARIANTS:
        raise CheckpointError(f"HGNetv2.name is {arguments['name']!r}: choose one of {', '.join(VARIANTS)}")
    sizes = _hgnet(VARIANTS[arguments["name"]])
    return {
        "model_type": "hgnet_v2",
        **sizes,
        "embedding_size": sizes["stem_channels"][1],
        "hidden_sizes": sizes["stage_out_channels"],
        "depths": sizes["stage_num_blocks"],
        **_outputs(arguments),
        "use_learnable_affine_block": bool(arguments["use_lab"]),
    }


def resnet_from_huggingface(content: Mapping[str, Any]) -> dict[str, Any]:
    theirs = _section(content, "rt_detr_resnet", "ResNet-vd")
    return {
        "depth": _size(theirs, _RESNET, {depth: _resnet(depth) for depth in BLOCKS}, "ResNet-vd"),
        "variant": "d",
        "return_idx": _indices(theirs),
        "freeze_at": -1,
        "freeze_norm": bool(content.get("freeze_backbone_batch_norms", True)),
        "pretrained": False,
    }


def resnet_to_huggingface(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments["variant"] != "d" or arguments["num_stages"] != len(STAGE_WIDTHS) or arguments["act"] != "relu":
        raise CheckpointError(
            f"PResNet: variant {arguments['variant']!r}, {arguments['num_stages']} stages, act {arguments['act']!r}: "
            "transformers' RT-DETR has variant d with 4 stages and relu only"
        )
    return {"model_type": "rt_detr_resnet", **_resnet(arguments["depth"]), **_outputs(arguments)}


def _section(content: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    theirs = content.get("backbone_config")
    given = theirs.get("model_type") if isinstance(theirs, Mapping) else content.get("backbone")
    if not isinstance(theirs, Mapping) or given != kind:
        raise CheckpointError(f"config.json: the backbone is {given!r}, only {name} ({kind!r}) can be converted")
    return theirs


def _size(
    theirs: Mapping[str, Any], defaults: Mapping[str, Any], sizes: Mapping[Any, Mapping[str, Any]], name: str
) -> Any:
    """Our name of the size whose numbers are theirs; CheckpointError with what differs from all of them."""
    given = {key: plain(theirs.get(key, default)) for key, default in defaults.items()}
    fitting = [ours for ours, numbers in sizes.items() if numbers == given]
    if not fitting:
        odd = [key for key, value in given.items() if all(numbers[key] != value for numbers in sizes.values())]
        told = ", ".join(f"{key} {given[key]}" for key in odd or given)
        raise CheckpointError(f"config.json: backbone_config is none of {name} {', '.join(map(str, sizes))}: {told}")
    return fitting[0]


def _hgnet(variant: Variant) -> dict[str, Any]:
    """One of our backbones in their terms."""
    return {
        **_HGNET,
        "stem_channels": [3, *variant.stem],
        "stage_in_channels": variant.inputs,
        "stage_mid_channels": list(variant.inner),
        "stage_out_channels": list(variant.results),
        "stage_num_blocks": list(variant.blocks),
        "stage_numb_of_layers": [variant.layers] * len(variant.blocks),
    }


def _resnet(depth: int) -> dict[str, Any]:
    """One of our backbones in their terms."""
    basic = depth < 50
    widths = [width * (1 if basic else 4) for width in STAGE_WIDTHS]
    kind = "basic" if basic else "bottleneck"
    return {**_RESNET, "hidden_sizes": widths, "depths": list(BLOCKS[depth]), "layer_type": kind}


def _indices(theirs: Mapping[str, Any]) -> list[int]:
    """Our stages count from 0, theirs from 1, behind the stem."""
    named = [int(str(name).removeprefix("stage")) for name in theirs.get("out_features") or ()]
    return [index - 1 for index in theirs.get("out_indices") or named or _STAGES]


def _outputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    indices = [index + 1 for index in arguments["return_idx"]]
    return {"out_indices": indices, "out_features": [f"stage{index}" for index in indices]}


def plain(value: Any) -> Any:
    """As JSON and YAML have it: tuples are lists."""
    return list(value) if isinstance(value, (list, tuple)) else value

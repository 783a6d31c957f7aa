# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``config.json`` of ``transformers``' RT-DETR and RT-DETRv2 on ResNet-vd, and the model sections of our YAML.

What both can express is converted; what changes the outputs and only one of them has is refused, with its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...core.errors import CheckpointError
from ...core.registry import REGISTRY, schema_of
from ...nn.backbone.resnet import BLOCKS, STAGE_WIDTHS
from ..dfine.huggingface_config import DECODER, ENCODER, class_count, label_names

MODEL_TYPES = {"rt_detr": "RTDETRTransformer", "rt_detr_v2": "RTDETRTransformerv2"}
"""Our decoder of each of their architectures."""
_ARCHITECTURES = {"rt_detr": "RTDetrForObjectDetection", "rt_detr_v2": "RTDetrV2ForObjectDetection"}
_NO_SUCH_ENTRY = {"depth_mult", "learn_query_content", "eval_idx", "reg_max", "reg_scale", "layer_scale", "up"}
"""Our arguments that D-FINE's ``config.json`` has an entry for and RT-DETR's has not."""
_ENCODER = tuple(row for row in ENCODER if row[1] not in _NO_SUCH_ENTRY)
_SECOND_VERSION = tuple(row for row in DECODER if row[1] == "cross_attn_method")
_DECODER = tuple(row for row in DECODER if row[1] not in _NO_SUCH_ENTRY and row not in _SECOND_VERSION)
_FLOATS = ("hidden_expansion", "label_noise_ratio", "box_noise_scale", "dropout", "attention_dropout")
_FIXED = {
    "normalize_before": False,
    "activation_function": "silu",
    "eval_size": None,
    "layer_norm_eps": 1e-5,
    "batch_norm_eps": 1e-5,
    "use_focal_loss": True,
    "learn_initial_query": False,
}
"""Their entries that we have as constants: another value would change the outputs."""
_ENCODER_IS = {"fusion": "csp", "downsample": "conv", "depth_mult": 1}
_DECODER_IS = {
    **{"box_head": "direct", "merge": "residual", "cross_attn_projections": True, "eps": 1e-2},
    **{"query_select_method": "default", "learn_query_content": False, "learnt_init_query": False, "layer_scale": 1},
}
"""Our arguments that transformers has no choice for."""
_LOSSES = {f"weight_loss_{name}": f"loss_{name}" for name in ("vfl", "bbox", "giou")}
_COSTS = {f"matcher_{name}_cost": f"cost_{name}" for name in ("class", "bbox", "giou")}
_LOSS_DEFAULTS = (1.0, 5.0, 2.0)
_COST_DEFAULTS = (2.0, 5.0, 2.0)


def config_from_huggingface(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], *, image_size: Sequence[int] = (640, 640)
) -> dict[str, Any]:
    """The sections of a YAML file that describe the same model, its post-processing and its losses.

    Args:
        content: a ``config.json`` of ``RTDetrForObjectDetection`` or ``RTDetrV2ForObjectDetection``.
        weights: the model's weights under our names, for the class count.
        image_size: (height, width) in pixels that images are resized to; ``anchor_image_size`` of theirs goes first.

    Returns: plain data. ``position_layout`` is ``grid``, as transformers 5 computes.

    Raises:
        CheckpointError: an entry that our model cannot follow, or another number of labels.
    """
    kind = str(content["model_type"])
    entries = _decoder_entries(kind)
    given = {**{key: value for key, _, value in (*_ENCODER, *entries)}, **_FIXED, **content}
    for key, value in _FIXED.items():
        if given[key] != value:
            raise CheckpointError(f"config.json: {key} is {given[key]!r}, our RT-DETR has {value!r} and no choice")
    num_classes = class_count(weights)
    label_names(content, num_classes)
    decoder, criterion = MODEL_TYPES[kind], "RTDETRCriterionv2" if kind == "rt_detr_v2" else "RTDETRCriterion"
    size = given.get("anchor_image_size") or image_size
    version = {"version": "v1"} if kind == "rt_detr" else {}
    return {
        "num_classes": num_classes,
        "eval_spatial_size": [size, size] if isinstance(size, int) else list(size),
        "use_focal_loss": True,
        "model": "RTDETR",
        "criterion": criterion,
        "postprocessor": "RTDETRPostProcessor",
        "RTDETR": {"backbone": "PResNet", "encoder": "HybridEncoder", "decoder": decoder},
        "PResNet": _backbone_from(given),
        "HybridEncoder": {ours: _plain(given[theirs]) for theirs, ours, _ in _ENCODER}
        | version
        | {"position_layout": "grid"},
        decoder: {ours: _plain(given[theirs]) for theirs, ours, _ in entries},
        "RTDETRPostProcessor": {"num_top_queries": given["num_queries"]},
        criterion: {
            "weight_dict": {ours: given.get(key, value) for (key, ours), value in zip(_LOSSES.items(), _LOSS_DEFAULTS)},
            "losses": ["vfl", "boxes"],
            "alpha": given.get("focal_loss_alpha", 0.75),
            "gamma": given.get("focal_loss_gamma", 2.0),
            "matcher": {
                "type": "HungarianMatcher",
                "weight_dict": {
                    ours: given.get(key, value) for (key, ours), value in zip(_COSTS.items(), _COST_DEFAULTS)
                },
                "alpha": given.get("matcher_alpha", 0.25),
                "gamma": given.get("matcher_gamma", 2.0),
            },
        },
    }


def config_to_huggingface(
    data: Mapping[str, Any], *, num_classes: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """``config.json`` for ``from_pretrained`` of the version that the decoder belongs to.

    Args:
        data: a resolved config of ours as plain data.
        num_classes: C.
        names: class names in label order; None writes ``LABEL_0`` and so on, as transformers does.

    Raises:
        CheckpointError: a part or an argument that transformers' RT-DETR does not have, or another number of names.
    """
    if names is not None and len(names) != num_classes:
        raise CheckpointError(f"{len(names)} class names for a model of {num_classes} classes: give one per class")
    slots = dict(data.get("RTDETR") or {})
    kinds = {decoder: kind for kind, decoder in MODEL_TYPES.items()}
    wanted = {"backbone": ("PResNet",), "encoder": ("HybridEncoder",), "decoder": tuple(kinds)}
    for slot, choices in wanted.items():
        if slots.get(slot) not in choices:
            raise CheckpointError(
                f"RTDETR.{slot} is {slots.get(slot)!r}: transformers' RT-DETR has {' or '.join(choices)} there only"
            )
    kind = kinds[slots["decoder"]]
    family = REGISTRY["RTDETR"].part_defaults["HybridEncoder"]  # type: ignore[attr-defined]
    encoder = {**_arguments(data, "HybridEncoder"), **family, **(data.get("HybridEncoder") or {})}
    decoder = _arguments(data, slots["decoder"])
    _refuse_others("HybridEncoder", encoder, _ENCODER_IS)
    _refuse_others(slots["decoder"], decoder, _DECODER_IS)
    _check_shape(encoder, decoder)
    content = {theirs: _plain(encoder[ours]) for theirs, ours, _ in _ENCODER}
    content |= {theirs: _plain(decoder[ours]) for theirs, ours, _ in _decoder_entries(kind)}
    content["decoder_n_points"] = _points(decoder["num_points"])
    content["positional_encoding_temperature"] = int(content["positional_encoding_temperature"])
    content |= {key: float(content[key]) for key in _FLOATS}
    content |= {"decoder_n_levels": decoder["num_levels"]} if kind == "rt_detr_v2" else {}
    labels = list(names) if names is not None else [f"LABEL_{i}" for i in range(num_classes)]
    backbone = _arguments(data, "PResNet")
    return {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "torch_dtype": "float32",
        "is_encoder_decoder": True,
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
        "backbone_config": _backbone_to(backbone),
        "freeze_backbone_batch_norms": bool(backbone["freeze_norm"]),
        "anchor_image_size": None,
        **_FIXED,
        **content,
    }


def _decoder_entries(kind: str) -> tuple[tuple[str, str, Any], ...]:
    return _DECODER + _SECOND_VERSION if kind == "rt_detr_v2" else _DECODER


def _backbone_from(content: Mapping[str, Any]) -> dict[str, Any]:
    theirs = content.get("backbone_config")
    kind = theirs.get("model_type") if isinstance(theirs, Mapping) else content.get("backbone")
    if not isinstance(theirs, Mapping) or kind != "rt_detr_resnet":
        raise CheckpointError(
            f"config.json: the backbone is {kind!r}, only ResNet-vd ('rt_detr_resnet') can be converted"
        )
    depths = tuple(theirs.get("depths") or BLOCKS[50])
    basic = theirs.get("layer_type", "bottleneck") == "basic"
    depth = next((depth for depth, blocks in BLOCKS.items() if blocks == depths and (depth < 50) == basic), None)
    if depth is None or theirs.get("embedding_size", 64) != STAGE_WIDTHS[0]:
        raise CheckpointError(
            f"config.json: backbone_config is none of ResNet-vd {', '.join(map(str, BLOCKS))}: depths {list(depths)}, "
            f"layer_type {theirs.get('layer_type')!r}, embedding_size {theirs.get('embedding_size')}"
        )
    names = theirs.get("out_features") or ("stage2", "stage3", "stage4")
    return {
        "depth": depth,
        "variant": "d",
        "return_idx": [int(str(name).removeprefix("stage")) - 1 for name in names],
        "freeze_at": -1,
        "freeze_norm": bool(content.get("freeze_backbone_batch_norms", True)),
        "pretrained": False,
    }


def _backbone_to(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments["variant"] != "d" or arguments["num_stages"] != len(STAGE_WIDTHS) or arguments["act"] != "relu":
        raise CheckpointError(
            f"PResNet: variant {arguments['variant']!r}, {arguments['num_stages']} stages, act {arguments['act']!r}: "
            "transformers' RT-DETR has variant d with 4 stages and relu only"
        )
    basic = arguments["depth"] < 50
    indices = [index + 1 for index in arguments["return_idx"]]
    return {
        "model_type": "rt_detr_resnet",
        "num_channels": 3,
        "embedding_size": STAGE_WIDTHS[0],
        "hidden_sizes": [width * (1 if basic else 4) for width in STAGE_WIDTHS],
        "depths": list(BLOCKS[arguments["depth"]]),
        "layer_type": "basic" if basic else "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        "out_indices": indices,
        "out_features": [f"stage{index}" for index in indices],
    }


def _arguments(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All arguments of a component: its section, else shared values at the top, else its defaults."""
    section = dict(data.get(name) or {})
    parameters = schema_of(REGISTRY[name]).parameters
    return {key: section.get(key, data.get(key, parameter.default)) for key, parameter in parameters.items()}


def _refuse_others(name: str, arguments: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for key, value in fixed.items():
        if key in arguments and arguments[key] != value:
            raise CheckpointError(
                f"{name}.{key} is {arguments[key]!r}: transformers' RT-DETR has no such choice, it is {value!r}"
            )


def _check_shape(encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
    layers, eval_idx, channels = decoder["num_layers"], decoder["eval_idx"], decoder["feat_channels"]
    if range(layers)[eval_idx] != layers - 1:
        raise CheckpointError(f"eval_idx is {eval_idx} of {layers} layers: transformers evaluates at the last one only")
    if decoder["num_levels"] != len(channels):
        raise CheckpointError(
            f"the decoder makes {decoder['num_levels']} levels from {len(channels)} maps: transformers builds extra "
            "levels differently, so such a model cannot be converted"
        )
    size = encoder["eval_spatial_size"]
    if size is not None and size[0] != size[1] and encoder["position_layout"] == "official":
        raise CheckpointError(
            f"eval_spatial_size is {list(size)} with HybridEncoder.position_layout official: transformers 5 lays "
            "positions out otherwise on images that are not square; train with position_layout: grid to convert to it"
        )


def _points(points: int | Sequence[int]) -> int:
    counts = {points} if isinstance(points, int) else set(points)
    if len(counts) > 1:
        raise CheckpointError(
            f"num_points is {list(counts)}: transformers' RT-DETR has as many points on every level, so such a model "
            "cannot be converted"
        )
    return counts.pop()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

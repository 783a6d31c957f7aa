# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""``config.json`` of ``transformers``' D-FINE and the model sections of our YAML files, both ways.

What both can express is converted; what changes the outputs and only one of them has is refused, with its name.
The class count, ``reg_scale`` and ``up`` are read from the weights: files converted by transformers' own script say
``reg_scale`` 4 for size X, whose weights hold 8.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...core.errors import CheckpointError
from ...nn.backbone.hgnetv2 import HGNetv2
from .decoder import DFINETransformer
from .encoder import HybridEncoder
from .huggingface_backbone import backbone_from_huggingface, backbone_to_huggingface

logger = logging.getLogger(__name__)

MODEL_TYPE = "d_fine"
_CLASS_HEADS = r"decoder\.(?:enc_score_head|dec_score_head\.\d+)\.(?:weight|bias)"
_PARTS = {"backbone": HGNetv2, "encoder": HybridEncoder, "decoder": DFINETransformer}
# Their entry, our argument, their default. One of theirs may set arguments of both parts.
ENCODER: tuple[tuple[str, str, Any], ...] = (
    ("encoder_in_channels", "in_channels", [512, 1024, 2048]),
    ("feat_strides", "feat_strides", [8, 16, 32]),
    ("encoder_hidden_dim", "hidden_dim", 256),
    ("encoder_attention_heads", "nhead", 8),
    ("encoder_ffn_dim", "dim_feedforward", 1024),
    ("dropout", "dropout", 0.0),
    ("encoder_activation_function", "enc_act", "gelu"),
    ("encode_proj_layers", "use_encoder_idx", [2]),
    ("encoder_layers", "num_encoder_layers", 1),
    ("positional_encoding_temperature", "pe_temperature", 10000),
    ("hidden_expansion", "expansion", 1.0),
    ("depth_mult", "depth_mult", 1.0),
)
DECODER: tuple[tuple[str, str, Any], ...] = (
    ("decoder_in_channels", "feat_channels", [256, 256, 256]),
    ("feat_strides", "feat_strides", [8, 16, 32]),
    ("d_model", "hidden_dim", 256),
    ("num_queries", "num_queries", 300),
    ("num_feature_levels", "num_levels", 3),
    ("decoder_n_points", "num_points", 4),
    ("decoder_attention_heads", "nhead", 8),
    ("decoder_layers", "num_layers", 6),
    ("decoder_ffn_dim", "dim_feedforward", 1024),
    ("attention_dropout", "dropout", 0.0),
    ("decoder_activation_function", "activation", "relu"),
    ("num_denoising", "num_denoising", 100),
    ("label_noise_ratio", "label_noise_ratio", 0.5),
    ("box_noise_scale", "box_noise_scale", 1.0),
    ("learn_initial_query", "learn_query_content", False),
    ("eval_idx", "eval_idx", -1),
    ("auxiliary_loss", "aux_loss", True),
    ("decoder_method", "cross_attn_method", "default"),
    ("max_num_bins", "reg_max", 32),
    ("reg_scale", "reg_scale", 4.0),
    ("layer_scale", "layer_scale", 1.0),
    ("up", "up", 0.5),
)
_LOSSES = {f"weight_loss_{name}": f"loss_{name}" for name in ("vfl", "bbox", "giou", "fgl", "ddf")}
_COSTS = {f"matcher_{name}_cost": f"cost_{name}" for name in ("class", "bbox", "giou")}
_TRAINING = {
    **dict(zip(_LOSSES, (1.0, 5.0, 2.0, 0.15, 1.5))),
    **dict(zip(_COSTS, (2.0, 5.0, 2.0))),
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "matcher_alpha": 0.25,
    "matcher_gamma": 2.0,
}
_FLOATS = ("hidden_expansion", "depth_mult", "label_noise_ratio", "box_noise_scale", "reg_scale", "up")
"""Transformers 5 checks types: a whole number is not a float there."""
_FIXED = {
    "normalize_before": False,
    "activation_function": "silu",
    "eval_size": None,
    "layer_norm_eps": 1e-5,
    "batch_norm_eps": 1e-5,
    "use_focal_loss": True,
    "top_prob_values": 4,
    "lqe_hidden_dim": 64,
    "lqe_layers": 2,
    "decoder_offset_scale": 0.5,
}
"""Their entries that we have as constants: another value would change the outputs."""
_WITHOUT_EFFECT = {
    *(
        "model_type",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "_name_or_path",
        "is_encoder_decoder",
    ),
    *("id2label", "label2id", "num_labels", "head_dim", "backbone", "backbone_config", "backbone_kwargs"),
    *("use_pretrained_backbone", "use_timm_backbone", "freeze_backbone_batch_norms", "anchor_image_size"),
    *("initializer_range", "initializer_bias_prior_prob", "activation_dropout", "with_box_refine", "eos_coefficient"),
    *("tie_word_embeddings", "disable_custom_kernels", "hidden_size", "num_attention_heads", "problem_type"),
    *("return_dict", "output_attentions", "output_hidden_states", "use_cache", "chunk_size_feed_forward"),
    *("_attn_implementation", "_attn_implementation_autoset", "_commit_hash"),
}
"""Their entries that are read elsewhere, or change no output."""


def config_from_huggingface(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], *, image_size: Sequence[int] = (640, 640)
) -> dict[str, Any]:
    """The sections of a YAML file that describe the same model, its post-processing and its losses.

    Args:
        content: a ``config.json`` of ``DFineForObjectDetection``.
        weights: the model's weights under our names (``from_huggingface``), for the class count and ``reg_scale``.
        image_size: (height, width) in pixels that images are resized to; ``anchor_image_size`` of theirs goes first.

    Returns: plain data. ``position_layout`` is ``grid``, as transformers 5 computes (see ``huggingface.py``).

    Raises:
        CheckpointError: another architecture, an entry that our model cannot follow, or another number of labels.
    """
    check_model_type(content, "config.json")
    num_classes = class_count(weights)
    if "decoder.reg_scale" not in weights:
        raise CheckpointError("no reg_scale among the weights: not a D-FINE, or incomplete")
    given = {**{key: value for key, _, value in (*ENCODER, *DECODER)}, **_FIXED, **_TRAINING, **content}
    for key, value in _FIXED.items():
        if given[key] != value:
            raise CheckpointError(f"config.json: {key} is {given[key]!r}, our D-FINE has {value!r} and no choice")
    _check_types(given)
    _check_decoder(given)
    label_names(content, num_classes)
    _warn_of_unknown(given)
    decoder = {ours: _plain(given[theirs]) for theirs, ours, _ in DECODER}
    decoder["reg_scale"] = _whole(weights["decoder.reg_scale"].item())
    decoder["up"] = weights["decoder.up"].item() if "decoder.up" in weights else decoder["up"]
    if decoder["dropout"] != given["dropout"]:
        logger.warning(
            "config.json: dropout %s and attention_dropout %s differ; our decoder has one (training only): the first",
            given["dropout"], given["attention_dropout"],
        )  # fmt: skip
    decoder["dropout"] = given["dropout"]
    size = given.get("anchor_image_size") or image_size
    return {
        "num_classes": num_classes,
        "eval_spatial_size": [size, size] if isinstance(size, int) else list(size),
        "use_focal_loss": True,
        "model": "DFINE",
        "criterion": "DFINECriterion",
        "postprocessor": "DFINEPostProcessor",
        "DFINE": {"backbone": "HGNetv2", "encoder": "HybridEncoder", "decoder": "DFINETransformer"},
        "HGNetv2": backbone_from_huggingface(given),
        "HybridEncoder": {ours: _plain(given[theirs]) for theirs, ours, _ in ENCODER} | {"position_layout": "grid"},
        "DFINETransformer": decoder,
        "DFINEPostProcessor": {"num_top_queries": given["num_queries"]},
        "DFINECriterion": _criterion_from(given),
    }


def config_to_huggingface(
    data: Mapping[str, Any], *, num_classes: int, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """``config.json`` for ``DFineForObjectDetection.from_pretrained``.

    Args:
        data: a resolved config of ours as plain data.
        num_classes: C.
        names: class names in label order; None writes ``LABEL_0`` and so on, as transformers does.

    Raises:
        CheckpointError: another detector or backbone than transformers' D-FINE has, an argument it cannot express, or
            another number of names.
    """
    if names is not None and len(names) != num_classes:
        raise CheckpointError(f"{len(names)} class names for a model of {num_classes} classes: give one per class")
    detector = _section(data, data.get("model"), "DFINE", "model")
    parts = {
        slot: _arguments(data, detector.get(slot, cls.__name__), cls, f"DFINE.{slot}") for slot, cls in _PARTS.items()
    }
    encoder, decoder = parts["encoder"], parts["decoder"]
    _check_positions(encoder)
    _refuse_others(encoder, HybridEncoder, {ours for _, ours, _ in ENCODER} | {"eval_spatial_size", "position_layout"})
    _refuse_others(decoder, DFINETransformer, {ours for _, ours, _ in DECODER} | {"eval_spatial_size"})
    content = {theirs: _plain(encoder[ours]) for theirs, ours, _ in ENCODER}
    content |= {theirs: _plain(decoder[ours]) for theirs, ours, _ in DECODER}
    content |= {"dropout": encoder["dropout"], **{key: float(content[key]) for key in _FLOATS}}
    content["positional_encoding_temperature"] = _integer(content["positional_encoding_temperature"])
    _check_decoder(content)
    labels = list(names) if names is not None else [f"LABEL_{i}" for i in range(num_classes)]
    return {
        "architectures": ["DFineForObjectDetection"],
        "model_type": MODEL_TYPE,
        "torch_dtype": "float32",
        "is_encoder_decoder": True,
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
        "backbone_config": backbone_to_huggingface(parts["backbone"]),
        "freeze_backbone_batch_norms": bool(parts["backbone"]["freeze_norm"]),
        "anchor_image_size": None,
        **_FIXED,
        **content,
        **_criterion_to(data),
    }


def preprocessor_for(image_size: Sequence[int]) -> dict[str, Any]:
    """``preprocessor_config.json``: resize to (height, width), divide by 255, nothing else."""
    return {
        "image_processor_type": "RTDetrImageProcessor",
        "do_resize": True,
        "size": {"height": int(image_size[0]), "width": int(image_size[1])},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_annotations": True,
        "do_pad": False,
        "format": "coco_detection",
    }


def label_names(content: Mapping[str, Any], num_classes: int) -> list[str] | None:
    """Class names in label order, None where ``config.json`` has none but placeholders.

    Raises:
        CheckpointError: labels that are not 0..C-1.
    """
    labels = content.get("id2label")
    if not labels:
        return None
    if not isinstance(labels, Mapping) or not all(str(key).isdecimal() for key in labels):
        raise CheckpointError(f"config.json: id2label is {str(labels)[:80]}: expected class names by number, 0, 1, ...")
    by_index = {int(key): str(name) for key, name in labels.items()}
    if sorted(by_index) != list(range(num_classes)):
        raise CheckpointError(
            f"config.json: id2label has {len(by_index)} labels, the weights have {num_classes} classes: correct "
            "id2label (0, 1, ... without holes), or take the config.json that belongs to the weights"
        )
    names = [by_index[index] for index in range(num_classes)]
    return None if names == [f"LABEL_{index}" for index in range(num_classes)] else names


def class_count(weights: Mapping[str, Tensor]) -> int:
    """C of weights under our names.

    Raises:
        CheckpointError: no class head among them, or heads of different class counts.
    """
    rows = {key: len(one) for key, one in weights.items() if re.fullmatch(_CLASS_HEADS, key)}
    if not rows:
        raise CheckpointError("no class heads among the weights: not a D-FINE, or incomplete")
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise CheckpointError(f"the class heads have different class counts ({found}): the file is damaged")
    return next(iter(rows.values()))


def check_model_type(content: Mapping[str, Any], place: str) -> None:
    """Raise :class:`CheckpointError` where a ``config.json`` is of another architecture than D-FINE and RT-DETR."""
    found = content.get("model_type")
    if found not in (MODEL_TYPE, "rt_detr", "rt_detr_v2"):
        raise CheckpointError(
            f"{place}: this is a model of type {found!r} ({', '.join(content.get('architectures') or ['?'])}), only "
            f"D-FINE ({MODEL_TYPE!r}, DFineForObjectDetection) and RT-DETR ('rt_detr', 'rt_detr_v2') can be converted"
        )


def _check_positions(encoder: Mapping[str, Any]) -> None:
    size = encoder["eval_spatial_size"]
    if size is not None and size[0] != size[1] and encoder.get("position_layout") == "official":
        raise CheckpointError(
            f"eval_spatial_size is {list(size)} with HybridEncoder.position_layout official: transformers 5 lays "
            "positions out otherwise on images that are not square; train with position_layout: grid to convert to it"
        )


def _warn_of_unknown(content: Mapping[str, Any]) -> None:
    known = {key for key, _, _ in (*ENCODER, *DECODER)} | {*_FIXED, *_TRAINING} | _WITHOUT_EFFECT
    if unknown := sorted(set(content) - known):
        logger.warning("config.json: %s: unknown here, left out: compare the outputs", ", ".join(unknown))


def _check_types(content: Mapping[str, Any]) -> None:
    """Entries that somebody edited, before anything is computed from them: they must be like their defaults."""
    defaults = {**{key: value for key, _, value in (*ENCODER, *DECODER)}, **_TRAINING}
    wrong = [f"{key} is {content[key]!r}" for key, default in defaults.items() if not _like(content[key], default)]
    if wrong:
        raise CheckpointError(f"config.json: {', '.join(wrong)}: transformers writes something else there: restore it")


def _like(value: Any, default: Any) -> bool:
    if isinstance(default, (bool, str)):
        return type(value) is type(default)
    if isinstance(value, (list, tuple)):
        return not isinstance(default, float) and bool(value) and all(type(one) is int for one in value)
    return type(value) is int or (type(value) is float and not isinstance(default, list))


def _check_decoder(content: Mapping[str, Any]) -> None:
    """What transformers' decoder cannot do, or does differently."""
    levels, channels = content["num_feature_levels"], list(content["decoder_in_channels"])
    if levels != len(channels):
        raise CheckpointError(
            f"the decoder makes {levels} levels from {len(channels)} maps: transformers builds the extra levels "
            "differently, so such a model cannot be converted"
        )
    if content["eval_idx"] not in (-1, content["decoder_layers"] - 1):
        raise CheckpointError(
            f"eval_idx is {content['eval_idx']} of {content['decoder_layers']} decoder layers: transformers can only "
            "evaluate at the last one, so such a model cannot be converted"
        )


def _criterion_from(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weight_dict": {ours: content[theirs] for theirs, ours in _LOSSES.items()},
        "losses": ["vfl", "boxes", "local"],
        "alpha": content["focal_loss_alpha"],
        "gamma": content["focal_loss_gamma"],
        "reg_max": content["max_num_bins"],
        "matcher": {
            "type": "HungarianMatcher",
            "weight_dict": {ours: content[theirs] for theirs, ours in _COSTS.items()},
            "alpha": content["matcher_alpha"],
            "gamma": content["matcher_gamma"],
        },
    }


def _criterion_to(data: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of losses and matching where the config has our criterion, else the official ones."""
    if data.get("criterion") is None:
        return dict(_TRAINING)
    criterion = _section(data, data["criterion"], "DFINECriterion", "criterion")
    matcher = _section(data, criterion.get("matcher", "HungarianMatcher"), "HungarianMatcher", "DFINECriterion.matcher")
    weights, costs = criterion.get("weight_dict") or {}, matcher.get("weight_dict") or {}
    found = {theirs: float(weights.get(ours) or 0) for theirs, ours in _LOSSES.items()}
    found |= {theirs: float(costs.get(ours) or 0) for theirs, ours in _COSTS.items()}
    for theirs, section, ours, default in (
        ("focal_loss_alpha", criterion, "alpha", 0.2),
        ("focal_loss_gamma", criterion, "gamma", 2.0),
        ("matcher_alpha", matcher, "alpha", 0.25),
        ("matcher_gamma", matcher, "gamma", 2.0),
    ):
        found[theirs] = float(section.get(ours, default))
    return found


def _section(data: Mapping[str, Any], value: object, wanted: str, place: str) -> dict[str, Any]:
    """Arguments of a component that is named or given inline; only one class is possible."""
    inline = dict(value) if isinstance(value, Mapping) else {}
    name = inline.pop("type", None) if isinstance(value, Mapping) else value
    if name != wanted:
        raise CheckpointError(f"{place} is {name!r}: transformers' D-FINE corresponds to {wanted} only")
    return {**dict(data.get(wanted) or {}), **inline}


def _arguments(data: Mapping[str, Any], value: object, cls: type, place: str) -> dict[str, Any]:
    """All arguments of a component: its section, else shared values at the top, else its defaults."""
    section = _section(data, value, cls.__name__, place)
    arguments = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        arguments[name] = section.get(name, data.get(name, default))
    return arguments


def _refuse_others(arguments: Mapping[str, Any], cls: type, convertible: set[str]) -> None:
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if name in convertible or default is inspect.Parameter.empty or _plain(arguments[name]) == _plain(default):
            continue
        raise CheckpointError(
            f"{cls.__name__}.{name} is {arguments[name]!r}: transformers' D-FINE has no such choice, it is {default!r}"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _integer(temperature: float) -> int:
    if not float(temperature).is_integer():
        raise CheckpointError(f"HybridEncoder.pe_temperature is {temperature}: transformers takes whole numbers only")
    return int(temperature)


def _whole(value: float) -> int | float:
    """Official files write ``reg_scale`` as a whole number, and their checkpoints hold it as one."""
    return int(value) if float(value).is_integer() else value

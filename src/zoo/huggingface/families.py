# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What ``config.json`` of ``transformers``' D-FINE and RT-DETR says, entry by entry, and our arguments for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ...core.errors import CheckpointError
from . import backbones
from .weights import OTHERS

Rows = tuple[tuple[str, str, Any], ...]
"""Their entry, our argument, their default. One of theirs may set arguments of both parts."""
_CLASS_HEADS = r"(?:decoder\.(?:enc_score_head|dec_score_head\.\d+)|class_embed\.\d+)\.(?:weight|bias)"
_ENCODER: Rows = (
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
)
_DECODER: Rows = (
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
    ("auxiliary_loss", "aux_loss", True),
)
_METHOD: Rows = (("decoder_method", "cross_attn_method", "default"),)
_DFINE_DECODER: Rows = (
    ("learn_initial_query", "learn_query_content", False),
    ("eval_idx", "eval_idx", -1),
    ("max_num_bins", "reg_max", 32),
    ("reg_scale", "reg_scale", 4.0),
    ("layer_scale", "layer_scale", 1.0),
    ("up", "up", 0.5),
)
_LOSSES = ("vfl", "bbox", "giou")
COSTS = {f"matcher_{name}_cost": f"cost_{name}" for name in ("class", "bbox", "giou")}
TRAINING = {
    **dict(zip((f"weight_loss_{name}" for name in (*_LOSSES, "fgl", "ddf")), (1.0, 5.0, 2.0, 0.15, 1.5))),
    **dict(zip(COSTS, (2.0, 5.0, 2.0))),
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "matcher_alpha": 0.25,
    "matcher_gamma": 2.0,
}
FLOATS = ("hidden_expansion", "depth_mult", "label_noise_ratio", "box_noise_scale", "reg_scale", "up")
"""Transformers 5 checks types: a whole number is not a float there."""
_FIXED = {
    "normalize_before": False,
    "activation_function": "silu",
    "eval_size": None,
    "layer_norm_eps": 1e-5,
    "batch_norm_eps": 1e-5,
    "use_focal_loss": True,
}
"""Their entries that we have as constants: another value would change the outputs."""
WITHOUT_EFFECT = {
    *("model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"),
    *("is_encoder_decoder", "id2label", "label2id", "num_labels", "head_dim", "backbone", "backbone_config"),
    *("backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone", "freeze_backbone_batch_norms"),
    *("anchor_image_size", "initializer_range", "initializer_bias_prior_prob", "activation_dropout"),
    *("with_box_refine", "eos_coefficient", "tie_word_embeddings", "disable_custom_kernels", "hidden_size"),
    *("num_attention_heads", "problem_type", "return_dict", "output_attentions", "output_hidden_states"),
    *("use_cache", "chunk_size_feed_forward", "_attn_implementation", "_attn_implementation_autoset", "_commit_hash"),
}
"""Their entries that are read elsewhere, or change no output."""


@dataclass(frozen=True)
class Family:
    """One architecture of transformers, and our parts for it."""

    name: str
    model: str
    architecture: str
    backbone: tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]], Callable[[Mapping[str, Any]], dict[str, Any]]]
    decoder: str
    criteria: tuple[str, ...]
    losses: tuple[str, ...]
    encoder_rows: Rows
    decoder_rows: Rows
    fixed: Mapping[str, Any]
    meant: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of our encoder that the family means, where they are not the defaults."""
    free: frozenset[str] = frozenset()
    """Arguments of ours that change no output of this family, or that are written elsewhere."""

    @property
    def postprocessor(self) -> str:
        return f"{self.model}PostProcessor"

    @property
    def weights(self) -> dict[str, str]:
        """Their entry and ours of the loss weights."""
        return {f"weight_loss_{name}": f"loss_{name}" for name in self.losses}


_HGNET = ("HGNetv2", backbones.hgnet_from_huggingface, backbones.hgnet_to_huggingface)
_RESNET = ("PResNet", backbones.resnet_from_huggingface, backbones.resnet_to_huggingface)
_RT_CRITERIA = ("RTDETRCriterion", "SetCriterion", "RTDETRCriterionv2")
_CSP = {"fusion": "csp", "downsample": "conv"}
_WITHOUT_FDR = frozenset({"version", "reg_max", "reg_scale", "up", "eval_idx"})
FAMILIES = {
    "d_fine": Family(
        *("D-FINE", "DFINE", "DFineForObjectDetection", _HGNET, "DFINETransformer", ("DFINECriterion",)),
        (*_LOSSES, "fgl", "ddf"),
        (*_ENCODER, ("depth_mult", "depth_mult", 1.0)),
        _DECODER + _METHOD + _DFINE_DECODER,
        {**_FIXED, "top_prob_values": 4, "lqe_hidden_dim": 64, "lqe_layers": 2, "decoder_offset_scale": 0.5},
    ),
    "rt_detr": Family(
        *("RT-DETR", "RTDETR", "RTDetrForObjectDetection", _RESNET, "RTDETRTransformer", _RT_CRITERIA),
        *(_LOSSES, _ENCODER, _DECODER, {**_FIXED, "learn_initial_query": False, "with_box_refine": True}),
        *(_CSP, _WITHOUT_FDR),
    ),
    "rt_detr_v2": Family(
        *("RT-DETR", "RTDETR", "RTDetrV2ForObjectDetection", _RESNET, "RTDETRTransformerv2", _RT_CRITERIA[::-1]),
        *(_LOSSES, _ENCODER, (*_DECODER, *_METHOD, ("decoder_n_levels", "num_levels", 3))),
        {**_FIXED, "learn_initial_query": False, "with_box_refine": True, "decoder_offset_scale": 0.5},
        *(_CSP, _WITHOUT_FDR),
    ),
}
WEIGHTS_ONLY = {other.MODEL_TYPE: other.ARCHITECTURE for other in OTHERS}
"""Architectures whose weights are read into a model that a YAML file describes."""


def family_of(data: Mapping[str, Any]) -> tuple[str, Family]:
    """By the model's name, and RT-DETR's version by its decoder's."""
    model = data.get("model")
    fitting = {kind: family for kind, family in FAMILIES.items() if family.model == model}
    slot = (data.get(str(model)) or {}).get("decoder") if fitting else None
    name = slot.get("type") if isinstance(slot, Mapping) else slot
    chosen = [kind for kind, family in fitting.items() if family.decoder == name]
    if not chosen and len(fitting) > 1:
        choices = " or ".join(family.decoder for family in fitting.values())
        raise CheckpointError(f"{model}.decoder is {name!r}: transformers' RT-DETR corresponds to {choices} only")
    kind = next(iter([*chosen, *fitting, "d_fine"]))
    return kind, FAMILIES[kind]


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
    rows = {key: len(value) for key, value in weights.items() if re.fullmatch(_CLASS_HEADS, key)}
    if not rows:
        raise CheckpointError("no class heads among the weights: not a D-FINE or RT-DETR, or incomplete")
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise CheckpointError(f"the class heads have different class counts ({told}): the file is damaged")
    return next(iter(rows.values()))


def check_model_type(content: Mapping[str, Any], place: str, others: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise :class:`CheckpointError` where a ``config.json`` is of another architecture than ours and ``others``."""
    kind = content.get("model_type")
    known = {name: family.architecture for name, family in FAMILIES.items()} | dict(others)
    if kind not in known:
        raise CheckpointError(
            f"{place}: this is a model of type {kind!r} ({', '.join(content.get('architectures') or ['?'])}), only "
            f"{', '.join(f'{name} ({kind!r})' for kind, name in known.items())} can be converted"
        )

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of ``transformers``' D-FINE (``DFineForObjectDetection``) and ours, which are the official ones, both ways.

Only names differ, with three exceptions: transformers keeps query, key and value projections apart where we have one
fused matrix; it holds the heads of the decoder twice (``class_embed`` and ``model.decoder.class_embed`` are tied); and
keeps ``up`` and ``reg_scale`` once where official files hold them twice, ``reg_scale`` as float32.

Two layouts of their names exist. ``file`` is what published folders hold and what every version writes and reads;
``module`` is the state dict in memory of transformers 5 (``mlp.layers.0`` for ``fc1``, ``o_proj`` for ``out_proj``,
``aifi`` for the encoder's attention), with the tied heads in both places. Reading accepts both, also mixed.

Positions: on images that are not square, transformers from 5 on lays its position table out row by row, while official
models (and ours, and transformers 4) number the cells column by column but read them row by row
(docs/method.md 2.4). On square images, which all published models were trained on, the two tables are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ...nn.selection import anchor_logits
from ..projection import level_sizes

Layout = Literal["file", "module"]
_SHOWN = 10
_PLACEHOLDERS = {
    "<n>": r"\d+",
    "<m>": r"\d+",
    "<stem>": r"stem\w+",
    "<block>": r"\d+\.(?:downsample|blocks\.\d+\.(?:aggregation\.[01]|layers\.\d+(?:\.conv[12])?))",
    "<fuse>": r"(?:fpn|pan)_blocks\.\d+",
    "<csp>": r"(?:bottlenecks\.\d+\.)?conv[12]",
    "<attn>": r"sampling_offsets|attention_weights",
    "<cn>": r"(?:conv|norm)",
    "<w>": r"weight|bias|running_mean|running_var|num_batches_tracked",
    "<lab>": r"scale|bias",
    "<wb>": r"weight|bias",
    "<mlp>": r"layers\.\d+\.(?:weight|bias)",
}
_BACKBONE = "model.backbone.model"
_AIFI, _AIFI_HF = "encoder.encoder.<n>.layers.<m>", "model.encoder.encoder.<n>.layers.<m>"
_LAYER, _LAYER_HF = "decoder.decoder.layers.<n>", "model.decoder.layers.<n>"
_HEADS = ("class_embed.", "bbox_embed.")
# Ours, theirs in the layout "file". A placeholder stands for the same text on both sides.
RULES = (
    ("backbone.stem.<stem>.conv.weight", f"{_BACKBONE}.embedder.<stem>.convolution.weight"),
    ("backbone.stem.<stem>.bn.<w>", f"{_BACKBONE}.embedder.<stem>.normalization.<w>"),
    ("backbone.stem.<stem>.lab.<lab>", f"{_BACKBONE}.embedder.<stem>.lab.<lab>"),
    ("backbone.stages.<block>.conv.weight", f"{_BACKBONE}.encoder.stages.<block>.convolution.weight"),
    ("backbone.stages.<block>.bn.<w>", f"{_BACKBONE}.encoder.stages.<block>.normalization.<w>"),
    ("backbone.stages.<block>.lab.<lab>", f"{_BACKBONE}.encoder.stages.<block>.lab.<lab>"),
    ("encoder.input_proj.<n>.conv.weight", "model.encoder_input_proj.<n>.0.weight"),
    ("encoder.input_proj.<n>.norm.<w>", "model.encoder_input_proj.<n>.1.<w>"),
    (f"{_AIFI}.self_attn.out_proj.<wb>", f"{_AIFI_HF}.self_attn.out_proj.<wb>"),
    (f"{_AIFI}.norm1.<wb>", f"{_AIFI_HF}.self_attn_layer_norm.<wb>"),
    (f"{_AIFI}.linear1.<wb>", f"{_AIFI_HF}.fc1.<wb>"),
    (f"{_AIFI}.linear2.<wb>", f"{_AIFI_HF}.fc2.<wb>"),
    (f"{_AIFI}.norm2.<wb>", f"{_AIFI_HF}.final_layer_norm.<wb>"),
    ("encoder.lateral_convs.<n>.<cn>.<w>", "model.encoder.lateral_convs.<n>.<cn>.<w>"),
    ("encoder.<fuse>.cv1.<cn>.<w>", "model.encoder.<fuse>.conv1.<cn>.<w>"),
    ("encoder.<fuse>.cv2.0.<csp>.<cn>.<w>", "model.encoder.<fuse>.csp_rep1.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.cv2.1.<cn>.<w>", "model.encoder.<fuse>.conv2.<cn>.<w>"),
    ("encoder.<fuse>.cv3.0.<csp>.<cn>.<w>", "model.encoder.<fuse>.csp_rep2.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.cv3.1.<cn>.<w>", "model.encoder.<fuse>.conv3.<cn>.<w>"),
    ("encoder.<fuse>.cv4.<cn>.<w>", "model.encoder.<fuse>.conv4.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.0.cv1.<cn>.<w>", "model.encoder.downsample_convs.<n>.conv1.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.0.cv2.<cn>.<w>", "model.encoder.downsample_convs.<n>.conv2.<cn>.<w>"),
    ("decoder.input_proj.<n>.conv.weight", "model.decoder_input_proj.<n>.0.weight"),
    ("decoder.input_proj.<n>.norm.<w>", "model.decoder_input_proj.<n>.1.<w>"),
    (f"{_LAYER}.self_attn.out_proj.<wb>", f"{_LAYER_HF}.self_attn.out_proj.<wb>"),
    (f"{_LAYER}.norm1.<wb>", f"{_LAYER_HF}.self_attn_layer_norm.<wb>"),
    (f"{_LAYER}.cross_attn.num_points_scale", f"{_LAYER_HF}.encoder_attn.num_points_scale"),
    (f"{_LAYER}.cross_attn.<attn>.<wb>", f"{_LAYER_HF}.encoder_attn.<attn>.<wb>"),
    (f"{_LAYER}.gateway.gate.<wb>", f"{_LAYER_HF}.gateway.gate.<wb>"),
    (f"{_LAYER}.gateway.norm.<wb>", f"{_LAYER_HF}.gateway.norm.<wb>"),
    (f"{_LAYER}.linear1.<wb>", f"{_LAYER_HF}.fc1.<wb>"),
    (f"{_LAYER}.linear2.<wb>", f"{_LAYER_HF}.fc2.<wb>"),
    (f"{_LAYER}.norm3.<wb>", f"{_LAYER_HF}.final_layer_norm.<wb>"),
    ("decoder.decoder.lqe_layers.<n>.reg_conf.<mlp>", "model.decoder.lqe_layers.<n>.reg_conf.<mlp>"),
    ("decoder.up", "model.decoder.up"),
    ("decoder.reg_scale", "model.decoder.reg_scale"),
    ("decoder.denoising_class_embed.weight", "model.denoising_class_embed.weight"),
    ("decoder.tgt_embed.weight", "model.weight_embedding.weight"),
    ("decoder.query_pos_head.layers.<n>.<wb>", "model.decoder.query_pos_head.layers.<n>.<wb>"),
    ("decoder.enc_output.proj.<wb>", "model.enc_output.0.<wb>"),
    ("decoder.enc_output.norm.<wb>", "model.enc_output.1.<wb>"),
    ("decoder.enc_score_head.<wb>", "model.enc_score_head.<wb>"),
    ("decoder.enc_bbox_head.layers.<n>.<wb>", "model.enc_bbox_head.layers.<n>.<wb>"),
    ("decoder.pre_bbox_head.layers.<n>.<wb>", "model.decoder.pre_bbox_head.layers.<n>.<wb>"),
    ("decoder.dec_score_head.<n>.<wb>", "model.decoder.class_embed.<n>.<wb>"),
    ("decoder.dec_bbox_head.<n>.layers.<m>.<wb>", "model.decoder.bbox_embed.<n>.layers.<m>.<wb>"),
)  # fmt: skip
ATTENTION = (
    (f"{_AIFI}.self_attn.in_proj_<wb>", f"{_AIFI_HF}.self_attn.?.<wb>"),
    (f"{_LAYER}.self_attn.in_proj_<wb>", f"{_LAYER_HF}.self_attn.?.<wb>"),
)  # fmt: skip
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_REBUILT = ("decoder.anchors", "decoder.valid_mask")
_TWICE = {"decoder.decoder.up": "decoder.up", "decoder.decoder.reg_scale": "decoder.reg_scale"}
_SCALARS = tuple(_TWICE.values())
# The layout "file" -> "module", in this order; the other way round for reading.
_MODULE_NAMES = (
    (r"(\.layers\.\d+)\.fc1\.", r"\1.mlp.layers.0.", r"(\.layers\.\d+)\.mlp\.layers\.0\.", r"\1.fc1."),
    (r"(\.layers\.\d+)\.fc2\.", r"\1.mlp.layers.1.", r"(\.layers\.\d+)\.mlp\.layers\.1\.", r"\1.fc2."),
    (r"\.self_attn\.out_proj\.", ".self_attn.o_proj.", r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
    (r"^model\.encoder\.encoder\.", "model.encoder.aifi.", r"^model\.encoder\.aifi\.", "model.encoder.encoder."),
)


def to_huggingface(state: Mapping[str, Tensor], *, layout: Layout = "file") -> dict[str, Tensor]:
    """Weights of our model, or an official state dict, under the names of transformers.

    Args:
        state: state dict of the training form (not of a fused model). ``anchors`` and ``valid_mask`` have no place in
            transformers, which computes them.
        layout: names as in a folder (``file``) or as in the model in memory (``module``); see the module's text.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed, or a pair that must agree and does not.
    """
    _check_twice(state)
    theirs: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key in _REBUILT or key in _TWICE:
            continue
        if (name := renamed(key, _OURS_TO_THEIRS)) is not None:
            theirs[name] = value.float() if key in _SCALARS else value
        elif (pattern := renamed(key, _FUSED_TO_SPLIT)) is not None:
            _check_fused(key, value)
            theirs.update(zip((pattern.replace("?", one) for one in PROJECTIONS), value.chunk(3)))
        else:
            unknown.append(key)
    if unknown:
        fused = (
            " (a fused model cannot be converted: take the weights from before fuse())" if _is_fused(unknown) else ""
        )
        raise CheckpointError(f"not weights of our D-FINE: transformers has no place for {listed(unknown)}{fused}")
    return theirs if layout == "file" else _as_module(theirs)


def from_huggingface(
    state: Mapping[str, Tensor], *, image_size: Sequence[int] | None = None, strides: Sequence[int] = (8, 16, 32)
) -> dict[str, Tensor]:
    """Weights of transformers' ``DFineForObjectDetection`` under our names.

    Args:
        state: ``model.state_dict()`` or the content of a folder's weights files, of transformers 4.52 or newer.
        image_size: (height, width) in pixels: add the tables ``anchors`` and ``valid_mask`` that official files hold
            for evaluation at that size; None leaves them out (a model computes its own).
        strides: pixels per cell of every level, for these tables.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed; a missing projection; heads that are kept
            twice and differ.
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in untied(as_file(state)).items():
        if (name := renamed(key, _THEIRS_TO_OURS)) is not None:
            ours[name] = value
            ours.update({twin: value for twin, one in _TWICE.items() if one == name})
        elif split := re.fullmatch(rf"(.*\.self_attn\.)({'|'.join(PROJECTIONS)})(\.\w+)", key):
            parts.setdefault(f"{split[1]}?{split[3]}", {})[split[2]] = value
        else:
            unknown.append(key)
    for pattern, found in parts.items():
        name = renamed(pattern, _SPLIT_TO_FUSED)
        if name is None:
            unknown.extend(pattern.replace("?", one) for one in found)
            continue
        if missing := [pattern.replace("?", one) for one in PROJECTIONS if one not in found]:
            raise CheckpointError(f"weights of transformers' D-FINE: {listed(missing)} missing: the file is incomplete")
        ours[name] = torch.cat([found[one] for one in PROJECTIONS])
    if unknown:
        raise CheckpointError(
            f"not weights of transformers' D-FINE (DFineForObjectDetection): no counterpart for {listed(unknown)}"
        )
    if image_size is not None:
        sizes = level_sizes(image_size, strides, len(strides))
        ours.update(zip(_REBUILT, anchor_logits(sizes, eps=1e-2)))
    return ours


Templates = list[tuple[re.Pattern[str], str]]


def templates(pairs: Iterable[tuple[str, str]]) -> Templates:
    """(source, target) with placeholders -> (regular expression, replacement)."""
    compiled = []
    for source, target in pairs:
        pattern, replacement = re.escape(source), target
        for number, mark in enumerate(_PLACEHOLDERS):
            name = f"p{number}"
            pattern = pattern.replace(re.escape(mark), f"(?P<{name}>{_PLACEHOLDERS[mark]})")
            replacement = replacement.replace(mark, rf"\g<{name}>")
        compiled.append((re.compile(pattern), replacement))
    return compiled


_OURS_TO_THEIRS = templates(RULES)
_THEIRS_TO_OURS = templates((theirs, ours) for ours, theirs in RULES)
_FUSED_TO_SPLIT = templates(ATTENTION)
_SPLIT_TO_FUSED = templates((theirs, ours) for ours, theirs in ATTENTION)


def renamed(key: str, rules: Templates) -> str | None:
    """The key by the first rule that fits; None where none does."""
    for pattern, replacement in rules:
        if found := pattern.fullmatch(key):
            return found.expand(replacement)
    return None


def _as_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in memory, with the tied heads in both places."""
    named = {}
    for key, value in state.items():
        for pattern, replacement, _, _ in _MODULE_NAMES:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    heads = {key.removeprefix("model.decoder."): one for key, one in named.items() if _is_decoder_head(key)}
    return {**named, **heads}


def as_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the layout ``file``, whichever they had."""
    named = {}
    for key, value in state.items():
        for _, _, pattern, replacement in _MODULE_NAMES:
            key = re.sub(pattern, replacement, key)
        named[key] = value
    return named


def _is_decoder_head(key: str) -> bool:
    return key.startswith(tuple(f"model.decoder.{head}" for head in _HEADS))


def untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every head once, under the decoder, where transformers reads it."""
    single = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    for key, value in state.items():
        if not key.startswith(_HEADS):
            continue
        twin = single.setdefault(f"model.decoder.{key}", value)
        if twin.shape != value.shape or not torch.equal(twin, value):
            raise CheckpointError(
                f"{key} and model.decoder.{key} must be the same weights and differ: transformers computes with "
                f"model.decoder.{key}; delete the other one from the file if that is the wanted one"
            )
    return single


def _check_twice(state: Mapping[str, Tensor]) -> None:
    for twin, one in _TWICE.items():
        if twin in state and one in state and not torch.equal(state[twin], state[one]):
            raise CheckpointError(f"{twin} and {one} must be the same number and differ: the checkpoint is damaged")


def _check_fused(key: str, value: Tensor) -> None:
    if value.shape[0] % 3:
        raise CheckpointError(f"{key} has {value.shape[0]} rows, expected query, key and value of equal size")


def _is_fused(keys: Sequence[str]) -> bool:
    return any("conv_bn_fused" in key for key in keys)


def listed(keys: Sequence[str]) -> str:
    """Some of the keys, and how many more there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of ``transformers``' RT-DETR and RT-DETRv2 on ResNet-vd and ours, which are the official ones, both ways.

Rules for encoder and decoder are those of D-FINE (``zoo/dfine/huggingface.py``); this adds RT-DETR's blocks and the
backbone. Names of the first version's checkpoints are understood, and given where the model is of that version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...core.errors import CheckpointError
from ...nn.keys import KeyTable
from ..dfine.huggingface import ATTENTION, PROJECTIONS, RULES, as_file, listed, renamed, templates, untied

_NOT_OURS = ("backbone.", ".cv", ".gateway.", ".lqe_layers.", "decoder.up", "decoder.reg_scale", ".pre_bbox_head.")
"""Parts of D-FINE that RT-DETR has not, or has in another form."""
_STAGE, _STAGE_HF = "backbone.res_layers.<n>.blocks.<m>", "model.backbone.model.encoder.stages.<n>.layers.<m>"
_LAYER, _LAYER_HF = "decoder.decoder.layers.<n>", "model.decoder.layers.<n>"
_CONVS = (
    *((f"backbone.conv1.conv1_{i + 1}", f"model.backbone.model.embedder.embedder.{i}") for i in range(3)),
    *((f"{_STAGE}.branch2{letter}", f"{_STAGE_HF}.layer.{i}") for i, letter in enumerate("abc")),
    (f"{_STAGE}.short", f"{_STAGE_HF}.shortcut"),
    (f"{_STAGE}.short.conv", f"{_STAGE_HF}.shortcut.1"),  # behind an average pooling
)
_RTDETR_RULES = (
    *(rule for rule in RULES if not any(part in rule[0] for part in _NOT_OURS) and "num_points_scale" not in rule[0]),
    *((f"{ours}.conv.weight", f"{theirs}.convolution.weight") for ours, theirs in _CONVS),
    *((f"{ours}.norm.<w>", f"{theirs}.normalization.<w>") for ours, theirs in _CONVS),
    ("encoder.<fuse>.<csp>.<cn>.<w>", "model.encoder.<fuse>.<csp>.<cn>.<w>"),
    ("encoder.<fuse>.conv3.<cn>.<w>", "model.encoder.<fuse>.conv3.<cn>.<w>"),
    ("encoder.downsample_convs.<n>.<cn>.<w>", "model.encoder.downsample_convs.<n>.<cn>.<w>"),
    (f"{_LAYER}.norm2.<wb>", f"{_LAYER_HF}.encoder_attn_layer_norm.<wb>"),
    (f"{_LAYER}.cross_attn.value_proj.<wb>", f"{_LAYER_HF}.encoder_attn.value_proj.<wb>"),
    (f"{_LAYER}.cross_attn.output_proj.<wb>", f"{_LAYER_HF}.encoder_attn.output_proj.<wb>"),
    (f"{_LAYER}.cross_attn.num_points_scale", f"{_LAYER_HF}.encoder_attn.n_points_scale"),
)  # fmt: skip
_OURS_TO_THEIRS = templates(_RTDETR_RULES)
_THEIRS_TO_OURS = templates((theirs, ours) for ours, theirs in _RTDETR_RULES)
_FUSED_TO_SPLIT = templates(ATTENTION)
_SPLIT_TO_FUSED = templates((theirs, ours) for ours, theirs in ATTENTION)
_REBUILT = ("decoder.anchors", "decoder.valid_mask")
_FIRST_VERSION = KeyTable(
    {
        "decoder.enc_output.proj": "decoder.enc_output.0",
        "decoder.enc_output.norm": "decoder.enc_output.1",
        **{f"encoder.input_proj.{i}.conv": f"encoder.input_proj.{i}.0" for i in range(8)},
        **{f"encoder.input_proj.{i}.norm": f"encoder.input_proj.{i}.1" for i in range(8)},
    }
)
"""Names of the second version's checkpoints, and of the first one's."""


def is_rtdetr_state(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of transformers' RT-DETR, of either version."""
    return any(re.fullmatch(r"model\.decoder\.layers\.\d+\.encoder_attn_layer_norm\.weight", key) for key in state)


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our RT-DETR, or an official state dict of either version, under the names of a folder of transformers.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed.
    """
    theirs: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        key = _FIRST_VERSION.to_modules(key)
        if key in _REBUILT:
            continue
        if (name := renamed(key, _OURS_TO_THEIRS)) is not None:
            theirs[name] = value
        elif (pattern := renamed(key, _FUSED_TO_SPLIT)) is not None:
            theirs.update(zip((pattern.replace("?", part) for part in PROJECTIONS), value.chunk(3)))
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"not weights of an RT-DETR on ResNet-vd: transformers has no place for {listed(unknown)}"
        )
    return theirs


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of ``RTDetrForObjectDetection`` or ``RTDetrV2ForObjectDetection`` under our names.

    Those of the first version get the first version's names.

    Raises:
        CheckpointError: keys that have no counterpart, all of them listed; a missing projection.
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    in_file = as_file({key.replace(".mlp.fc", ".fc"): value for key, value in state.items()})
    for key, value in untied(in_file).items():
        if (name := renamed(key, _THEIRS_TO_OURS)) is not None:
            ours[name] = value
        elif split := re.fullmatch(rf"(.*\.self_attn\.)({'|'.join(PROJECTIONS)})(\.\w+)", key):
            parts.setdefault(f"{split[1]}?{split[3]}", {})[split[2]] = value
        else:
            unknown.append(key)
    for pattern, projections in parts.items():
        name = renamed(pattern, _SPLIT_TO_FUSED)
        missing = [pattern.replace("?", part) for part in PROJECTIONS if part not in projections]
        if name is None or missing:
            unknown += [pattern] if name is None else []
            if missing:
                raise CheckpointError(f"weights of transformers' RT-DETR: {listed(missing)} missing: incomplete file")
            continue
        ours[name] = torch.cat([projections[part] for part in PROJECTIONS])
    if unknown:
        what = "transformers' RT-DETR on ResNet-vd"
        raise CheckpointError(f"not weights of {what}: no counterpart for {listed(unknown)}")
    if any(key.endswith(".num_points_scale") for key in ours):
        return ours
    return {_FIRST_VERSION.to_checkpoint(key): value for key, value in ours.items()}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of ``transformers``' Deformable DETR under the names of the published code.

Backbones are its own ResNet or timm's. Of heads that stand at two places files hold one, here they stand at both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...core.errors import CheckpointError

NAME, MODEL_TYPE, ARCHITECTURE = "Deformable DETR", "deformable_detr", "DeformableDetrForObjectDetection"
_MARK = re.compile(r"model\.input_proj\.\d+\.")
_HEAD = re.compile(r"(transformer\.decoder\.)?(class_embed|bbox_embed)\.(\d+)\.(.*)")
_BODY, _BODY_HF = "backbone.0.body", r"model\.backbone\.(?:conv_encoder\.)?model"
_NAMES = [
    (rf"{_BODY_HF}\.embedder\.embedder\.convolution", rf"{_BODY}.conv1"),
    (rf"{_BODY_HF}\.embedder\.embedder\.normalization", rf"{_BODY}.bn1"),
    (_BODY_HF, _BODY),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"model\.query_position_embeddings", "query_embed"),
    (r"model\.input_proj", "input_proj"),
    (r"model\.", "transformer."),
    (r"\.(?:mlp\.)?fc([12])\.", r".linear\1."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"\.encoder_attn_layer_norm\.", ".norm1."),
    (r"\.self_attn_layer_norm\.", ".norm2."),
    (r"\.final_layer_norm\.", ".norm3."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
]
"""Theirs and the published names, one after the other."""


def is_theirs(state: Mapping[str, object]) -> bool:
    """Whether tensors have its names."""
    return any(_MARK.match(str(key)) for key in state)


def published_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its weights, of a file or in memory, under the names of Deformable-DETR's own code.

    Raises:
        CheckpointError: a query, key or value projection is missing.
    """
    return _at_both_places(with_fused_projections({published_name(key): value for key, value in state.items()}, NAME))


def published_name(key: str) -> str:
    """The published name of one of its tensors; projections of queries, keys and values stay apart."""
    name = re.sub(r"encoder\.stages\.(\d+)\.layers\.(\d+)", lambda at: f"layer{int(at[1]) + 1}.{at[2]}", key)
    name = re.sub(r"\.layer\.(\d)\.convolution\.", lambda at: f".conv{int(at[1]) + 1}.", name)
    name = re.sub(r"\.layer\.(\d)\.normalization\.", lambda at: f".bn{int(at[1]) + 1}.", name)
    for theirs, published in _NAMES:
        name = re.sub(theirs if theirs.startswith((r"\.", "(")) else f"^{theirs}", published, name)
    return name


def with_fused_projections(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Projections of queries, keys and values as one tensor; ``family`` is for the message.

    Raises:
        CheckpointError: one of them is missing.
    """
    fused = dict(state)
    for key in [key for key in state if ".q_proj." in key]:
        parts = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        if missing := [part for part in parts if part not in fused]:
            raise CheckpointError(f"weights of transformers' {family}: {missing[0]} is missing: the file is incomplete")
        fused[key.replace(".q_proj.", ".in_proj_")] = torch.cat([fused.pop(part) for part in parts])
    return fused


def _at_both_places(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every head under all its published names."""
    heads = {(at[2], int(at[3]), at[4]): value for key, value in state.items() if (at := _HEAD.fullmatch(key))}
    others = {key: value for key, value in state.items() if not _HEAD.fullmatch(key)}
    two_stage, refine, layers = _form(state)
    for name, twice in (("class_embed", two_stage), ("bbox_embed", refine)):
        for rest in {rest for part, _, rest in heads if part == name}:
            for number in range(layers + two_stage):
                value = heads.get((name, number, rest), heads[name, 0, rest])
                others[f"{name}.{number}.{rest}"] = value
                others |= {f"transformer.decoder.{name}.{number}.{rest}": value} if twice else {}
    return others


def _form(state: Mapping[str, Tensor]) -> tuple[bool, bool, int]:
    """Two stages, box refinement, and the decoder layers of published weights."""
    numbers = [int(at[1]) for key in state if (at := re.match(r"transformer\.decoder\.layers\.(\d+)\.", key))]
    firsts = [state[key] for key in (f"bbox_embed.{layer}.layers.0.weight" for layer in (0, 1)) if key in state]
    refine = any(key.startswith("transformer.decoder.bbox_embed.") for key in state)
    refine = refine or (len(firsts) == 2 and not torch.equal(*firsts))
    return "transformer.enc_output.weight" in state, refine, max(numbers, default=-1) + 1

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of ``transformers``' DAB-DETR, which is the one with dense attention, under the names of the published code.

The two agree where box coordinates stay between 1e-3 and 1 - 1e-3: transformers has 1e-5 there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from . import deformable

NAME, MODEL_TYPE, ARCHITECTURE = "DAB-DETR", "dab-detr", "DabDetrForObjectDetection"
_MARK = "model.input_projection."
_ROLES = {"query_content": "qcontent", "query_pos": "qpos", "query_pos_sine": "qpos_sine"}
_ROLES |= {"key_content": "kcontent", "key_pos": "kpos", "value": "v"}
_NAMES = [
    *(
        (rf"\.{kind}_attn\.{kind}_attn_{role}_proj\.", f".{kind[0]}a_{published}_proj.")
        for kind in ("self", "cross")
        for role, published in _ROLES.items()
    ),
    (r"\.(self|cross)_attn\.\1_attn\.output_proj\.", r".\1_attn.out_proj."),
    (r"\.self_attn\.self_attn_layer_norm\.", ".norm1."),
    (r"\.cross_attn\.cross_attn_layer_norm\.", ".norm2."),
    (r"\.mlp\.final_layer_norm\.", ".norm3."),
    (r"\.(?:mlp\.)?activation_fn\.", ".activation."),
    (r"\.decoder\.layernorm\.", ".decoder.norm."),
    (r"^model\.query_refpoint_embeddings\.", "refpoint_embed."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^bbox_predictor\.", "bbox_embed."),
]
"""Theirs and the published names, where Deformable DETR has others or none."""


def is_theirs(state: Mapping[str, object]) -> bool:
    """Whether tensors have its names."""
    return any(str(key).startswith(_MARK) for key in state)


def published_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its weights, of a file or in memory, under the names of DAB-DETR's own code.

    Raises:
        CheckpointError: a query, key or value projection is missing.
    """
    named = {published_name(key): value for key, value in state.items()}
    heads = {f"transformer.decoder.{key}": value for key, value in named.items() if key.startswith("bbox_embed.")}
    return deformable.with_fused_projections(named | heads, NAME)


def published_name(key: str) -> str:
    """The published name of one of its tensors; projections of queries, keys and values stay apart."""
    for theirs, published in _NAMES:
        key = re.sub(theirs, published, key)
    return deformable.published_name(key)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What checkpoints call the parts of decoders: the names of the official code of RT-DETR and D-FINE."""

from __future__ import annotations

from ..nn.keys import KeyTable, PartTable

DECODER_KEYS = PartTable(
    (
        ("up", "box_head.bins.up"),
        ("reg_scale", "box_head.bins.reg_scale"),
        ("anchors", "queries.anchors"),
        ("valid_mask", "queries.valid_mask"),
        ("input_proj", "projection"),
        ("decoder.up", "box_head.bins.up"),
        ("decoder.reg_scale", "box_head.bins.reg_scale"),
        ("decoder.layers", "layers"),
        ("decoder.lqe_layers", "score_head.quality"),
        ("denoising_class_embed", "sources.0.embedding"),
        ("tgt_embed", "queries.learned"),
        ("query_pos_head", "position"),
        ("enc_output", "queries.project"),
        ("enc_score_head", "queries.score"),
        ("enc_bbox_head", "queries.box"),
        ("dec_score_head", "score_head.layers"),
        ("pre_bbox_head", "box_head.initial"),
        ("dec_bbox_head", "box_head.layers"),
    )
)
"""Names of official checkpoints, in their order, and of the parts here."""
FIRST_ENCODER_PROJECTION = KeyTable({"conv": "0", "norm": "1"})
FIRST_ENCODER_OUTPUT = KeyTable({"proj": "0", "norm": "1"})
"""Names inside ``encoder.input_proj.N`` and ``decoder.enc_output`` here, and in RT-DETR's first checkpoints."""


def class_rows(query_select_method: str) -> dict[str, int]:
    """Parts by their names in checkpoints whose tensors have a row per class, and how many rows stand behind these."""
    rows = {"dec_score_head": 0, "denoising_class_embed": 1}
    return rows if query_select_method == "agnostic" else rows | {"enc_score_head": 0}

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Deformable-DETR's decoder (arXiv 2010.04159), assembled from parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from ...core.checkpoint.remedies import Remedy
from ...core.errors import check_counts
from ...core.registry import register
from ...nn.keys import leave_out
from ..decoder import Decoder
from ..decoder_layer import deformable_layers
from ..depth import layer_plan
from ..family_keys import PublishedNames, Rows, box_remedies, box_rows, layer_rows, query_remedy, score_rows, twice
from ..heads import BoxHead, FDRBoxHead, ScoreHead, bins_of, box_head_of, estimators_of
from ..projection import InputProjection
from ..queries import QueryInit
from .queries import GivenPosition, LearnedSplitQueries, ProposedBoxQueries

_FIRST_SIZE = -2.0
"""Logit of the width and height of the first boxes of queries that start at points."""
_STAGES: dict[bool, Rows] = {
    False: (
        ("transformer.reference_points", "decoder.queries.reference"),
        ("query_embed", "decoder.queries.embedding"),
    ),
    True: (
        ("transformer.enc_output", "decoder.queries.project.proj"),
        ("transformer.enc_output_norm", "decoder.queries.project.norm"),
        ("transformer.pos_trans", "decoder.queries.embed.proj"),
        ("transformer.pos_trans_norm", "decoder.queries.embed.norm"),
    ),
}
_REMEDIES = {
    False: (
        query_remedy("query_embed"),
        Remedy(
            *("unexpected", "transformer.enc_output"),
            "the file is of a detector in two stages: set DeformableDETRTransformer.two_stage: True and "
            "DETRCriterion.binary_proposals: True",
        ),
    ),
    True: (
        Remedy(
            *("unexpected", "query_embed"),
            "the file is of a detector in one stage: set DeformableDETRTransformer.two_stage: False and "
            "DETRCriterion.binary_proposals: False",
        ),
    ),
}
_REFINED = {
    False: (Remedy("unexpected", "transformer.decoder.bbox_embed", "the file refines boxes: set box_refine: True"),),
    True: (
        Remedy("missing", "transformer.decoder.bbox_embed", "the file does not refine boxes: set box_refine: False"),
    ),
}
"""By ``two_stage``, and by ``box_refine``."""


@register
class DeformableDETRTransformer(Decoder):
    """Queries with positions of their own, and projected deformable cross-attention.

    Args:
        num_classes: C.
        hidden_dim: D, divisible by ``nhead`` and by 4.
        num_queries: matching queries Q.
        feat_channels, feat_strides: channels and strides of the encoder's maps, fine to coarse.
        num_levels: levels to attend to; those beyond the encoder's are made by convolutions with stride 2.
        num_points: sampling points per head and level, one number or one per level.
        nhead, num_layers, dim_feedforward, dropout, activation: the decoder layers.
        box_refine: every layer has heads of its own and moves the boxes of the layer before. False: all layers share
            one pair of heads and look around the same points.
        two_stage: queries start at the boxes that the encoder proposes instead of learned points; needs ``box_refine``,
            and a criterion with ``binary_proposals: True``.
        eval_idx: layer that predicts in eval mode, negative counts from the end.
        aux_loss: predict after every layer in training; otherwise after the last layer alone.
        box_head: ``direct`` is Deformable-DETR; ``fdr`` refines distributions as D-FINE does, for self-distillation
            (GO-LSD), and needs ``box_refine``.
        reg_max, reg_scale, up, quality_estimators: with ``fdr``, see
            :class:`~isdfine.zoo.dfine.decoder.DFINETransformer`.
        merge: how a query takes in what it read from the image: ``residual``, or ``gate`` (D-FINE's target gating).

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        hidden_dim: int = 256,
        num_queries: int = 300,
        feat_channels: Sequence[int] = (256, 256, 256, 256),
        feat_strides: Sequence[int] = (8, 16, 32, 64),
        num_levels: int = 4,
        num_points: int | Sequence[int] = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.1,
        activation: str = "relu",
        box_refine: bool = False,
        two_stage: bool = False,
        eval_idx: int = -1,
        aux_loss: bool = True,
        box_head: Literal["direct", "fdr"] = "direct",
        reg_max: int = 32,
        reg_scale: int | float = 4.0,
        up: float = 0.5,
        quality_estimators: bool = False,
        merge: Literal["residual", "gate"] = "residual",
    ) -> None:
        check_counts(num_classes=num_classes, num_queries=num_queries, nhead=nhead, hidden_dim=hidden_dim)
        for option, wanted in (("two_stage: True", two_stage), ("box_head: fdr", box_head == "fdr")):
            if wanted and not box_refine:
                raise ValueError(f"{option} needs layers that move the boxes of the layer before: set box_refine: True")
        widths, _ = layer_plan(
            hidden_dim, dim_feedforward, num_layers, nhead, scale=1, eval_idx=eval_idx, aux_loss=aux_loss
        )
        bins = bins_of(box_head, up, reg_scale, reg_max, learnable=False)
        projection = InputProjection(feat_channels, hidden_dim, num_levels)
        options = {"num_levels": num_levels, "num_points": num_points, "dropout": dropout, "act": activation}
        layers = deformable_layers(num_layers, hidden_dim, nhead, dim_feedforward, merge=merge, **options)
        queries: QueryInit = LearnedSplitQueries(num_queries, hidden_dim)
        if two_stage:
            queries = ProposedBoxQueries(num_queries, hidden_dim, num_classes)
        quality = estimators_of(quality_estimators, bins, num_layers)
        scores = ScoreHead(widths, num_classes, quality, shared=not box_refine)
        boxes = box_head_of(widths, bins, shared=not box_refine, look_forward_twice=False, refine=box_refine)
        if not two_stage:
            first = boxes.initial if isinstance(boxes, FDRBoxHead) else boxes.layers[0]
            nn.init.constant_(first.get_parameter("layers.2.bias")[2:], _FIRST_SIZE)
        super().__init__(projection, queries, layers, GivenPosition(), boxes, scores, (), eval_idx, aux_loss=aux_loss)
        self.feat_channels, self.feat_strides = list(feat_channels), list(feat_strides)
        self.names = _names(num_layers, boxes, scores, two_stage)
        leave_out(self, "num_points_scale")


def _names(count: int, boxes: BoxHead, scores: ScoreHead, two_stage: bool) -> PublishedNames:
    """The first stage's heads are numbered behind those of the layers."""
    proposing = ((f"bbox_embed.{count}", "decoder.queries.box"), (f"class_embed.{count}", "decoder.queries.score"))
    rows = (
        *layer_rows(count),
        *box_rows(boxes, count, in_decoder=not scores.shared),
        *score_rows(scores, count, in_decoder=two_stage),
        *(twice(proposing) if two_stage else ()),
        *_STAGES[two_stage],
    )
    parts = ("class_embed", "transformer.decoder.class_embed") if two_stage else ("class_embed",)
    remedies = (*_REMEDIES[two_stage], *_REFINED[not scores.shared], *box_remedies(boxes))
    return PublishedNames(rows, dict.fromkeys(parts, 0), remedies)

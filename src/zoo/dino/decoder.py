# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DINO's decoder (Zhang et al., arXiv:2203.03605), assembled from parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from ...core.errors import check_counts
from ...core.registry import register
from ...nn.keys import leave_out
from ..decoder import Decoder
from ..decoder_layer import deformable_layers
from ..denoising import Denoising, DenoisingSetting
from ..depth import layer_plan
from ..family_keys import (
    DECODER_NORM,
    SINE_POSITION,
    PublishedNames,
    Rows,
    box_remedies,
    box_rows,
    denoising_remedy,
    layer_rows,
    query_remedy,
    score_rows,
)
from ..heads import ScoreHead, bins_of, box_head_of, estimators_of
from ..positions import SineQueryPosition
from ..projection import InputProjection
from ..queries import TopKQueries, learned_content

EPS = 1e-3
"""Smallest fraction in the logarithms of box logits; those of the proposals need none."""
NOISE = {"swap_crossed": False, "few_are_groups": True, "centred_padding": True}
"""How denoising differs from D-FINE's, see :class:`DenoisingSetting`."""
ROWS: Rows = (
    ("transformer.tgt_embed", "decoder.queries.learned"),
    ("transformer.enc_output", "decoder.queries.project.proj"),
    ("transformer.enc_output_norm", "decoder.queries.project.norm"),
    ("transformer.enc_out_bbox_embed", "decoder.queries.box"),
    ("transformer.enc_out_class_embed", "decoder.queries.score"),
    ("label_enc", "decoder.sources.0.embedding"),
)
CLASS_ROWS = {
    **dict.fromkeys(("class_embed", "transformer.decoder.class_embed", "transformer.enc_out_class_embed"), 0),
    "label_enc": 1,
}


@register
class DINOTransformer(Decoder):
    """Mixed query selection, look forward twice, contrastive denoising.

    Queries start at the boxes of the best cells with contents that are learned by rank. All layers share their class
    head, their box head and the norm before both.

    Args:
        num_classes: C.
        hidden_dim: D, divisible by ``nhead`` and by 4.
        num_queries: matching queries Q; an image must have at least as many cells over all levels (padded cells count,
            and a padded batch gets as many as it lacks).
        feat_channels, feat_strides: channels and strides of the encoder's maps, fine to coarse.
        num_levels: levels to attend to; those beyond the encoder's are made by convolutions with stride 2.
        num_points: sampling points per head and level, one number or one per level.
        nhead, num_layers, dim_feedforward, dropout, activation: the decoder layers.
        num_denoising: positive denoising queries per image to aim at, 0 for none (there is no label table then).
        label_noise_ratio, box_noise_scale: noise on denoising labels (0..1) and boxes (in halves of the box).
        eval_idx: layer that predicts in eval mode, negative counts from the end.
        aux_loss: predict after every layer in training; otherwise after the last layer alone.
        box_head: ``direct`` is DINO; ``fdr`` refines distributions as D-FINE does, by a head per layer, for
            self-distillation (GO-LSD).
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
        num_queries: int = 900,
        feat_channels: Sequence[int] = (256, 256, 256, 256),
        feat_strides: Sequence[int] = (8, 16, 32, 64),
        num_levels: int = 4,
        num_points: int | Sequence[int] = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.0,
        activation: str = "relu",
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
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
        widths, _ = layer_plan(
            hidden_dim, dim_feedforward, num_layers, nhead, scale=1, eval_idx=eval_idx, aux_loss=aux_loss
        )
        bins = bins_of(box_head, up, reg_scale, reg_max, learnable=False)
        noise = DenoisingSetting(num_denoising, label_noise_ratio, box_noise_scale, eps=EPS, **NOISE)
        projection = InputProjection(feat_channels, hidden_dim, num_levels)
        options = {"num_levels": num_levels, "num_points": num_points, "dropout": dropout, "act": activation}
        layers = deformable_layers(num_layers, hidden_dim, nhead, dim_feedforward, merge=merge, **options)
        learned = learned_content(num_queries, hidden_dim)
        queries = TopKQueries(num_queries, hidden_dim, num_classes, learned=learned)
        position = SineQueryPosition(hidden_dim, scaled=False)
        for linear in (queries.project[0], *position.head.layers):
            nn.init.xavier_uniform_(linear.get_parameter("weight"))
        quality = estimators_of(quality_estimators, bins, num_layers)
        scores = ScoreHead(widths, num_classes, quality, shared=True)
        boxes = box_head_of(widths, bins, eps=EPS, shared=True)
        sources = [Denoising(num_classes, hidden_dim, noise)] if num_denoising else []
        super().__init__(
            projection, queries, layers, position, boxes, scores, sources, eval_idx,
            aux_loss=aux_loss, norm=nn.LayerNorm(hidden_dim),
        )  # fmt: skip
        self.feat_channels, self.feat_strides = list(feat_channels), list(feat_strides)
        rows = (*layer_rows(num_layers), *DECODER_NORM, *SINE_POSITION, *ROWS)
        rows += (*box_rows(boxes, num_layers), *score_rows(scores, num_layers, in_decoder=True))
        remedies = (query_remedy("transformer.tgt_embed"), denoising_remedy(num_denoising), *box_remedies(boxes))
        self.names = PublishedNames(rows, CLASS_ROWS, remedies)
        leave_out(self, "num_points_scale")

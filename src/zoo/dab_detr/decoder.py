# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's decoder (arXiv 2201.12329), assembled from parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from ...core.checkpoint.remedies import Remedy
from ...core.errors import check_counts
from ...core.registry import register
from ...nn.keys import leave_out
from ..conditional import ConditionalDecoderLayer, ConditionalQueryPosition, TokenPositions
from ..decoder import Decoder
from ..decoder_layer import deformable_layers
from ..depth import layer_plan
from ..family_keys import (
    DECODER_NORM,
    SINE_POSITION,
    PublishedNames,
    Rows,
    box_remedies,
    box_rows,
    layer_rows,
    query_remedy,
    score_rows,
)
from ..heads import BoxHead, ScoreHead, bins_of, box_head_of, estimators_of
from ..inputs import Layer, QueryPosition
from ..positions import SineQueryPosition
from ..projection import InputProjection
from ..queries import LearnedAnchorQueries

EPS = 1e-3
"""Smallest fraction in the logarithms of box logits."""
_REMEDIES = {
    False: Remedy(
        *("missing", "transformer.level_embed"),
        "the file has dense attention: set cross_attention: dense and the encoder DenseEncoder",
    ),
    True: Remedy(
        *("unexpected", "transformer.level_embed"),
        "the file has deformable attention: set cross_attention: deformable and the encoder DeformableEncoder",
    ),
}
"""By whether attention is dense."""


@register
class DABDETRTransformer(Decoder):
    """Queries that are boxes, which every layer moves.

    With dense attention all layers share one pair of heads, which read normalised queries, and a layer learns from the
    error of the next one too; with deformable attention (DAB-Deformable-DETR) every layer has its own.

    Args:
        num_classes: C.
        cross_attention: ``deformable``, or ``dense``: all cells of one level.
        hidden_dim: D, divisible by ``nhead`` and by 4.
        num_queries: anchors; matching queries Q where there are no patterns.
        feat_channels, feat_strides: channels and strides of the encoder's maps, fine to coarse.
        num_levels: levels to attend to; None for one per map. Those beyond are made by convolutions with stride 2.
        num_points: sampling points per head and level, one number or one per level; None for 4, or none where
            attention is dense.
        nhead, num_layers, dim_feedforward, dropout, activation: the decoder layers; the published activation is
            ``prelu`` with dense attention.
        num_patterns: learned vectors, every one of which is added to every anchor's content: as many times the queries;
            0 for none, or 3.
        random_refpoints_xy: spread the anchors' centres evenly over the image and leave them there.
        eval_idx: layer that predicts in eval mode, negative counts from the end.
        aux_loss: predict after every layer in training; otherwise after the last layer alone.
        box_head: ``direct`` is DAB-DETR; ``fdr`` refines distributions as D-FINE does, for self-distillation (GO-LSD):
            the anchors go into the first layer, which makes the boxes that are refined.
        reg_max, reg_scale, up, quality_estimators: with ``fdr``, see
            :class:`~isdfine.zoo.dfine.decoder.DFINETransformer`.
        merge: how a query takes in what it read from the image: ``residual``, or ``gate`` (D-FINE's target gating).

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        cross_attention: Literal["deformable", "dense"] = "deformable",
        hidden_dim: int = 256,
        num_queries: int = 300,
        feat_channels: Sequence[int] = (256, 256, 256, 256),
        feat_strides: Sequence[int] = (8, 16, 32, 64),
        num_levels: int | None = None,
        num_points: int | Sequence[int] | None = None,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.0,
        activation: str = "relu",
        num_patterns: int = 0,
        random_refpoints_xy: bool = False,
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
        levels = len(feat_channels) if num_levels is None else num_levels
        dense = _is_dense(cross_attention, levels, num_points, hidden_dim, nhead)
        widths, _ = layer_plan(
            hidden_dim, dim_feedforward, num_layers, nhead, scale=1, eval_idx=eval_idx, aux_loss=aux_loss
        )
        bins = bins_of(box_head, up, reg_scale, reg_max, learnable=False)
        projection = InputProjection(feat_channels, hidden_dim, levels)
        make = partial(_layers, num_layers, dense=dense, merge=merge, dropout=dropout, act=activation)
        layers = make(hidden_dim, nhead, dim_feedforward, levels, 4 if num_points is None else num_points)
        position: QueryPosition = (
            ConditionalQueryPosition(hidden_dim) if dense else SineQueryPosition(hidden_dim, scaled=True)
        )
        queries = LearnedAnchorQueries(
            num_queries,
            hidden_dim,
            content="zeros" if dense else "learned",
            num_patterns=num_patterns,
            fixed_centres=random_refpoints_xy,
        )
        scores = ScoreHead(widths, num_classes, estimators_of(quality_estimators, bins, num_layers), shared=dense)
        boxes = box_head_of(widths, bins, eps=EPS, shared=dense, look_forward_twice=dense)
        norm, places = (nn.LayerNorm(hidden_dim), TokenPositions()) if dense else (None, None)
        parts = (projection, queries, layers, position, boxes, scores)
        super().__init__(*parts, (), eval_idx, aux_loss=aux_loss, norm=norm, token_positions=places)
        self.feat_channels, self.feat_strides = list(feat_channels), list(feat_strides)
        self.dense = dense
        rows = published_rows(boxes, scores, num_layers, dense=dense)
        remedies = (query_remedy("refpoint_embed"), _REMEDIES[dense], *box_remedies(boxes))
        self.names = PublishedNames(rows, {"class_embed": 0}, remedies)
        leave_out(self, "num_points_scale")


def _is_dense(
    cross_attention: str, levels: int, num_points: int | Sequence[int] | None, hidden_dim: int, nhead: int
) -> bool:
    """Whether attention is; ValueError for what does not go with it."""
    if cross_attention not in ("deformable", "dense"):
        raise ValueError(f"cross_attention {cross_attention!r} is unknown: choose one of deformable, dense")
    if cross_attention == "deformable":
        return False
    if hidden_dim % nhead:
        raise ValueError(f"{hidden_dim} channels do not split into {nhead} heads: change hidden_dim or nhead")
    if levels != 1:
        raise ValueError(
            f"cross_attention: dense reads one level, got {levels}: give feat_channels and feat_strides of one map, "
            "or cross_attention: deformable"
        )
    if num_points is not None:
        raise ValueError("cross_attention: dense samples no points: leave num_points out, or set it to deformable")
    return True


def _layers(
    count: int,
    dim: int,
    num_heads: int,
    feedforward_dim: int,
    num_levels: int,
    num_points: int | Sequence[int],
    *,
    dense: bool,
    **options: Any,
) -> Sequence[Layer]:
    sizes = (dim, num_heads, feedforward_dim)
    if dense:
        return [ConditionalDecoderLayer(*sizes, first=index == 0, **options) for index in range(count)]
    return deformable_layers(count, *sizes, num_levels=num_levels, num_points=num_points, **options)


def published_rows(boxes: BoxHead, scores: ScoreHead, count: int, *, dense: bool) -> Rows:
    """What published checkpoints call the parts of the decoder."""
    heads = (*box_rows(boxes, count, numbered=not dense), *score_rows(scores, count, numbered=not dense))
    anchors = (("refpoint_embed", "decoder.queries.anchors"),)
    if dense:
        return (
            ("transformer.decoder.layers", "decoder.layers"),
            *DECODER_NORM,
            *SINE_POSITION,
            ("transformer.decoder.ref_anchor_head", "decoder.position.size"),
            ("transformer.patterns", "decoder.queries.patterns"),
            *heads,
            *anchors,
        )
    contents = (("tgt_embed", "decoder.queries.content"), ("patterns_embed", "decoder.queries.patterns"))
    return (*layer_rows(count), *SINE_POSITION, *heads, *contents, *anchors)

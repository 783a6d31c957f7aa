# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""D-FINE's decoder (arXiv 2410.13842), assembled from parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Literal

from ...core.errors import check_counts
from ...core.registry import register
from ...nn.keys import use_table
from ..decoder import Decoder
from ..decoder_layer import DecoderLayer
from ..denoising import Denoising, DenoisingSetting
from ..depth import layer_plan
from ..heads import ScoreHead, bins_of, box_head_of, estimators_of
from ..names import DECODER_KEYS, class_rows
from ..projection import InputProjection, stored_sizes
from ..queries import BoxEmbedding, TopKQueries, initialise, learned_content


@register
class DFINETransformer(Decoder):
    """Two-stage query selection and fine-grained distribution refinement (FDR).

    Argument names are those of official YAML files. The last six are not in them: their other values lead back to
    RT-DETR's decoder, step by step (Table 3 of arXiv 2410.13842).

    Args:
        num_classes: C.
        hidden_dim: D, divisible by ``nhead``.
        num_queries: matching queries Q; an image must have at least as many cells over all levels (padded cells count,
            and a padded batch gets as many as it lacks).
        feat_channels, feat_strides: channels and strides of the encoder's maps, fine to coarse.
        num_levels: levels to attend to; those beyond the encoder's are made by convolutions with stride 2.
        num_points: sampling points per head and level, one number or one per level.
        nhead, num_layers, dim_feedforward, dropout, activation: the decoder layers.
        num_denoising: positive denoising queries per image to aim at, 0 for none (there is no label table then).
        label_noise_ratio, box_noise_scale: noise on denoising labels (0..1) and boxes (in halves of the box).
        learn_query_content: learn the queries' content instead of taking it from the selected rows.
        eval_spatial_size: (height, width) of the images whose anchors are stored for eval mode; other sizes work too.
        eval_idx: layer that predicts in eval mode, negative counts from the end; later layers run in training only.
        eps: a cell whose anchor comes closer to 0 or 1 than this is selected only when nothing else is left.
        aux_loss: predict after every layer in training; otherwise after the last layer alone.
        cross_attn_method: ``default`` samples bilinearly, ``discrete`` reads the nearest cell.
        query_select_method: rank cells by their best class (``default``), by one objectness score (``agnostic``), or
            rank (cell, class) pairs (``one2many``).
        reg_max: N, even; an edge's distribution has N + 1 bins (``fdr`` only, as the next one, up and learnable_bins).
        reg_scale: s = 1/c, how dense the bins are around zero. An int is stored as int64, as in official checkpoints.
        layer_scale: width of the layers after ``eval_idx`` as a multiple of ``hidden_dim``, at least 1; that of their
            feed-forward nets likewise.
        up: a, half the width of the inner bin range as a share of the box.
        learnable_bins: train a and s; the paper found fixed ones better.
        box_head: ``fdr``, or ``direct``: every layer predicts offsets to its reference box (RT-DETR), there are no
            distributions, no first head and no quality estimators.
        merge: how a query takes in what it read from the image: ``gate`` (target gating) or ``residual``.
        cross_attn_projections: project each map before the decoder even where its width fits, and values and result
            of every cross-attention.
        quality_estimators: let the sharpness of the distributions move the class scores; None: where there are any.

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    rebuilt_buffers: tuple[str, ...] = ("anchors", "valid_mask")
    position_limit: ClassVar[float | None] = 10.0
    """Of the query positions of decoders with distributions."""
    noise: ClassVar[Mapping[str, bool]] = MappingProxyType({})
    """How denoising differs from D-FINE's, see :class:`DenoisingSetting`."""

    def __init__(
        self,
        num_classes: int,
        *,
        hidden_dim: int = 256,
        num_queries: int = 300,
        feat_channels: Sequence[int] = (512, 1024, 2048),
        feat_strides: Sequence[int] = (8, 16, 32),
        num_levels: int = 3,
        num_points: int | Sequence[int] = 4,
        nhead: int = 8,
        num_layers: int = 6,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        activation: str = "relu",
        num_denoising: int = 100,
        label_noise_ratio: float = 0.5,
        box_noise_scale: float = 1.0,
        learn_query_content: bool = False,
        eval_spatial_size: Sequence[int] | None = None,
        eval_idx: int = -1,
        eps: float = 1e-2,
        aux_loss: bool = True,
        cross_attn_method: Literal["default", "discrete"] = "default",
        query_select_method: Literal["default", "agnostic", "one2many"] = "default",
        reg_max: int = 32,
        reg_scale: int | float = 4.0,
        layer_scale: float = 1,
        up: float = 0.5,
        learnable_bins: bool = False,
        box_head: Literal["fdr", "direct"] = "fdr",
        merge: Literal["gate", "residual"] = "gate",
        cross_attn_projections: bool = False,
        quality_estimators: bool | None = None,
    ) -> None:
        check_counts(num_classes=num_classes, num_queries=num_queries, nhead=nhead, hidden_dim=hidden_dim)
        widths, hidden = layer_plan(
            hidden_dim, dim_feedforward, num_layers, nhead, scale=layer_scale, eval_idx=eval_idx, aux_loss=aux_loss
        )
        bins = bins_of(box_head, up, reg_scale, reg_max, learnable=learnable_bins)
        sizes = stored_sizes(eval_spatial_size, feat_channels, feat_strides, num_levels)
        noise = DenoisingSetting(num_denoising, label_noise_ratio, box_noise_scale, **self.noise)
        num_scores = 1 if query_select_method == "agnostic" else num_classes
        # The order in which parts draw their weights is fixed: a seed gives the weights that it always gave.
        projection = InputProjection(feat_channels, hidden_dim, num_levels, always=cross_attn_projections)
        layer = partial(DecoderLayer, num_heads=nhead, num_levels=num_levels, num_points=num_points, merge=merge)
        layer = partial(layer, cross_attention=cross_attn_method, projections=cross_attn_projections, dropout=dropout)
        layers = [layer(width, feedforward_dim=inner, act=activation) for width, inner in zip(widths, hidden)]
        quality = estimators_of(quality_estimators, bins, len(widths))
        sources = [Denoising(num_classes, hidden_dim, noise)] if num_denoising else []
        learned = learned_content(num_queries, hidden_dim) if learn_query_content else None
        position = BoxEmbedding(hidden_dim, limit=None if bins is None else self.position_limit)
        queries = TopKQueries(num_queries, hidden_dim, num_scores, query_select_method, eps, learned, sizes)
        scores = ScoreHead(widths, num_classes, quality)
        boxes = box_head_of(widths, bins)
        initialise(position, queries)
        super().__init__(projection, queries, layers, position, boxes, scores, sources, eval_idx, aux_loss=aux_loss)
        self.feat_channels, self.feat_strides = list(feat_channels), list(feat_strides)
        self.class_rows = class_rows(query_select_method)
        use_table(self, DECODER_KEYS)

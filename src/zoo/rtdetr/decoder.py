# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR's decoders (arXiv 2304.08069, 2407.17140), assembled from parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import nn

from ...core.errors import check_counts
from ...core.registry import register
from ...nn.keys import use_table
from ..decoder import Decoder, InputProjection, stored_sizes
from ..decoder_layer import DecoderLayer
from ..denoising import Denoising, DenoisingSetting
from ..depth import layer_plan
from ..heads import BoxHead, DirectBoxHead, FDRBoxHead, LocationQualityEstimator, ScoreHead, bins_of
from ..names import DECODER_KEYS, FIRST_ENCODER_OUTPUT, class_rows
from ..queries import BoxEmbedding, TopKQueries, initialise, learned_content


@register
class RTDETRTransformerv2(Decoder):
    """Two-stage query selection, projected deformable cross-attention, offsets to the boxes of the layer before.

    Argument names are those of official YAML files, up to ``query_select_method``; what is not explained here means
    what it means for :class:`~isdfine.zoo.dfine.decoder.DFINETransformer`. Its denoising differs from D-FINE's: noisy
    boxes whose edges crossed have no size, and a batch without boxes gets a group of two queries.

    Args:
        num_classes: C.
        box_head: ``direct`` is RT-DETR; ``fdr`` refines distributions as D-FINE does, for self-distillation (GO-LSD).
        quality_estimators: with ``fdr``, let the sharpness of the distributions move the class scores, as D-FINE does.
        reg_max, reg_scale, up: of the distributions (``fdr`` only).
        layer_scale: width of the layers after ``eval_idx``, which only training runs, as a multiple of ``hidden_dim``.

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    rebuilt_buffers: tuple[str, ...] = ("anchors", "valid_mask")

    def __init__(
        self,
        num_classes: int = 80,
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
        box_head: Literal["fdr", "direct"] = "direct",
        quality_estimators: bool = False,
        reg_max: int = 32,
        reg_scale: int | float = 4.0,
        up: float = 0.5,
        layer_scale: float = 1,
    ) -> None:
        check_counts(num_classes=num_classes, num_queries=num_queries, nhead=nhead, hidden_dim=hidden_dim)
        widths, inner_widths = layer_plan(
            hidden_dim, dim_feedforward, num_layers, nhead, scale=layer_scale, eval_idx=eval_idx, aux_loss=aux_loss
        )
        bins = bins_of(box_head, up, reg_scale, reg_max, learnable=False)
        if quality_estimators and bins is None:
            raise ValueError(f"quality_estimators need distributions, but box_head is {box_head!r}: set box_head: fdr")
        sizes = stored_sizes(eval_spatial_size, feat_channels, feat_strides, num_levels)
        num_scores = 1 if query_select_method == "agnostic" else num_classes
        scales = (label_noise_ratio, box_noise_scale)
        noise = DenoisingSetting(num_denoising, *scales, swap_crossed=False, dummy_group=True)
        layer = partial(DecoderLayer, num_heads=nhead, num_levels=num_levels, num_points=num_points, merge="residual")
        layer = partial(layer, cross_attention=cross_attn_method, projections=True, dropout=dropout, act=activation)
        projection = InputProjection(feat_channels, hidden_dim, num_levels, always=True)
        layers = [layer(width, feedforward_dim=inner) for width, inner in zip(widths, inner_widths)]
        quality = [LocationQualityEstimator(reg_max) for _ in widths] if quality_estimators else []
        sources = [Denoising(num_classes, hidden_dim, noise)] if num_denoising else []
        learned = learned_content(num_queries, hidden_dim) if learn_query_content else None
        position = BoxEmbedding(hidden_dim)
        queries = TopKQueries(num_queries, hidden_dim, num_scores, query_select_method, eps, learned, sizes)
        scores = ScoreHead(widths, num_classes, quality)
        boxes: BoxHead = DirectBoxHead(widths) if bins is None else FDRBoxHead(widths, bins)
        initialise(position, queries)
        super().__init__(projection, queries, layers, position, boxes, scores, sources, eval_idx, aux_loss=aux_loss)
        self.feat_channels, self.feat_strides = list(feat_channels), list(feat_strides)
        self.class_rows = class_rows(query_select_method)
        use_table(self, DECODER_KEYS)


@register
class RTDETRTransformer(RTDETRTransformerv2):
    """RT-DETR's decoder; the second version's in all but the names of a few parameters and arguments.

    A config whose encoder does not say a ``version`` means the first one's, too.

    Args:
        num_classes: C.
        position_embed_type: ``sine`` only.
        learnt_init_query: the first version's name of ``learn_query_content``.
        version: ``v1`` names parameters of ``enc_output`` as RT-DETR's first checkpoints do, ``v2`` as its later ones;
            both are read.
        options: see :class:`RTDETRTransformerv2`.
    """

    part_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({"HybridEncoder": {"version": "v1"}})

    def __init__(
        self,
        num_classes: int = 80,
        *,
        position_embed_type: Literal["sine"] = "sine",
        learnt_init_query: bool = False,
        version: Literal["v1", "v2"] = "v1",
        **options: Any,
    ) -> None:
        learnt = options.pop("learn_query_content", learnt_init_query)  # either name
        super().__init__(num_classes, learn_query_content=learnt, **options)
        if version == "v1":
            assert isinstance(self.queries, TopKQueries)
            use_table(self.queries.project, FIRST_ENCODER_OUTPUT)
        _leave_out_tables(self)


def _leave_out_tables(decoder: nn.Module) -> None:
    """Keep what the first version computes anew, anchors and weights of points, out of the state dict."""
    for module in decoder.modules():
        for name in ("anchors", "valid_mask", "num_points_scale"):
            if name in module._buffers:
                module.register_buffer(name, module._buffers.pop(name), persistent=False)

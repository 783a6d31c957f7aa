# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR's decoders (arXiv 2304.08069, 2407.17140): D-FINE's with a direct box head and projected cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import nn

from ...core.registry import register
from ..denoising import Denoising
from ..dfine.decoder import DFINETransformer
from ..queries import TopKQueries


@register
class RTDETRTransformerv2(DFINETransformer):
    """RT-DETRv2's decoder with the arguments and the parameter names of its official code.

    Args:
        num_classes: C.
        box_head: ``direct`` is RT-DETR; ``fdr`` refines distributions as D-FINE does, for self-distillation (GO-LSD).
        merge, cross_attn_projections: RT-DETR's values; see :class:`DFINETransformer`.
        quality_estimators: with ``fdr``, let the sharpness of the distributions move the class scores, as D-FINE does.
        options: the other arguments of :class:`DFINETransformer`, with its defaults.
    """

    def __init__(
        self,
        num_classes: int = 80,
        *,
        box_head: Literal["fdr", "direct"] = "direct",
        merge: Literal["gate", "residual"] = "residual",
        cross_attn_projections: bool = True,
        quality_estimators: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes,
            box_head=box_head,
            merge=merge,
            cross_attn_projections=cross_attn_projections,
            **options,
        )
        if box_head == "fdr" and not quality_estimators:
            self.score_head.quality = nn.ModuleList()
        for source in self.sources:
            if isinstance(source, Denoising):
                source.setting = replace(source.setting, swap_crossed=False, dummy_group=True)


@register
class RTDETRTransformer(RTDETRTransformerv2):
    """RT-DETR's decoder; the second version's in all but the names of a few parameters and arguments.

    A config whose encoder does not say a ``version`` means the first one's, too.

    Args:
        num_classes: C.
        position_embed_type: ``sine`` only.
        learnt_init_query: the first version's name of ``learn_query_content``.
        version: ``v1`` names parameters as RT-DETR's first checkpoints do, ``v2`` as its second ones.
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
        super().__init__(num_classes, learn_query_content=learnt_init_query, **options)
        if version == "v1":
            assert isinstance(self.queries, TopKQueries)
            self.queries.project = nn.Sequential(*self.queries.project)
            _leave_out_tables(self)


def _leave_out_tables(decoder: nn.Module) -> None:
    """Keep what the first version computes anew, anchors and weights of points, out of the state dict."""
    for module in decoder.modules():
        for name in ("anchors", "valid_mask", "num_points_scale"):
            if name in module._buffers:
                module.register_buffer(name, module._buffers.pop(name), persistent=False)

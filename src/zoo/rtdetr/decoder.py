# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""RT-DETR's decoders (arXiv 2304.08069, 2407.17140): the parts of D-FINE's, without what D-FINE added."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from ...core.registry import register
from ...nn.keys import leave_out, use_table
from ..dfine.decoder import DFINETransformer
from ..names import FIRST_ENCODER_OUTPUT
from ..queries import TopKQueries


@register
class RTDETRTransformerv2(DFINETransformer):
    """Two-stage query selection, projected deformable cross-attention, offsets to the boxes of the layer before.

    Argument names are those of official YAML files, up to ``query_select_method``. Denoising differs from D-FINE's:
    noisy boxes whose edges crossed have no size, and a batch without boxes gets a group of two queries.

    Args:
        num_classes: C.
        box_head: ``direct`` is RT-DETR; ``fdr`` refines distributions as D-FINE does, for self-distillation (GO-LSD).
        quality_estimators: with ``fdr``, let the sharpness of the distributions move the class scores, as D-FINE does.
        merge, cross_attn_projections: as :class:`~isdfine.zoo.dfine.decoder.DFINETransformer`; so are all others.

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    position_limit: ClassVar[float | None] = None
    noise: ClassVar[Mapping[str, bool]] = MappingProxyType({"swap_crossed": False, "dummy_group": True})

    def __init__(
        self,
        num_classes: int = 80,
        *,
        box_head: Literal["fdr", "direct"] = "direct",
        quality_estimators: bool = False,
        merge: Literal["gate", "residual"] = "residual",
        cross_attn_projections: bool = True,
        **options: Any,
    ) -> None:
        further = {"merge": merge, "cross_attn_projections": cross_attn_projections, **options}
        super().__init__(num_classes, box_head=box_head, quality_estimators=quality_estimators, **further)


@register
class RTDETRTransformer(RTDETRTransformerv2):
    """RT-DETR's decoder; the second version's in all but the names of a few parameters and arguments.

    A config whose encoder does not say a ``version`` means the first one's, too.

    Args:
        num_classes: C.
        position_embed_type: ``sine`` only.
        learnt_init_query: the first version's name of ``learn_query_content``.
        version: ``v1`` names parameters of ``enc_output`` as RT-DETR's first checkpoints do, ``v2`` as its later ones.
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
        leave_out(self, "anchors", "valid_mask", "num_points_scale")  # the first version makes them anew

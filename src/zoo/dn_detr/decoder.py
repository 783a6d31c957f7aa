# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""DN-DETR's decoder (arXiv 2203.01305): DAB-DETR's, with denoising queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.registry import register
from ..dab_detr.decoder import DABDETRTransformer
from ..family_keys import denoising_remedy
from ..positive_denoising import PositiveDenoising, PositiveSetting
from ..queries import LearnedAnchorQueries


class UnmarkedAnchorQueries(LearnedAnchorQueries):
    """Anchor queries whose content ends with the number 0, where that of denoising queries ends with 1.

    Args:
        num_queries, dim, num_patterns, fixed_centres: see :class:`~isdfine.zoo.queries.LearnedAnchorQueries`.
        labels: (C + 1, D - 1) of the classes, of which queries have row C, "unknown"; None for learned content.
    """

    def __init__(self, num_queries: int, dim: int, labels: nn.Embedding | None, **options: Any) -> None:
        super().__init__(num_queries, dim, content="zeros", **options)
        self.labels = labels
        self.content = nn.Embedding(num_queries, dim - 1) if labels is None else None

    def rows(self) -> Tensor:
        """See :class:`~isdfine.zoo.queries.LearnedAnchorQueries`."""
        if self.content is not None:
            return F.pad(self.content.weight, (0, 1))
        assert self.labels is not None
        return F.pad(self.labels.weight[-1:], (0, 1)).expand(self.num_queries, -1)


@register
class DNDETRTransformer(DABDETRTransformer):
    """DAB-DETR's decoder, that learns to restore ground truth with noise as well.

    Args:
        num_classes: C.
        num_denoising: groups of queries, each with a noisy copy of every box; 0 for none.
        label_noise_ratio: probability that the label of a copy is redrawn.
        box_noise_scale: how far its centre moves at most, in halves of the box, and how much of its size it gains or
            loses at most.
        options: see :class:`~isdfine.zoo.dab_detr.decoder.DABDETRTransformer`.

    Raises: ValueError for values that do not fit together, with the values and the choices.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_denoising: int = 5,
        label_noise_ratio: float = 0.2,
        box_noise_scale: float = 0.4,
        **options: Any,
    ) -> None:
        setting = PositiveSetting(num_denoising, label_noise_ratio, box_noise_scale)
        super().__init__(num_classes, **options)
        anchors = self.queries
        assert isinstance(anchors, LearnedAnchorQueries)
        labels = nn.Embedding(num_classes + 1, anchors.dim - 1)
        self.queries = UnmarkedAnchorQueries(
            anchors.num_queries,
            anchors.dim,
            labels if self.dense else None,
            num_patterns=0 if anchors.patterns is None else anchors.patterns.num_embeddings,
            fixed_centres=anchors.fixed_centres,
        )
        rows = self.names.decoder
        if self.dense:
            rows = (*rows, ("label_enc", "decoder.queries.labels"))
        if num_denoising:
            self.sources.append(PositiveDenoising(labels, setting))
            rows = (*rows, ("label_enc", "decoder.sources.0.embedding"))
        class_rows, remedies = {**self.names.class_rows, "label_enc": 1}, self.names.remedies
        if not self.dense:  # else the matching queries read the labels
            remedies = (*remedies, denoising_remedy(num_denoising))
        self.names = replace(self.names, decoder=rows, class_rows=class_rows, remedies=remedies)

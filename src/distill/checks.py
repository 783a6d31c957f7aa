# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What distillers refuse: models and criteria that cannot serve them."""

from __future__ import annotations

from torch import Tensor, nn

from ..losses.criterion import Criterion
from ..losses.matched import MatchedGroup


def check_distributions(who: str, model: nn.Module) -> None:
    """Refuse a model whose decoder has a direct box head, known by ``decoder.box_head`` (ValueError)."""
    head = getattr(getattr(model, "decoder", model), "box_head", "fdr")
    if head != "fdr":
        raise ValueError(
            f"{who} compares edge distributions, but the decoder's box_head is {head!r}: set "
            f"DFINETransformer.box_head: fdr, or take {who} out (distillers: [] for none)"
        )


def check_union(who: str, criterion: Criterion) -> None:
    """Refuse a criterion whose sets do not share their matches (ValueError)."""
    if not getattr(criterion, "use_uni_set", False):
        raise ValueError(
            f"{who} weighs queries by the union of all matches, but the criterion matches every layer on its own: set "
            f"{type(criterion).__name__}.use_uni_set: True, or take {who} out (distillers: [] for none)"
        )


def edge_logits_of(group: MatchedGroup, who: str) -> Tensor:
    """(K, R, 4, N + 1) edge logits of a group's layers.

    Raises:
        ValueError: the model has no distributions.
    """
    if group.stack.edge_logits is None:
        place = f"group {group.name!r}" if group.name else "the output"
        raise ValueError(f"{who} compares edge distributions, but {place} has none: it needs an FDR head")
    return group.stack.edge_logits


def answering_layers(model: nn.Module) -> int:
    """Decoder layers that predict in training: ``decoder.num_answering_layers``, or 2 where a decoder does not say."""
    layers: int = getattr(getattr(model, "decoder", model), "num_answering_layers", 2)
    return layers


def check_layers(who: str, model: nn.Module) -> None:
    """Refuse a decoder of which a single layer predicts in training (ValueError)."""
    layers = answering_layers(model)
    if layers < 2:
        raise ValueError(
            f"{who} needs two decoder layers or more, but {layers} predicts in training: raise "
            f"DFINETransformer.num_layers and keep aux_loss: True, or take {who} out (distillers: [] for none)"
        )

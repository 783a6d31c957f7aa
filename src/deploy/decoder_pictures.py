# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the decoder did with one image: the bridge from ``inspection`` to ``viz``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..core.errors import ConfigError
from ..viz.attention import LayerAttention, attention_figure, attention_maps_figure
from ..viz.edge_distributions import LayerDistributions, RefinedObject, refinement_figure
from .inspection import Inspection

MAP_QUERIES = 100
"""Queries in a picture of the whole self-attention: more could not be told apart."""


def layer_numbers(wanted: Sequence[int], count: int) -> list[int]:
    """Decoder layers in ascending order, each once; the first is 1.

    Raises:
        ConfigError: there is no such layer.
    """
    if wrong := [number for number in wanted if not 1 <= number <= count]:
        raise ConfigError(f"--layers {wrong[0]}: the decoder has the layers 1 to {count}")
    return sorted(set(wanted))


def draw_refinement(
    image: Image.Image, seen: Inspection, query: int, caption: str, layers: Sequence[int] = (), title: str = ""
) -> Any:
    """Edge distributions of one object, see ``viz.edge_distributions.refinement_figure``.

    Args:
        image: RGB, the one that was inspected.
        query: the object's.
        caption: class and score.
        layers: decoder layers, the first is 1; none for the first and the last.

    Raises:
        ConfigError: the model has no distributions, or no such layer.
    """
    if seen.initial_boxes_xyxy_px is None or seen.bin_weights is None or seen.inverse_curvature is None:
        raise ConfigError("this model's boxes are no distributions (box_head is direct): use attention instead of fdr")
    shown = []
    for number in layer_numbers(layers or (1, len(seen.layers)), len(seen.layers)):
        layer = seen.layers[number - 1]
        assert layer.edge_probabilities is not None
        shown.append(LayerDistributions(number, layer.edge_probabilities[query], layer.boxes_xyxy_px[query]))
    found = RefinedObject(caption, seen.initial_boxes_xyxy_px[query], shown, seen.bin_weights, seen.inverse_curvature)
    return refinement_figure(image, found, title)


def draw_attention(image: Image.Image, seen: Inspection, query: int, caption: str, layers: Sequence[int] = ()) -> Any:
    """Sampling points of one object and the queries it attends to, see ``viz.attention.attention_figure``.

    Args as :func:`draw_refinement`; no layers for all of them.
    """
    shown = [
        LayerAttention(
            number, layer.references_xyxy_px[query], layer.points_px[query], layer.point_weights[query],
            layer.point_levels, layer.self_attention[query], layer.references_xyxy_px,
        )
        for number, layer in enumerate(seen.layers, 1)
        if number in (layer_numbers(layers, len(seen.layers)) or (number,))
    ]  # fmt: skip
    return attention_figure(image, caption, query, shown)


def draw_self_attention(seen: Inspection, layers: Sequence[int] = ()) -> Any:
    """Attention among the surest queries, see ``viz.attention.attention_maps_figure``; no layers for all of them."""
    count = len(seen.layers)
    numbers = layer_numbers(layers or range(1, count + 1), count)
    maps = [seen.layers[number - 1].self_attention for number in numbers]
    return attention_maps_figure(maps, numbers, seen.surest(MAP_QUERIES))

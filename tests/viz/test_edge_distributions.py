# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What can be read off the plots is what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from figure_cases import bars, patch
from isdfine.nn.boxes import cxcywh_to_xyxy
from isdfine.nn.edges import decode_corners, weighting
from isdfine.viz.edge_distributions import EDGES, LayerDistributions, RefinedObject, edges_of, refinement_figure

SIZE = (480, 640)


def refined(seed: int = 0, layers: int = 2) -> RefinedObject:
    """Random distributions, decoded by the model's own function."""
    torch.manual_seed(seed)
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    initial, weights = torch.tensor([0.4, 0.5, 0.3, 0.2]), weighting(32, 0.5, 4.0)
    made = []
    for number in range(1, layers + 1):
        logits = 3 * torch.randn(4, 33)
        box = cxcywh_to_xyxy(decode_corners(initial, logits, weights, 4.0)) * scale
        made.append(LayerDistributions(number, logits.softmax(-1).numpy(), box.numpy()))
    return RefinedObject("cat 0.90", (cxcywh_to_xyxy(initial) * scale).numpy(), made, weights.numpy(), 4.0)


def test_the_plotted_mean_is_the_drawn_edge() -> None:
    found = refined()
    figure = refinement_figure(Image.new("RGB", SIZE[::-1]), found, "a title")
    drawn, initial = (patch(figure, name).get_bbox().extents for name in ("refined", "initial"))
    assert initial == pytest.approx(found.initial_xyxy_px, abs=1e-3)
    side = np.tile(initial[2:] - initial[:2], 2)
    last = found.layers[-1].layer
    for column, edge in enumerate(EDGES):
        mean = bars(figure, f"PW/{last}/{edge}").sum()
        plain = bars(figure, f"P/{last}/{edge}")
        assert plain.sum() == pytest.approx(1, abs=1e-5)
        assert (plain * found.bin_weights).sum() == pytest.approx(mean, abs=1e-6)
        place = initial[column] + (-1 if column < 2 else 1) * mean * side[column] / 4.0
        assert abs(place - drawn[column]) < 1e-4 * max(SIZE)
        assert abs(drawn[column] - initial[column]) > 1e-3 * max(SIZE), "the case must move the edge"


def test_edges_of_every_layer_are_its_box() -> None:
    found = refined(layers=6)
    for layer in found.layers:
        edges = edges_of(found.initial_xyxy_px, layer.probabilities, found.bin_weights, found.inverse_curvature)
        assert np.abs(edges - layer.box_xyxy_px).max() < 1e-4 * max(SIZE)


def test_numbers_in_the_titles() -> None:
    found = refined()
    figure = refinement_figure(Image.new("RGB", SIZE[::-1]), found)
    titles = [axes.get_title() for part in figure.subfigs for axes in part.get_axes()]
    for column, axis in enumerate("xyxy"):
        edge = found.layers[-1].box_xyxy_px[column]
        assert any(f"edge at {axis} = {edge:.1f} px" in title for title in titles)
    assert "cat 0.90" in titles
    assert sum("layer 1" in title for title in titles) == 4

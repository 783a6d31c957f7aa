# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What can be read off the plots is what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from figure_cases import bars, patch
from isdfine.deploy.inspection import InspectedLayer, Inspection
from isdfine.nn.boxes import cxcywh_to_xyxy
from isdfine.nn.edges import decode_corners, weighting
from isdfine.plots.edge_distributions import EDGES, edges_of, refinement_figure

SIZE = (480, 640)


def refined(seed: int = 0, layers: int = 2) -> Inspection:
    """Random distributions of one query, decoded by the model's own function."""
    torch.manual_seed(seed)
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    initial, weights = torch.tensor([[0.4, 0.5, 0.3, 0.2]]), weighting(32, 0.5, 4.0)
    none, made = np.zeros(0), []
    for _ in range(layers):
        logits = 3 * torch.randn(1, 4, 33)
        box = (cxcywh_to_xyxy(decode_corners(initial, logits, weights, 4.0)) * scale).numpy()
        made.append(InspectedLayer(box, box, none, none, none, none, logits.softmax(-1).numpy()))
    boxes = (cxcywh_to_xyxy(initial) * scale).numpy()
    return Inspection(np.ones((1, 1)), box, tuple(made), boxes, weights.numpy(), 4.0)


def test_the_plotted_mean_is_the_drawn_edge() -> None:
    seen = refined()
    figure = refinement_figure(Image.new("RGB", SIZE[::-1]), seen, 0, "cat 0.90", title="a title")
    drawn, initial = (patch(figure, name).get_bbox().extents for name in ("refined", "initial"))
    assert initial == pytest.approx(seen.initial_boxes_xyxy_px[0], abs=1e-3)
    side = np.tile(initial[2:] - initial[:2], 2)
    last = len(seen.layers)
    for column, edge in enumerate(EDGES):
        mean = bars(figure, f"PW/{last}/{edge}").sum()
        plain = bars(figure, f"P/{last}/{edge}")
        assert plain.sum() == pytest.approx(1, abs=1e-5)
        assert (plain * seen.bin_weights).sum() == pytest.approx(mean, abs=1e-6)
        place = initial[column] + (-1 if column < 2 else 1) * mean * side[column] / 4.0
        assert abs(place - drawn[column]) < 1e-4 * max(SIZE)
        assert abs(drawn[column] - initial[column]) > 1e-3 * max(SIZE), "the case must move the edge"


def test_edges_of_every_layer_are_its_box() -> None:
    seen = refined(layers=6)
    for layer in seen.layers:
        edges = edges_of(
            seen.initial_boxes_xyxy_px[0], layer.edge_probabilities[0], seen.bin_weights, seen.inverse_curvature
        )
        assert np.abs(edges - layer.boxes_xyxy_px[0]).max() < 1e-4 * max(SIZE)


def test_numbers_in_the_titles() -> None:
    seen = refined()
    figure = refinement_figure(Image.new("RGB", SIZE[::-1]), seen, 0, "cat 0.90")
    titles = [axes.get_title() for part in figure.subfigs for axes in part.get_axes()]
    for column, axis in enumerate("xyxy"):
        edge = seen.boxes_xyxy_px[0, column]
        assert any(f"edge at {axis} = {edge:.1f} px" in title for title in titles)
    assert "cat 0.90" in titles
    assert sum("layer 1" in title for title in titles) == 4

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from figure_cases import clipped_texts
from isdfine.deploy.inspection import InspectedLayer, Inspection
from isdfine.plots.attention import attention_figure, attention_maps_figure

HEADS, POINTS, QUERIES = 4, 6, 20


def inspection(count: int, size: tuple[int, int] = (300, 400)) -> Inspection:
    random = np.random.default_rng(0)
    limits = np.array([size[1], size[0]])
    layers = []
    for _ in range(count):
        corners = np.sort(random.uniform(0, 1, (QUERIES, 2, 2)), axis=1) * limits
        boxes = corners.reshape(QUERIES, 4)
        points = random.uniform(0.3, 0.6, (QUERIES, HEADS, POINTS, 2)) * limits
        weights = random.dirichlet(np.ones(POINTS), (QUERIES, HEADS))
        shares = random.dirichlet(np.ones(QUERIES), QUERIES)
        layers.append(InspectedLayer(boxes, boxes, points, weights, np.repeat([0, 1, 2], 2), shares, None))
    return Inspection(random.uniform(size=(QUERIES, 2)), boxes, tuple(layers), None, None, None)


@pytest.mark.parametrize("size", [(300, 400), (1200, 300), (48, 800)])
@pytest.mark.parametrize("count", [1, 4])
def test_points_are_where_they_are_read_and_as_large_as_their_weight(count: int, size: tuple[int, int]) -> None:
    given = inspection(count, size)
    figure = attention_figure(Image.new("RGB", size[::-1]), given, 3, "a long class name 0.93")
    for number, layer in enumerate(given.layers, 1):
        for level in range(3):
            gid = f"points/{number}/{level}"
            (spots,) = [collection for collection in figure.findobj(PathCollection) if collection.get_gid() == gid]
            own = layer.point_levels == level
            assert np.asarray(spots.get_offsets()) == pytest.approx(layer.points_px[3][:, own].reshape(-1, 2))
            weights = layer.point_weights[3][:, own].ravel()
            large = weights > 0.05
            assert spots.get_sizes()[large] / weights[large] == pytest.approx(
                spots.get_sizes()[large][0] / weights[large][0]
            )
    assert not clipped_texts(figure)


def test_marked_queries_are_those_with_most_weight() -> None:
    given = inspection(1)
    (layer,) = given.layers
    figure = attention_figure(Image.new("RGB", (400, 300)), given, 3, "cat")
    lower = figure.axes[1]
    marked = {tuple(np.round(patch.get_bbox().extents, 3)) for patch in lower.patches}
    order = np.argsort(-layer.self_attention[3])[:12]
    expected = {tuple(np.round(layer.references_xyxy_px[query], 3)) for query in {*order.tolist(), 3}}
    assert marked == expected
    share = layer.self_attention[3][order].sum()
    assert f"{share:.0%} of the weight" in lower.get_title()


def test_maps_show_the_surest_queries_in_order() -> None:
    given = inspection(4)
    figure = attention_maps_figure(given, [1, 2, 4])
    shown = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_title() for axes in shown] == ["layer 1", "layer 2", "layer 4"]
    order = np.argsort(-given.scores.max(axis=1))
    for axes, number in zip(shown, (1, 2, 4)):
        expected = given.layers[number - 1].self_attention[order][:, order]
        assert np.asarray(axes.get_images()[0].get_array()) == pytest.approx(expected)
    assert not clipped_texts(figure)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from figure_cases import clipped_texts
from isdfine.viz.attention import LayerAttention, attention_figure, attention_maps_figure

HEADS, POINTS, QUERIES = 4, 6, 20


def layers(count: int, size: tuple[int, int] = (300, 400)) -> list[LayerAttention]:
    random = np.random.default_rng(0)
    limits = np.array([size[1], size[0]])
    made = []
    for number in range(1, count + 1):
        corners = np.sort(random.uniform(0, 1, (QUERIES, 2, 2)), axis=1) * limits
        weights, shares = random.dirichlet(np.ones(POINTS), HEADS), random.dirichlet(np.ones(QUERIES))
        points = random.uniform(0.3, 0.6, (HEADS, POINTS, 2)) * limits
        boxes = corners.reshape(QUERIES, 4)
        levels = np.repeat([0, 1, 2], 2)
        made.append(LayerAttention(number, boxes[3], points, weights, levels, shares, boxes))
    return made


@pytest.mark.parametrize("size", [(300, 400), (1200, 300), (48, 800)])
@pytest.mark.parametrize("count", [1, 4])
def test_points_are_where_they_are_read_and_as_large_as_their_weight(count: int, size: tuple[int, int]) -> None:
    given = layers(count, size)
    figure = attention_figure(Image.new("RGB", size[::-1]), "a long class name 0.93", 3, given)
    for layer in given:
        for level in range(3):
            gid = f"points/{layer.layer}/{level}"
            (spots,) = [collection for collection in figure.findobj(PathCollection) if collection.get_gid() == gid]
            own = layer.levels == level
            assert np.asarray(spots.get_offsets()) == pytest.approx(layer.points_px[:, own].reshape(-1, 2))
            weights = layer.weights[:, own].ravel()
            large = weights > 0.05
            assert spots.get_sizes()[large] / weights[large] == pytest.approx(
                spots.get_sizes()[large][0] / weights[large][0]
            )
    assert not clipped_texts(figure)


def test_marked_queries_are_those_with_most_weight() -> None:
    (layer,) = layers(1)
    figure = attention_figure(Image.new("RGB", (400, 300)), "cat", 3, [layer])
    lower = figure.axes[1]
    marked = {tuple(np.round(patch.get_bbox().extents, 3)) for patch in lower.patches}
    order = np.argsort(-layer.self_weights)[:12]
    expected = {tuple(np.round(layer.query_boxes_xyxy_px[query], 3)) for query in {*order.tolist(), 3}}
    assert marked == expected
    share = layer.self_weights[order].sum()
    assert f"{share:.0%} of the weight" in lower.get_title()


def test_maps_show_the_chosen_queries_in_order() -> None:
    random = np.random.default_rng(1)
    maps = [random.dirichlet(np.ones(QUERIES), QUERIES) for _ in range(3)]
    figure = attention_maps_figure(maps, [1, 2, 4], [5, 0, 7])
    shown = [axes for axes in figure.axes if axes.get_images()]
    assert [axes.get_title() for axes in shown] == ["layer 1", "layer 2", "layer 4"]
    for axes, feature_map in zip(shown, maps):
        assert np.asarray(axes.get_images()[0].get_array()) == pytest.approx(feature_map[[5, 0, 7]][:, [5, 0, 7]])
    assert not clipped_texts(figure)

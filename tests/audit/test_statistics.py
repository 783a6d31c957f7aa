# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np

from isdfine.audit.sources import discover, read_all
from isdfine.audit.statistics import statistics_of, summary_of, summary_table
from planted import Planted


def test_numbers_worked_out_by_hand(tmp_path):
    data = Planted(tmp_path, train=2, val=1)
    data.content["train"]["annotations"].clear()
    data.box("train", 0, [0, 0, 64, 48], label=2)
    data.box("train", 0, [32, 24, 16, 4], label=2)
    data.box("train", 0, [0, 0, 128, 96], label=1)
    data.box("train", 0, [5, 5, 0, 9], label=1)  # counted as a box of its class, but it has no size
    data.box("train", 0, [0, 0, 128, 96], label=0, iscrowd=1)
    stats = statistics_of(read_all(discover(data.write()))[0])
    assert stats.class_counts.tolist() == [0, 2, 2]
    assert stats.boxes_per_image.tolist() == [4, 0]
    assert stats.image_sizes.tolist() == [[96, 128]] * 2
    np.testing.assert_allclose(stats.box_sizes_px, [[48, 64], [4, 16], [96, 128]])
    np.testing.assert_allclose(stats.box_sizes, [[0.5, 0.5], [4 / 96, 0.125], [1, 1]])
    np.testing.assert_allclose(stats.centers, [[0.25, 0.25], [40 / 128, 26 / 96], [0.5, 0.5]])
    summary = summary_of(stats)
    assert summary["boxes_small_medium_large"] == [1, 1, 1]
    assert (summary["images"], summary["images_without_boxes"], summary["boxes"]) == (2, 1, 4)
    assert summary["box_side_px"]["0%"] == 8
    assert summary["box_width_by_height"]["100%"] == 4
    table = summary_table({"train": summary}, classes=2)
    assert "train: 2 images (1 without boxes), 4 boxes (small 1, medium 1, large 1)" in table
    assert "... and 1 more classes (--json FILE has all)" in table


def test_a_data_set_without_boxes_has_no_quantiles(tmp_path):
    data = Planted(tmp_path, train=1, val=1)
    data.content["val"]["annotations"].clear()
    summary = summary_of(statistics_of(read_all(discover(data.write()))[1]))
    assert summary["box_side_px"] == {}
    assert "val: 1 images (1 without boxes), 0 boxes" in summary_table({"val": summary})

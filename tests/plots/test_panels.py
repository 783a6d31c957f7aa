# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from PIL import Image

from isdfine.plots.evaluation_plots import color_of
from isdfine.plots.panels import add_box, show_view
from isdfine.viz.canvas import new_figure, save_figure


def test_axes_are_in_pixels_of_the_whole_image(tmp_path: Path) -> None:
    figure = new_figure(3, 3)
    axes = figure.subplots()
    show_view(axes, Image.new("RGB", (4000, 3000)), (100, 200, 3100, 2200))
    patch = add_box(axes, (150, 250, 300, 500), edgecolor=color_of(1))
    assert (axes.get_xlim(), axes.get_ylim()) == ((100, 3100), (2200, 200))
    assert max(axes.get_images()[0].get_array().shape) <= 1200
    assert patch.get_bbox().extents.tolist() == [150, 250, 300, 500]
    save_figure(figure, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as written:
        assert written.size == (330, 330)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from figure_cases import clipped_texts
from isdfine.data.dataset.detection import GroundTruth
from isdfine.data.label_space import LabelSpace
from isdfine.nn.types import BatchDetections
from isdfine.plots.distillation import ComparedImage, ComparedLevel, distillation_figure

LABELS = LabelSpace(("cell", "a class with a long name"), (1, 2))
BOX = [300.0, 180.0, 400.0, 240.0]
"""xyxy, in the lower right corner of an image of 240 x 400."""


def level(stride: int, size: tuple[int, int]) -> ComparedLevel:
    """Only the last cell of the image, (h - 2, w - 2), belongs to a box; beyond it is padding."""
    difference, location, scale = np.full(size, 0.1), np.zeros(size, bool), np.full(size, 0.01)
    difference[-1] = difference[:, -1] = np.nan
    scale[-1] = scale[:, -1] = 0
    location[-2, -2], scale[-2, -2], difference[-2, -2] = True, 1, 0.7
    return ComparedLevel(stride, difference, location, scale)


def compared(boxes: list[list[float]] | None, *, cosine: bool = True, levels: int = 2) -> ComparedImage:
    """Levels of (4 + 1) x (4 + 1) cells for an image of 4 x 4, so that they span 300 x 500."""
    found = BatchDetections(torch.tensor([1, 0]), torch.tensor([BOX, [0, 0, 9, 9]]), torch.tensor([0.9, 0.1]))
    truth = None
    if boxes is not None:
        truth = GroundTruth(Path("a.png"), (240, 400), torch.tensor(boxes).view(-1, 4), torch.ones(len(boxes)).long())
    made = [level(16, (5, 5)), level(32, (5, 5))][:levels]
    return ComparedImage(truth, found, found, made, (300.0, 500.0), cosine)


def drawn(seen: ComparedImage, size: tuple[int, int] = (240, 400)) -> Any:
    return distillation_figure(Image.new("RGB", size[::-1], "white"), seen, LABELS, 0.4, "an image")


def maps(figure: Any) -> dict[str, AxesImage]:
    return {image.get_gid(): image for image in figure.findobj(AxesImage) if image.get_gid()}


@pytest.mark.parametrize("cosine", [True, False])
def test_a_cell_lies_over_the_box_that_owns_it(cosine: bool) -> None:
    figure = drawn(compared([BOX], cosine=cosine))
    found = maps(figure)
    assert found.keys() == {f"{kind}/{stride}" for kind in ("difference", "location", "scale") for stride in (16, 32)}
    for image in found.values():
        assert (image.axes.get_xlim(), image.axes.get_ylim()) == ((0, 400), (240, 0))
        values = np.ma.filled(image.get_array(), np.nan)
        row, column = np.unravel_index(np.nanargmax(values), values.shape)
        left, right, bottom, top = image.get_extent()
        width, height = (right - left) / values.shape[1], (bottom - top) / values.shape[0]
        cell = [left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height]
        assert cell == pytest.approx(BOX)
        (patch,) = [patch for patch in image.axes.patches if isinstance(patch, Rectangle)]
        assert patch.get_bbox().extents.tolist() == BOX
    assert np.isnan(np.ma.filled(found["scale/16"].get_array(), np.nan)[-1]).all(), "padding has no colour"
    low, high = found["difference/16"].get_clim()
    assert low == (0 if cosine else -high)
    assert not clipped_texts(figure)


@pytest.mark.parametrize(("boxes", "size"), [(None, (240, 400)), ([], (3, 900)), ([BOX], (900, 500))])
def test_what_there_is_to_see(boxes: list[list[float]] | None, size: tuple[int, int]) -> None:
    figure = drawn(compared(boxes), size)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    count = "with a score >= 0.4"
    kinds = ["difference of the memories", "LCMD's location mask", "LCMD's scale mask"]
    if boxes is None:
        assert titles[:2] == [f"teacher: 1 box {count}", f"student: 1 box {count}"]
        assert titles[2:] == [f"{kinds[0]}, stride {stride}" for stride in (16, 32)]
    else:
        assert titles[0] == ("ground truth: 1 box" if boxes else "ground truth: 0 boxes")
        assert titles[3:] == [f"{kind}, stride {stride}" for stride in (16, 32) for kind in kinds]
    assert not clipped_texts(figure)


def test_models_without_a_common_memory_have_boxes() -> None:
    figure = drawn(compared([BOX], levels=0))
    assert not maps(figure)
    assert len([axes for axes in figure.axes if axes.get_title()]) == 3

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever the seams, an object is reported once, whole, and two objects stay two."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector_cases import LABELS, TellTale
from isdfine import Detections, Detector
from isdfine.core.errors import ConfigError
from isdfine.inference.tiling import Tiling, Window, merge

SIZE = (500, 700)
"""(height, width) of the large image."""


def seen(window: Window, objects: Sequence[Sequence[float]], noise: float = 0.0) -> Detections:
    """What a perfect detector finds in a tile: the visible part of label, x1, y1, x2, y2, score, if it is 8 pixels."""
    rows = []
    for label, *box, score in objects:
        low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
        if min(high - low) >= 8:
            rows.append([label, *(low - window[:2]), *(high - window[:2]), score])
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    jitter = np.random.default_rng(sum(window)).uniform(-noise, noise, (len(table), 4))
    height, width = window[3] - window[1], window[2] - window[0]
    boxes = (table[:, 1:5] + jitter).astype(np.float32)
    return Detections(boxes, table[:, 5], table[:, 0].astype(np.int64), LABELS, (height, width))


def detected(objects: Sequence[Sequence[float]], tiling: Tiling, noise: float = 0.0) -> Detections:
    windows = tiling.windows(*SIZE)
    return merge([seen(window, objects, noise) for window in windows], windows, SIZE)


def test_windows_cover_and_overlap() -> None:
    tiling = Tiling((200, 300), 0.25)
    windows = tiling.windows(*SIZE)
    covered = np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in windows:
        assert (y2 - y1, x2 - x1) == (200, 300)
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    lefts, tops = sorted({window[0] for window in windows}), sorted({window[1] for window in windows})
    assert max(np.diff(lefts)) <= 225
    assert max(np.diff(tops)) <= 150
    assert tiling.windows(150, 300) == [(0, 0, 300, 150)]
    assert tiling.windows(1, 20000)[-1] == (19700, 0, 20000, 1)
    assert Tiling((200, 300), 0.25, whole=True).windows(*SIZE) == [(0, 0, 700, 500), *windows]
    assert Tiling((200, 300), 0.25, whole=True).windows(150, 300) == [(0, 0, 300, 150)]


def objects_everywhere(sides: Sequence[tuple[int, int]]) -> list[list[float]]:
    """One object at a time, at every place."""
    return [
        [1, x, y, x + width, y + height, 0.9]
        for height, width in sides
        for x in range(0, SIZE[1] - width + 1, 59)
        for y in range(0, SIZE[0] - height + 1, 61)
    ]


@pytest.mark.parametrize("tiling", [Tiling((200, 200), 0.2), Tiling((160, 240), 0.4), Tiling((200, 200), 0.2, True)])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_every_object_is_reported_once_and_whole(tiling: Tiling, noise: float) -> None:
    """Smaller than the overlap, as large as a tile, far larger than several tiles; wherever the seams cut it."""
    for item in objects_everywhere([(30, 30), (60, 25), (150, 150), (40, 450), (400, 90), (450, 600)]):
        merged = detected([item], tiling, noise)
        assert len(merged) == 1, (item, merged.boxes)
        np.testing.assert_allclose(merged.boxes[0], item[1:5], atol=0.01 + 4 * noise)
        assert merged.scores[0] == pytest.approx(0.9)
        assert merged.labels[0] == 1


def test_neighbours_stay_two() -> None:
    """Side by side over a seam, one above the other, and one inside the other."""
    tiling = Tiling((200, 200), 0.2)
    for first, second in (
        ([1, 100, 50, 168, 90, 0.9], [1, 170, 50, 260, 90, 0.8]),
        ([1, 120, 50, 260, 90, 0.9], [1, 120, 92, 260, 130, 0.8]),
        ([1, 100, 20, 300, 190, 0.9], [1, 150, 60, 190, 100, 0.8]),
        ([0, 120, 50, 260, 90, 0.9], [1, 120, 50, 260, 90, 0.8]),
    ):
        merged = detected([first, second], tiling)
        assert len(merged) == 2
        np.testing.assert_allclose(merged.boxes, [first[1:5], second[1:5]], atol=0.01)
        assert merged.labels.tolist() == [first[0], second[0]]


def test_two_of_one_tile_are_two() -> None:
    """A model that reports an object twice does so with tiles as without them."""
    window = [(0, 0, 200, 200), (160, 0, 360, 200)]
    twice = seen(window[0], [[1, 20, 20, 80, 80, 0.9], [1, 21, 20, 81, 80, 0.8]])
    assert len(merge([twice, seen(window[1], [])], window, (200, 360))) == 2


def test_edges_come_from_tiles_that_do_not_cut() -> None:
    windows = [(0, 0, 200, 200), (160, 0, 360, 200)]
    objects = [[1, 120, 50, 190, 90, 0.5]]  # the first tile sees all of it, the second the right half, with more trust
    parts = [seen(windows[0], objects), seen(windows[1], [[1, 120, 48, 192, 88, 0.9]])]
    merged = merge(parts, windows, (200, 360))
    np.testing.assert_allclose(merged.boxes, [[120, 48, 192, 88]])
    assert merged.scores.tolist() == [pytest.approx(0.9)]


def test_order_and_nothing() -> None:
    tiling = Tiling((200, 200), 0.2)
    merged = detected([[0, 10, 10, 60, 60, 0.3], [1, 300, 10, 360, 60, 0.7], [0, 600, 400, 660, 460, 0.5]], tiling)
    assert merged.scores.tolist() == pytest.approx([0.7, 0.5, 0.3])
    assert len(detected([], tiling)) == 0
    assert merged.size == SIZE


def test_a_detector_with_tiles() -> None:
    """The brightest pixels of a tile are the object; its box is where they are."""

    def answer(pixels: Any) -> list[list[float]]:
        rows, columns = np.nonzero(pixels[0] > 128)
        if not rows.size:
            return []
        height, width = pixels.shape[1:]
        box = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
        return [[1, *box, 0.9]]

    backend = TellTale(answer, size=(100, 100))
    detector = Detector(backend, batch_size=4)
    image = Image.new("RGB", (350, 220))
    image.paste("white", (70, 60, 130, 180))
    merged = Tiling((100, 100), 0.2).detect(detector, image, 0.5)
    np.testing.assert_allclose(merged.boxes, [[70, 60, 130, 180]], atol=0.1)
    assert backend.batches == [4, 4, 4, 3]
    assert merged.draw().size == (350, 220)
    small = Tiling((400, 400), 0.2).detect(detector, image, 0.5)
    assert len(small) == 1
    assert small.source is image


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"tiles of 10 x 200 \(height x width\): give at least 32 pixels"):
        Tiling((10, 200))
    for overlap in (0.0, 0.9):
        with pytest.raises(ConfigError, match=f"overlap is {overlap}: give 0.05 to 0.8; without overlap an object"):
            Tiling((100, 200), overlap)

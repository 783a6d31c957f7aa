# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from isdfine.viz.draw import class_color
from isdfine.viz.errors import KINDS, find_mistakes
from isdfine.viz.matching import match_all
from isdfine.viz.sheet import caption, error_sheet
from judged_cases import judged

NAMES = ("cat", "dog")


def mistakes():
    images = [
        judged(
            [(0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 0), (60, 0, 70, 10, 1), (80, 0, 99, 30, 1)],
            [(0, 0, 10, 10, 0, 0.9), (0, 0, 10, 9, 0, 0.8), (20, 0, 30, 9, 0, 0.7), (40, 0, 44, 10, 0, 0.6),
             (200, 200, 210, 210, 1, 0.5), (60, 0, 70, 10, 1, 0.2)],
        )
    ]  # fmt: skip
    return find_mistakes(images, match_all(images), 2, 0.4)


def test_captions_say_what_is_wrong() -> None:
    found = mistakes()
    said = {kind: [caption(error, NAMES) for error in found.of(kind)] for kind in KINDS}
    assert said == {
        "confusion": [("cat 0.70", "is dog, IoU 0.90")],
        "localisation": [("cat 0.60", "of cat, IoU 0.40")],
        "duplicate": [("cat 0.80", "cat is found already, IoU 0.90")],
        "background": [("dog 0.50", "10 px, nothing annotated")],
        "miss": [
            ("missed: dog", "24 px, no such box at any score"),
            ("missed: cat", "10 px, no such box at any score"),
            ("missed: dog", "10 px, score 0.20 at best"),
        ],
    }


def test_a_sheet_shows_boxes_in_the_colours_of_their_classes() -> None:
    errors = [*mistakes().of("confusion"), *mistakes().of("background")]
    opened = []

    def open_image(index: int) -> Image.Image:
        opened.append(index)
        return Image.new("RGB", (300, 220), (128, 128, 128))

    sheet = error_sheet(errors, open_image, ["a.png"], NAMES)
    assert opened == [0]
    pixels = np.asarray(sheet)
    left, right = pixels[:, : sheet.width // 2], pixels[:, sheet.width // 2 :]
    for part, labels in ((left, (0, 1)), (right, (1,))):
        for label in (0, 1):
            assert (part == class_color(label)).all(axis=-1).any() == (label in labels)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (6, 6, 1), (7, 6, 2)])
def test_rows(count: int, columns: int, rows: int) -> None:
    (error,) = mistakes().of("background")
    sheet = error_sheet([error] * count, lambda _: Image.new("L", (230, 230)), ["a.png"], NAMES)
    one = error_sheet([error], lambda _: Image.new("L", (230, 230)), ["a.png"], NAMES)
    assert sheet.width == columns * (one.width - 12) + 12
    assert sheet.height == rows * (one.height - 12) + 12


def test_boxes_outside_their_image_do_not_stop_the_sheet() -> None:
    images = [judged([(-90, -90, -50, -50, 0)], [(500, 500, 600, 700, 1, 0.9), (30, 30, 30, 30, 0, 0.8)])]
    found = find_mistakes(images, match_all(images), 2, 0.4)
    assert len(found.errors) == 3
    sheet = error_sheet(found.errors, lambda _: Image.new("RGB", (40, 30)), ["a.png"], NAMES)
    assert sheet.width > 600

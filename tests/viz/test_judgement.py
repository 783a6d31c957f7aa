# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from isdfine.viz.draw import THRESHOLD
from isdfine.viz.errors import COLUMNS, KINDS, judge
from isdfine.viz.sheet import SHEET, error_sheets
from judged_cases import judged, random_images

NAMES = ["cat", "dog", "cow"]


def test_the_threshold_is_the_best_for_all_classes_unless_it_is_given() -> None:
    images = random_images(1, 20)
    chosen = judge(images, NAMES)
    means = {
        threshold: sum(curve.at(threshold)[2] for curve in chosen.curves)
        for threshold in (chosen.threshold, 0.1, 0.3, 0.5, 0.7, 0.9)
    }
    assert max(means.values()) == means[chosen.threshold]
    assert judge(images, NAMES, 0.77).threshold == 0.77
    assert judge([judged([], [])], NAMES).threshold == THRESHOLD


def test_numbers_are_plain_data() -> None:
    judgement = judge(random_images(1, 20), NAMES, 0.4)
    numbers = json.loads(json.dumps(judgement.numbers()))
    assert numbers["errors"] == {kind: len(judgement.mistakes.of(kind)) for kind in KINDS}
    assert set(numbers["best"]) == set(NAMES)
    assert set(numbers["best"]["cat"]) == {"threshold", "precision", "recall", "f1"}


def test_sheets_show_as_many_as_asked_for() -> None:
    judgement = judge(random_images(1, 60), NAMES, 0.2)
    most = SHEET + 3
    for kind, count, pages in error_sheets(judgement, most, lambda _: Image.new("RGB", (120, 120))):
        assert count == len(judgement.mistakes.of(kind))
        assert len(pages) == -(-min(count, most) // SHEET)
        if kind == "miss":
            assert count > most
            assert pages[0].height > 2 * pages[1].height


def test_the_table_of_errors(tmp_path: Path) -> None:
    images = [judged([(0, 0, 10, 10, 0), (50, 0, 60, 10, 1)], [(0, 0, 10, 9, 1, 0.9)], "one, two.png")]
    judge(images, NAMES, 0.5).write_errors(tmp_path / "errors.csv")
    with open(tmp_path / "errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    confusion, miss = rows
    assert list(confusion.values()) == [
        "confusion", "one, two.png", "dog", "0.90000", "0.00", "0.00", "10.00", "9.00", "cat", "0.00", "0.00", "10.00",
        "10.00", "0.9000",
    ]  # fmt: skip
    assert (miss["kind"], miss["class"], miss["x1"], miss["object_x1"]) == ("miss", "dog", "", "50.00")


def test_texts_of_the_table_are_no_formulas(tmp_path: Path) -> None:
    images = [judged([(0, 0, 10, 10, 0)], [(0, 0, 10, 9, 1, 0.9)], "=a\n.png")]
    judge(images, ["@cat", "+dog"], 0.5).write_errors(tmp_path / "errors.csv")
    with open(tmp_path / "errors.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["image"], row["class"], row["object"]) == ("'=a?.png", "'+dog", "'@cat")


@pytest.mark.parametrize("most", [1, 1000])
def test_no_errors_make_no_sheets(most: int) -> None:
    judgement = judge([judged([(0, 0, 9, 9, 0)], [(0, 0, 9, 9, 0, 0.9)])], NAMES, 0.5)
    assert [(count, pages) for _, count, pages in error_sheets(judgement, most, lambda _: Image.new("L", (1, 1)))] == [
        (0, [])
    ] * 5

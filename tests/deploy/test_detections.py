# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What was found, as arrays and in the forms of other programs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector_cases import LABELS
from isdfine.core.errors import ConfigError, DataError
from isdfine.deploy.detections import Detections

IMAGE = Image.new("RGB", (60, 40), "gray")


def found(source: object = IMAGE) -> Detections:
    boxes = np.array([[1.004, 2.006, 11, 12], [-5, 0, 70, 30], [20, 20, 30, 35.5]], dtype=np.float32)
    scores = np.array([0.9, 0.7, 0.123456], dtype=np.float32)
    return Detections(boxes, scores, np.array([1, 0, 1]), LABELS, (40, 60), source)  # type: ignore[arg-type]


def test_length_rows_and_names() -> None:
    assert len(found()) == 3
    assert found().names == ["light", "dark", "light"]
    first = next(iter(found()))
    assert (first.label, first.name) == (1, "light")
    assert first.score == pytest.approx(0.9)
    assert first.box == pytest.approx((1.004, 2.006, 11, 12))


def test_parts() -> None:
    all_of_them = found()
    for index, rows in (
        (0, [0]),
        (-1, [2]),
        (slice(1, 3), [1, 2]),
        ([2, 0], [2, 0]),
        (all_of_them.scores > 0.5, [0, 1]),
    ):
        part = all_of_them[index]
        assert np.array_equal(part.boxes, all_of_them.boxes[rows])
        assert part.labels.tolist() == all_of_them.labels[rows].tolist()
        assert part.scores.tolist() == all_of_them.scores[rows].tolist()
    assert len(all_of_them[[]]) == len(all_of_them.above(1.0)) == 0
    assert all_of_them.above(0.7)[1:].labels.tolist() == [0]
    assert all_of_them.of("light").labels.tolist() == [1, 1]
    with pytest.raises(IndexError):
        all_of_them[3]
    with pytest.raises(DataError, match="no class is called 'cat': the model knows 3=dark, 7=light"):
        all_of_them.of("cat")


def test_coco_has_the_original_ids_and_two_decimals() -> None:
    assert found().to_coco(5) == [
        {"image_id": 5, "category_id": 7, "bbox": [1.0, 2.01, 10.0, 9.99], "score": 0.9},
        {"image_id": 5, "category_id": 3, "bbox": [-5.0, 0.0, 75.0, 30.0], "score": 0.7},
        {"image_id": 5, "category_id": 7, "bbox": [20.0, 20.0, 10.0, 15.5], "score": 0.12346},
    ]
    assert found()[[]].to_coco() == []


def test_clipping() -> None:
    assert found().clipped().boxes[1].tolist() == [0, 0, 60, 30]
    assert found().boxes[1].tolist() == [-5, 0, 70, 30]


def test_supervision() -> None:
    pytest.importorskip("supervision", reason="pip install supervision", exc_type=ImportError)
    theirs = found().to_supervision()
    assert np.array_equal(theirs.xyxy, found().boxes)
    assert theirs.class_id.tolist() == [1, 0, 1]
    assert theirs.data["class_name"].tolist() == ["light", "dark", "light"]
    assert theirs.confidence.tolist() == found().scores.tolist()
    assert len(found()[[]].to_supervision()) == 0


def test_supervision_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="supervision is not installed: pip install supervision"):
        found().to_supervision()


def test_a_long_result_is_one_short_line_in_a_notebook() -> None:
    one = found()
    many = one[np.tile(np.arange(len(one)), 100)]
    assert repr(many).startswith(f"Detections({len(many)} in ")
    assert repr(many).endswith(", ...)")
    assert len(repr(many)) < 100
    assert repr(one[[]]) == f"Detections(0 in {one.size[0]} x {one.size[1]} px)"


def test_drawing(tmp_path: Path) -> None:
    IMAGE.save(tmp_path / "a.png")
    for source, given in ((IMAGE, None), (tmp_path / "a.png", None), (None, np.asarray(IMAGE))):
        drawn = found(source).draw(given)
        assert drawn.size == IMAGE.size
        assert (np.asarray(drawn) != np.asarray(IMAGE)).any()
    assert IMAGE.getcolors() == [(2400, (128, 128, 128))]
    with pytest.raises(DataError, match=r"do not know their image: give it, draw\(image\)"):
        found(None).draw()
    with pytest.raises(DataError, match=r"has height, width \(60, 40\), the detections are of one with \(40, 60\)"):
        found().draw(IMAGE.transpose(Image.Transpose.ROTATE_90))

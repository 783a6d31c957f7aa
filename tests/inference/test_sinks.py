# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every output file, read back by what reads such files."""

import csv
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector_cases import LABELS
from isdfine import Detections
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.yolo import parse_rows
from isdfine.data.label_space import LabelSpace
from isdfine.inference.sinks import CocoJson, Pictures, Sink, Table, Videos, Yolo
from isdfine.inference.sources import Clip, InputImage
from video_cases import load_av, read_video

IMAGE = Image.new("RGB", (60, 40), "gray")
CLIP = Clip("clip", Fraction(10))


def detected(*rows: tuple[int, float, float, float, float, float]) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, 1:5], table[:, 5], table[:, 0].astype(np.int64), LABELS, (40, 60), IMAGE)


TWO = detected((1, 10, 5, 30, 25, 0.9), (0, -6, 0, 80, 20.004, 0.5))


def write(sink: Sink, *items: tuple[InputImage, Detections]) -> None:
    with sink:
        for frame, detections in items:
            sink.write(frame, detections, detections.draw)


def frames(count: int) -> list[tuple[InputImage, Detections]]:
    return [(InputImage(f"clip/{n:06}.jpg", IMAGE, CLIP, n, n / 10), TWO) for n in range(count)]


def test_coco(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.json"
    write(
        CocoJson(path, LABELS),
        (InputImage("a/ü.jpg", IMAGE), TWO),
        (InputImage("b.jpg", IMAGE), detected()),
        *frames(1),
    )
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 3, "name": "dark"}, {"id": 7, "name": "light"}]
    size = {"height": 40, "width": 60}
    assert content["images"] == [
        {"id": 1, "file_name": "a/ü.jpg"} | size,
        {"id": 2, "file_name": "b.jpg"} | size,
        {"id": 3, "file_name": "clip/000000.jpg"} | size | {"video": "clip", "frame": 0, "seconds": 0.0},
    ]
    assert [(entry["id"], entry["image_id"], entry["category_id"]) for entry in content["annotations"]] == [
        (1, 1, 7), (2, 1, 3), (3, 3, 7), (4, 3, 3),
    ]  # fmt: skip
    assert content["annotations"][1] == {
        "id": 2, "image_id": 1, "category_id": 3, "bbox": [-6.0, 0.0, 86.0, 20.0], "score": 0.5, "area": 1720.0,
        "iscrowd": 0,
    }  # fmt: skip
    assert [entry.name for entry in path.parent.iterdir()] == ["d.json"]
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    assert len(pycocotools.COCO(path).getAnnIds(imgIds=[1])) == 2


def test_coco_without_anything(tmp_path: Path) -> None:
    write(CocoJson(tmp_path / "d.json", LABELS))
    content = json.loads((tmp_path / "d.json").read_text())
    assert (content["images"], content["annotations"]) == ([], [])


@pytest.mark.parametrize("make", [lambda path: CocoJson(path, LABELS), Table])
def test_nothing_is_left_after_an_error(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    (tmp_path / "out").write_text("before")

    def fail() -> None:
        with make(tmp_path / "out") as sink:
            sink.write(InputImage("a.jpg", IMAGE), TWO, TWO.draw)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "before")]


def test_csv(tmp_path: Path) -> None:
    write(
        Table(tmp_path / "d.csv"),
        (InputImage('a,"b".jpg', IMAGE), TWO),
        (InputImage("c.jpg", IMAGE), detected()),
        *frames(2)[1:],
    )
    with open(tmp_path / "d.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert list(rows[0].values()) == [
        'a,"b".jpg',
        "",
        "",
        "10.00",
        "5.00",
        "30.00",
        "25.00",
        "0.90000",
        "1",
        "7",
        "light",
    ]
    assert [rows[2][key] for key in ("file", "frame", "seconds")] == ["clip/000001.jpg", "1", "0.100"]


def test_texts_of_a_csv_file_are_no_formulas(tmp_path: Path) -> None:
    labels = LabelSpace(("=cmd|' /C calc'!A0", "-b\nc"), (5, 7))
    table = np.array([[0, 10, 5, 30, 25, 0.9], [1, 0, 0, 9, 9, 0.5]], np.float32)
    seen = Detections(table[:, 1:5], table[:, 5], table[:, 0].astype(np.int64), labels, (40, 60), IMAGE)
    write(Table(tmp_path / "d.csv"), (InputImage("@a\n.jpg", IMAGE), seen))
    with open(tmp_path / "d.csv", newline="", encoding="utf-8") as file:
        rows = [(row["file"], row["name"]) for row in csv.DictReader(file)]
    assert rows == [("'@a?.jpg", "'=cmd|' /C calc'!A0"), ("'@a?.jpg", "'-b?c")]


def test_yolo_is_read_by_our_reader(tmp_path: Path) -> None:
    outside = detected((0, 70, 10, 90, 20, 0.9), (1, 10, 5, 30, 25, 0.8))
    write(
        Yolo(tmp_path / "l", LABELS),
        (InputImage("a/b.jpg", IMAGE), TWO),
        (InputImage("c.jpg", IMAGE), detected()),
        (InputImage("d.png", IMAGE), outside),
    )
    rows = parse_rows(tmp_path / "l" / "a" / "b.txt", LABELS, Problems())
    np.testing.assert_allclose(rows, [(1, 20 / 60, 15 / 40, 20 / 60, 20 / 40), (0, 0.5, 0.25005, 1, 0.5001)], atol=1e-6)
    assert (tmp_path / "l" / "c.txt").read_text() == ""
    assert len(parse_rows(tmp_path / "l" / "d.txt", LABELS, Problems())) == 1
    assert (tmp_path / "l" / "classes.txt").read_text() == "dark\nlight\n"


def test_yolo_scores_and_names_of_one_stem(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b.jpg"]
    write(Yolo(tmp_path, LABELS, scores=True, names=names), *((InputImage(name, IMAGE), TWO[0]) for name in names))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg.txt", "a.png.txt", "b.txt", "classes.txt"]
    assert (tmp_path / "b.txt").read_text() == "1 0.333333 0.375000 0.333333 0.500000 0.90000\n"


def test_pictures_keep_their_names(tmp_path: Path) -> None:
    names = ["a/b.jpg", "c.PNG", "d.tif", "e"]
    write(Pictures(tmp_path), *((InputImage(name, IMAGE), TWO) for name in names))
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["a/b.jpg", "c.PNG", "d.tif.png", "e.png"]
    for one, form in (("a/b.jpg", "JPEG"), ("c.PNG", "PNG"), ("d.tif.png", "PNG")):
        with Image.open(tmp_path / one) as image:
            assert (image.format, image.size) == (form, (60, 40))
            assert np.abs(np.asarray(image).astype(int) - np.asarray(TWO.draw())).mean() < 6


def test_videos_one_file_each(tmp_path: Path) -> None:
    load_av()
    other = [(InputImage("x/0.jpg", IMAGE, Clip("other", Fraction(5)), 0), detected())]
    write(Videos(tmp_path), *frames(3), (InputImage("a.jpg", IMAGE), TWO), *other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "other.mp4"]
    assert [len(read_video(tmp_path / name)) for name in ("clip.mp4", "other.mp4")] == [3, 1]
    frame = read_video(tmp_path / "clip.mp4")[0].astype(int)
    drawn, plain = (np.abs(frame - np.asarray(image)).mean() for image in (TWO.draw(), IMAGE))
    assert drawn < plain / 2, "boxes are in it; colours have half the resolution"


def test_no_picture_takes_the_place_of_another(tmp_path: Path) -> None:
    names = ["d.tif", "d.tif.png", "e.png", "e.png.jpg", "e.jpg", "classes.jpg"]
    items = [(InputImage(name, IMAGE), TWO[0]) for name in names]
    write(Pictures(tmp_path / "p", names), *items)
    assert len(list((tmp_path / "p").iterdir())) == len(names)
    write(Yolo(tmp_path / "y", LABELS, names=names), *items)
    assert len(list((tmp_path / "y").iterdir())) == len(names) + 1
    assert (tmp_path / "y" / "classes.txt").read_text() == "dark\nlight\n"

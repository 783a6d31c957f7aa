# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
import re

import pytest
import yaml
from PIL import Image

from isdfine.core.errors import DataError
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.yolo import YoloDetection, label_files, parse_yolo, yolo_label_space


def write(root, labels=None, **yaml_keys):
    """Images 60 x 40 with label rows by name (None: no label file) in ``images/train``; the YAML file."""
    labels = {"a.png": "0 0.5 0.5 0.5 0.5\n1 .25 .25 .5 .5\n", "sub/b.png": None} if labels is None else labels
    for name, rows in labels.items():
        image, text = root / "images/train" / name, (root / "labels/train" / name).with_suffix(".txt")
        image.parent.mkdir(parents=True, exist_ok=True)
        text.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(image)
        if rows is not None:
            text.write_text(rows)
    content = {"path": ".", "train": "images/train", "names": ["ant", "bee"], **yaml_keys}
    (root / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return str(root / "data.yaml")


def test_boxes_in_pixels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    dataset = YoloDetection(write(tmp_path, nc=2), num_classes=2)
    assert dataset.annotations.file_names == ("images/train/a.png", "images/train/sub/b.png")
    assert dataset.annotations.sizes.tolist() == [[40, 60]] * 2
    assert dataset[0][1]["boxes"].tolist() == [[15, 10, 45, 30], [0, 0, 30, 20]]
    assert dataset[0][1]["labels"].tolist() == [0, 1]
    assert dataset[1][1]["labels"].tolist() == []
    assert "1 of 2 images have no label file: images without objects" in caplog.text


def test_every_picture_that_pillow_reads_is_used_and_others_are_counted(tmp_path, caplog):
    names = ["a.png", "b.jfif", "c.gif", "d.jp2", "e.ppm", "f.JPE"]
    data = write(tmp_path, dict.fromkeys(names, "0 0.5 0.5 0.5 0.5\n"))
    (tmp_path / "images/train/g.heic").touch()
    dataset = YoloDetection(data)
    assert [name.split("/")[-1] for name in dataset.annotations.file_names] == names
    assert all(dataset[index][1]["boxes"].tolist() == [[15, 10, 45, 30]] for index in range(6))
    assert "images/train: files of other kinds are left out (1 .heic)" in caplog.text


@pytest.mark.parametrize("names", [{0: "ant", 1: "bee"}, {"1": "bee", "0": "ant"}, ["ant", "bee"]])
def test_forms_of_names(tmp_path, names):
    assert yolo_label_space(write(tmp_path, names=names)).names == ("ant", "bee")


def test_a_polygon_becomes_its_box(tmp_path):
    dataset = YoloDetection(write(tmp_path, {"a.png": "1 0.1 0.5 0.5 0.25 0.9 0.75\n"}))
    assert dataset[0][1]["boxes"][0].tolist() == pytest.approx([6, 10, 54, 30])
    assert dataset[0][1]["labels"].tolist() == [1]


def test_key_points_behind_a_box_are_passed_over(tmp_path):
    rows = "1 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.2\n0 0.25 0.25 0.5 0.5\n"
    dataset = YoloDetection(write(tmp_path, {"a.png": rows}, kpt_shape=[2, 2]))
    assert dataset[0][1]["boxes"].tolist() == [[15, 10, 45, 30], [0, 0, 30, 20]]
    with pytest.raises(DataError, match=r"a.txt:1: 9 columns, expected class cx cy w h and 6 numbers of key points"):
        YoloDetection(write(tmp_path, {"a.png": rows}, kpt_shape=[2, 3]))


def test_images_that_share_a_label_file(tmp_path, caplog):
    rows = "0 .5 .5 1 1"
    data = write(tmp_path, {"a.png": rows, "a.jpg": rows, "b.png": None}, train=["images/train"] * 2)
    assert YoloDetection(data).annotations.labels.tolist() == [0] * 4
    assert re.search(r"1 label files belong to several images, for example .*a.txt to .*a.jpg, .*a.png: ", caplog.text)
    caplog.clear()
    YoloDetection(data, subset=["a.png", "b.png"])  # a file that is listed twice is one
    assert "label files" not in caplog.text


def test_files_as_windows_writes_them(tmp_path):
    data = write(tmp_path, {"a b.ü.JPG": "", "b.png": None})
    (tmp_path / "labels/train/a b.ü.txt").write_bytes(b"\xef\xbb\xbf0 .5 .5 1 1 \r\n\r\n1 .5 .5 1 1\t\r\n")
    (tmp_path / "data.yaml").write_bytes(b"\xef\xbb\xbftrain: images/train\r\nnames:\r\n  - ant \r\n  - bee\r\n")
    assert YoloDetection(data).annotations.labels.tolist() == [0, 1]


def test_photos_are_turned_by_their_orientation(tmp_path):
    data = write(tmp_path, {"a.png": "0 0.25 0.75 0.5 0.5\n"})
    image = Image.new("RGB", (60, 40))
    image.putpixel((0, 0), (255, 0, 0))
    for orientation, size, corner in ((6, (40, 60), (39, 0)), (3, (60, 40), (59, 39))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / "images/train/a.png", exif=exif)
        dataset = YoloDetection(data)
        found = dataset[0][0]
        assert found.size == size
        assert found.getpixel(corner) == (255, 0, 0)
        assert dataset[0][1]["boxes"][0].tolist() == [0, size[1] / 2, size[0] / 2, size[1]]
        assert dataset.ground_truth(0).image().getpixel(corner) == (255, 0, 0)


def test_labels_lie_beside_the_last_folder_called_images(tmp_path):
    images = [tmp_path / "images/images/x.y.jpg", tmp_path / "pictures/x.jpg"]
    assert label_files(images) == [tmp_path / "images/labels/x.y.txt", tmp_path / "pictures/x.txt"]


def test_labels_in_folders_of_other_names(tmp_path):
    for name in ("one/Images/Train/a.jpg", "one/Labels/Train/a.txt", "images/two/a.jpg", "images/two/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert label_files([tmp_path / "one/Images/Train/a.jpg"]) == [tmp_path / "one/Labels/Train/a.txt"]
    assert label_files([tmp_path / "images/two/a.jpg"]) == [tmp_path / "images/two/a.txt"]  # the root is called images
    (tmp_path / "labels/two").mkdir(parents=True)
    assert label_files([tmp_path / "images/two/a.jpg"]) == [tmp_path / "labels/two/a.txt"]


def test_lists_of_images(tmp_path):
    data = write(tmp_path, train=["one.txt", "two.txt"], val="../images/train/sub")
    (tmp_path / "one.txt").write_text("./images/train/a.png\n\n")
    (tmp_path / "two.txt").write_text(str(tmp_path / "images/train/sub/b.png"))
    assert parse_yolo(data).file_names == ("images/train/a.png", "images/train/sub/b.png")
    (tmp_path / "labels/train/sub/b.txt").write_text("")
    assert len(YoloDetection(data, "val")) == 1  # exports that say ../ mean the folder of the YAML file
    (tmp_path / "two.txt").write_text("images/train/sub/b.png\nc.png\n")
    with pytest.raises(DataError, match=r"two.txt:2: no image .*c.png: add it or remove the line"):
        parse_yolo(data)
    (tmp_path / "two.txt").write_text('{"images": [' + "1," * 5000)
    with pytest.raises(DataError, match=r"two.txt:1: a line of 10012 characters: this file is no list of images"):
        parse_yolo(data)
    (tmp_path / "two.txt").write_text("\n")
    with pytest.raises(DataError, match=r"two.txt: the list of images is empty"):
        parse_yolo(data)


def test_forms_of_path(tmp_path, monkeypatch):
    data = write(tmp_path, path=None)
    assert len(YoloDetection(data)) == 2
    assert len(YoloDetection(write(tmp_path, path=str(tmp_path)))) == 2
    monkeypatch.chdir(tmp_path.parent)
    dataset = YoloDetection(write(tmp_path, path=tmp_path.name))
    assert dataset[0][1]["labels"].tolist() == [0, 1]


def test_a_subset_looks_at_its_images_only(tmp_path):
    data = write(tmp_path)
    (tmp_path / "images/train/sub/b.png").write_bytes(b"none")
    assert len(YoloDetection(data, subset=["a.png"])) == 1
    with pytest.raises(DataError, match=r"b.png: cannot be read as an image .*: replace the file or remove its entry"):
        YoloDetection(data)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("2 .5 .5 .1 .1", r"a.txt:2: class 2 is not one of the 2 classes 0..1: 0=ant, 1=bee"),
        ("-1 .5 .5 .1 .1", "a.txt:2: class -1 is not one of"),
        ("0.5 .5 .5 .1 .1", "a.txt:2: class 0.5 is not one of"),
        (
            "0 .5 .5 .1 .1 .9",
            r"a.txt:2: 6 columns, expected class cx cy w h: a sixth may be the confidence of a predic",
        ),
        ("0 .5 .5", "a.txt:2: 3 columns, expected class cx cy w h, or class and x y of at least 3 points"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "a.txt:2: 8 columns, expected"),
        ("ant .5 .5 .1 .1", "a.txt:2: 'ant .5 .5 .1 .1' holds something that is no number"),
        ("0 .5 .5 nan .1", "a.txt:2: .* holds a number that is not finite"),
        ("0 30 20 10 10", "a.txt:2: 30 is outside 0..1: coordinates must be fractions of the image's width and height"),
        ("0 .5 .5 -.1 .1", r"a.txt:2: -0.1 is outside 0..1"),
    ],
)
def test_wrong_rows_are_named_with_their_line(tmp_path, row, match):
    data = write(tmp_path, {"a.png": f"0 .5 .5 1 1\n{row}\n1 .5 .5 1 1\n"})
    with pytest.raises(DataError, match=match):
        YoloDetection(data)
    problems = Problems(collect=True)
    assert parse_yolo(data, problems=problems).labels.tolist() == [0, 1]
    assert len(problems.found) == 1
    assert re.search(match, str(problems.found[0]))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"names": None}, r"data.yaml: names is None: give a list of class names, or a mapping from 0, 1"),
        ({"names": {0: "ant", 2: "bee"}}, "names is {0: 'ant', 2: 'bee'}: give a list"),
        ({"names": ["bee", "bee"]}, r"category name 'bee' occurs twice \(ids 0 and 1\): rename one"),
        ({"names": ["ant", False]}, r"names holds False, not text: write it in quotes \(YAML reads yes, no, on"),
        ({"names": {0: "ant", 1: None}}, "names holds None, not text"),
        ({"kpt_shape": 17}, r"data.yaml: kpt_shape is 17: give the number of key points and the numbers of each"),
        ({"nc": 3}, r"nc is 3, but names has 2 classes \(ant, bee\): correct one"),
        ({"train": None, "val": "images"}, r"train is None: name a folder, .*\(there is: val\)"),
        ({"train": 5}, "train is 5: name a folder"),
        ({"train": "none"}, r"train: .*none does not exist: check path and train$"),
        ({"train": "none", "download": "x"}, "check path and train; its download: entry is not followed, so fetch"),
        ({"train": "labels"}, r"train: no image in .*labels \(\.apng, .*\): check path and train"),
    ],
)
def test_wrong_yaml_files_are_named(tmp_path, keys, match):
    with pytest.raises(DataError, match=match):
        YoloDetection(write(tmp_path, **keys))


def test_files_that_are_no_yaml(tmp_path):
    path = tmp_path / "data.yaml"
    with pytest.raises(DataError, match=r"data.yaml: no such file: check the path"):
        yolo_label_space(path)
    path.write_text("names: [a\nval: 1")
    with pytest.raises(DataError, match=r"data.yaml:2: not valid YAML: did not find expected"):
        yolo_label_space(path)
    path.write_text("names: [a]\ndate: 2024-02-31\nnames: [b]")
    with pytest.raises(DataError, match=r"data.yaml:3: names: duplicate key, first on line 1: keep one"):
        yolo_label_space(path)
    path.write_bytes(b"names: [\xc4\xcf]")
    with pytest.raises(DataError, match=r"data.yaml: not UTF-8 text: .*save it as UTF-8"):
        yolo_label_space(path)
    path.write_text("- a")
    with pytest.raises(DataError, match="not a YOLO data file: it needs the keys names, train and val"):
        yolo_label_space(path)


def test_a_folder_without_labels_is_said(tmp_path, caplog):
    data = write(tmp_path, {"a.png": "0 .5 .5 .5 .5", "sub/b.png": None})
    YoloDetection(data)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (tmp_path / "labels/train/sub").rmdir()
    YoloDetection(data)
    assert re.search(r"data.yaml \(train\): there is no folder .*labels/train/sub: none of its images", caplog.text)


def test_no_label_file_at_all_is_a_mistake(tmp_path):
    with pytest.raises(
        DataError, match=r"data.yaml \(train\): none of the 1 images has a label file, for example .*/lab"
    ):
        YoloDetection(write(tmp_path, {"a.png": None}))

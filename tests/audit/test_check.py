# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A clean data set gives no finding, planted faults are all found and nothing else is."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from isdfine.audit.check import check, check_with, read_files
from isdfine.audit.fix import corrected
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from planted import HEIGHT, WIDTH, Planted, picture, plant_everything


def findings_of(folder: Path, queries: int = 20):
    return check(read_all(discover(folder)), queries=queries)


def test_a_clean_data_set_has_no_findings(tmp_path):
    assert findings_of(Planted(tmp_path).write()) == []


def test_every_planted_fault_is_found_and_nothing_else(tmp_path):
    data = Planted(tmp_path)
    expected = plant_everything(data)
    findings = findings_of(data.write())
    assert len(expected) >= 20
    assert len({kind for kind, _, _ in expected}) >= 10
    open_ = list(findings)
    for kind, split, names in expected:
        hits = [
            finding
            for finding in open_
            if (finding.kind, finding.split) == (kind, split)
            and all(name in f"{finding.place}: {finding.text}" for name in names.split("|"))
        ]
        assert len(hits) == 1, (kind, split, names, [finding for finding in findings if finding.kind == kind])
        open_.remove(hits[0])
    assert not open_, open_


def test_classes_that_differ_in_case_are_one_warning(tmp_path):
    data = Planted(tmp_path)
    for content in data.content.values():
        content["categories"][1]["name"] = "ANT"
    findings = findings_of(data.write())
    assert [(finding.kind, finding.severity) for finding in findings] == [("classes alike", "warning")]
    assert "'ant' and 'ANT' differ in case or spaces only" in findings[0].text


def as_format(folder: Path, form: str) -> Path:
    """The clean data set in another format."""
    write_dataset(read_all(discover(Planted(folder / "coco").write())), folder / form, form)
    shutil.rmtree(folder / "coco")
    return folder / form


def said(findings) -> set[tuple[str, str]]:
    """Kinds, with the name of the file and the line."""
    return {(finding.kind, finding.place.split(" ")[0].split("/")[-1]) for finding in findings}


def test_faults_of_voc_files_are_found_at_their_lines(tmp_path):
    root = as_format(tmp_path, "voc")
    assert findings_of(root) == []

    def edit(name, old, new):
        path = root / "Annotations" / f"{name}.xml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    edit("train_00", "</annotation>", "")
    edit("train_01", f"<width>{WIDTH}</width>", "")
    edit("train_02", "<name>cow</name>", "<name>kow</name>")
    edit("train_03", f"<width>{WIDTH}</width>", "<width>999</width>")
    edit("train_04", "<xmin>8</xmin>", "<xmin>60</xmin>")
    edit("train_05", "<xmax>28.5</xmax>", "<xmax>8</xmax>")
    edit("train_06", "<xmin>8</xmin>", "<xmin></xmin>")
    (root / "Annotations" / "train_07.xml").unlink()
    (root / "JPEGImages" / "train_08.jpg").unlink()
    shutil.copy(root / "JPEGImages" / "val_00.jpg", root / "JPEGImages" / "train_09.jpg")
    picture(999).save(root / "JPEGImages" / "stranger.png")
    assert said(findings_of(root)) == {
        ("broken xml", "train_00.xml:40"),
        ("bad size", "train_01.xml:4"),
        ("unknown category", "train_02.xml:29"),
        ("wrong size", "train_03.xml"),
        ("inverted box", "train_04.xml:"),
        ("empty box", "train_05.xml:"),
        ("bad box", "train_06.xml:9"),
        ("missing annotation", "train_07.xml"),
        ("missing image", "train_08.xml"),
        ("image in two splits", "train_09.xml"),
        ("unlisted file", "stranger.png"),
    }


def test_faults_of_yolo_files_are_found_at_their_lines(tmp_path):
    root = as_format(tmp_path, "yolo")
    assert findings_of(root) == []

    def add(name, line):
        with open(root / "labels" / "train" / f"{name}.txt", "a") as file:
            file.write(f"{line}\n")

    add("train_00", "3 0.5 0.5 0.1 0.1")
    add("train_01", "1 0.5 0.5 0.1 0.1 0.97")
    add("train_02", "1 0.5 x 0.1 0.1")
    add("train_03", "1 300 200 40 40")
    add("train_04", "1 0.5 0.5 0 0.1")
    add("train_05", "1 0.95 0.5 0.3 0.1")
    add("train_06", (root / "labels" / "train" / "train_06.txt").read_text().splitlines()[0])
    add("train_07", "0 0.5 0.9 0.01 0.01")
    file = root / "images" / "train" / "train_08.jpg"
    file.write_bytes(file.read_bytes()[:900])
    shutil.copy(root / "images" / "train" / "train_09.jpg", root / "images" / "train" / "train_10.jpg")
    (root / "labels" / "train" / "train_11.txt").unlink()
    (root / "images" / "train" / "train_12.jpg").unlink()
    assert said(findings_of(root)) == {
        ("unknown category", "train_00.txt:4"),
        ("broken line", "train_01.txt:4"),
        ("broken line", "train_02.txt:4"),
        ("bad box", "train_03.txt:4"),
        ("empty box", "train_04.txt:"),
        ("box beyond edge", "train_05.txt:"),
        ("duplicate box", "train_06.txt:"),
        ("tiny box", "train_07.txt:"),
        ("unreadable image", "train_08.txt"),
        ("duplicate image", "train_10.txt"),
        ("image without boxes", "data.yaml"),
        ("label without image", "train_12.txt"),
    }


def test_a_labelled_picture_of_a_kind_that_is_not_read_is_named(tmp_path):
    root = as_format(tmp_path, "yolo")
    (root / "images/train/train_03.jpg").rename(root / "images/train/train_03.heic")
    [finding] = findings_of(root)
    assert (finding.kind, finding.place) == ("label without image", str(root / "labels/train/train_03.txt"))
    assert finding.text.endswith("images/train/train_03.heic is of a kind that is not read: convert it")


def test_turned_pictures_are_noted_and_their_size_counts_both_ways(tmp_path):
    data = Planted(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, size in ((0, (HEIGHT, WIDTH)), (1, (WIDTH, HEIGHT))):
        picture(500 + number).save(data.file("train", number), exif=exif)
        data.image("train", number).update(height=size[0], width=size[1])
    data.content["train"]["annotations"] = [
        annotation for annotation in data.content["train"]["annotations"] if annotation["image_id"] != 2
    ]
    data.box("train", 1, [10, 90, 30, 30])
    findings = findings_of(data.write())
    assert [(finding.kind, finding.image) for finding in findings] == [
        ("mixed orientation", ""), ("turned image", "train_00.jpg"), ("turned image", "train_01.jpg"),
    ]  # fmt: skip


def test_files_of_splits_that_are_not_checked_are_no_strangers(tmp_path):
    data = Planted(tmp_path)
    for number in range(8):
        data.file("val", number).rename(tmp_path / "train" / data.image("val", number)["file_name"])
    data.write()
    picture(7777).save(tmp_path / "train" / "stranger.png")
    findings = findings_of(tmp_path / "annotations" / "train.json")
    assert [(finding.kind, finding.image) for finding in findings] == [("unlisted file", "stranger.png")]


def test_class_lists_that_differ_are_an_error(tmp_path):
    data = Planted(tmp_path)
    data.content["val"]["categories"].reverse()
    assert findings_of(data.write()) == []  # the ids say who is who, not the order
    data.content["val"]["categories"][0]["name"] = "calf"
    (finding,) = findings_of(data.write())
    assert (finding.kind, finding.severity) == ("different class lists", "error")
    assert "7=calf" in finding.text
    assert "7=cow" in finding.text


def test_skew_between_classes_and_splits(tmp_path):
    data = Planted(tmp_path)
    for split, content in data.content.items():
        keep = {"train": (1, 4), "val": (1, 7)}[split]
        content["annotations"] = [
            annotation for annotation in content["annotations"] if annotation["category_id"] in keep
        ]
    findings = findings_of(data.write())
    kinds = {finding.kind: finding.text for finding in findings}
    assert set(kinds) == {"class not in training", "class not in evaluation"}
    assert "'cow' has no box to learn from, but val has 8" in kinds["class not in training"]
    assert "'bee' has no box here, but 24 in training" in kinds["class not in evaluation"]
    bees = [annotation for annotation in data.content["train"]["annotations"] if annotation["category_id"] == 4][1:]
    data.content["train"]["annotations"] = [
        annotation for annotation in data.content["train"]["annotations"] if annotation not in bees
    ]
    for number in range(80):
        data.box("train", number % 24, [2 + 4 * (number % 30), 80, 3, 5])
    texts = [finding.text for finding in findings_of(data.write(), queries=100) if finding.kind == "class imbalance"]
    assert texts == ["ant has 104 boxes, 1 classes have at most 1/50 of that: bee 1"]


def test_one_box_of_two_classes_is_found(tmp_path):
    data = Planted(tmp_path)
    first = next(annotation for annotation in data.content["train"]["annotations"] if annotation["image_id"] == 4)
    other = data.box("train", 3, first["bbox"], label=(4 + 1) % 3)
    again = data.box("train", 3, first["bbox"], label=4 % 3)
    findings = {finding.kind: finding for finding in findings_of(data.write())}
    assert set(findings) == {"box of two classes", "duplicate box"}
    assert f"annotation {other} (cow)" in findings["box of two classes"].place
    assert f"the same box as annotation {first['id']}, which is bee" in findings["box of two classes"].text
    assert f"annotation {again} (bee)" in findings["duplicate box"].place


def test_annotation_ids_that_occur_twice_are_found(tmp_path):
    data = Planted(tmp_path)
    content = data.content["train"]["annotations"]
    content[7]["id"] = content[1]["id"]
    (finding,) = findings_of(data.write())
    assert (finding.kind, finding.severity, finding.image) == ("duplicate annotation id", "error", "train_02.jpg")
    assert finding.text == "has the id of an annotation of train_00.jpg: ids must be unique"
    for entry in content:
        del entry["id"]
    assert findings_of(data.write()) == []  # an id is not needed


def test_file_names_with_blanks_are_recognised(tmp_path):
    root = as_format(tmp_path, "yolo")
    for folder, suffix in (("images", "jpg"), ("labels", "txt")):
        for number in (0, 1):
            file = root / folder / "train" / f"train_0{number}.{suffix}"
            file.rename(file.with_name(f"train 0{number} (copy).{suffix}"))
    (root / "images" / "train" / "train 00 (copy).jpg").write_bytes(b"")
    assert [finding.kind for finding in findings_of(root)] == ["unreadable image"]
    data = Planted(tmp_path / "blank")
    for number in range(8):
        name = f"val {number}.jpg"
        data.file("val", number).rename(data.folder / "train" / name)
        data.image("val", number)["file_name"] = name
    data.write()
    assert findings_of(data.folder / "annotations" / "train.json") == []  # val.json names them


def test_names_that_no_file_can_have_are_missing_images(tmp_path):
    data = Planted(tmp_path)
    data.image("train", 0)["file_name"] = "zero\0byte.jpg"
    data.image("train", 1)["file_name"] = "x" * 300 + ".jpg"
    for number in (2, 3):
        data.file("train", number).unlink()
    data.file("train", 2).symlink_to(data.file("train", 2))
    data.file("train", 3).mkdir()
    findings = {
        (finding.kind, finding.image[:9]) for finding in findings_of(data.write()) if finding.severity == "error"
    }
    assert findings == {
        ("missing image", "zero\0byte"),
        ("unreadable image", "xxxxxxxxx"),
        ("unreadable image", "train_02."),
        ("unreadable image", "train_03."),
    }


def test_a_data_set_without_targets_is_an_error(tmp_path):
    data = Planted(tmp_path, train=4, val=2)
    for entry in data.content["train"]["annotations"]:
        entry["iscrowd"] = 1
    data.content["val"]["annotations"].clear()
    findings = {(finding.kind, finding.split, finding.severity): finding.text for finding in findings_of(data.write())}
    assert "all 12 boxes are crowd" in findings["no targets", "train", "error"]
    assert "none of the 2 images has a box" in findings["nothing to evaluate", "val", "warning"]


def test_boxes_that_are_fractions_are_an_error(tmp_path):
    data = Planted(tmp_path, train=4, val=2)
    for entry in data.content["train"]["annotations"][:2]:
        entry["bbox"] = [0.2, 0.3, 0.1, 0.4]
    for entry in data.content["val"]["annotations"]:
        entry["bbox"] = [0.2, 0.3, 0.1, 0.4]
    findings = {(finding.kind, finding.split, finding.severity): finding.text for finding in findings_of(data.write())}
    assert "2 of 12 boxes lie in 0..1" in findings["some normalised boxes", "train", "warning"]
    assert "all 6 boxes lie in 0..1" in findings["normalised boxes", "val", "error"]


def test_fields_that_cannot_be_true_are_found(tmp_path):
    data = Planted(tmp_path, train=4, val=2)
    for number, entry in enumerate(data.content["train"]["annotations"]):
        entry["area"] = -entry["area"]
        entry["attributes"] = {"rotation": 40.0 * (number == 5)}
    for entry in data.content["val"]["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x + 25, y + 20, x + width + 25, y + height + 20]
    findings = {(finding.kind, finding.split, finding.severity): finding.text for finding in findings_of(data.write())}
    assert "12 of 12 areas are below 0" in findings["wrong area", "train", "warning"]
    assert "1 boxes are rectangles from before a rotation" in findings["rotated box", "train", "warning"]
    assert "fit if the numbers are corners x1, y1, x2, y2" in findings["other box format", "val", "error"]


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ("C:\\photos\\train\\{}", "paths of Windows: write / for \\"),
        ("/data/upload/1/0a1b2c3d-{}", "a prefix of Label Studio"),
        ("images%2Ftrain%2F{}", "percent-encoding"),
    ],
)
def test_images_under_other_names_are_found_and_the_copy_has_the_right_ones(tmp_path, listed, why):
    """Where no name is that of a file, too: the folder is found all the same, and boxes and pictures are looked at."""
    data = Planted(tmp_path / "data", train=4, val=1)
    for number in range(4):
        data.image("train", number)["file_name"] = listed.format(data.image("train", number)["file_name"])
    data.box("train", 0, [10, 10, 0, 5])
    splits = read_all(discover(data.write()))
    pixels = read_files(splits)
    findings = check_with(splits, pixels)
    assert [finding.kind for finding in findings] == ["wrong name"] * 4 + ["empty box"]
    assert f"no such file; did you mean 'train_00.jpg'? ({why})" in findings[0].text
    copy = corrected(splits, findings, pixels)
    write_dataset(copy.splits, tmp_path / "copy", "coco")
    assert findings_of(tmp_path / "copy") == []
    dataset = CocoDetection(str(tmp_path / "copy/train"), str(tmp_path / "copy/annotations/train.json"))
    assert dataset[0][1]["boxes"].shape == (3, 4)
    with pytest.raises(DataError, match=re.escape(f"did you mean 'train_00.jpg'? ({why})")):
        CocoDetection(str(tmp_path / "data/train"), str(splits[0].annotations.place))


def test_two_entries_never_get_one_file(tmp_path):
    data = Planted(tmp_path)
    data.image("train", 0)["file_name"], data.image("train", 1)["file_name"] = "TRAIN_00.jpg", "Train_00.jpg"
    (tmp_path / "train/train_01.jpg").unlink()
    findings = [finding.kind for finding in findings_of(data.write()) if finding.severity == "error"]
    assert sorted(findings) == ["missing image", "wrong name"]


def test_names_in_voc_lists_and_yolo_lists_and_crowdhuman(tmp_path):
    voc = as_format(tmp_path / "a", "voc")
    (voc / "JPEGImages/train_00.jpg").rename(voc / "JPEGImages/Train_00.JPG")
    assert {finding.kind for finding in findings_of(voc)} == {"wrong name"}
    with pytest.raises(DataError, match=r"did you mean 'JPEGImages/Train_00.JPG'\? \(upper and lower case\)"):
        VOCDetection(str(voc), "train.txt")
    yolo = as_format(tmp_path / "b", "yolo")
    (yolo / "train.txt").write_text("C:\\set\\images\\train\\train_00.jpg\n")
    content = yaml.safe_load((yolo / "data.yaml").read_text())
    (yolo / "data.yaml").write_text(yaml.safe_dump({**content, "train": "train.txt"}))
    with pytest.raises(DataError, match=r"train.txt:1: no image .*; did you mean 'images/train/train_00.jpg'\?"):
        YoloDetection(str(yolo / "data.yaml"))
    (yolo / "odgt").mkdir()
    (yolo / "a.odgt").write_text('{"ID": "TRAIN_00", "gtboxes": []}')
    with pytest.raises(DataError, match=r"TRAIN_00.jpg; .*did you mean 'images/train/train_00.jpg'\? \(upper and low"):
        CrowdHumanDetection(str(yolo), str(yolo / "a.odgt"))


def test_a_label_under_another_name_than_its_image(tmp_path):
    root = as_format(tmp_path, "yolo")
    (root / "labels/train/train_03.txt").rename(root / "labels/train/Train_03.txt")
    [orphan] = [finding for finding in findings_of(root) if finding.kind == "label without image"]
    assert orphan.text == "no image of this name; did you mean 'train_03.jpg'? (upper and lower case)"


def test_what_macos_puts_beside_files_is_no_finding(tmp_path, caplog):
    data = Planted(tmp_path / "data", train=4, val=2)
    splits = read_all(discover(data.write()))
    write_dataset(splits, tmp_path / "yolo", "yolo")
    for folder in [data.folder / "train", *(tmp_path / "yolo").glob("*/train")]:
        for file in list(folder.iterdir()):
            (folder / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    (data.folder / "train" / "__MACOSX").mkdir()
    (data.folder / "train" / "__MACOSX" / "a.jpg").write_bytes(b"\0\5\x16\7")
    write_dataset(splits, tmp_path / "voc", "voc")
    for file in (tmp_path / "voc" / "Annotations").iterdir():
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    for file in (tmp_path / "voc" / "JPEGImages").iterdir():
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7")
    for folder in (data.folder, tmp_path / "yolo", tmp_path / "voc"):
        assert findings_of(folder) == []
    shutil.rmtree(tmp_path / "voc" / "ImageSets")
    assert [finding.kind for finding in findings_of(tmp_path / "voc")] == []
    assert not caplog.records


def test_pictures_that_training_reads_as_black_are_found(tmp_path):
    data = Planted(tmp_path, train=4, val=2)
    grey = np.asarray(picture(1).convert("L"))
    for number, pixels in enumerate((grey.astype(np.uint16) << 4, grey.astype(np.uint16) << 8, grey // 128)):
        data.image("train", number)["file_name"] = f"{number}.png"
        Image.fromarray(pixels).save(data.folder / "train" / f"{number}.png")
        (data.folder / "train" / f"train_{number:02}.jpg").unlink()
    findings = [finding for finding in findings_of(data.write()) if finding.kind == "dark image"]
    assert [finding.image for finding in findings] == ["0.png", "2.png"]
    assert "no pixel is brighter than 15 of 255: black, or with fewer bits" in findings[0].text

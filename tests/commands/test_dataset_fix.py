# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine data check --fix: what carries no information is mended, what is lost is said, and a lot is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from builders import load_tool, write_micro_config
from isdfine.audit.findings import Split
from isdfine.audit.sources import discover, read_all
from planted import HEIGHT, WIDTH, Planted, picture


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """isdfine data as a module."""
    return load_tool("dataset")


def splits_of(folder: Path) -> list[Split]:
    return read_all(discover(folder))


def each(key: str, value: Callable[[Any], Any], part: str = "annotations") -> Callable[[dict[str, Any]], None]:
    """A change of one key of every entry."""

    def change(content: dict[str, Any]) -> None:
        for entry in content[part]:
            entry[key] = value(entry.get(key))

    return change


def without(key: str, part: str = "annotations") -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for entry in content[part]:
            del entry[key]

    return change


MENDED = {
    "text ids": (each("id", lambda value: f"ann-{value}"), "gets a new id"),
    "ids as text": (each("id", str), "gets a new id"),
    "huge ids": (each("id", lambda value: value + 10**30), "gets a new id"),
    "null ids": (each("id", lambda value: None), "get a new one"),
    "no ids": (without("id"), "get a new one"),
    "one id": (each("id", lambda value: 7), "gets a new id"),
    "iscrowd null": (each("iscrowd", lambda value: None), "iscrowd: null"),
    "iscrowd text": (each("iscrowd", str), "iscrowd '0'"),
    "iscrowd word": (each("iscrowd", lambda value: "False"), "iscrowd 'False'"),
    "no iscrowd": (without("iscrowd"), ""),
    "area text": (each("area", str), "area '615.0'"),
    "area word": (each("area", lambda value: "large"), "area 'large'"),
    "area list": (each("area", lambda value: [value]), "area [615.0]"),
    "no area": (without("area"), ""),
    "sizes missing": (without("width", "images"), "has height, width (96, None)"),
    "sizes 0": (each("height", lambda value: 0, "images"), "has height, width (0, 128)"),
    "sizes null": (each("height", lambda value: None, "images"), "has height, width (None, 128)"),
    "sizes text": (each("height", str, "images"), "has height, width ('96', 128)"),
    "sizes float": (each("width", float, "images"), "has height, width (96, 128.0)"),
    "category text": (each("category_id", str), "category_id '"),
    "categories text": (each("id", str, "categories"), "needs an integer id"),
    "image ids text": (each("id", str, "images"), "entry 0 has id '1'"),
    "image ids of words": (
        lambda content: (each("id", "img-{}".format, "images")(content), each("image_id", "img-{}".format)(content)),
        "entry 0 has id 'img-1'",
    ),
    "image_id text": (each("image_id", str), "entry 0 has image_id '1'"),
    "bbox of text": (each("bbox", lambda box: [str(number) for number in box]), "has bbox ['8', '11', '20.5', '30']"),
    "bbox text": (each("bbox", str), "has bbox '[8, 11, 20.5, 30]'"),
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_carries_no_information_is_mended_and_no_box_is_lost(tool, tmp_path, capsys, kind):
    change, said = MENDED[kind]
    data = Planted(tmp_path / "data", train=4, val=3)
    for content in data.content.values():
        for entry in content["annotations"]:
            entry["segmentation"] = [entry["bbox"][:2] * 3]
    before = [split.annotations for split in splits_of(data.write())]
    for content in data.content.values():
        change(content)
    tool.main(["check", str(data.write()), "--fix", str(tmp_path / "copy")])
    out = capsys.readouterr().out
    assert said in out
    assert "train: no box is left out" in out
    after = [split.annotations for split in splits_of(tmp_path / "copy")]
    for old, new in zip(before, after):
        for name in ("sizes", "offsets", "boxes_xywh_px", "labels", "area_px", "crowd"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
    content = json.loads((tmp_path / "copy" / "annotations" / "train.json").read_text())
    ids = [entry["id"] for entry in content["annotations"]]
    assert len(set(ids)) == len(ids) == 12
    if kind != "one id":  # then nobody knows whose fields they are
        assert all(entry["segmentation"] == [entry["bbox"][:2] * 3] for entry in content["annotations"])
    assert tool.main(["check", str(tmp_path / "copy")]) == 0


def test_one_entry_per_object_keeps_all_objects(tool, tmp_path, capsys):
    data = Planted(tmp_path / "data", train=4, val=3)
    content = data.content["train"]
    for number, entry in enumerate(content["annotations"]):  # as converters of tables write them
        content["images"].append({**content["images"][entry["image_id"] - 1], "id": 100 + number})
        entry["image_id"] = 100 + number
    content["images"] = content["images"][4:]
    assert tool.main(["check", str(data.write()), "--fix", str(tmp_path / "copy")]) == 0
    assert "train: no box is left out" in capsys.readouterr().out
    train = splits_of(tmp_path / "copy")[0].annotations
    assert np.diff(train.offsets).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (each("bbox", lambda box: [*box[:2], 0, 0]), "12 empty box"),
        (each("bbox", lambda box: box[:3]), "12 bad box"),
        (each("bbox", lambda box: [1000, 1000, 5, 5]), "12 box outside"),
        (each("category_id", lambda value: "ant"), "12 unknown category"),
        (each("image_id", lambda value: 999), "12 unknown image"),
        (each("file_name", lambda value: None, "images"), "12 bad entry"),
    ],
)
def test_a_copy_that_would_lose_all_is_never_written(tool, tmp_path, capsys, change, reason):
    data = Planted(tmp_path / "data", train=4, val=3)
    change(data.content["train"])
    copy = tmp_path / "copy"
    for allowed in ("0.05", "0.9"):
        assert tool.main(["check", str(data.write()), "--fix", str(copy), "--allow-loss", allowed]) == 1
        out, err = capsys.readouterr()
        assert f"train: 12 of 12 boxes left out ({reason})" in out
        assert "is more than --allow-loss" in err
        assert "changes; the copy in" not in out
        assert not copy.exists()


def test_a_few_lost_boxes_are_counted_and_an_emptied_image_is_said(tool, tmp_path, capsys):
    data = Planted(tmp_path / "data", train=12, val=3)
    for entry in data.content["train"]["annotations"][:3]:
        entry["bbox"] = [5, 5, 0, 0]
    arguments = ["check", str(data.write()), "--fix", str(tmp_path / "copy")]
    assert tool.main(arguments) == 1  # 3 of 36, and 1 of 12 images turns into background
    out, err = capsys.readouterr()
    assert "train: 3 of 36 boxes left out (3 empty box); 1 of 12 images lose all their boxes" in out
    assert "8.3% is more than --allow-loss 0.05" in err
    assert tool.main([*arguments, "--allow-loss", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "train: 3 of 36 boxes left out (3 empty box); 1 of 12 images lose all their boxes" in out
    assert "train: 3 of 36 boxes left out" in (tmp_path / "copy" / "changes.log").read_text()
    assert tool.main([*arguments[:2], "--allow-loss", "5"]) == 2
    assert "--allow-loss 5: give a share from 0 to 1" in capsys.readouterr().err


def test_what_is_still_wrong_in_the_copy_is_said(tool, tmp_path, capsys):
    data = Planted(tmp_path / "data", train=4, val=3)
    data.box("train", 0, [50, 50, 30, 20])
    data.box("train", 0, [50, 50, 30, 21])
    assert tool.main(["check", str(data.write()), "--queries", "4", "--fix", str(tmp_path / "copy")]) == 1
    left = capsys.readouterr().out.split("what is left in the copy")[1]
    assert "too many objects" in left
    assert "near-duplicate box" in left


def yolo(folder: Path, rows: str, images: int = 1) -> Path:
    for number in range(images):
        for part in ("images", "labels"):
            (folder / part / "train").mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / "images" / "train" / f"{number}.jpg")
        (folder / "labels" / "train" / f"{number}.txt").write_text(rows)
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [ant, bee]\n")
    return folder


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ("0 0.5 0.5 1.002 0.8", [0, 0.1, 1, 0.9]),
        ("0 0.5 0.5 1.4 0.8", [0, 0.1, 1, 0.9]),
        ("0 -0.01 0.5 0.5 0.8", [0, 0.1, 0.24, 0.9]),
        ("0 1.1 0.5 0.5 0.8", [0.85, 0.1, 1, 0.9]),
        ("0 -0.2 0.1 0.5 -0.05 1.3 1.01", [0, 0, 1, 1]),
    ],
)
def test_yolo_rows_beyond_the_image_are_cut(tool, tmp_path, capsys, caplog, row, wanted):
    data = yolo(tmp_path / "data", f"{row}\n1 0.5 0.5 0.2 0.2\n")
    assert tool.main(["check", str(data), "--fix", str(tmp_path / "copy")]) == 0
    out = capsys.readouterr().out
    assert "is outside 0..1: the box is cut to the image" in out
    assert "train: no box is left out" in out
    found = splits_of(tmp_path / "copy")[0].annotations
    box = found.boxes_xywh_px[0]
    np.testing.assert_allclose([*box[:2], *(box[:2] + box[2:])] / np.array([WIDTH, HEIGHT] * 2), wanted, atol=1e-6)
    from isdfine.data.dataset.yolo import YoloDetection

    np.testing.assert_allclose(YoloDetection(str(data / "data.yaml")).annotations.boxes_xywh_px[0], box, atol=1e-4)
    assert "0.txt:1: " in caplog.text  # training reads the same, with a warning
    assert "the box is cut to the image" in caplog.text


def test_rows_that_cannot_be_read_are_not_lost_in_silence(tool, tmp_path, capsys):
    data = yolo(tmp_path / "data", "0 320 240 100 80\n1 0.5 0.5 0.2 0.2\n")
    assert tool.main(["check", str(data), "--fix", str(tmp_path / "copy")]) == 1
    out, err = capsys.readouterr()
    assert "train: 1 of 2 boxes left out (1 bad box)" in out
    assert "50.0% is more" in err


def test_a_copy_that_is_interrupted_does_not_look_like_one(tool, tmp_path, monkeypatch, capsys):
    data = Planted(tmp_path / "data", train=4, val=3).write()
    copy, seen = tmp_path / "copy", []

    def stop(items: Any, total: int, title: str) -> Any:
        for number, item in enumerate(items):
            if title == "images" and copy.exists() and number == 2 and any(copy.rglob("*.json")):
                seen.extend(path.name for path in copy.iterdir())
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(tool, "progress", stop)
    assert tool.main(["check", str(data), "--fix", str(copy)]) == 130
    assert seen == [".unfinished"]  # what a killed process would leave
    assert not copy.exists()
    (copy / ".unfinished").mkdir(parents=True)
    assert tool.main(["check", str(data), "--fix", str(copy)]) == 2
    assert "holds .unfinished, which an interrupted run left: remove it, or give another" in capsys.readouterr().err


def test_a_copy_of_voc_keeps_what_its_files_say_beyond_boxes(tool, tmp_path, capsys):
    root = tmp_path / "data"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    objects = (
        "<object><name>bee</name><pose>Left</pose><truncated>1</truncated><difficult>1</difficult>"
        "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>150</xmax><ymax>40</ymax></bndbox></object>"
        "<object><name>ant</name><difficult>0</difficult><attributes>red</attributes>"
        "<bndbox><xmin>60</xmin><ymin>50</ymin><xmax>90</xmax><ymax>80</ymax></bndbox></object>"
    )
    for number in range(2):
        picture(number).save(root / "JPEGImages" / f"{number}.jpg")
        text = f"<annotation><source><database>mine</database></source>{objects}</annotation>"  # no size
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n")
    assert tool.main(["check", str(root), "--fix", str(tmp_path / "copy")]) == 1
    out = capsys.readouterr().out
    assert "put right" in out
    assert "has no <size>" in out
    assert "train: no box is left out" in out
    assert "are not kept" not in out
    copy = (tmp_path / "copy" / "Annotations" / "0.xml").read_text()
    for kept in ("<pose>Left</pose>", "<truncated>1<", "<difficult>1<", "<attributes>red<", "<database>mine<",
                 "<xmax>128<", "<width>128<"):  # fmt: skip
        assert kept in copy
    assert (tmp_path / "copy" / "label_list.txt").read_text() == "ant\nbee\n"
    assert tool.main(["check", str(tmp_path / "copy")]) == 0


def test_a_copy_of_crowdhuman_keeps_visible_and_head_boxes(tool, tmp_path, capsys):
    root = tmp_path / "data"
    (root / "Images").mkdir(parents=True)
    person = {
        "tag": "person",
        "fbox": ["-5", 5, 30, 40],
        "vbox": [0, 5, 20, 30],
        "hbox": [4, 5, 6, 7],
        "extra": {"box_id": 3},
    }
    mask = {"tag": "mask", "fbox": [60, 5, 30, 40], "extra": {"ignore": 1}}
    for number in range(2):
        picture(number).save(root / "Images" / f"{number}.jpg")
    lines = [json.dumps({"ID": str(number), "gtboxes": [person, mask]}) for number in range(2)]
    (root / "annotation_train.odgt").write_text("\n".join(lines))
    assert tool.main(["check", str(root), "--fix", str(tmp_path / "copy")]) == 1
    assert "train: no box is left out" in capsys.readouterr().out
    copy = json.loads((tmp_path / "copy" / "annotation_train.odgt").read_text().splitlines()[0])
    assert copy["gtboxes"] == [{**person, "fbox": [0, 5, 25, 40]}, mask]
    assert tool.main(["check", str(tmp_path / "copy")]) == 0


def test_the_copy_is_judged_by_the_recipe_too(tool, tmp_path, capsys):
    file = write_micro_config(tmp_path, images=2)
    annotations = tmp_path / "data" / "annotations.json"
    content = json.loads(annotations.read_text())
    for number, image in enumerate(content["images"]):
        picture(number).resize((1280, 960)).save(tmp_path / "data" / "images" / image["file_name"])
        image.update(height=960, width=1280)
    for entry in content["annotations"]:
        entry.update(bbox=[*entry["bbox"][:2], 5, 5], area=25)
    annotations.write_text(json.dumps(content))
    images = tmp_path / "val"
    shutil.copytree(tmp_path / "data", images)
    for number, image in enumerate(content["images"]):
        picture(50 + number).resize((1280, 960)).save(images / "images" / image["file_name"])
    val = "val_dataloader.dataset"
    update = [f"{val}.img_folder={images / 'images'}", f"{val}.ann_file={images / 'annotations.json'}"]
    assert tool.main(["check", "-c", str(file), "-u", *update, "--fix", str(tmp_path / "fixed")]) == 1
    out = capsys.readouterr().out
    assert "the copy in" in out
    assert out.partition("the copy in")[2].count("are too small for SanitizeBoundingBoxes") == 1

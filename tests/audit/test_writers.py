# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Round trips keep boxes, labels and names; what is lost is said."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from isdfine.audit.sources import Source, discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from planted import Planted, picture

TOLERANCE_PX = {"coco": 0, "voc": 1e-9, "yolo": 1e-6}


def by_name(split):
    """File stem -> sorted (class name, box) of one split."""
    data = split.annotations
    written = {}
    for index, name in enumerate(data.file_names):
        rows = data.rows(index)
        names = [data.label_space.names[label] for label in data.labels[rows]]
        written[name.rsplit("/", 1)[-1]] = (names, data.boxes_xywh_px[rows], data.sizes[index].tolist())
    return written


def uneven(folder):
    """A data set with boxes of many digits and an image without any."""
    data = Planted(folder, train=5, val=3)
    random = np.random.default_rng(0)
    for number in range(5):
        x, y, w, h = random.random(4)
        data.box("train", number, [50 * x, 40 * y, 5 + 60 * w, 5 + 40 * h], label=number % 3)
    data.add_image("val", "blank.jpg", data.file("train", 0).read_bytes()[:-1] + b"\x00")
    data.content["val"]["annotations"].pop()
    return data


@pytest.mark.parametrize("images", ["copy", "link"])
@pytest.mark.parametrize("route", [["voc"], ["yolo"], ["coco"], ["yolo", "voc", "coco"], ["voc", "yolo", "coco"]])
def test_round_trips_keep_boxes_labels_and_names(tmp_path, route, images):
    first = splits = read_all(discover(uneven(tmp_path / "data").write()))
    for step in route:
        write_dataset(splits, tmp_path / step, step, images=images)
        splits = read_all(discover(tmp_path / step))
        assert {split.format for split in splits} == {step}
    for before, after in zip(first, splits):
        assert not after.problems
        assert before.name == after.name
        wanted, written = by_name(before), by_name(after)
        assert set(wanted) == set(written)
        for name, (labels, boxes, size) in wanted.items():
            assert written[name][0] == labels
            assert written[name][2] == size
            np.testing.assert_allclose(written[name][1], boxes, rtol=0, atol=max(TOLERANCE_PX[form] for form in route))
        for index in range(len(after.annotations)):
            assert after.path(index).is_symlink() == (images == "link")


def test_what_a_format_cannot_hold_is_said(tmp_path):
    data = Planted(tmp_path / "data", train=3, val=2)
    data.box("train", 0, [1, 1, 50, 50], iscrowd=1)
    data.box("train", 1, [1, 1, 50, 50], area=99)
    data.box("train", 1, [100, 70, 60, 20])
    data.box("train", 2, [50, 50, -4, 6])
    splits = read_all(discover(data.write()))
    yolo = "\n".join(write_dataset(splits, tmp_path / "yolo", "yolo"))
    assert "train: 1 crowd regions are left out" in yolo
    assert "train: areas (and masks) of 1 objects are not kept" in yolo
    assert "train: 1 boxes that cover nothing of their image are left out" in yolo
    assert "train: 1 boxes that reach out of their image are cut to it" in yolo
    voc = "\n".join(write_dataset(splits, tmp_path / "voc", "voc"))
    assert "train: 1 crowd regions are written as difficult objects" in voc
    assert (tmp_path / "voc" / "Annotations" / "train_00.xml").read_text().count("<difficult>1<") == 1
    back = read_all(discover(tmp_path / "voc"))
    assert "difficult, truncated and pose of VOC are not kept" in "\n".join(write_dataset(back, tmp_path / "c", "coco"))
    assert len(read_all(discover(tmp_path / "yolo"))[0].annotations.ids) == 3 * 3 + 2
    with open(tmp_path / "yolo" / "labels" / "val" / "val_00.txt", "a") as file:
        file.write("1 0.1 0.1 0.5 0.1 0.3 0.6\n")
    polygons = write_dataset(read_all(discover(tmp_path / "yolo")), tmp_path / "p", "coco")
    assert "val: polygons are written as the boxes around them" in polygons
    assert not [line for line in polygons if line.startswith("train")]
    none = write_dataset(splits, tmp_path / "none", "yolo", images="none")
    assert "images were not written" in none[-1]
    assert not list((tmp_path / "none").rglob("*.jpg"))


def test_crowdhuman_holds_persons(tmp_path):
    data = Planted(tmp_path / "data", train=3, val=2)
    with pytest.raises(DataError, match=r"hold the class person only.*ant, bee, cow"):
        write_dataset(read_all(discover(data.write())), tmp_path / "no", "crowdhuman")
    for content in data.content.values():
        content["categories"][1]["name"] = "person"
    crowd = data.box("train", 0, [1, 2, 50.25, 50], label=1, iscrowd=1)
    picture(5).save(data.folder / "train" / "other.png")
    data.add_image("train", "other.png", (data.folder / "train" / "other.png").read_bytes())
    before = read_all(discover(data.write()))
    remarks = "\n".join(write_dataset(before, tmp_path / "odgt", "crowdhuman"))
    assert "boxes of classes other than person are left out" in remarks
    assert "other.png is now other.jpg" in remarks
    after = read_all(discover(tmp_path / "odgt"))
    assert [split.format for split in after] == ["crowdhuman"] * 2
    wanted, written = before[0].annotations, after[0].annotations
    persons = wanted.labels == 1
    np.testing.assert_array_equal(written.boxes_xywh_px, wanted.boxes_xywh_px[persons])
    np.testing.assert_array_equal(written.crowd, wanted.ids[persons] == crowd)
    assert written.label_space.names == ("person",)
    assert "train: visible boxes and head boxes of CrowdHuman are not kept" in "\n".join(
        write_dataset(after, tmp_path / "again", "coco")
    )


def test_equal_names_get_new_ones_and_every_box_stays_with_its_image(tmp_path):
    data = Planted(tmp_path / "data", train=2, val=2)
    for split in ("train", "val"):
        for number in range(2):
            data.file(split, number).rename(data.folder / split / f"{number}.jpg")
            data.image(split, number)["file_name"] = f"{number}.jpg"
    data.image("train", 1)["file_name"] = "0.png"
    (data.folder / "train" / "1.jpg").rename(data.folder / "train" / "0.png")
    before = read_all(discover(data.write()))
    remarks = write_dataset(before, tmp_path / "voc", "voc")
    assert re.search(r"2 images get new names.*0\.png is now 0_train\.png", "\n".join(remarks))
    after = read_all(discover(tmp_path / "voc"))
    for split, other in zip(before, after):
        for index in range(2):
            assert split.path(index).read_bytes() == other.path(index).read_bytes()
            rows = split.annotations.rows(index), other.annotations.rows(index)
            np.testing.assert_array_equal(
                split.annotations.boxes_xywh_px[rows[0]], other.annotations.boxes_xywh_px[rows[1]]
            )


def test_a_missing_image_stops_the_copy_with_the_remedy(tmp_path):
    data = Planted(tmp_path / "data", train=3, val=2)
    data.file("train", 1).unlink()
    splits = read_all(discover(data.write()))
    for number, how in enumerate(("copy", "link")):
        with pytest.raises(DataError, match=r"train_01\.jpg: cannot be brought to .*run check --fix first"):
            write_dataset(splits, tmp_path / str(number), "coco", images=how)


def test_only_annotations_refer_to_the_images_where_they_are(tmp_path):
    splits = read_all(discover(Planted(tmp_path / "data", train=3, val=2).write()))
    remarks = write_dataset(splits, tmp_path / "new", "coco", images="none")
    assert f"its images stay in {tmp_path / 'data' / 'train'}" in remarks[0]
    again = Source("train", "coco", {"ann_file": str(tmp_path / "new" / "train.json"),
                                     "img_folder": str(tmp_path / "data" / "train")}).read()  # fmt: skip
    assert again.annotations.file_names == splits[0].annotations.file_names
    with Image.open(again.path(0)) as image:
        assert image.size == (128, 96)


@pytest.mark.parametrize("route", [["yolo", "coco"], ["voc", "coco"], ["voc", "yolo"]])
def test_awkward_file_names_keep_their_boxes(tmp_path, route):
    data = Planted(tmp_path / "data", train=6, val=2)
    names = ["images/a.jpg", "more/images/b.jpg", "c.png.jpg", " d 1.jpg", "images/images/e.jpg", "f.xml.jpg"]
    for number, name in enumerate(names):
        (data.folder / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        data.file("train", number).rename(data.folder / "train" / name)
        data.image("train", number)["file_name"] = name
    first = splits = read_all(discover(data.write()))
    for step in route:
        write_dataset(splits, tmp_path / step, step)
        splits = read_all(discover(tmp_path / step))
        assert not splits[0].problems
    written = {}
    for index in range(len(splits[0].annotations)):
        rows = splits[0].annotations.rows(index)
        written[splits[0].path(index).read_bytes()] = splits[0].annotations.boxes_xywh_px[rows]
    for index in range(len(names)):
        wanted = first[0].annotations.boxes_xywh_px[first[0].annotations.rows(index)]
        np.testing.assert_allclose(written[first[0].path(index).read_bytes()], wanted, rtol=0, atol=1e-6)


def test_every_written_annotation_has_an_id_and_fields_of_its_own(tmp_path):
    data = Planted(tmp_path / "data", train=3, val=2)
    content = data.content["train"]["annotations"]
    for number, entry in enumerate(content):
        entry["mark"] = number
    content[1]["id"] = content[0]["id"]  # in one image
    content[8]["id"] = content[4]["id"]  # in two
    remarks = write_dataset(read_all(discover(data.write())), tmp_path / "new", "coco")
    assert "train: 2 boxes without an id of their own get a new one" in remarks
    written = json.loads((tmp_path / "new" / "annotations" / "train.json").read_text())["annotations"]
    assert len({entry["id"] for entry in written}) == len(written) == 9
    by_box = {(entry["image_id"], *entry["bbox"]): entry for entry in content}
    marks = [(entry.get("mark"), by_box[(entry["image_id"], *entry["bbox"])]["mark"]) for entry in written]
    assert [pair for pair in marks if pair[0] != pair[1]] == [(None, 0), (None, 1)]  # nobody can tell whose they are


def test_category_fields_stay_with_the_name(tmp_path):
    data = Planted(tmp_path / "data", train=3, val=2)
    for content, ids in zip(data.content.values(), ((1, 4, 7), (7, 4, 1))):
        content["categories"] = [
            {"id": number, "name": name, "supercategory": name.upper()}
            for number, name in zip(ids, ("ant", "bee", "cow"))
        ]
    write_dataset(read_all(discover(data.write())), tmp_path / "new", "coco")
    for split in ("train", "val"):
        written = json.loads((tmp_path / "new" / "annotations" / f"{split}.json").read_text())["categories"]
        assert [(entry["id"], entry["supercategory"]) for entry in written] == [(1, "ANT"), (4, "BEE"), (7, "COW")]


def test_turned_pictures_keep_their_masks_in_coco(tmp_path):
    data = Planted(tmp_path / "data", train=2, val=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50).save(data.file("train", 0), exif=exif)
    data.image("train", 0).update(height=128, width=96)  # as viewers show it
    own = data.box("train", 0, [10, 90, 30, 30], segmentation=[[10, 90, 40, 90, 40, 120, 10, 120]])
    write_dataset(read_all(discover(data.write())), tmp_path / "new", "coco")
    written = json.loads((tmp_path / "new" / "annotations" / "train.json").read_text())
    assert written["images"][0] == data.image("train", 0)
    assert (
        next(annotation for annotation in written["annotations"] if annotation["id"] == own)
        == data.content["train"]["annotations"][-1]
    )

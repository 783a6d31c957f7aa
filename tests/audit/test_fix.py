# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from isdfine.audit.check import check_with, read_files
from isdfine.audit.fix import TooMuchLost, corrected
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from planted import Planted, plant_everything


def fixed(folder, queries=20):
    splits = read_all(discover(folder))
    pixels = read_files(splits)
    return corrected(splits, check_with(splits, pixels, queries=queries), pixels)


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_the_corrected_copy_has_no_error_left(tmp_path, form):
    data = Planted(tmp_path / "data")
    plant_everything(data)
    before = {path: path.read_bytes() for path in data.write().rglob("*") if path.is_file()}
    splits, changes, _ = fixed(data.folder)
    write_dataset(splits, tmp_path / "copy", form, images="link")
    again = read_all(discover(tmp_path / "copy"))
    left = check_with(again, read_files(again), queries=20)
    # Boxes cannot be thrown away for the model's sake: that one is for the person.
    assert {finding.kind for finding in left if finding.severity == "error"} == {"too many objects"}
    gone = {"empty box", "box beyond edge", "duplicate box", "duplicate image", "unlisted file"}
    assert not gone & {finding.kind for finding in left}
    assert len(changes) >= 20
    assert {path: path.read_bytes() for path in data.folder.rglob("*") if path.is_file()} == before


def test_each_change_is_said_with_its_place(tmp_path):
    data = Planted(tmp_path)
    cut = data.box("train", 3, [100, 60, 40, 20])
    mask = data.box("train", 3, [100, 40, 40, 20], area=123.5)
    empty = data.box("train", 4, [5, 5, 0, 3])
    data.image("train", 5).update(height=200, width=200)
    data.image("train", 6).update(height=300, width=400)
    data.box("train", 6, [380, 280, 20, 20])
    splits, changes, _ = fixed(data.write())
    text = "\n".join(changes)
    assert f"annotation {cut} (ant): [100, 60, 40, 20] is now [100, 60, 28, 20]" in text
    assert f"annotation {empty} (ant): empty box" in text
    assert "size corrected (all 3 boxes fit)" in text
    assert (
        "train_06.jpg: the entry says 400 x 300, the file has 128 x 96 (width x height), and its 4 boxes do not" in text
    )
    assert len(changes) == 5
    train = splits[0].annotations
    assert "train_06.jpg" not in train.file_names
    assert train.sizes[train.file_names.index("train_05.jpg")].tolist() == [96, 128]
    areas = dict(zip(train.ids.tolist(), train.area_px.tolist()))
    assert areas[cut] == 28 * 20
    assert areas[mask] == 123.5
    np.testing.assert_array_equal(
        splits[1].annotations.boxes_xywh_px, read_all(discover(tmp_path))[1].annotations.boxes_xywh_px
    )


def test_fields_that_we_do_not_use_survive(tmp_path):
    data = Planted(tmp_path / "data")
    data.image("train", 0)["licence"] = 7
    own = data.box("train", 0, [40, 60, 30, 20], segmentation=[[40, 60, 70, 60, 70, 80]], keep="me")
    data.content["train"]["categories"][0]["supercategory"] = "insects"
    splits, _, _ = fixed(data.write())
    write_dataset(splits, tmp_path / "copy", "coco")
    content = json.loads((tmp_path / "copy" / "annotations" / "train.json").read_text())
    assert content["info"] == {"description": "planted"}
    assert content["images"][0]["licence"] == 7
    assert content["categories"][0]["supercategory"] == "insects"
    entry = next(annotation for annotation in content["annotations"] if annotation["id"] == own)
    assert entry == data.content["train"]["annotations"][own - 1]


def test_splits_with_other_classes_get_one_list_by_name(tmp_path):
    data = Planted(tmp_path / "data")
    data.content["val"]["categories"] = [{"id": 1, "name": "cow"}, {"id": 4, "name": "emu"}, {"id": 7, "name": "ant"}]
    splits, changes, _ = fixed(data.write())
    assert [split.annotations.label_space.names for split in splits] == [("ant", "bee", "cow", "emu")] * 2
    before = read_all(discover(data.folder))[1].annotations
    names = [before.label_space.names[label] for label in before.labels]
    after = splits[1].annotations
    assert [after.label_space.names[label] for label in after.labels] == names
    assert "classes joined by name" in changes[-1]


def normalised(box):
    x, y, width, height = box
    return [x / 128, y / 96, width / 128, height / 96]


def as_corners(box):
    x, y, width, height = box
    return [x + 20, y + 20, x + width + 20, y + height + 20]


@pytest.mark.parametrize(
    ("share", "change"),
    [(1, normalised), (2, normalised), (1, as_corners), (6, as_corners)],
    ids=["fractions", "some fractions", "corners", "some corners"],
)
def test_boxes_of_another_format_are_not_cut_to_a_clean_copy(tmp_path, share, change):
    data = Planted(tmp_path)
    for entry in data.content["train"]["annotations"][::share]:
        entry["bbox"] = change(entry["bbox"])
    with pytest.raises(TooMuchLost, match=r"train: .*all boxes are in doubt \(.*nothing is written"):
        fixed(data.write()).check_losses(0.99)


def test_objects_under_tags_that_are_not_read_count_as_lost(tmp_path):
    data = Planted(tmp_path / "data")
    data.write()
    splits = read_all(discover(data.folder))
    write_dataset(splits, tmp_path / "voc", "voc")
    for number, file in enumerate(sorted((tmp_path / "voc" / "Annotations").glob("train*.xml"))):
        if number < 2:
            file.write_text(file.read_text().replace("object>", "Object>"))
        elif number < 4:
            text = file.read_text().replace("<object>", "<objects><object>", 1)
            file.write_text(text.replace("</annotation>", "</objects></annotation>"))
    toll = fixed(tmp_path / "voc").tolls[0]
    assert "12 of 72 boxes left out (12 bad entry)" in str(toll)


def test_sizes_that_changed_places_are_no_other_format_of_boxes(tmp_path):
    data = Planted(tmp_path)
    for image, entry in zip(data.content["train"]["images"], data.content["train"]["annotations"][::3]):
        image.update(height=image["width"], width=image["height"])
        entry["bbox"][0] = 100
    result = fixed(data.write())
    result.check_losses(0)
    assert set(map(tuple, result.splits[0].annotations.sizes.tolist())) == {(96, 128)}

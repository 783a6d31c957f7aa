# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging

import pytest

from data import coco_files
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.coco import Objects365Detection, parse_objects365

LONG = "images/v1/patch8/"


def write(folder, *, lie_at="", first_image=7):
    """The small COCO file with long names; the images lie at ``lie_at`` and their base names."""
    data = coco_files.content()
    (folder / "images" / lie_at).mkdir(parents=True, exist_ok=True)
    for entry, name in zip(data["images"], ("a.png", "b.png")):
        entry["file_name"] = lie_at + name
    data["images"][0]["id"] = first_image
    for entry in data["annotations"]:
        entry["image_id"] = first_image if entry["image_id"] == 7 else entry["image_id"]
    root, path = coco_files.write(folder, data)
    for entry, name in zip(data["images"], ("a.png", "b.png")):
        entry["file_name"] = LONG + name
    coco_files.write(folder, data, images=False)
    return str(root), str(path)


@pytest.mark.parametrize(
    ("lie_at", "said"),
    [
        (LONG, None),
        ("patch8/", "2 of 2 files are found by their last two parts in"),
        ("", "2 of 2 files are found by their base names in"),
    ],
)
def test_files_are_found_where_they_lie(tmp_path, caplog, lie_at, said):
    caplog.set_level(logging.INFO)
    dataset = Objects365Detection(*write(tmp_path, lie_at=lie_at))
    assert dataset.annotations.file_names == (f"{lie_at}a.png", f"{lie_at}b.png")
    assert dataset[0][1]["labels"].tolist() == [0, 1]
    own = [record.getMessage().split(": ")[1] for record in caplog.records if record.name.endswith("coco")]
    assert [message[: len(said or "")] for message in own] == [said][: bool(said)]


def test_missing_files_are_named_as_in_the_file(tmp_path):
    root, path = write(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(DataError, match=r"2 of 2 images .* missing: images/v1/patch8/a.png, images/v1/patch8/b.png"):
        Objects365Detection(root, path)


def test_official_class_count(tmp_path):
    dataset = Objects365Detection(*write(tmp_path), num_classes=10)
    assert dataset[0][1]["labels"].tolist() == [2, 9]


def test_several_files_are_one_data_set(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", first_image=8, lie_at="patch8/")
    data = parse_objects365([one[0], two[0]], [one[1], two[1]])
    assert data.place == f"{one[1]}, {two[1]}"
    assert data.image_ids.tolist() == [0, 1, 2, 3]  # 3 is in both files
    assert data.offsets.tolist() == [0, 3, 4, 7, 8]
    dataset = Objects365Detection([one[0], two[0]], [one[1], two[1]])
    assert [dataset[index][1]["labels"].tolist() for index in range(4)] == [[0, 1], [1]] * 2
    same = parse_objects365(one[0], [one[1], one[1]])
    assert same.file_names == ("a.png", "b.png") * 2
    assert Objects365Detection.label_space_of({"ann_file": [one[1], two[1]]}) == data.label_space


def test_file_ids_are_kept_where_they_differ(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", first_image=8)
    data = coco_files.content()
    data["images"], data["annotations"] = data["images"][:1], data["annotations"][1:2]
    data["images"][0]["id"] = data["annotations"][0]["image_id"] = 500
    coco_files.write(tmp_path / "two", data)
    assert parse_objects365([one[0], two[0]], [one[1], two[1]]).image_ids.tolist() == [7, 3, 500]


def test_files_that_do_not_belong_together(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    data = coco_files.content()
    data["categories"][0]["name"] = "bee"
    coco_files.write(tmp_path / "two", data)
    with pytest.raises(DataError, match=r"two/.*has the classes 2=ant, 9=bee, but .* has 2=ant, 9=zebra: files of one"):
        Objects365Detection([one[0], two[0]], [one[1], two[1]])
    with pytest.raises(ConfigError, match="2 img_folder for 1 ann_file: give one folder, or one per file"):
        Objects365Detection([one[0], two[0]], one[1])


def test_fake_objects(tmp_path):
    root, path = write(tmp_path)
    data = coco_files.content()
    data["images"][0]["file_name"], data["images"][1]["file_name"] = "a.png", "b.png"
    data["annotations"][1]["isfake"] = 1
    coco_files.write(tmp_path, data, images=False)
    assert Objects365Detection(root, path)[0][1]["labels"].tolist() == [0, 1]
    without = Objects365Detection(root, path, keep_fake=False, classes=["zebra", "ant"])
    assert without[0][1]["labels"].tolist() == [0]
    assert without.annotations.crowd.tolist() == [True, True, False, False]

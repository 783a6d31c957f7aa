# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import copy
import json

import numpy as np
import pytest

from data import coco_files
from isdfine.core.errors import DataError
from isdfine.data.dataset.coco import coco_label_space, parse_coco
from isdfine.data.dataset.problems import Problems
from isdfine.data.label_space import MSCOCO


def changed(path: str, value):
    """The small file with one entry replaced: ``images.0.id``; a value of ``...`` removes it."""
    data = coco_files.content()
    node, parts = data, path.split(".")
    for part in parts[:-1]:
        node = node[int(part)] if part.isdigit() else node[part]
    key = int(parts[-1]) if parts[-1].isdigit() else parts[-1]
    if value is ...:
        del node[key]
    else:
        node[key] = value
    return data


def test_arrays_by_hand(tmp_path):
    data = parse_coco(coco_files.write(tmp_path)[1])
    assert data.image_ids.tolist() == [7, 3]
    assert data.sizes.tolist() == [[40, 60], [50, 50]]
    assert data.offsets.tolist() == [0, 3, 4]
    assert data.ids.tolist() == [12, 13, 14, 11]
    assert data.labels.tolist() == [0, 1, 1, 1]
    assert data.crowd.tolist() == [False, True, False, False]
    assert data.area_px.tolist() == [410.0, 2400.0, 77.5, 600.0]
    targets = data.training_rows()
    assert targets.offsets.tolist() == [0, 2, 3]
    assert targets.boxes_xyxy_px[:2].tolist() == [[50, 30, 60, 40], [5, 5, 15, 15]]


def test_order_of_the_file_changes_no_label(tmp_path):
    data = coco_files.content()
    shuffled = copy.deepcopy(data)
    shuffled["categories"].reverse()
    shuffled["annotations"].reverse()
    one = parse_coco(coco_files.write(tmp_path / "a", data)[1])
    two = parse_coco(coco_files.write(tmp_path / "b", shuffled)[1])
    assert dict(zip(one.ids.tolist(), one.labels.tolist())) == dict(zip(two.ids.tolist(), two.labels.tolist()))


def test_no_annotations_at_all(tmp_path, caplog):
    data = parse_coco(coco_files.write(tmp_path, changed("annotations", []))[1])
    assert data.offsets.tolist() == [0, 0, 0]
    assert data.boxes_xywh_px.shape == (0, 4)
    assert data.training_rows().boxes_xyxy_px.shape == (0, 4)
    assert data.without_area().size == 0
    assert not caplog.records  # the data set says it


def test_remap_uses_the_eighty_classes(tmp_path):
    data = coco_files.content()
    data["categories"] = [{"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}]
    for entry, number in zip(data["annotations"], (13, 90, 13, 13)):
        entry["category_id"] = number
    path = coco_files.write(tmp_path, data)[1]
    assert parse_coco(path, remap_mscoco_category=True).label_space == MSCOCO
    assert parse_coco(path, remap_mscoco_category=True).labels.tolist() == [79, 11, 11, 11]
    assert parse_coco(path).labels.tolist() == [1, 0, 0, 0]


def test_remap_says_where_the_classes_are_others(tmp_path, caplog):
    data = coco_files.content()
    own = [{"id": 1, "name": "Platelets"}, {"id": 2, "name": "RBC"}, {"id": 3, "name": "car"}]
    data["categories"] = own
    for entry in data["annotations"]:
        entry["category_id"] = 2
    path = coco_files.write(tmp_path, data)[1]
    assert parse_coco(path, remap_mscoco_category=True).label_space == MSCOCO
    assert caplog.messages == [
        f"{path}: with remap_mscoco_category: True the classes bear COCO's names, but those of this file are others "
        "(1=Platelets is person, 2=RBC is bicycle): if they are classes of your own, set remap_mscoco_category: False"
    ]
    caplog.clear()
    parse_coco(path)
    own[0]["name"], own[1]["name"] = "Person", "bike"  # one name spelled in another way
    parse_coco(coco_files.write(tmp_path / "b", data)[1], remap_mscoco_category=True)
    assert caplog.messages == []


def test_remap_of_foreign_categories(tmp_path):
    data = coco_files.content()
    data["categories"].append({"id": 91, "name": "hair brush"})
    path = coco_files.write(tmp_path, data)[1]
    with pytest.raises(
        DataError, match=r"categories 91=hair brush are not among COCO's 80: set remap_mscoco_category: F"
    ):
        parse_coco(path, remap_mscoco_category=True)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("categories", [], "list of categories is empty"),
        ("images", [], "list of images is empty"),
        ("images.0", 5, r"images\[0\] is 5, not an object"),
        ("images.0.file_name", ..., "image 7 has no file_name"),
        ("images.1.width", ..., r"image 3 \(sub/b.png\) has height, width \(50, None\)"),
        ("images.1.height", 0, r"has height, width \(0, 50\): give whole numbers above 0"),
        ("images.1.width", 10**30, "give whole numbers above 0"),
        ("images.1.id", 10**30, "entry 1 has id 10+, which does not fit into 64 bits"),
        ("images.1.id", 7, r"image id 7 occurs 2 times \(a.png, sub/b.png\): ids must be unique"),
        ("images.1.id", ..., "entry 1 has id None, not a whole number"),
        ("annotations.0", [], r"annotations\[0\] is \[\], not an object"),
        ("annotations.1.image_id", 99, r"annotation 12 has image_id 99, which no image has \(1 such annotations\)"),
        ("annotations.1.image_id", ..., "entry 1 has image_id None"),
        (
            "annotations.2.category_id",
            5,
            "annotation 13 has category_id 5, not one of the 2 categories: 2=ant, 9=zebra",
        ),
        ("annotations.2.category_id", ..., "annotation 13 has category_id None"),
        ("annotations.2.category_id", [1], r"annotation 13 has category_id \[1\]: not a whole number"),
        ("annotations.2.category_id", 2.5, "annotation 13 has category_id 2.5: not a whole number"),
        ("annotations.3.bbox", [1, 2, 10**400, 4], r"annotation 14 has bbox \[1, 2, 10+\.\.\.: expected 4 finite"),
        ("annotations.0.bbox", ..., "annotation 11 has bbox None: expected 4 finite numbers"),
        ("annotations.0.bbox", [1, 2, 3], r"annotation 11 has bbox \[1, 2, 3\]"),
        ("annotations.3.bbox", [1, 2, "three", 4], r"annotation 14 has bbox \[1, 2, 'three', 4\]"),
        ("annotations.3.iscrowd", "perhaps", "entry 3 has iscrowd 'perhaps', not a whole number"),
        ("annotations.3.bbox", [1, 2, float("nan"), 4], r"annotation 14 has bbox \[1, 2, nan, 4\]"),
    ],
)
def test_wrong_entries_are_named(tmp_path, path, value, match):
    file = coco_files.write(tmp_path, changed(path, value), images=False)[1]
    with pytest.raises(DataError, match=match) as caught:
        parse_coco(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("images.1.width", 50.0, "image 3 (sub/b.png) has height, width (50, 50.0)"),
        ("images.1.height", "50", "image 3 (sub/b.png) has height, width ('50', 50)"),
        ("images.1.id", "3", "entry 1 has id '3'"),
        ("categories.1.id", "2", "category {'id': '2', 'name': 'ant'} needs an integer id"),
        ("annotations.0.image_id", "3", "entry 0 has image_id '3'"),
        ("annotations.2.category_id", "9", "annotation 13 has category_id '9'"),
        ("annotations.3.bbox", ["5", 5, "10.0", 10], "annotation 14 has bbox ['5', 5, '10.0', 10]"),
        ("annotations.3.area", "77.5", "annotation 14 has area '77.5'"),
        ("annotations.2.iscrowd", "1", "entry 2 has iscrowd '1'"),
        ("annotations.2.iscrowd", "true", "entry 2 has iscrowd 'true'"),
        ("annotations.2.iscrowd", True, ""),
        ("annotations.3.iscrowd", "0", "entry 3 has iscrowd '0'"),
        ("annotations.3.iscrowd", None, "entry 3 has iscrowd: null"),
    ],
)
def test_another_form_of_a_value_is_read_with_a_warning(tmp_path, caplog, path, value, said):
    wanted = parse_coco(coco_files.write(tmp_path, images=False)[1])
    assert not caplog.records
    found = parse_coco(coco_files.write(tmp_path, changed(path, value), images=False)[1])
    for name in ("image_ids", "sizes", "offsets", "boxes_xywh_px", "labels", "area_px", "crowd", "ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert said in caplog.text
    assert len(caplog.records) == bool(said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-100, "1 of 4 areas are below 0, for example -100 of annotation 14, whose box is 10 x 10"),
        (0, "1 of 4 areas are 0"),
        (float("inf"), "1 of 4 areas are no finite number"),
        (float("-inf"), "1 of 4 areas are no finite number"),
        (float("nan"), "annotation 14 has area nan"),
        (2400, "1 of 4 areas are larger than the box"),
        ("large", "annotation 14 has area 'large'"),
        ([100], r"annotation 14 has area [100]"),
        (10**400, "annotation 14 has area 10000"),
        (None, ""),
        (144, None),  # rounded corners, or a last pixel that is not counted
        (3, None),  # a thin mask
    ],
)
def test_an_area_that_cannot_be_true_is_the_box_own(tmp_path, caplog, value, said):
    data = parse_coco(coco_files.write(tmp_path, changed("annotations.3.area", value), images=False)[1])
    assert data.area_px.tolist() == [410, 2400, value if said is None else 100, 600]
    assert (said or "") in caplog.text
    assert len(caplog.records) == bool(said)
    problems = Problems(collect=True)
    parse_coco(coco_files.write(tmp_path, changed("annotations.3.area", value), images=False)[1], problems=problems)
    assert [(problem.kind, problem.kept) for problem in problems.found] == [("wrong area", True)] * bool(said)


@pytest.mark.parametrize("name", ["coco128", "bccd", "doclayout-mini"])
def test_areas_of_real_files_are_kept(name, caplog):
    for path in sorted((coco_files.shared_data(name) / "annotations").glob("*.json")):
        found = parse_coco(path)
        given = {entry["id"]: entry["area"] for entry in json.loads(path.read_text())["annotations"]}
        assert found.area_px.tolist() == [given[number] for number in found.ids.tolist()]
    assert not caplog.records


def test_rotated_boxes_of_cvat_are_counted(tmp_path, caplog):
    data = coco_files.content()
    for entry, degrees in zip(data["annotations"], (0.0, 30.5, 180, 359.9)):
        entry["attributes"] = {"occluded": False, "rotation": degrees}
    parse_coco(coco_files.write(tmp_path, data, images=False)[1])
    assert "1 boxes are rectangles from before a rotation" in caplog.text
    assert "(annotations 12)" in caplog.text


def test_all_boxes_of_three_numbers(tmp_path):
    data = coco_files.content()
    for entry in data["annotations"]:
        entry["bbox"] = [1, 2, 3]
    with pytest.raises(DataError, match="annotation 11 has bbox"):
        parse_coco(coco_files.write(tmp_path, data)[1])


def test_the_real_file(tmp_path):
    folder = coco_files.shared_data("coco128")
    data = parse_coco(folder / "annotations" / "instances_train2017.json")
    assert len(data) == 128
    assert data.crowd.sum() == 10
    assert data.without_area().size == 0
    assert np.all(data.labels < 80)


def test_every_wrong_entry_is_collected_and_the_rest_is_read(tmp_path):
    data = coco_files.content()
    data["images"] += [
        {"id": 3, "file_name": "again.png", "height": 5, "width": 5},
        {"id": 8, "height": 5, "width": 5},
        {"id": 9, "file_name": "flat.png", "height": 0, "width": 5},
        "no object",
    ]
    data["annotations"] += [
        coco_files.annotation(21, 99, 2, [1, 1, 2, 2]),
        coco_files.annotation(22, 7, 5, [1, 1, 2, 2]),
        coco_files.annotation(23, 7, 2, [1, 1, 2]),
        coco_files.annotation(24, 7, 2, [1, 1, 2, 2], area="7"),
        coco_files.annotation(25, 9, 2, [1, 1, 2, 2]),
        coco_files.annotation(26, 7, None, [1, 1, 2, 2]),
        {"bbox": [1, 1, 2, 2]},
    ]
    problems = Problems(collect=True)
    found = parse_coco(coco_files.write(tmp_path, data, images=False)[1], problems=problems)
    assert found.ids.tolist() == [12, 13, 14, 24, 25]
    assert found.area_px[3] == 7
    assert found.file_names == ("a.png", "flat.png")  # nobody knows whose the boxes of the id 3 are
    assert found.sizes.tolist() == [[40, 60], [0, 0]]  # read from the file by whoever knows its folder
    assert +problems.losses.boxes == {"bad box": 1, "unknown category": 2, "unknown image": 1, "bad entry": 1,
                                     "duplicate id": 1}  # fmt: skip
    assert +problems.losses.images == {"broken json": 1, "bad entry": 1, "duplicate id": 2}
    texts = sorted(f"{problem.kind}: {problem.text}" for problem in problems.found)
    assert [text[:50] for text in texts] == [
        "bad box: annotation 23 has bbox [1, 1, 2]: expecte",
        "bad entry: entry 10 has image_id None, not a whole",
        "bad entry: image 8 has no file_name: every image e",
        "bad size: image 9 (flat.png) has height, width (0,",
        "broken json: images[5] is 'no object', not an obje",
        "duplicate id: image id 3 occurs 2 times (sub/b.png",
        "odd entry: annotation 24 has area '7': expected a ",
        "unknown category: annotation 0 has category_id Non",
        "unknown category: annotation 22 has category_id 5,",
        "unknown category: annotation 26 has category_id No",
        "unknown image: annotation 21 has image_id 99, whic",
    ]


def test_boxes_of_a_reported_image_go_with_it(tmp_path):
    data = coco_files.content()
    del data["images"][0]["file_name"]
    data["annotations"] += [
        coco_files.annotation(number, image_id, 2, [1, 1, 2, 2]) for number, image_id in ((21, 98), (22, 99))
    ]
    data["annotations"].append(coco_files.annotation(23, 99, 2, [1, 1, 2, 2]))
    problems = Problems(collect=True)
    found = parse_coco(coco_files.write(tmp_path, data, images=False)[1], problems=problems)
    assert found.ids.tolist() == [11]
    assert [problem.text.split(":")[0] for problem in problems.found] == [
        "image 7 has no file_name",
        "annotation 21 has image_id 98, which no image has (1 such annotations)",
        "annotation 22 has image_id 99, which no image has (2 such annotations)",
        "annotation 23 has image_id 99, which no image has (2 such annotations)",
    ]


def test_further_keys_can_mark_regions(tmp_path):
    path = coco_files.write(tmp_path, changed("annotations.0.isfake", 1), images=False)[1]
    assert parse_coco(path, crowd_keys=("iscrowd", "isfake")).crowd.tolist() == [False, True, False, True]
    assert parse_coco(path).crowd.tolist() == [False, True, False, False]


def test_classes_alone(tmp_path):
    path = coco_files.write(tmp_path, images=False)[1]
    assert coco_label_space(path) == parse_coco(path).label_space


@pytest.mark.parametrize("value", [1e308, "1e308", -1e13, 10**30])
def test_numbers_that_no_picture_is_large_enough_for_are_no_box(tmp_path, value):
    problems = Problems(collect=True)
    path = coco_files.write(tmp_path, changed("annotations.3.bbox", [5, 5, value, value]), images=False)[1]
    assert len(parse_coco(path, problems=problems).ids) == 3
    assert [problem.kind for problem in problems.found] == ["bad box"]

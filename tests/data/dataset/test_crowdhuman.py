# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
from PIL import Image

from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection, parse_crowdhuman
from isdfine.data.dataset.problems import Problems


def person(shift=0, **more):
    """Full body 20 x 30 that reaches outside, visible 10 x 10, head 5 x 5."""
    boxes = {"fbox": [shift - 5, 0, 20, 30], "vbox": [shift, 0, 10, 10], "hbox": [shift + 2, 1, 5, 5]}
    return {"tag": "person", **boxes, "head_attr": {"ignore": 0}, "extra": {"box_id": 0}, **more}


def mask():
    return {"tag": "mask", "fbox": [30, 0, 20, 20], "vbox": [30, 0, 20, 20], "hbox": [30, 0, 20, 20]} | {
        "extra": {"ignore": 1}
    }


def write(root, *lines, images=("a,1", "b")):
    for name in images:
        Image.new("RGB", (60, 40)).save(root / f"{name}.jpg")
    (root / "x.odgt").write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return {"img_folder": str(root), "ann_file": str(root / "x.odgt")}


def test_persons_and_regions(tmp_path):
    files = write(
        tmp_path,
        {"ID": "a,1", "gtboxes": [person(), mask(), person(9, extra={"ignore": 1})]},
        {"ID": "b", "gtboxes": []},
    )
    dataset = CrowdHumanDetection(**files, num_classes=1)
    assert dataset.annotations.file_names == ("a,1.jpg", "b.jpg")
    assert dataset.annotations.sizes.tolist() == [[40, 60]] * 2
    assert dataset.annotations.boxes_xywh_px.tolist() == [[-5, 0, 20, 30], [30, 0, 20, 20], [4, 0, 20, 30]]
    assert dataset.annotations.crowd.tolist() == [False, True, True]
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 15, 30]]
    assert dataset.label_space.to_dict() == {"names": ["person"], "category_ids": [1]}
    assert len(dataset[1][1]["labels"]) == 0


@pytest.mark.parametrize("value", ["1", "true", True, 1.0])
def test_flags_in_other_forms(tmp_path, value):
    files = write(tmp_path, {"ID": "b", "gtboxes": [person(), person(9, extra={"ignore": value})]})
    assert CrowdHumanDetection(**files).annotations.crowd.tolist() == [False, True]


def test_ids_as_labels_as_in_official_configs(tmp_path):
    dataset = CrowdHumanDetection(**write(tmp_path, {"ID": "b", "gtboxes": [person()]}), num_classes=2)
    assert dataset.label_space.names == ("(unused 0)", "person")
    assert dataset[0][1]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "boxes", "labels", "names"),
    [
        ({"boxes": "vbox"}, [[0, 0, 10, 10], [30, 0, 20, 20]], [0, 0], ("person",)),
        ({"boxes": "hbox"}, [[2, 1, 5, 5], [30, 0, 20, 20]], [0, 0], ("head",)),
        ({"heads": True}, [[-5, 0, 20, 30], [2, 1, 5, 5], [30, 0, 20, 20]], [0, 1, 0], ("person", "head")),
    ],
)
def test_other_boxes(tmp_path, options, boxes, labels, names):
    data = parse_crowdhuman(**write(tmp_path, {"ID": "b", "gtboxes": [person(), mask()]}), **options)
    assert data.boxes_xywh_px.tolist() == boxes
    assert data.labels.tolist() == labels
    assert data.label_space.names == names
    assert CrowdHumanDetection.label_space_of(options) == data.label_space


def test_hidden_heads_are_regions(tmp_path):
    files = write(tmp_path, {"ID": "b", "gtboxes": [person(head_attr={"ignore": 1})]})
    assert parse_crowdhuman(**files, heads=True).crowd.tolist() == [False, True]
    with pytest.raises(ConfigError, match="heads is True and boxes is hbox: both mean the heads"):
        parse_crowdhuman(**files, boxes="hbox", heads=True)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"ID": "b", "gtbox', r"x.odgt:2: not JSON \(Unterminated string .*\): an odgt file has one JSON object per"),
        ("a b", "x.odgt:2: not JSON"),
        ("[1]", 'x.odgt:2: a line needs a text "ID" and a list "gtboxes": is this'),
        ({"ID": 3, "gtboxes": []}, "x.odgt:2: a line needs a text"),
        ({"ID": "b"}, "x.odgt:2: a line needs a text"),
        (
            {"ID": "b", "gtboxes": [person(), person(tag="dog")]},
            r"x.odgt:2: gtboxes\[1\] has tag 'dog', expected person",
        ),
        ({"ID": "b", "gtboxes": [5]}, r"x.odgt:2: gtboxes\[0\] has tag None"),
        ({"ID": "b", "gtboxes": [person(fbox=[1, 2, 3])]}, r"x.odgt:2: gtboxes\[0\] has fbox \[1, 2, 3\]: expected 4"),
        ({"ID": "b", "gtboxes": [person(fbox=[1, 2, 3, "4"])]}, "has fbox .*: expected 4 finite numbers"),
        ({"ID": "b", "gtboxes": [person(fbox=[1, 2, 3, 10**400])]}, "has fbox .*: expected 4 finite numbers"),
        (
            {"ID": "c", "gtboxes": []},
            r"c.jpg(: not there, but .*x.odgt lists it: add it|; check img_folder, or remove their entries$)",
        ),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, match):
    files = write(tmp_path, {"ID": "a,1", "gtboxes": [person()]}, line)
    with pytest.raises(DataError, match=match):
        CrowdHumanDetection(**files)
    problems = Problems(collect=True)
    assert parse_crowdhuman(**files, problems=problems).file_names[0] == "a,1.jpg"
    assert len(problems.found) == 1
    assert re.search(match, str(problems.found[0]))


def test_files_as_windows_writes_them(tmp_path):
    files = write(tmp_path, images=["b\u2028"])
    line = json.dumps({"ID": "b\u2028", "gtboxes": [person(extra=None, head_attr=None)]}, ensure_ascii=False)
    (tmp_path / "x.odgt").write_bytes(f"\ufeff{line} \r\n \r\n".encode())
    data = parse_crowdhuman(**files, heads=True)
    assert (data.file_names, data.crowd.tolist()) == (("b\u2028.jpg",), [False, False])


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"x.odgt: no image is listed: nothing to train or evaluate on"):
        CrowdHumanDetection(**write(tmp_path))
    with pytest.raises(DataError, match=r"y.odgt: cannot be opened \(No such file"):
        CrowdHumanDetection(str(tmp_path), str(tmp_path / "y.odgt"))


def test_a_subset_looks_at_its_images_only(tmp_path):
    files = write(tmp_path, {"ID": "b", "gtboxes": []}, {"ID": "c", "gtboxes": []})
    assert len(CrowdHumanDetection(**files, subset=["b"])) == 1


def test_a_key_twice_is_named(tmp_path):
    path = tmp_path / "a.odgt"
    path.write_text('{"ID": "1", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4], "fbox": [5, 6, 7, 8]}]}\n')
    with pytest.raises(DataError, match=r"a\.odgt:1: not JSON \(the key 'fbox' occurs twice in one object: remove one"):
        parse_crowdhuman(tmp_path, path)

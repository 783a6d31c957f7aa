# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from pathlib import Path

import pytest

from data import coco_files
from golden_cases import golden_path
from isdfine import components  # noqa: F401  # registers the data sets
from isdfine.core.errors import DataError
from isdfine.data.dataset.problems import Problems
from isdfine.data.label_space import MSCOCO, LabelSpace, num_classes_of


class Tree:
    """A config of plain data."""

    def __init__(self, data):
        self.data = data

    def get(self, dotted, default=None):
        node = self.data
        for part in dotted.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node


def test_labels_follow_the_ids_whatever_the_order_of_the_file():
    space = LabelSpace.from_coco(coco_files.content())
    assert space == LabelSpace(("ant", "zebra"), (2, 9))
    assert len(space) == 2


def test_round_trip_through_plain_data():
    assert LabelSpace.from_dict(json.loads(json.dumps(MSCOCO.to_dict()))) == MSCOCO


def test_it_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MSCOCO.names = ()


def test_mscoco_ids_are_the_golden_ones():
    common = json.loads(golden_path("configs.json").read_text())["common"]
    assert list(MSCOCO.category_ids) == common["mscoco_category_ids_in_label_order"]
    assert (MSCOCO.names[0], MSCOCO.names[11], MSCOCO.names[79]) == ("person", "stop sign", "toothbrush")


def test_mscoco_names_are_those_of_the_real_file():
    path = coco_files.shared_data("coco128") / "annotations" / "instances_train2017.json"
    assert LabelSpace.from_coco(json.loads(path.read_text())) == MSCOCO


def test_long_lists_are_abbreviated():
    space = LabelSpace(tuple(f"c{i}" for i in range(365)), tuple(range(1, 366)))
    assert space.describe().endswith("100=c99, ... (265 more)")


@pytest.mark.parametrize(
    ("categories", "match"),
    [
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], r"place: category id 1 occurs twice \('a' and 'b'\)"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], r"category name 'a' occurs twice \(ids 1 and 2\)"),
        ([{"id": "one", "name": "a"}], "needs an integer id and a name"),
        ([{"id": 1}], "needs an integer id and a name"),
        ([{"id": 1, "name": None}], "needs an integer id and a name"),
        ([], "list of categories is empty"),
        ([{"id": 1, "name": "a\nb"}], r"category name 'a\\nb' \(id 1\) holds a line break"),
        ([{"id": 1, "name": "\x1b[31mred"}], r"holds a line break or another control character: rename it"),
    ],
)
def test_wrong_categories(categories, match):
    with pytest.raises(DataError, match=match):
        LabelSpace.from_coco({"categories": categories}, "place")


def test_control_characters_of_a_foreign_checkpoint_are_not_printed():
    space = LabelSpace.from_dict({"names": ["a\nb", "\x1b[31mred"], "category_ids": [0, 1]})
    assert space.describe() == "0=a?b, 1=?[31mred"
    with pytest.raises(DataError, match=r"'a\\rb' .* holds a line break"):
        LabelSpace.from_names(["a\rb"], "data.yaml")


def test_names_and_ids_must_belong_together():
    with pytest.raises(DataError, match="1 class names for 2 category ids"):
        LabelSpace(("a",), (1, 2))
    with pytest.raises(DataError, match=r"category ids \(2, 2\) are not unique: give every class an id of its own"):
        LabelSpace(("a", "b"), (2, 2))


def test_ids_as_labels():
    space = LabelSpace(("ant", "zebra"), (1, 3)).with_unused_ids()
    assert space == LabelSpace(("(unused 0)", "ant", "(unused 2)", "zebra"), (0, 1, 2, 3))
    assert space.with_unused_ids() == space
    with pytest.raises(DataError, match="category id -1 cannot be a label: ids as labels start at 0"):
        LabelSpace(("ant",), (-1,)).with_unused_ids()


def test_names_in_a_list():
    assert LabelSpace.from_names(["b", "a"], "names.txt") == LabelSpace(("b", "a"), (0, 1))
    with pytest.raises(DataError, match=r"names.txt: the list of class names is empty"):
        LabelSpace.from_names([], "names.txt")
    with pytest.raises(DataError, match=r"names.txt: category name 'car' occurs twice \(ids 0 and 2\): rename one"):
        LabelSpace.from_names(["car", "bus", "car"], "names.txt")


def test_names_that_differ_in_case_or_spaces_are_two_classes():
    space = LabelSpace.from_names(["K", "k", "Queen", "queen ", "q"], "names.txt")
    assert space.alike() == [("K", "k"), ("Queen", "queen ")]


def test_all_wrong_categories_are_collected():
    categories = [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}, {"id": 2, "name": "A"}, {"name": "c"}]
    problems = Problems(collect=True)
    assert LabelSpace.from_coco({"categories": categories}, "place", problems) == LabelSpace(("a", "A"), (1, 2))
    assert {problem.kind for problem in problems.found} == {"bad class"}
    assert len(problems.found) == 2
    assert not LabelSpace.from_coco({"categories": []}, "place", problems).names


def test_class_count_of_a_config(tmp_path: Path):
    _, path = coco_files.write(tmp_path, images=False)
    dataset = {"type": "CocoDetection", "ann_file": str(path)}
    assert num_classes_of(Tree({"train_dataloader": {"dataset": dataset}})) == 2
    assert num_classes_of(Tree({"val_dataloader": {"dataset": dataset}})) == 2
    assert num_classes_of(Tree({"train_dataloader": {"dataset": {**dataset, "remap_mscoco_category": True}}})) == 80
    assert num_classes_of(Tree({"remap_mscoco_category": True, "train_dataloader": {"dataset": dataset}})) == 80
    assert num_classes_of(Tree({"train_dataloader": {"dataset": {"type": "Mine"}}})) is None
    own = {"CocoDetection": dataset, "train_dataloader": {"dataset": "CocoDetection"}}
    assert num_classes_of(Tree(own)) == 2
    assert num_classes_of(Tree({"train_dataloader": {"dataset": {"type": "ImageFolder", "img_folder": "x"}}})) is None
    assert num_classes_of(Tree({})) is None


def test_class_count_of_every_format(tmp_path: Path):
    def count(**section):
        return num_classes_of(Tree({"train_dataloader": {"dataset": section}}))

    (tmp_path / "label_list.txt").write_text("ant\n\nbee\n")
    (tmp_path / "data.yaml").write_text("names: {0: ant, 1: bee, 2: cat}")
    _, path = coco_files.write(tmp_path, images=False)
    assert count(type="VOCDetection", root=str(tmp_path)) == 2
    assert count(type="VOCDetection", root=str(tmp_path), classes=["a"]) == 1
    assert count(type="YoloDetection", data=str(tmp_path / "data.yaml")) == 3
    assert count(type="CrowdHumanDetection", heads=True) == 2
    assert count(type="CrowdHumanDetection", boxes="hbox") == 1
    assert count(type="Objects365Detection", ann_file=[str(path)]) == 2

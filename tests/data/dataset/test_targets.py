# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
from dataclasses import replace

import pytest

from builders import write_coco
from data import coco_files
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from isdfine.data.dataset.annotations import Collected
from isdfine.data.dataset.coco import CocoDetection, Objects365Detection
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection
from isdfine.data.dataset.targets import count_targets, report_targets, shortages
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from isdfine.data.label_space import LabelSpace
from isdfine.data.transforms import Compose, ConvertBoxes, ConvertPILImage, Resize, SanitizeBoundingBoxes

TRAIN_OPS = (Resize((64, 64)), SanitizeBoundingBoxes(1, 1), ConvertPILImage(), ConvertBoxes())


def data_of(boxes, *, size=(40, 60), crowd=None, images=1):
    """The same boxes in every one of some images."""
    collected = Collected()
    for number in range(images):
        collected.add(f"{number}.png", number, size, boxes, [0] * len(boxes), crowd)
    return collected.annotations(LabelSpace(("person",), (1,)), "x.json", "")


def kinds_of(data, ops=TRAIN_OPS):
    return [kind for kind, _ in shortages(count_targets(data, ops))]


BOX = [10, 10, 20, 20]
NONE_LEFT = {
    "crowd": (data_of([BOX] * 3, crowd=[True] * 3), "no targets", r"all 3 boxes are crowd .*CVAT"),
    "fractions": (data_of([[0.1, 0.2, 0.5, 0.7]] * 3), "normalised boxes", r"all 3 boxes lie in 0\.\.1 .*multiply"),
    "fractions as corners": (data_of([[0.5, 0.5, 0.9, 1.0]]), "normalised boxes", "all 1 boxes lie in"),
    "sloppy fractions": (data_of([[-0.02, 0.1, 1.04, 0.6]] * 3), "normalised boxes", "all 3 boxes lie in"),
    "whole images as fractions": (data_of([[0, 0, 1, 1]], images=10), "normalised boxes", "all 10 boxes lie"),
    "small": (data_of([[10, 10, 8, 8]], size=(640, 640)), "no targets", "all 1 boxes are too small .*tiles"),
    "several": (data_of([BOX, [70, 0, 9, 9]], crowd=[True, False]), "no targets", r"none of the 2 boxes .*: 1 crowd"),
    "zeros": (data_of([[0, 0, 0, 0]] * 12), "no targets", "none of the 12 boxes .*: 12 without area"),
    "no box": (data_of([], images=2), "no boxes", "none of the 2 images has a box"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE_LEFT)
def test_training_on_nothing_is_refused(name, caplog):
    data, kind, text = NONE_LEFT[name]
    assert kinds_of(data) == [kind]
    with pytest.raises(DataError, match=rf"x\.json: {text}.*allow_no_targets: True in the dataset section"):
        report_targets(data, TRAIN_OPS, training=True, allowed=False)
    report_targets(data, TRAIN_OPS, training=True, allowed=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_evaluation_without_boxes_is_a_warning(caplog):
    report_targets(NONE_LEFT["crowd"][0], (), training=False, allowed=False)
    assert "all 3 boxes are crowd" in caplog.text
    assert "the metrics on this data will be '-'" in caplog.text


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (data_of([BOX] * 3, crowd=[True, True, False]), "mostly crowd", "2 of 3 boxes are crowd"),
        (data_of([[1, 1, 8, 8]] * 2 + [[1, 1, 99, 99]], size=(640, 640)), "boxes below min_size", "2 of 3 boxes"),
        (data_of([BOX] * 9 + [[0.5, 0.5, 0.2, 0.2]]), "some normalised boxes", "1 of 10 boxes lie"),
    ],
)  # fmt: skip
def test_few_targets_are_a_warning(data, kind, text, caplog):
    assert kinds_of(data) == [kind]
    report_targets(data, TRAIN_OPS, training=True, allowed=False)
    assert text in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        data_of([BOX]),
        data_of([[0, 0, 3, 2], [5, 5, 1, 1]]),  # a few pixels
        data_of([[0, 0, 1, 1]], size=(1, 1), images=20),  # images of a pixel
        data_of([[0, 0, 0.5, 0.5]], size=(1, 1)),
        data_of([[0, 0, 1, 1]]),  # one pixel in the corner
        data_of([BOX] * 2, crowd=[True, False]),
    ],
)
def test_sound_data_gives_no_warning(data, caplog):
    report_targets(data, TRAIN_OPS, training=True, allowed=False)
    assert not caplog.records


@pytest.mark.parametrize("name", ["coco128", "bccd", "doclayout-mini"])
def test_real_data_gives_no_warning(name):
    for split in read_all(discover(coco_files.shared_data(name))):
        assert kinds_of(split.annotations, [Resize((640, 640)), SanitizeBoundingBoxes(1, 1)]) == []


def test_the_counts_are_those_of_the_samples(tmp_path):
    data = coco_files.content()
    data["annotations"] += [
        coco_files.annotation(20, 7, 2, [3, 3, 0.9, 20]),
        coco_files.annotation(21, 3, 2, [3, 3, 12, 0.7]),
        coco_files.annotation(22, 3, 2, [3, 3, 12, 0.8]),
        coco_files.annotation(23, 7, 2, [59.5, 3, 12, 9]),  # half a pixel of it is inside
        coco_files.annotation(24, 7, 2, [59.5, 3, 0, 9]),
    ]
    root, path = coco_files.write(tmp_path, data)
    dataset = CocoDetection(str(root), str(path), Compose(list(TRAIN_OPS)))
    counts = count_targets(dataset.annotations, TRAIN_OPS)
    kept = [len(dataset[index][1]["labels"]) for index in range(len(dataset))]
    assert (counts.targets, counts.boxes, counts.crowd, counts.without_area) == (sum(kept), 9, 1, 1)
    assert counts.too_small == 3
    assert counts.empty_images == kept.count(0) == 0


def opened(folder, form):
    """The generated data in one format, as its data set class opens it for training."""
    annotations = write_coco(folder / "source", categories=((1, "person"),))
    options = {"transforms": Compose(list(TRAIN_OPS))}
    images = str(annotations.parent / "images")
    if form in ("coco", "objects365"):
        cls = CocoDetection if form == "coco" else Objects365Detection
        return lambda **more: cls(images, str(annotations), **options, **more)
    splits = [replace(split, name="train") for split in read_all(discover(annotations))]
    write_dataset(splits, folder / form, form)
    root = folder / form
    classes = {
        "voc": lambda **more: VOCDetection(str(root), "train.txt", **options, **more),
        "yolo": lambda **more: YoloDetection(str(root / "data.yaml"), **options, **more),
        "crowdhuman": lambda **more: CrowdHumanDetection(
            str(root / "Images" / "train"), str(root / "annotation_train.odgt"), **options, **more
        ),
    }
    return classes[form]


@pytest.mark.parametrize("form", ["coco", "objects365", "voc", "yolo", "crowdhuman"])
def test_every_format_says_what_it_holds(tmp_path, caplog, form):
    caplog.set_level(logging.INFO)
    opened(tmp_path, form)(subset=0.5)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("targets")]
    assert len(lines) == 1
    assert "4 images (0 without a target), " in lines[0]
    assert lines[0].endswith("targets; left out: nothing")


def test_empty_label_files_stop_a_training(tmp_path, caplog):
    dataset = opened(tmp_path, "yolo")
    for file in (tmp_path / "yolo" / "labels" / "train").iterdir():
        file.write_text("")
    with pytest.raises(DataError, match=r"none of the 8 images has a box: the label files"):
        dataset()
    assert len(dataset(allow_no_targets=True)) == 8
    assert "none of the 8 images has a box" in caplog.text


def test_a_subset_without_targets_is_refused(tmp_path):
    annotations = write_coco(tmp_path, boxes=(0, 2))
    with pytest.raises(DataError, match="none of the 1 images has a box"):
        CocoDetection(str(tmp_path / "images"), str(annotations), Compose(list(TRAIN_OPS)), subset=["000.png"])

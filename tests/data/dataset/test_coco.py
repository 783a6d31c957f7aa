# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import json
import logging
import random

import numpy as np
import pytest
import torch
from PIL import Image

from data import coco_files
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.detection import SampleKey
from isdfine.data.label_space import LabelSpace
from isdfine.data.transforms import Compose, ConvertBoxes, ConvertPILImage, RandomPhotometricDistort


def open_small(tmp_path, data=None, **options):
    root, path = coco_files.write(tmp_path, data)
    return CocoDetection(str(root), str(path), **options)


def test_a_sample_by_hand(tmp_path):
    dataset = open_small(tmp_path)
    image, target = dataset[0]
    assert image.size == (60, 40)
    assert target["boxes"].tolist() == [[50, 30, 60, 40], [5, 5, 15, 15]]
    assert target["labels"].tolist() == [0, 1]
    assert target["area"].tolist() == [410.0, 77.5]
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["image_id"].tolist() == [7]
    assert target["orig_size"].tolist() == [40, 60]
    assert {name: value.dtype for name, value in target.items()} == {
        "boxes": torch.float32,
        "labels": torch.int64,
        "area": torch.float32,
        "iscrowd": torch.int64,
        "image_id": torch.int64,
        "orig_size": torch.int64,
    }


def test_an_image_without_boxes(tmp_path):
    data = coco_files.content()
    data["annotations"] = data["annotations"][:1]
    dataset = open_small(tmp_path, data, transforms=Compose([ConvertPILImage(), ConvertBoxes()]))
    image, target = dataset[0]
    assert image.dtype == torch.uint8
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_boxes_that_cover_nothing(tmp_path, caplog):
    data = coco_files.content()
    data["annotations"] += [
        coco_files.annotation(21, 7, 2, [30, 20, -5, 5]),
        coco_files.annotation(22, 7, 2, [60, 0, 5, 5]),
        coco_files.annotation(23, 7, 2, [10, 10, 0, 5]),
        coco_files.annotation(24, 7, 2, [-9, -9, 5, 5]),
    ]
    with caplog.at_level(logging.WARNING):
        dataset = open_small(tmp_path, data, invalid_boxes="drop")
    assert len(caplog.records) == 1
    text = caplog.text
    assert "4 of 8 boxes cover nothing of their image (1 inverted, 1 of zero size, 2 outside the image)" in text
    assert "annotation ids 21, 22, 23, 24 (in a.png): not used as training targets" in text
    assert dataset[0][1]["labels"].tolist() == [0, 1]
    assert len(dataset.annotations.ids) == 8
    with pytest.raises(
        DataError, match=r"4 of 8 boxes cover nothing .* correct them, or leave them out with invalid_boxes: drop"
    ):
        open_small(tmp_path, data)


def test_a_box_of_zero_size_is_left_out_with_a_warning(tmp_path, caplog):
    data = coco_files.content()
    data["annotations"].append(coco_files.annotation(23, 7, 2, [10, 10, 0, 5]))
    dataset = open_small(tmp_path, data)
    assert (
        "1 of 5 boxes cover nothing of their image (1 of zero size), annotation ids 23 (in a.png): not u" in caplog.text
    )
    assert dataset[0][1]["labels"].tolist() == [0, 1]


def test_clean_data_says_nothing(tmp_path, caplog):
    open_small(tmp_path)
    assert not caplog.records


def test_a_contradicting_class_count(tmp_path):
    assert len(open_small(tmp_path, num_classes=2).label_space) == 2
    with pytest.raises(
        DataError, match=r"num_classes is 3, but .*annotations.json has 2 classes: 2=ant, 9=zebra. Set num_"
    ):
        open_small(tmp_path, num_classes=3)
    with pytest.raises(
        DataError,
        match=r"num_classes is 3, but .* is read with COCO's 80 classes: set remap_mscoco_category: False for",
    ):
        open_small(tmp_path, num_classes=3, remap_mscoco_category=True)


def test_largest_id_plus_one_makes_ids_the_labels(tmp_path, caplog):
    dataset = open_small(tmp_path, num_classes=10)
    assert dataset.label_space.category_ids == tuple(range(10))
    assert [dataset.label_space.names[label] for label in (0, 2, 9)] == ["(unused 0)", "ant", "zebra"]
    assert dataset[0][1]["labels"].tolist() == [2, 9]
    assert "num_classes is 10, the largest category id + 1, for 2 classes: the ids are the labels" in caplog.text
    assert "8 outputs stay unused; leave num_classes out" in caplog.text
    with pytest.raises(DataError, match=r"num_classes is 9, but .* has 2 classes"):
        open_small(tmp_path, num_classes=9)
    with pytest.raises(DataError, match=r"num_classes is 10, but .* has 2 classes"):
        open_small(tmp_path, num_classes=10, classes=["zebra", "ant"])


def test_labels_in_the_order_of_given_names(tmp_path):
    dataset = open_small(tmp_path, classes=["zebra", "ant"])
    assert dataset.label_space == LabelSpace(("zebra", "ant"), (9, 2))
    assert dataset[0][1]["labels"].tolist() == [1, 0]
    section = {"ann_file": str(tmp_path / "annotations.json"), "classes": ["zebra", "ant"]}
    assert CocoDetection.label_space_of(section) == dataset.label_space
    with pytest.raises(DataError, match=r"classes are 2=ant, 9=zebra; unknown: \['bee'\]: give each once"):
        open_small(tmp_path, classes=["zebra", "bee"])
    with pytest.raises(DataError, match=r"has category_id 2, not one of the 1 categories: 9=zebra"):
        open_small(tmp_path, classes=["zebra"])  # it has boxes


def test_a_subset_needs_only_its_files(tmp_path):
    root, path = coco_files.write(tmp_path)
    (root / "sub" / "b.png").unlink()
    for subset in (["a.png"], ["7"], ["a"]):
        dataset = CocoDetection(str(root), str(path), subset=subset)
        assert dataset.annotations.file_names == ("a.png",)
        assert dataset[0][1]["labels"].tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"subset is 0.0: give a fraction above 0"):
        CocoDetection(str(root), str(path), subset=0.0)


def test_an_image_listed_twice_is_said(tmp_path, caplog):
    data = coco_files.content()
    data["images"].append({**data["images"][0], "id": 8})
    assert len(open_small(tmp_path, data)) == 3
    assert "1 of 3 images are listed more than once" in caplog.text


def test_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="return_masks is True: masks are not supported"):
        open_small(tmp_path, return_masks=True)


def test_images_are_looked_for_at_once(tmp_path):
    root, path = coco_files.write(tmp_path)
    (root / "sub" / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images .* are missing: sub/b.png; check img_folder"):
        CocoDetection(str(root), str(path))


def test_a_broken_image_is_named(tmp_path):
    dataset = open_small(tmp_path)
    (dataset.img_folder / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a.png: cannot be decoded .* wanted for image 7 of .*annotations.json"):
        dataset[0]


def test_an_image_of_another_size_is_named(tmp_path):
    dataset = open_small(tmp_path)
    Image.new("RGB", (30, 20)).save(dataset.img_folder / "a.png")
    with pytest.raises(DataError, match=r"\(20, 30\), but image 7 of .* says \(40, 60\)"):
        dataset[0]


def test_ground_truth_of_an_image(tmp_path):
    dataset = open_small(tmp_path)
    truth = dataset.ground_truth(7)
    assert truth.path.name == "a.png"
    assert truth.boxes.tolist() == [[50, 30, 60, 40], [5, 5, 15, 15]]
    assert truth.labels.tolist() == [0, 1]
    assert truth.image().size == (60, 40)
    with pytest.raises(DataError, match="no image has the id 8"):
        dataset.ground_truth(8)


def test_augmentation_depends_on_the_key_alone(tmp_path):
    dataset = open_small(tmp_path, transforms=Compose([RandomPhotometricDistort(p=1.0), ConvertPILImage()]))
    first = dataset[SampleKey(3, 0, 5)][0]
    torch.rand(3), np.random.rand(3), random.random()
    dataset[SampleKey(3, 1, 5)]
    assert torch.equal(dataset[(3, 0, 5)][0], first)
    others = [dataset[key][0] for key in ((4, 0, 5), (3, 0, 6), (3, 0))]
    assert all(not torch.equal(other, first) for other in others)
    assert torch.equal(dataset[0][0], dataset[(0, 0)][0])


def test_global_random_states_are_left_alone(tmp_path):
    dataset = open_small(tmp_path, transforms=Compose([RandomPhotometricDistort(p=1.0)]))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    dataset[0]
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()) == expected


def test_the_committed_pages():
    folder = coco_files.TINY
    dataset = CocoDetection(str(folder / "train"), str(folder / "annotations" / "train.json"), num_classes=5)
    assert len(dataset) == 24
    assert dataset.label_space.names == ("text", "title", "list", "table", "figure")
    total = len(json.loads((folder / "annotations" / "train.json").read_text())["annotations"])
    assert sum(len(dataset[index][1]["labels"]) for index in range(24)) == total


def test_real_photos():
    folder = coco_files.shared_data("coco128")
    path = folder / "annotations" / "instances_val2017.json"
    dataset = CocoDetection(str(folder / "val2017"), str(path), remap_mscoco_category=True, num_classes=80)
    image, target = dataset[5]
    assert (image.height, image.width) == tuple(target["orig_size"].tolist())

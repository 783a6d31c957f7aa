# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import yaml

import isdfine
from builders import micro_sections, write_coco
from isdfine.audit.check import check
from isdfine.audit.configured import queries_of, sources_of
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import ConfigError
from planted import Planted


def config_with(folder, **datasets):
    sections = micro_sections(write_coco(folder / "micro"), folder / "run")
    for loader, dataset in datasets.items():
        if dataset is None:
            del sections[loader]
        else:
            sections[loader]["dataset"] = {**dataset, "transforms": {"type": "Compose", "ops": []}}
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(sections))
    return isdfine.load_config(path)


def test_each_data_set_of_a_run_is_read_in_its_format(tmp_path):
    source = read_all(discover(Planted(tmp_path / "data", train=4, val=2).write()))
    for form in ("voc", "yolo"):
        write_dataset(source, tmp_path / form, form)
    voc = {"type": "VOCDetection", "root": str(tmp_path / "voc"), "ann_file": "train.txt"}
    yolo = {"type": "YoloDetection", "data": str(tmp_path / "yolo" / "data.yaml"), "split": "val", "subset": 0.5}
    config = config_with(tmp_path, train_dataloader=voc, val_dataloader=yolo)
    splits = read_all(sources_of(config))
    assert [(split.name, split.format, len(split.annotations), len(split.problems)) for split in splits] == [
        ("train", "voc", 4, 0),
        ("val", "yolo", 2, 0),
    ]
    assert queries_of(config) == 8


def test_the_classes_of_coco_are_used_where_the_run_asks_for_them(tmp_path):
    annotations = write_coco(tmp_path / "c", categories=((1, "person"), (3, "car")))
    coco = {"type": "CocoDetection", "img_folder": str(annotations.parent / "images"), "ann_file": str(annotations),
            "return_masks": False, "remap_mscoco_category": True}  # fmt: skip
    config = config_with(tmp_path, train_dataloader=coco, val_dataloader=coco)
    assert [len(source.annotations.label_space) for source in read_all(sources_of(config))] == [80, 80]


def test_a_run_without_boxes_to_look_at_is_refused(tmp_path):
    folder = {"type": "ImageFolder", "img_folder": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.type: ImageFolder has no annotations"):
        sources_of(config_with(tmp_path, train_dataloader=folder))
    with pytest.raises(ConfigError, match=r"no train_dataloader\.dataset and no val_dataloader\.dataset"):
        sources_of(config_with(tmp_path, train_dataloader=None, val_dataloader=None))


def test_boxes_that_the_recipe_drops_are_found(tmp_path):
    data = Planted(tmp_path / "data", train=4, val=2).write()  # boxes of 20.5 x 30 in images of 96 x 128
    coco = {"type": "CocoDetection", "img_folder": str(data / "train"), "return_masks": False,
            "ann_file": str(data / "annotations" / "train.json")}  # fmt: skip
    config = config_with(tmp_path, train_dataloader=coco, val_dataloader=coco)
    assert [source.ops for source in sources_of(config)] == [(), ()]
    ops = [{"type": "Resize", "size": [32, 32]}, {"type": "SanitizeBoundingBoxes", "min_size": 6}]
    config = config.with_values({"train_dataloader.dataset.transforms.ops": ops})
    findings = {
        finding.split: finding.text for finding in check(read_all(sources_of(config))) if finding.kind == "no targets"
    }
    assert list(findings) == ["train"]
    assert (
        "all 12 boxes are too small for SanitizeBoundingBoxes (min_size 6 pixels) at the size after Resize to 32 x"
        in (findings["train"])
    )

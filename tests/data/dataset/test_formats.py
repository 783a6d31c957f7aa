# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import isdfine
from builders import micro_sections
from data import coco_files
from isdfine.audit.formats import read_annotations
from isdfine.core.errors import DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from isdfine.data.loader import DataLoader
from isdfine.data.transforms import Compose, ConvertBoxes, ConvertPILImage, RandomHorizontalFlip, RandomIoUCrop, Resize
from isdfine.solver.solver import Evaluation

NAMES = ["Platelets", "RBC", "WBC"]


def test_annotations_and_their_folder(tmp_path):
    root, path = coco_files.write(tmp_path)
    annotations, folder = read_annotations("coco", {"img_folder": str(root), "ann_file": str(path)})
    assert folder == root
    assert annotations.folder == str(root)
    found, folder = read_annotations("folder", {"img_folder": str(root)})
    assert (found.file_names, folder) == (("a.png", "sub/b.png"), root)
    problems = Problems(collect=True)
    (root / "a.png").write_text("no image")
    assert len(read_annotations("folder", {"img_folder": str(root)}, problems)[0]) == 1
    assert [problem.kind for problem in problems.found] == ["unreadable image"]


def test_arguments_that_a_format_does_not_have():
    with pytest.raises(DataError, match="format 'tao': no such format; there are coco, voc, yolo, crowdhuman, obj"):
        read_annotations("tao", {})
    with pytest.raises(DataError, match="format yolo: unknown dat, missing data; it takes data, split, subset"):
        read_annotations("yolo", {"dat": "x"})


def write_yolo(folder: Path, coco: CocoDetection, names: Sequence[str] = NAMES) -> str:
    """The same images and boxes for YOLO tools."""
    data = coco.annotations
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for index, name in enumerate(data.file_names):
        shutil.copy(coco.img_folder / name, folder / "images" / name)
        height, width = data.sizes[index]
        rows = [
            f"{label} {(x + w / 2) / width:.17g} {(y + h / 2) / height:.17g} {w / width:.17g} {h / height:.17g}"
            for label, (x, y, w, h) in zip(data.labels[data.rows(index)], data.boxes_xywh_px[data.rows(index)])
        ]
        (folder / "labels" / name).with_suffix(".txt").write_text("\n".join(rows))
    (folder / "data.yaml").write_text(f"train: images\nnames: {list(names)}\n")
    return str(folder / "data.yaml")


def test_the_same_data_in_three_formats_is_the_same(tmp_path, caplog):
    caplog.set_level(logging.ERROR)  # one box of BCCD has no width
    folder = coco_files.shared_data("bccd")
    ops = [RandomIoUCrop(p=1.0), RandomHorizontalFlip(), Resize((64, 96)), ConvertPILImage(), ConvertBoxes()]
    options = {"transforms": Compose(ops), "subset": 0.1}
    images, path = str(folder / "voc" / "JPEGImages"), str(folder / "annotations" / "train.json")
    coco = CocoDetection(images, path, **options)
    stems = [Path(name).stem for name in coco.annotations.file_names]
    voc = VOCDetection(str(folder / "voc"), "train.txt", classes=NAMES, **{**options, "subset": stems})
    yolo = YoloDetection(write_yolo(tmp_path, coco), **{**options, "subset": None})
    batches = []
    for dataset in (coco, voc, yolo):
        data = dataset.annotations
        assert [Path(name).stem for name in data.file_names] == stems
        assert dataset.label_space.names == tuple(NAMES)
        assert np.array_equal(data.labels, coco.annotations.labels)
        assert np.array_equal(data.sizes, coco.annotations.sizes)
        assert np.array_equal(data.offsets, coco.annotations.offsets)
        np.testing.assert_allclose(data.boxes_xywh_px, coco.annotations.boxes_xywh_px, atol=1e-9, rtol=0)
        batches.append(next(iter(DataLoader(dataset, total_batch_size=4, shuffle=True))))
    assert np.array_equal(voc.annotations.boxes_xywh_px, coco.annotations.boxes_xywh_px)
    for images, targets in batches[1:]:
        assert torch.equal(images, batches[0][0])
        for target, expected in zip(targets, batches[0][1]):
            assert torch.equal(target["labels"], expected["labels"])
            torch.testing.assert_close(target["boxes"], expected["boxes"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_a_config_infers_its_class_count_from_any_format(tmp_path, kind):
    coco = CocoDetection(*map(str, coco_files.write(tmp_path / "coco", images_at_the_top())))
    folder = tmp_path / kind
    if kind == "yolo":
        section = {"type": "YoloDetection", "data": write_yolo(folder, coco, coco.label_space.names)}
    else:
        section = {"type": "VOCDetection", "root": write_voc(folder, coco)}
    sections = micro_sections(tmp_path / "unused.json", tmp_path / "run")
    for loader in ("train_dataloader", "val_dataloader"):
        sections[loader]["dataset"] = {**section, "transforms": sections[loader]["dataset"]["transforms"]}
    (tmp_path / "micro.yml").write_text(yaml.safe_dump(sections))
    config = isdfine.load_config(tmp_path / "micro.yml")
    assert config.shared("num_classes") == 2
    run = Evaluation(config)
    assert run.label_space.names == ("ant", "zebra")
    assert run.evaluate().num_images == 2


def images_at_the_top() -> dict[str, Any]:
    """The small COCO file with both images in one folder and without its crowd region."""
    data = coco_files.content()
    data["images"][1]["file_name"] = "b.png"
    data["annotations"][1]["bbox"] = [50, 30, 10, 10]  # YOLO has no centres outside
    del data["annotations"][2]
    return data


def write_voc(folder: Path, coco: CocoDetection) -> str:
    """The same images and boxes as VOC has them."""
    data = coco.annotations
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    for index, name in enumerate(data.file_names):
        shutil.copy(coco.img_folder / name, folder / "JPEGImages" / name)
        height, width = data.sizes[index]
        text = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        for label, (x, y, w, h) in zip(data.labels[data.rows(index)], data.boxes_xywh_px[data.rows(index)]):
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h))
            box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
            text += f"<object><name>{data.label_space.names[label]}</name><bndbox>{box}</bndbox></object>"
        (folder / "Annotations" / name).with_suffix(".xml").write_text(text + "</annotation>")
    (folder / "label_list.txt").write_text("\n".join(data.label_space.names))
    (folder / "trainval.txt").write_text("\n".join(Path(name).stem for name in data.file_names))
    return str(folder)


@pytest.mark.parametrize(
    ("format", "where", "kinds"),
    [
        ("voc", {"root": "voc"}, ["missing annotation", "bad class"]),
        ("voc", {"root": "voc", "classes": []}, ["missing annotation", "bad class"]),
        ("yolo", {"data": "none.yaml"}, ["missing annotation"]),
        ("yolo", {"data": "list.yaml"}, ["broken line"]),
        ("yolo", {"data": "broken.yaml"}, ["broken line"]),
        ("crowdhuman", {"img_folder": ".", "ann_file": "none.odgt"}, ["missing annotation"]),
        ("crowdhuman", {"img_folder": ".", "ann_file": "latin.odgt"}, ["broken line"]),
        ("coco", {"img_folder": ".", "ann_file": "empty.json"}, ["bad class", "missing image"]),
        ("folder", {"img_folder": "voc"}, ["missing image"]),
        ("folder", {"img_folder": "none"}, ["missing image"]),
    ],
)
def test_hopeless_data_is_reported_and_empty(tmp_path, monkeypatch, format, where, kinds):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc").mkdir()
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "latin.odgt").write_bytes(b"\xe9")
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    problems = Problems(collect=True)
    annotations, _ = read_annotations(format, where, problems)
    assert len(annotations) == len(annotations.ids) == 0
    assert [problem.kind for problem in problems.found] == kinds
    with pytest.raises(DataError):
        read_annotations(format, where)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A folder alone says what to train on: format, parts, classes; and where nothing says it, what is chosen is said."""

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import isdfine
from builders import ROOT, write_micro_config
from data import coco_files
from exports import BOXES, CASES, objects_of, roboflow_coco, roboflow_yolo, write
from isdfine.audit import configured
from isdfine.audit.found import FoundData, find_data
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from isdfine.core.registry import REGISTRY
from isdfine.data.dataset.detection import DetectionDataset
from planted import CLASSES, Planted, picture


def built(section: Mapping[str, Any]) -> DetectionDataset:
    """The data set of a loader's section, as a config builds it."""
    data = REGISTRY[section["type"]](**{key: value for key, value in section.items() if key != "type"})
    assert isinstance(data, DetectionDataset)
    return data


def loaders(found: FoundData) -> list[DetectionDataset]:
    """Training and validation data; no image is in both, and both have the classes that were found."""
    train, val = (built(found.overrides[f"{name}_dataloader.dataset"]) for name in ("train", "val"))
    assert train.label_space.names == val.label_space.names
    assert len(train.label_space) == found.overrides["num_classes"]
    assert not paths(train) & paths(val)
    return [train, val]


def paths(data: DetectionDataset) -> set[Path]:
    """Its image files."""
    return {(data.img_folder / name).resolve() for name in data.annotations.file_names}


def lines(found: FoundData, root: Path) -> list[str]:
    """What is said, with the folder left out."""
    return [line.replace(str(root), "DATA") for line in found.lines]


@pytest.mark.parametrize("tool", CASES)
def test_what_a_tool_exports_can_be_trained_on(tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, parts, _ = CASES[tool]
    write(tmp_path / "data", files)
    monkeypatch.chdir(tmp_path)
    found = find_data("data")
    monkeypatch.chdir("/")  # a run that is resumed elsewhere finds its data
    train, val = loaders(found)
    assert objects_of(train) | objects_of(val) == BOXES
    assert (len(train), len(val)) == (1, 1)
    if len(parts) == 2:
        assert set(objects_of(train)) == {"a"}
    assert ("drawn with seed 0" in " ".join(found.lines)) == (len(parts) == 1)
    idle = {"_background_"} if "script" in tool else set()
    assert set(train.label_space.names) == {"cat", "dog"} | idle


def planted(folder: Path, form: str, *, train: int = 10, val: int = 4) -> Path:
    """A clean data set in a format."""
    data = Planted(folder / "source", train=train, val=val)
    if not val:
        del data.content["val"]
    write_dataset(read_all(discover(data.write())), folder / form, form)
    return folder / form


def test_what_is_said(tmp_path: Path) -> None:
    root = planted(tmp_path, "yolo")
    assert lines(find_data(root), root) == [
        "DATA: YOLO",
        "training: 10 images (DATA/data.yaml (train))",
        "validation: 4 images (DATA/data.yaml (val))",
        "3 classes: ant, bee, cow",
    ]
    assert find_data(root / "data.yaml").overrides == find_data(root).overrides


def test_official_coco_names(tmp_path: Path) -> None:
    root = planted(tmp_path, "coco")
    for part in ("train", "val"):
        (root / part).rename(root / f"{part}2017")
        (root / "annotations" / f"{part}.json").rename(root / "annotations" / f"instances_{part}2017.json")
    train, val = loaders(find_data(root))
    assert (len(train), len(val)) == (10, 4)
    assert train.label_space.category_ids == (1, 4, 7)


def test_a_yolo_folder_without_a_yaml_file(tmp_path: Path) -> None:
    root = planted(tmp_path, "yolo")
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"label files of YOLO and no class names: write a file classes\.txt"):
        find_data(root)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / part).rename(root / kind / f"{part}2017")
    assert [len(data) for data in loaders(find_data(root))] == [10, 4]


def test_crowdhuman_as_it_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    for number, part in enumerate(("train", "train", "val")):
        picture(number).save(tmp_path / "Images" / f"{number},a.jpg")
        boxes = [{"tag": "person", "fbox": [1, 2, 30, 40], "hbox": [1, 2, 9, 9], "vbox": [1, 2, 30, 20], "extra": {}}]
        with (tmp_path / f"annotation_{part}.odgt").open("a") as file:
            file.write(json.dumps({"ID": f"{number},a", "gtboxes": boxes}) + "\n")
    found = find_data(tmp_path)
    assert [len(data) for data in loaders(found)] == [2, 1]
    assert found.lines[0].endswith(": CrowdHuman")
    assert found.lines[3] == "1 class: person"


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_one_part_is_divided_by_seed(tmp_path: Path, form: str) -> None:
    root = planted(tmp_path, form, train=15, val=0)
    found = find_data(root)
    train, val = loaders(found)
    assert (len(train), len(val)) == (12, 3)
    assert "3 images" in found.lines[2]
    assert found.lines[2].endswith("drawn with seed 0 and left out of training: there is no validation part")
    assert paths(loaders(find_data(root))[1]) == paths(val)
    assert paths(loaders(find_data(root, seed=1))[1]) != paths(val)


def test_validation_on_the_images_of_training_is_not_believed(tmp_path: Path) -> None:
    root = planted(tmp_path, "yolo")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("val: images/val", "val: images/train"))  # as in coco128.yaml
    found = find_data(root)
    assert [len(data) for data in loaders(found)] == [8, 2]
    assert "drawn with seed 0 and left out of training: " in found.lines[2]
    assert found.lines[2].endswith("data.yaml (val) holds the images of training")


def test_single_images_of_both_parts_are_said(tmp_path: Path) -> None:
    data = Planted(tmp_path, train=4, val=2)
    shutil.copy(data.file("train", 0), tmp_path / "val" / "same.jpg")
    data.content["val"]["images"][0]["file_name"] = "../train/train_00.jpg"
    assert "1 OF THEM ARE IN TRAINING AS WELL" in find_data(data.write()).lines[2]


def test_test_data_stands_in_for_validation_data_and_is_left_alone_beside_it(tmp_path: Path) -> None:
    root = planted(tmp_path, "coco")
    shutil.copytree(root / "val", root / "test")
    (root / "annotations" / "test.json").write_text((root / "annotations" / "val.json").read_text())
    assert find_data(root).lines[-1] == "not used: test"
    (root / "annotations" / "val.json").unlink()
    shutil.rmtree(root / "val")
    found = find_data(root)
    assert found.lines[2].endswith("test.json): there is no validation part")
    assert [len(part) for part in loaders(found)] == [10, 4]


def test_a_damaged_validation_file_is_said(tmp_path: Path) -> None:
    root = planted(tmp_path, "coco")
    file = root / "annotations" / "val.json"
    file.write_text(file.read_text()[:100])
    said = "there is no validation part (annotations/val.json: no COCO detection JSON, or damaged)"
    assert find_data(root).lines[2].endswith(said)


def test_the_class_of_a_group_stays_where_it_has_boxes(tmp_path: Path) -> None:
    write(tmp_path, roboflow_coco())
    assert find_data(tmp_path).overrides["num_classes"] == 2
    file = tmp_path / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(content))
    found = find_data(tmp_path)
    assert [data.label_space.names for data in loaders(found)] == [("pets", "cat", "dog")] * 2


def test_copies_of_an_image_by_roboflow_stay_together(tmp_path: Path) -> None:
    root = write(tmp_path, roboflow_yolo())
    shutil.rmtree(root / "valid")
    (root / "data.yaml").write_text("train: ../train/images\nnames: [cat, dog]\n")
    picture, label = next((root / "train/images").iterdir()), next((root / "train/labels").iterdir())
    for number in range(12):
        name = f"{'xyz'[number % 3]}_jpg.rf.{number:032x}"
        shutil.copy(picture, root / "train/images" / f"{name}.jpg")
        shutil.copy(label, root / "train/labels" / f"{name}.txt")
    parts = [{Path(name).name[0] for name in data.annotations.file_names} for data in loaders(find_data(root))]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set("axyz")


def test_other_classes_in_the_parts_are_refused_with_what_to_do(tmp_path: Path) -> None:
    data = Planted(tmp_path, train=2, val=2)
    data.content["val"]["categories"].reverse()  # the order of the file does not count
    find_data(data.write())
    data.content["val"]["categories"].append({"id": 99, "name": "wasp"})
    with pytest.raises(DataError, match=r"train\.json has ant, bee, cow but .*wasp: both must list .* data convert"):
        find_data(data.write())


def test_another_numbering_of_the_same_classes_is_no_matter(tmp_path: Path) -> None:
    data = Planted(tmp_path, train=2, val=2)
    for entry in data.content["val"]["categories"]:
        entry["id"] = 100 - entry["id"]
    for entry in data.content["val"]["annotations"]:
        entry["category_id"] = 100 - entry["category_id"]
    for part in loaders(find_data(data.write())):
        assert part.label_space.names == ("ant", "bee", "cow")


def test_two_formats_in_one_folder_are_named(tmp_path: Path) -> None:
    root = planted(tmp_path, "yolo")
    shutil.copytree(planted(tmp_path / "other", "voc") / "Annotations", root / "Annotations")
    assert find_data(root).lines[-1] == "there is Pascal VOC too: give its folder or file to take it"


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "table.csv").write_text("a,b\n")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    data = Planted(tmp_path / "named", train=2, val=2)
    folder = data.write() / "annotations"
    (folder / "train.json").rename(folder / "first.json")
    (folder / "val.json").rename(folder / "second.json")
    alone = Planted(tmp_path / "alone", train=1, val=0)
    del alone.content["val"]
    alone.write()
    formats = r"\(COCO JSON, YOLO data\.yaml, CrowdHuman odgt, Pascal VOC, KITTI\)"
    for name, said in {
        "nowhere": "no such file or folder",
        "empty": rf"no data set found in this folder {formats}: there is no file in it: check the path",
        "other": rf"{formats}: there are 1 \.csv: name its annotation file itself",
        "data.zip": "an archive: unpack it",
        "named": r"first, second could each be train: name the folder or file of one",
        "alone": "there is no validation part, and one image cannot be divided",
    }.items():
        with pytest.raises(DataError, match=said) as error:
            find_data(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(DataError, match="the folder of the data is an empty text: name it"):
        find_data("")  # an unset variable of a shell


def test_real_data_in_coco_json_and_with_one_part_in_yolo(tmp_path: Path) -> None:
    root = coco_files.shared_data("coco128")
    found = find_data(root)
    assert [len(data) for data in loaders(found)] == [128, 128]
    assert found.overrides["num_classes"] == 80
    write_dataset(read_all(discover(root))[:1], tmp_path / "yolo", "yolo", images="link")
    alone = find_data(tmp_path / "yolo")
    train, val = loaders(alone)
    assert (len(train), len(val)) == (102, 26)
    assert (train.label_space.names[0], train.label_space.names[-1]) == ("person", "toothbrush")


def test_real_data_in_two_formats(tmp_path: Path) -> None:
    root = coco_files.shared_data("bccd")
    coco, voc = find_data(root), find_data(root / "voc")
    assert coco.lines[-2:] == ("not used: test", "there is Pascal VOC too: give its folder or file to take it")
    for form, found in (("CocoDetection", coco), ("VOCDetection", voc)):
        assert found.overrides["val_dataloader.dataset"]["type"] == form
        train, val = loaders(found)
        assert (len(train), len(val)) == (205, 87)
        assert train.label_space.names == ("Platelets", "RBC", "WBC")


def test_the_subset_of_a_config_is_not_taken_over(tmp_path: Path) -> None:
    found = find_data(planted(tmp_path, "coco"))
    path = write_micro_config(tmp_path, images=1)
    texts = [f"{key}={json.dumps(value)}" for key, value in found.overrides.items()]
    config = isdfine.load_config(path, ["train_dataloader.dataset.subset=0.1", *texts])
    assert len(config.build("train_dataloader.dataset")) == 10
    assert len(config.with_values({"train_dataloader.dataset.subset": [0, 0.2]}).build("train_dataloader.dataset")) == 2


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_a_run_on_what_was_found(tmp_path: Path, form: str) -> None:
    """A config for COCO trains on it; later it is judged on the same images, and a check knows both parts."""
    root, path = planted(tmp_path, form, train=10, val=0), write_micro_config(tmp_path, images=1)
    options = {"epochs": 1, "output_dir": tmp_path / "run", "seed": 5, "update": ["num_visualized=0"]}
    run = isdfine.train(path, root, device="cpu", **options)
    parts = {split.name: split for split in read_all(configured.sources_of(isdfine.load_config(run.config)))}
    assert {name: len(split.annotations) for name, split in parts.items()} == {"train": 8, "val": 2}
    assert run.result.num_images == 2
    assert isdfine.evaluate(run, device="cpu").to_dict() == isdfine.evaluate(run, root, device="cpu").to_dict()
    assert isdfine.load_config(run.config).get("num_classes") == len(CLASSES)
    assert [result.name for result in run.result.per_class] == list(CLASSES)


def test_the_config_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    planted(tmp_path, "yolo").rename(tmp_path / "my_data")
    (tmp_path / "mine.yml").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = isdfine.load_config("mine.yml")
    assert [len(config.build(f"{part}_dataloader.dataset")) for part in ("train", "val")] == [10, 4]
    assert config.shared("num_classes") == 3
    assert len(text.splitlines()) == 12

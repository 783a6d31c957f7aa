# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A person names a path; the format, the splits and the images are found."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from isdfine.audit.sources import discover, parse_split, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from isdfine.data.dataset.yolo import YoloDetection
from planted import Planted


def content(split):
    return {"images": [{"id": 1, "file_name": f"{split}.jpg", "height": 96, "width": 128}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "ant"}]}  # fmt: skip


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/{}.json", "{}"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/{}.json", "images/{}"),
        ("annotations/{}.json", "images"),
        ("annotations/{}.json", "voc/JPEGImages"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}.json", "."),
        ("{}.json", "images"),
        ("{}/labels.json", "{}/data"),
    ],
)
def test_coco_layouts(tmp_path, annotations, images):
    data = Planted(tmp_path / "source", train=1, val=1)
    for split in ("val", "train"):
        file, folder = tmp_path / "data" / annotations.format(split), tmp_path / "data" / images.format(split)
        for place in (file.parent, folder):
            place.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content(split)))
        shutil.copy(data.file(split, 0), folder / f"{split}.jpg")
    (tmp_path / "data" / "notes.json").write_text('{"images": "none of your business"}')
    splits = read_all(discover(tmp_path / "data"))
    assert [split.name.split("/")[0] for split in splits] == ["train", "val"]
    assert all(split.path(0).is_file() and not split.problems for split in splits)
    alone = read_all(discover(tmp_path / "data" / annotations.format("val")))
    assert [split.path(0).name for split in alone] == ["val.jpg"]


def test_official_coco_files_are_taken_before_captions(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("instances_train2017", "person_keypoints_train2017"):
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(content("train")))
    assert [source.name for source in discover(tmp_path)] == ["train2017"]


@pytest.mark.parametrize("form", ["voc", "yolo", "coco"])
def test_each_format_is_recognised_and_can_be_asked_for(tmp_path, form):
    write_dataset(read_all(discover(Planted(tmp_path / "data", train=3, val=2).write())), tmp_path / "it", form)
    assert [(source.name, source.format) for source in discover(tmp_path / "it")] == [("train", form), ("val", form)]
    assert [source.format for source in discover(tmp_path / "it", format=form)] == [form] * 2
    other = "crowdhuman"
    with pytest.raises(DataError, match=r"no data set found in this folder .crowdhuman.: leave --format out, it"):
        discover(tmp_path / "it", format=other)


def test_single_files_of_each_format(tmp_path):
    source = read_all(discover(Planted(tmp_path / "data", train=3, val=2).write()))
    for form in ("voc", "yolo"):
        write_dataset(source, tmp_path / form, form)
    voc = read_all(discover(tmp_path / "voc" / "ImageSets" / "Main" / "val.txt"))
    assert [(split.name, len(split.annotations)) for split in voc] == [("val", 2)]
    yolo = read_all(discover(tmp_path / "yolo" / "data.yaml"))
    assert [(split.name, len(split.annotations)) for split in yolo] == [("train", 3), ("val", 2)]


def test_voc_without_a_class_list_takes_the_classes_of_its_files(tmp_path):
    source = read_all(discover(Planted(tmp_path / "data", train=3, val=2).write()))
    write_dataset(source, tmp_path / "voc", "voc")
    (tmp_path / "voc" / "label_list.txt").unlink()
    splits = read_all(discover(tmp_path / "voc"))
    assert [split.annotations.label_space.names for split in splits] == [("ant", "bee", "cow")] * 2
    assert [problem.kind for split in splits for problem in split.problems] == ["no class list"] * 2
    for file in (tmp_path / "voc" / "Annotations").iterdir():
        file.write_text("<annotation></annotation>")
    problems = read_all(discover(tmp_path / "voc"))[0].problems
    assert "label_list.txt: no such list of class names, and none of 5 XML files names a class" in str(problems[0])


UNRELATED = {
    "mkdocs.yml": "markdown_extensions:\n  - emoji: !!python/name:a.b\n",
    "environment.yml": "name: x\nchannels: !!python/tuple [a, b]\n",
    "stack.yaml": "Resources:\n  Names: !Sub '${AWS::Region}'\n",
    "mkdocs2.yml": "a: [",
    "list.yaml": "- train\n- names\n",
    "labels.yaml": "names: [a, b]\n",
}


def test_yaml_files_about_other_things_are_passed_over(tmp_path):
    for name, text in UNRELATED.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"no data set found in this folder"):
        discover(tmp_path)
    data = Planted(tmp_path, train=1, val=1).write()
    assert [source.format for source in discover(data)] == ["coco", "coco"]


def test_a_broken_data_yaml_is_said(tmp_path, caplog):
    (tmp_path / "data.yaml").write_text("names: [a\ntrain: x\n")
    (tmp_path / "mkdocs.yml").write_text(UNRELATED["mkdocs.yml"])
    with pytest.raises(DataError, match=r"data\.yaml:2: not valid YAML"):
        discover(tmp_path)
    with pytest.raises(DataError, match=r"data\.yaml:2: not valid YAML"):
        YoloDetection(str(tmp_path))
    assert [source.format for source in discover(Planted(tmp_path, train=1, val=1).write())] == ["coco", "coco"]
    assert "data.yaml: cannot be read and is passed over" in caplog.text


def test_a_choice_between_yaml_files_is_said(tmp_path, caplog):
    data = Planted(tmp_path, train=2, val=2).write()
    write_dataset(read_all(discover(data)), tmp_path / "yolo", "yolo")
    file = (tmp_path / "yolo" / "data.yaml").rename(tmp_path / "yolo" / "a.yaml")
    (tmp_path / "yolo" / "copy.yaml").write_text(file.read_text())
    discover(tmp_path / "yolo")
    assert not caplog.records
    (tmp_path / "yolo" / "b.yaml").write_text(file.read_text().replace("ant", "wasp"))
    discover(tmp_path / "yolo")
    assert "a.yaml is taken, but b.yaml, copy.yaml could be meant as well" in caplog.text


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.zip", "unpack it"), ("a.tar.gz", "unpack it"), ("a.xml", "give the folder"), ("a.csv", "CSV")],
)
def test_files_of_no_format_are_named(tmp_path, name, said):
    (tmp_path / name).write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n")
    with pytest.raises(DataError, match=said):
        discover(tmp_path / name)


def test_a_broken_annotation_file_is_said(tmp_path):
    data = Planted(tmp_path, train=1, val=1).write()
    content = (data / "annotations" / "train.json").read_bytes()
    (data / "annotations" / "val.json").unlink()
    for broken, said in ((content[:-200], "it is cut off"), (content.decode().encode("utf-16"), "can't decode byte")):
        (data / "annotations" / "train.json").write_bytes(broken)
        with pytest.raises(DataError, match=rf"no data set found .*train\.json.*not a JSON file .*{said}"):
            discover(data)


def test_a_data_yaml_of_windows_is_said(tmp_path):
    data = Planted(tmp_path, train=2, val=2).write()
    write_dataset(read_all(discover(data)), tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo/data.yaml"
    text = file.read_text()
    file.write_text(text.replace("images/train", "images\\train"))
    said = str(discover(file)[0].read().problems[0])
    assert f"check path and train (there is {tmp_path / 'yolo/images/train'}: write train: images/train)" in said
    for other in ("/content/data/images/train", "C:\\\\data\\\\images\\\\train"):
        file.write_text(text.replace("images/train", other))
        assert "write train: images/train)" in str(discover(file)[0].read().problems[0])
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.yaml: not UTF-8 text"):
        discover(tmp_path / "yolo")


@pytest.mark.parametrize("key", ["valid", "val", "validation"])
@pytest.mark.parametrize("asked", ["valid", "val", "validation"])
def test_the_validation_split_has_one_rule_for_check_and_training(tmp_path, caplog, key, asked):
    data = Planted(tmp_path, train=2, val=2).write()
    write_dataset(read_all(discover(data)), tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo/data.yaml"
    file.write_text(file.read_text().replace("\nval:", f"\n{key}:"))
    assert [source.name for source in discover(tmp_path / "yolo")] == ["train", key]
    assert len(YoloDetection(str(file), asked)) == 2
    with pytest.raises(DataError, match=rf"data\.yaml: minival is None: name a folder.* .there is: train, {key}\)"):
        YoloDetection(str(file), "minival")
    file.write_text(file.read_text() + "minival: images/val\nversion: '3'\ntest: images/test\n")
    assert len(YoloDetection(str(file), "minival")) == 2
    assert [source.name for source in discover(tmp_path / "yolo")] == ["train", key, "minival"]
    assert "test: images/test is not there: passed over" in caplog.text


def test_what_training_refuses_check_finds(tmp_path):
    data = Planted(tmp_path, train=2, val=2).write()
    write_dataset(read_all(discover(data)), tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo/data.yaml"
    file.write_text(file.read_text().replace("train: images/train", "train: 5"))
    split = discover(file)[0].read()
    assert "train is 5: name a folder" in str(split.problems[0])
    with pytest.raises(DataError, match="train is 5: name a folder"):
        YoloDetection(str(file))


def test_splits_typed_one_by_one(tmp_path):
    data = Planted(tmp_path, train=2, val=2).write()
    (tmp_path / "elsewhere").mkdir()
    for file in (data / "val").iterdir():
        file.rename(tmp_path / "elsewhere" / file.name)
    split = parse_split(f"mine={data}/annotations/val.json:{tmp_path}/elsewhere").read()
    assert (split.name, split.img_folder) == ("mine", tmp_path / "elsewhere")
    assert parse_split(f"train={data}").where["ann_file"].endswith("train.json")
    with pytest.raises(DataError, match=r"--split mine=.* holds train, val: name the annotation file of one split"):
        parse_split(f"mine={data}")
    with pytest.raises(DataError, match=r"--split val: write NAME=PATH"):
        parse_split("val")
    train = parse_split(f"train={data}")
    with pytest.raises(DataError, match="two splits are called train"):
        read_all([train, train])


def test_what_cannot_be_found_is_one_clear_message(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        discover(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no data set found in this folder .COCO JSON, YOLO data.yaml"):
        discover(tmp_path)
    file = tmp_path / "notes.md"
    file.write_text("x")
    with pytest.raises(DataError, match=r"notes\.md: the suffix says no format: give --format coco\|voc\|yolo"):
        discover(file)
    (tmp_path / "run.yml").write_text("output_dir: x")
    with pytest.raises(DataError, match=r"run\.yml: not a YOLO data\.yaml.*given with -c"):
        discover(tmp_path / "run.yml")
    (tmp_path / "broken.yaml").write_text("names: [a")
    with pytest.raises(DataError, match=r"broken\.yaml:2: not valid YAML"):
        discover(tmp_path / "broken.yaml")
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump({"names": ["a"], "train": "images"}))
    with pytest.raises(DataError, match="--image-folder: a yolo data set says itself"):
        discover(tmp_path / "broken.yaml", images=tmp_path)
    lonely = tmp_path / "deep" / "lonely.json"
    lonely.parent.mkdir()
    lonely.write_text(json.dumps(content("train")))
    with pytest.raises(
        DataError, match=r"lonely\.json: no folder near it holds its images .*train\.jpg.*--image-folder"
    ):
        read_all(discover(lonely))
    Path(tmp_path / "gone.odgt").write_text('{"ID": "a", "gtboxes": []}\n')
    with pytest.raises(DataError, match=r"gone\.odgt: no folder near it holds its images .for example a\.jpg"):
        read_all(discover(tmp_path / "gone.odgt"))

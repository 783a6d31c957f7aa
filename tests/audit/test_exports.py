# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of annotation tools: each is found and read to the right boxes, by check and by training, or refused with
what to do."""

import os
import re
from pathlib import Path

import pytest

import exports
from exports import BOXES, CASES, objects_of, write
from isdfine.audit.check import check
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from isdfine.core.errors import DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from planted import HEIGHT, WIDTH

READERS = {"coco": CocoDetection, "voc": VOCDetection, "yolo": YoloDetection}


@pytest.mark.parametrize("tool", CASES)
def test_what_a_tool_exports_is_read(tmp_path: Path, tool: str) -> None:
    files, parts, kinds = CASES[tool]
    write(tmp_path, files)
    sources = discover(tmp_path)
    splits = read_all(sources)
    assert [split.name for split in splits] == list(parts)
    assert {finding.kind for finding in check(splits)} <= {*kinds, "class not in evaluation", "no class list"}
    for source, split, stems in zip(sources, splits, parts.values()):
        where = {**source.where, **({"img_folder": str(split.img_folder)} if source.format == "coco" else {})}
        data = READERS[source.format](**where)
        assert objects_of(data) == {stem: BOXES[stem] for stem in stems}
        assert {"cat", "dog"} <= set(data.label_space.names)
        assert READERS[source.format].label_space_of(where) == data.label_space == split.annotations.label_space


def test_the_group_of_roboflow_is_said_with_its_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, exports.roboflow_coco())
    file, folder = str(tmp_path / "train/_annotations.coco.json"), str(tmp_path / "train")
    assert CocoDetection(folder, file).label_space.names == ("pets", "cat", "dog")
    said = "the category 'pets' is the group of others and has no box: it gets an output that is never used; leave it"
    assert f"{said} out with classes: [cat, dog]" in caplog.text
    caplog.clear()
    data = CocoDetection(folder, file, classes=["cat", "dog"], num_classes=2)
    assert (data.label_space.names, objects_of(data)) == (("cat", "dog"), {"a": BOXES["a"]})
    assert "the group of others" not in caplog.text


def test_sizes_that_via_3_does_not_know(tmp_path: Path) -> None:
    write(tmp_path, exports.via3_coco())
    with pytest.raises(DataError, match=r"has height, width \(-1, -1\): .* check --fix writes a copy with"):
        CocoDetection(str(tmp_path), str(tmp_path / "pets-coco.json"))
    (split,) = read_all(discover(tmp_path))
    assert {problem.kind for problem in split.problems} == {"bad size"}
    assert split.annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * 2


REFUSED = {
    "LabelMe": ({"a.json": exports.labelme_shapes("a"), "a.jpg": 1}, r"a.json is LabelMe's own format: .*labelme2coco"),
    "VIA 2": (
        {"p.json": '{"_via_settings": {}, "_via_img_metadata": {"a.jpg123": {"filename": "a.jpg"}}}'},
        r"p.json is a project of VIA: choose Annotation > Export Annotations \(COCO",
    ),
    "VIA 2, annotations": (
        {"via.json": '{"a.jpg12": {"regions": [{"shape_attributes": {"name": "rect"}, "region_attributes": {}}]}}'},
        r"via.json is the own format of VIA and makesense: export COCO",
    ),
    "VIA 3": ({"p.json": '{"project": {"vid_list": ["1"]}, "view": {"1": {"fid_list": [1]}}}'}, "a project of VIA 3"),
    "Label Studio": (
        {"project-1.json": '[{"id": 1, "annotations": [{"result": [{"from_name": "label", "to_name": "image"}]}]}]'},
        r"project-1.json is Label Studio's own JSON: export COCO, YOLO or",
    ),
    "Label Studio, short": (
        {"m.json": '[{"label": [{"original_width": 64, "rectanglelabels": ["cat"]}]}]'},
        "Label Stu",
    ),
    "CVAT": (
        {"annotations.xml": '<?xml version="1.0"?>\n<annotations>\n<image id="0"/></annotations>', "images/a.jpg": 1},
        r"annotations.xml is CVAT's own XML: export COCO 1.0",
    ),
    "Datumaro": ({"annotations/default.json": '{"dm_format_version": "1.0", "items": []}'}, "Datumaro's own format"),
    "Datumaro, older": (
        {"annotations/default.json": '{"info": {}, "categories": {"label": {"labels": []}}, "items": []}'},
        "Datumaro's",
    ),
    "Supervisely": (
        {
            "meta.json": '{"classes": [], "tags": [], "projectType": "images"}',
            "ds0/img/a.jpg": 1,
            "ds0/ann/a.jpg.json": '{"objects": [{"classTitle": "cat"}]}',
        },
        "Supervisely's own .* Export to COCO",
    ),
    "V7": ({"a.json": '{"version": "2.0", "schema_ref": "https://darwin-public.s3.amazonaws.com"}'}, "V7's own format"),
    "CreateML": (
        {"_annotations.createml.json": '[{"image": "a.jpg", "annotations": [{"label": "x", "coordinates": {}}]}]'},
        "CreateML's JSON: export COCO",
    ),
    "CSV": ({"_annotations.csv": "filename,width,height,class,xmin,ymin,xmax,ymax\n", "a.jpg": 1}, "boxes as CSV"),
    "TFRecord": ({"train/pets.tfrecord": "x"}, r"train/pets.tfrecord is a TFRecord: export COCO"),
    "YOLO without names": (
        {"images/a.jpg": 1, "labels/a.txt": exports.rows("a")},
        "write a file classes.txt with one name",
    ),
    "VOC lists alone": (
        {"ImageSets/Main/train.txt": "a\n", "JPEGImages/a.jpg": 1},
        "no XML files in Annotations: export",
    ),
    "a folder too far up": (
        {f"pets/{name}": text for name, text in exports.cvat_yolo().items()},
        "there is one in .*pets:",
    ),
    "pictures": ({"a.jpg": 1}, "name its annotation file itself"),
}
"""Files, and what is said about them."""


@pytest.mark.parametrize("tool", REFUSED)
def test_what_is_not_read_is_named_with_what_to_export(tmp_path: Path, tool: str) -> None:
    files, said = REFUSED[tool]
    with pytest.raises(DataError, match=r"no data set found in this folder .*: " + f"(.*){said}") as caught:
        discover(write(tmp_path, files))
    assert "\n" not in str(caught.value)


def test_training_names_the_tool_too(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": exports.labelme_shapes("a"), "ls.json": REFUSED["Label Studio"][0]["project-1.json"],
                     "annotations.xml": REFUSED["CVAT"][0]["annotations.xml"], "a.jpg": 1})  # fmt: skip
    for name, said in (("a.json", "it is LabelMe's own"), ("ls.json", "it is Label Studio's own")):
        with pytest.raises(DataError, match=f"not COCO detection JSON: .*{said}"):
            CocoDetection(str(tmp_path), str(tmp_path / name))
    (tmp_path / "list.txt").write_text("a.jpg annotations.xml\n")
    with pytest.raises(DataError, match=r"its first element is <annotations>, not <annotation>: CVAT's own XML"):
        VOCDetection(str(tmp_path), "list.txt", classes=["cat"])


def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    write(tmp_path, exports.makesense_coco() | exports.labelimg_voc("images", "annotations"))
    odd = os.fsdecode(b"b\xe9\n.jpg")
    for folder in (tmp_path, tmp_path / "images"):
        (folder / "b.jpg").rename(folder / odd)
    (tmp_path / "annotations/b.xml").rename(tmp_path / "annotations" / f"{odd[:-4]}.xml")
    splits = read_all(discover(tmp_path))
    said = [f"{finding.place} {finding.text}" for finding in check(splits)]
    assert all(text.isprintable() for text in said)
    assert any(r"b\udce9\n.jpg" in text for text in said)
    (voc,) = read_all(discover(tmp_path, format="voc"))
    assert len(VOCDetection(str(tmp_path), "annotations")) == len(voc.annotations) == 2
    with pytest.raises(DataError, match=r"all.txt: would hold .*udce9.*, of a file whose name is not UTF-8: rename"):
        write_dataset([voc], tmp_path / "copy", "voc")
    with pytest.raises(DataError, match=r"1 of 2 images that .* lists are missing"):
        CocoDetection(str(tmp_path / "images"), str(splits[0].annotations.place))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train": '"a\\0b"'}, r"train: .*a\\x00b.* holds a NUL character"),
        ({"train": "5"}, "train is 5: name a folder, a text file or a list of them"),
        ({"train": "[images/train, 5]"}, r"train is \['images/train', 5\]: name a folder"),
        ({"names": "{cat: 0, dog: 1}"}, r"names is {'cat': 0, 'dog': 1}: give a list of class names"),
        ({"names": "{'1': dog, '0': cat}", "nc": "'2'"}, None),
        ({"names": "[1, 2]"}, None),
        ({"names": "[cat, '']"}, "names holds '', not text"),
        ({"names": "[[cat], dog]"}, r"names holds \['cat'\], not text"),
        ({"names": "&a [*a]"}, "the alias stands inside its own anchor"),
        ({"names": "[cat, dog]", "nc": "[2]"}, r"nc is \[2\], but names has 2 classes \(cat, dog\)"),
        ({"path": "/nowhere"}, r"/nowhere/images/train does not exist: .*there is .*images/train: remove path"),
        ({"path": "[a]"}, r"does not exist: check path and train"),
        ({"train": "list.txt"}, None),
        ({"train": "[list.txt, images/train]"}, None),
        ({"names": "!!python/name:os.system"}, "the tag .* is not allowed: write plain text"),
    ],
)
def test_odd_keys_of_a_data_yaml(tmp_path: Path, keys: dict[str, str], said: str | None) -> None:
    content = {"names": "[cat, dog]", "path": ".", "train": "images/train", **keys}
    text = "".join(f"{key}: {value}\n" for key, value in content.items())
    write(tmp_path, {**exports.cvat_ultralytics(), "data.yaml": text, "list.txt": "./images/train/a.jpg\r\n"})
    if said is None:
        assert len(YoloDetection(str(tmp_path / "data.yaml"))) >= 1
        return
    with pytest.raises(DataError, match=said):
        YoloDetection(str(tmp_path / "data.yaml"))
    try:
        problems = [str(problem) for split in read_all(discover(tmp_path / "data.yaml")) for problem in split.problems]
    except DataError as error:
        problems = [str(error)]
    assert any(re.search(said, problem) for problem in problems), problems  # check says what training says

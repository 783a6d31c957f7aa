# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""XML files without a list: each layout is found by the check and read by training, with the same boxes."""

import logging
import re

import pytest
from PIL import Image

from isdfine.audit.sources import discover, read_all
from isdfine.core.errors import DataError
from isdfine.data.dataset.voc import VOCDetection

XML = """<annotation>\n<folder>x</folder><filename>{}</filename>\n<size><width>60</width><height>40</height></size>
<object><name>ant</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object>
</annotation>"""


def put(root, image, xml, filename="else.jpg"):
    """An image of 60 x 40 and its XML file."""
    for path in (root / image, root / xml):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(root / image)
    (root / xml).write_text(XML.format(filename))


@pytest.mark.parametrize(
    ("images", "annotations", "ann_file"),
    [
        ("images", "annotations", "annotations"),
        ("Images", "Annotations", "Annotations"),
        ("img", "labels", "labels"),
        ("JPEGImages", "Annotations", "Annotations"),
        ("images/cats", "annotations/cats", "annotations/cats"),
        (".", ".", "."),
        (".", "annotations", "annotations"),
        ("photos", "photos", "photos"),
    ],
)
def test_layouts_without_splits(tmp_path, images, annotations, ann_file):
    for stem in ("b", "a.1"):
        put(tmp_path, f"{images}/{stem}.jpg", f"{annotations}/{stem}.xml")
    (tmp_path / "classes.txt").write_text("ant\n")
    (tmp_path / "pom.xml").write_text("<project/>")
    (split,) = read_all(discover(tmp_path))
    assert (split.name, [problem.kind for problem in split.problems]) == ("all", ["no class list"])
    assert split.place_of(0).startswith(str(tmp_path / annotations / "a.1.xml"))
    data = VOCDetection(str(tmp_path), ann_file)
    assert data.annotations.file_names == split.annotations.file_names
    assert [data[index][1]["boxes"].tolist() for index in (0, 1)] == [[[11, 6, 30, 25]]] * 2


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("{}", "{}"), ("{}/images", "{}/annotations"), ("images/{}", "annotations/{}"), ("images", "annotations/{}"),
     ("{}", "annotations/{}"), ("a/{}/Images", "a/{}/Annotations")],
)  # fmt: skip
@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "Val", "Test"), ("train",)])
def test_layouts_with_splits(tmp_path, images, annotations, names):
    for name in names:
        put(tmp_path, f"{images.format(name)}/{name}.png", f"{annotations.format(name)}/{name}.xml")
    (tmp_path / "label_list.txt").write_text("ant\nbee\n")
    splits = read_all(discover(tmp_path))
    assert [split.name for split in splits] == [name.lower() for name in names]
    for name, split in zip(names, splits):
        data = VOCDetection(str(tmp_path), annotations.format(name))
        assert data.annotations.file_names == split.annotations.file_names
        assert data.label_space.names == split.annotations.label_space.names == ("ant", "bee")
        assert [len(split.annotations), len(split.annotations.ids), split.problems] == [1, 1, ()]


def test_a_training_that_looks_for_a_list_is_told_the_folder(tmp_path):
    put(tmp_path, "images/a.jpg", "annotations/a.xml")
    with pytest.raises(DataError, match=r"trainval.txt: no such list .*XML files are in annotations: ann_file: annot"):
        VOCDetection(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no XML file in this folder: check root and ann_file"):
        VOCDetection(str(tmp_path), "empty", classes=["ant"])


def test_images_that_are_named_in_the_file_or_missing(tmp_path):
    put(tmp_path, "images/photo.png", "annotations/1.xml", filename=r"C:\me\photo.jpg")
    assert VOCDetection(str(tmp_path), "annotations").annotations.file_names == ("images/photo.png",)
    (tmp_path / "images/photo.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 images that .*annotations lists are missing: annotations/1.jpg"):
        VOCDetection(str(tmp_path), "annotations")


def test_images_without_an_xml_file_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    put(tmp_path, "images/a.jpg", "annotations/a.xml")
    for name in ("b.jpg", "c.png", "a.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / name)
    assert len(VOCDetection(str(tmp_path), "annotations")) == 1
    assert re.search(
        r"annotations: 2 images have no XML file and are left out, for example .*images/b.jpg", caplog.text
    )


def test_a_file_that_was_not_written_is_no_other_kind_of_file(tmp_path):
    put(tmp_path, "images/a.jpg", "annotations/a.xml")
    put(tmp_path, "images/b.jpg", "annotations/b.xml")
    (tmp_path / "annotations/b.xml").write_text("")
    with pytest.raises(DataError, match=r"b.xml:1: not a complete XML file"):
        VOCDetection(str(tmp_path), "annotations")


def test_a_list_of_stems_beside_folders_of_other_names(tmp_path):
    for stem in ("a", "b"):
        put(tmp_path, f"Images/{stem}.jpg", f"annotations/{stem}.xml")
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "val.txt").write_text("b.jpg\n")
    (tmp_path / "readme.txt").write_text("About this data set\n")
    splits = read_all(discover(tmp_path))
    assert [(split.name, split.annotations.file_names) for split in splits] == [
        ("train", ("Images/a.jpg",)),
        ("val", ("Images/b.jpg",)),
    ]
    assert len(VOCDetection(str(tmp_path), "train.txt")) == 1

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import re
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from isdfine.core.errors import DataError
from isdfine.data.dataset import voc_xml
from isdfine.data.dataset.prepare import Subset
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.voc import VOCDetection, parse_voc

SIZE = "<size>\n<width>60</width>\n<height>40</height>\n</size>"


def thing(name="ant", corners=(11, 6, 30, 25), more=""):
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object>\n<name>{name}</name>{more}\n<bndbox>{tags}</bndbox>\n</object>"


def write(root, files=None, lines=None, labels="ant\nbee\n", size=SIZE):
    """The devkit's layout: images 60 x 40 and XML files of these objects by stem; list ``trainval.txt``."""
    files = {"b": [thing(), thing("bee")], "a": []} if files is None else files
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem, objects in files.items():
        Image.new("RGB", (60, 40)).save(root / f"JPEGImages/{stem}.png")
        (root / f"Annotations/{stem}.xml").write_text("\n".join(["<annotation>", size, *objects, "</annotation>"]))
    (root / "ImageSets/Main/trainval.txt").write_text("\n".join(files) if lines is None else lines)
    if labels:
        (root / "label_list.txt").write_text(labels)
    return str(root)


def test_the_layout_of_the_devkit(tmp_path):
    data = parse_voc(write(tmp_path))
    assert data.file_names == ("JPEGImages/b.png", "JPEGImages/a.png")
    assert data.image_ids.tolist() == [0, 1]
    assert data.sizes.tolist() == [[40, 60], [40, 60]]
    assert data.boxes_xywh_px.tolist() == [[11, 6, 19, 19]] * 2
    assert data.labels.tolist() == [0, 1]
    assert data.place.endswith("ImageSets/Main/trainval.txt")
    assert data.folder == str(tmp_path)


def test_the_official_list_form(tmp_path):
    write(tmp_path / "x", {"b": [thing("bee")], "my a": [thing()]})
    (tmp_path / "pairs.txt").write_text("x/JPEGImages/my a.png x/Annotations/my a.xml\n\n"
                                        "x/JPEGImages/b.png  x/Annotations/b.xml\n")  # fmt: skip
    (tmp_path / "names.txt").write_text("bee\nant")
    dataset = VOCDetection(str(tmp_path), "pairs.txt", "names.txt", num_classes=2)
    assert dataset.annotations.file_names == ("x/JPEGImages/my a.png", "x/JPEGImages/b.png")
    assert [dataset[index][1]["labels"].tolist() for index in (0, 1)] == [[1], [0]]
    assert dataset[1][1]["boxes"].tolist() == [[11, 6, 30, 25]]
    assert dataset[1][1]["image_id"].tolist() == [1]


@pytest.mark.parametrize("line", ["b", "b.png", "b.xml"])
def test_forms_of_a_stem(tmp_path, line):
    assert parse_voc(write(tmp_path, lines=line)).file_names == ("JPEGImages/b.png",)


def test_stems_in_folders_find_the_suffix_of_their_image(tmp_path):
    root = write(tmp_path, {"b": []})
    for folder, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
        (tmp_path / folder / "s").mkdir()
        shutil.copy(tmp_path / folder / f"b.{suffix}", tmp_path / folder / "s" / f"c.d.{suffix}")
    shutil.copy(tmp_path / "JPEGImages/b.png", tmp_path / "JPEGImages/c.d.jpg")
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("s/c.d\nb\n")
    assert VOCDetection(root).annotations.file_names == ("JPEGImages/s/c.d.png", "JPEGImages/b.png")


def test_parts_of_an_object_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    whole = thing(corners=(1.5, 2.25, 11, 12)).replace("<object>", f"<object>{part}")
    data = parse_voc(write(tmp_path, {"a": [whole]}))
    assert (data.boxes_xywh_px.tolist(), data.labels.tolist()) == ([[1.5, 2.25, 9.5, 9.75]], [0])
    with pytest.raises(DataError, match="object 'ant' needs a <bndbox>"):
        parse_voc(write(tmp_path / "x", {"a": [f"<object>{part}<name>ant</name></object>"]}))


def test_files_as_windows_writes_them(tmp_path):
    root = write(tmp_path, {"a": [thing()]})
    for name, text in (("Annotations/a.xml", None), ("label_list.txt", "ant \nbee\n\n"), ("trainval.txt", "a  \n\n")):
        text = (tmp_path / name).read_text() if text is None else text
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert VOCDetection(root).annotations.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("declared", "written"),
    [("gb2312", "gbk"), ("GBK", "gbk"), ("Shift_JIS", "cp932"), ("", "utf-8"), ("", "utf-8-sig"), ("utf-8", "utf-8"),
     ("utf-16", "utf-16"), ("", "utf-16"), ("utf-16", "utf-8"), ("windows-1252", "cp1252")],
)  # fmt: skip
def test_encodings(tmp_path, declared, written):
    name = "蚂" if written not in ("cp1252", "cp932") else {"cp1252": "ä", "cp932": "蟻"}[written]
    root = write(tmp_path, {"a": [thing(name)]}, labels=f"{name}\nbee\n")
    path = tmp_path / "Annotations/a.xml"
    first = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    path.write_bytes((first + path.read_text(encoding="utf-8")).encode(written))
    data = parse_voc(root)
    assert (data.labels.tolist(), data.label_space.names) == ([0], (name, "bee"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'<?xml version="1.0" encoding="xyz"?>\n<annotation/>', r"a.xml:1: cannot be decoded \(unknown encoding"),
        (b"<annotation>\n<name>\xba\xec</name></annotation>",
         r"a.xml:2: cannot be decoded as utf-8 \(invalid start byte 0xba\): save it as UTF-8, or name its encoding"),
        (b"<annotation>\n<path>C:\\cats & dogs</path></annotation>", r"a.xml:2: not a complete .*: write & as &amp;"),
        (b"<annotation>\n<path>cats&nbsp;dogs</path></annotation>", r"a.xml:2: not a complete .*: write & as &amp;"),
        (b"<annotation>\n<size><wid", r"a.xml:2: not a complete XML file \(unclosed token.*\): write it again"),
    ],
)  # fmt: skip
def test_the_cause_of_a_broken_file_is_said_in_every_way(tmp_path, text, said):
    root = write(tmp_path, {"a": [thing()]}, labels="")
    (tmp_path / "Annotations/a.xml").write_bytes(text)
    with pytest.raises(DataError, match=r"none of 1 XML files names a class: check root; .*" + said):
        VOCDetection(root)
    with pytest.raises(DataError, match=said):
        VOCDetection(root, classes=["ant"])
    problems = Problems(collect=True)
    parse_voc(root, problems=problems)
    assert [problem.kind for problem in problems.found] == ["bad class", "broken xml"]
    assert re.search(said, str(problems.found[1]))


@pytest.mark.parametrize(
    ("old", "new"), [("object", "OBJECT"), ("bndbox", "Bndbox"), ("<object>", "<object xmlns='x'>")]
)
def test_tags_that_would_be_passed_over(tmp_path, old, new):
    root = write(tmp_path, {"a": [thing()]})
    path = tmp_path / "Annotations/a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"a.xml:\d: the tag <.*> is passed over: write <\w+>, in small letters and"):
        VOCDetection(root)


def test_objects_inside_other_elements_are_said(tmp_path):
    root = write(tmp_path, {"a": [thing()]})
    path = tmp_path / "Annotations/a.xml"
    path.write_text(
        path.read_text().replace("<object>", "<objects><object>").replace("</object>", "</object></objects>")
    )
    with pytest.raises(
        DataError, match=r"a.xml:\d: 1 <object> inside other elements are passed over: put them directly"
    ):
        VOCDetection(root)


def test_rotated_boxes_of_cvat_are_said(tmp_path, caplog):
    root = write(tmp_path, {"a": [thing(), thing(), thing()]})
    path = tmp_path / "Annotations/a.xml"
    parts = path.read_text().split("</object>")
    for number, degrees in enumerate(("0.0", "33.5", "180.0")):
        attribute = "<attribute><name>rotation</name><value>{}</value></attribute>"
        parts[number] += f"<attributes>{attribute.format(degrees)}</attributes>"
    path.write_text("</object>".join(parts))
    VOCDetection(root)
    assert "1 boxes are rectangles from before a rotation that stands beside them (annotations 2 of " in caplog.text


def test_many_faults_in_a_file_take_no_longer_than_reading_it(tmp_path, monkeypatch):
    root = write(tmp_path, {"a": [thing("cat")] * 50})
    calls = []
    search = SimpleNamespace(finditer=lambda data, own=voc_xml._START: calls.append(1) or own.finditer(data))
    monkeypatch.setattr(voc_xml, "_START", search)
    problems = Problems(collect=True)
    parse_voc(root, problems=problems)
    assert (len(problems.found), len(calls)) == (50, 1)


@pytest.mark.parametrize("width", ["60.0", "9" * 30, "-60", ""])
def test_sizes_that_are_no_whole_numbers(tmp_path, width):
    root = write(tmp_path, {"a": []}, size=SIZE.replace("60", width))
    with pytest.raises(DataError, match=r"has no <size> with .* above 0: add it, .*; both are whole numbers"):
        VOCDetection(root)


def test_pixels_counted_from_one(tmp_path):
    assert parse_voc(write(tmp_path), one_based=True).boxes_xywh_px[0].tolist() == [10, 5, 20, 20]


def test_difficult_objects(tmp_path):
    objects = [thing(more="<difficult>1</difficult>"), thing("bee", more="<difficult>0</difficult>")]
    root = write(tmp_path, {"a": objects})
    assert VOCDetection(root)[0][1]["labels"].tolist() == [0, 1]
    without = VOCDetection(root, keep_difficult=False)
    assert without[0][1]["labels"].tolist() == [1]
    assert without.annotations.crowd.tolist() == [True, False]


def test_sizes_from_images(tmp_path):
    root = write(tmp_path, {"a": [thing()]}, size="<size><width>0</width><height>0</height></size>")
    with pytest.raises(DataError, match=r"a.xml:2: has no <size> with .* above 0: add it, or .*size_from_image: True"):
        VOCDetection(root)
    dataset = VOCDetection(root, size_from_image=True)
    assert dataset[0][1]["orig_size"].tolist() == [40, 60]
    (tmp_path / "JPEGImages/a.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"a.png: cannot be read as an image"):
        VOCDetection(root, size_from_image=True)


def test_a_subset_reads_its_files_only(tmp_path):
    root = write(tmp_path)
    (tmp_path / "Annotations/b.xml").unlink()
    assert len(VOCDetection(root, subset=["a"])) == 1
    assert parse_voc(root, subset=Subset(["a"])).image_ids.tolist() == [1]


def test_without_a_list_of_names(tmp_path, caplog):
    root = write(tmp_path, labels="")
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\n")  # its files have no class, those of the root count
    for found in (VOCDetection(root, "test.txt").label_space, VOCDetection.label_space_of({"root": root})):
        assert found.names == ("ant", "bee")
    said = r"label_list.txt: no such list of class names; those of the XML files are taken in this order: ant, bee. Wri"
    assert re.search(said, caplog.text)
    assert VOCDetection(root, classes=["bee", "ant"])[0][1]["labels"].tolist() == [1, 0]
    with pytest.raises(DataError, match=r"category name 'ant' occurs twice \(ids 0 and 2\): rename one"):
        VOCDetection(root, classes=["ant", "bee", "ant"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (f"<annotation>{SIZE}", r"a.xml:4: not a complete XML file \(no element found"),
        ("", r"a.xml:1: not a complete XML file"),
        ("<annotation>\n</annotation>", r"a.xml:1: has no <size> with <width> and <height> above 0"),
        ("<annotation>\n<size><width>60</width></size></annotation>", "a.xml:2: has no <size>"),
        (thing("cat"), r"a.xml:6: class 'cat' is not one of the 2 classes: ant, bee"),
        (thing() + "\n" + thing("Ant"), r"a.xml:10: class 'Ant' is not one of"),
        (thing(""), r"a.xml:6: an object without <name>: give its class"),
        (thing(corners=(1, 2, 3)), r"a.xml:6: object 'ant' needs a <bndbox> with the numbers xmin, ymin, xmax, ymax"),
        (thing(corners=(1, 2, 3, "x")), "a.xml:6: object 'ant' needs a <bndbox>"),
        (thing(corners=(1, 2, 3, "nan")), "a.xml:6: object 'ant' needs a <bndbox>"),
        ("<object><name>ant</name></object>", "a.xml:6: object 'ant' needs a <bndbox>"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path, content, match):
    root = write(tmp_path, {"a": []})
    whole = content if not content.startswith("<object") else f"<annotation>\n{SIZE}\n{content}</annotation>"
    (tmp_path / "Annotations/a.xml").write_text(whole)
    with pytest.raises(DataError, match=match):
        parse_voc(root)
    problems = Problems(collect=True)
    parse_voc(root, problems=problems)
    assert len(problems.found) == 1
    assert re.search(match, str(problems.found[0]))


def test_boxes_without_area_are_refused(tmp_path):
    root = write(tmp_path, {"a": [thing(corners=(30, 6, 11, 25))]})
    with pytest.raises(DataError, match=r"1 of 1 boxes cover nothing of their image \(1 inverted\)"):
        VOCDetection(root)
    assert len(VOCDetection(root, invalid_boxes="drop")) == 1


def test_lists_that_cannot_be_used(tmp_path):
    root = write(tmp_path)
    with pytest.raises(
        DataError, match=r"none.txt: no such list of images, nor .*there are label_list.txt, trainval.txt"
    ):
        VOCDetection(root, "none.txt")
    with pytest.raises(DataError, match=r"none.txt: no such list of images.*write one image per line into it"):
        VOCDetection(str(tmp_path / "nowhere"), "none.txt")
    listing = tmp_path / "ImageSets/Main/trainval.txt"
    listing.write_text("b -1\n")
    with pytest.raises(
        DataError, match=r"trainval.txt:1: 'b -1' is a line of a list for one class: use the list of all"
    ):
        VOCDetection(root)
    listing.write_text("\n")
    with pytest.raises(DataError, match=r"trainval.txt: the list of images is empty"):
        VOCDetection(root)
    listing.write_text("a\nb\nc\n")
    with pytest.raises(DataError, match=r"c.xml: cannot be opened .*, but .*trainval.txt:3 names it: add it or remove"):
        VOCDetection(root)
    (tmp_path / "JPEGImages/b.png").unlink()
    listing.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"1 of 2 images that .*trainval.txt lists are missing: JPEGImages/b.jpg"):
        VOCDetection(root)
    listing.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"trainval.txt: not a text file .*save it as UTF-8"):
        VOCDetection(root)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine data check and training say the same of small wrong data sets: refused, or read."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from isdfine.core.errors import DataError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection
from isdfine.data.dataset.detection import DetectionDataset
from isdfine.data.dataset.kitti import KittiDetection
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from planted import picture, quiet_tool

Load = Callable[[], DetectionDataset]
Change = Callable[[Path, dict[str, Any]], None]
SIZE = "<size><width>128</width><height>96</height></size>"
ROOT = {
    "coco": "images",
    "voc": "JPEGImages",
    "yolo": "images/train",
    "crowdhuman": "Images",
    "kitti": "training/image_2",
}


def images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(3):
        picture(number).save(folder / f"{number}.jpg")  # 96 x 128


def coco(root: Path, change: Change) -> Load:
    entries = [{"id": index, "file_name": f"{index}.jpg", "height": 96, "width": 128} for index in range(3)]
    boxes = [
        {"id": index + 1, "image_id": index // 2, "category_id": 1 + index % 2, "bbox": [10 + 9 * index, 5, 30, 20],
         "area": 600, "iscrowd": 0}
        for index in range(6)
    ]  # fmt: skip
    names = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]
    content = {"images": entries, "annotations": boxes, "categories": names}
    change(root, content)
    (root / "train.json").write_text(content.get("text") or json.dumps(content))
    return lambda: CocoDetection(str(root / "images"), str(root / "train.json"))


def voc(root: Path, change: Change) -> Load:
    corners = "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>{}</xmax><ymax>40</ymax></bndbox>"
    named = (("ant", 50), ("bee", 70))
    objects = "".join(f"<object><name>{name}</name>{corners.format(right)}</object>" for name, right in named)
    xml = {str(index): f"<annotation>{SIZE}{objects}</annotation>" for index in range(3)}
    content = {"xml": xml, "list": "0\n1\n2\n", "labels": "ant\nbee\n"}
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    change(root, content)
    for stem, text in xml.items():
        (root / "Annotations" / f"{stem}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "ImageSets" / "Main" / "train.txt").write_text(content["list"])
    if content["labels"] is not None:
        (root / "label_list.txt").write_text(content["labels"])
    return lambda: VOCDetection(str(root), "train.txt")


def yolo(root: Path, change: Change) -> Load:
    rows = {str(index): "0 0.3 0.3 0.2 0.2\n1 0.6 0.6 0.3 0.3\n" for index in range(3)}
    content: dict[str, Any] = {"data": "train: images/train\nnames: [ant, bee]\n", "rows": rows}
    (root / "labels" / "train").mkdir(parents=True)
    change(root, content)
    for stem, text in rows.items():
        (root / "labels" / "train" / f"{stem}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "data.yaml").write_text(content["data"])
    return lambda: YoloDetection(str(root / "data.yaml"))


def crowdhuman(root: Path, change: Change) -> Load:
    person = {"tag": "person", "fbox": [5, 5, 30, 40]}
    other = {**person, "fbox": [50, 5, 30, 40]}
    content = {"lines": [{"ID": str(index), "gtboxes": [dict(person), dict(other)]} for index in range(3)]}
    change(root, content)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in content["lines"]]
    (root / "annotation_train.odgt").write_text("\n".join(lines))
    return lambda: CrowdHumanDetection(str(root / "Images"), str(root / "annotation_train.odgt"))


def kitti(root: Path, change: Change) -> Load:
    row = "{} 0 0 -1.5 {} 9 {} 40 1 1 1 1 1 9 0"
    rows = {str(index): f"{row.format('Car', 9, 50)}\n{row.format('Van', 60, 90)}\n" for index in range(3)}
    (root / "training" / "label_2").mkdir()
    change(root, {"rows": rows})
    for stem, text in rows.items():
        (root / "training" / "label_2" / f"{stem}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return lambda: KittiDetection(str(root), "all")


def put(*path: Any, value: Any) -> Change:
    """A change of one value of the content; ``...`` removes it."""

    def change(_: Path, content: dict[str, Any]) -> None:
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        if value is ...:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


def file(save: Callable[[Path], object]) -> Change:
    """A change of the first image."""

    def change(root: Path, _: dict[str, Any]) -> None:
        save(next(root.rglob("0.jpg")))

    return change


def oriented(number: int, form: str) -> Callable[[Path], object]:
    def save(path: Path) -> object:
        image = picture(0)
        exif = Image.Exif()
        exif[0x0112] = number
        return image.save(path, form, exif=exif)

    return save


def bomb(path: Path) -> object:
    """A PNG that says it is 60,000 x 60,000."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def cut(path: Path) -> object:
    return path.write_bytes(path.read_bytes()[:-60])


FILES: dict[str, tuple[Change, bool]] = {
    "image missing": (file(lambda path: path.unlink()), False),
    "image empty": (file(lambda path: path.write_bytes(b"")), False),
    "image cut off": (file(cut), False),
    "image is text": (file(lambda path: path.write_text("no image")), False),
    "image a bomb": (file(bomb), False),
    "image of floats": (file(lambda path: Image.new("F", (128, 96), 0.5).save(path, "TIFF")), False),
    "image of 16 bits": (file(lambda path: Image.new("I;16", (128, 96), 999).save(path, "PNG")), True),
    "image of a palette": (file(lambda path: picture(0).convert("P").save(path, "PNG")), True),
    "image as GIF": (file(lambda path: picture(0).save(path, "GIF")), True),
}
"""What is wrong with a file, and whether it is read."""

CASES: list[tuple[Callable[[Path, Change], Load], str, Change, bool]] = [
    (data, name, change, read or (data is yolo and name == "image missing"))  # a folder lists what is there
    for data in (coco, voc, yolo, crowdhuman, kitti) for name, (change, read) in FILES.items()
]  # fmt: skip
CASES += [
    (data, f"{form} of orientation {number}", file(oriented(number, form)), True)
    for data in (coco, voc, yolo, crowdhuman) for form in ("JPEG", "TIFF") for number in (1, 3, 6)
]  # fmt: skip
CASES += [(coco, name, change, read) for name, change, read in [
    ("good", lambda root, content: None, True),
    ("text id", put("annotations", 0, "id", value="a"), True),
    ("no id", put("annotations", 0, "id", value=...), True),
    ("crowd null", put("annotations", 0, "iscrowd", value=None), True),
    ("crowd word", put("annotations", 0, "iscrowd", value="no"), True),
    ("area text", put("annotations", 0, "area", value="7"), True),
    ("box of text", put("annotations", 0, "bbox", value=["1", "2", "3", "4"]), True),
    ("box of three", put("annotations", 0, "bbox", value=[1, 2, 3]), False),
    ("box NaN", put("annotations", 0, "bbox", value=[1, 2, 3, float("nan")]), False),
    ("box inverted", put("annotations", 0, "bbox", value=[50, 50, -9, 9]), False),
    ("box empty", put("annotations", 0, "bbox", value=[50, 50, 0, 9]), True),
    ("box outside", put("annotations", 0, "bbox", value=[500, 50, 9, 9]), False),
    ("box beyond", put("annotations", 0, "bbox", value=[100, 50, 99, 9]), True),
    ("category text", put("annotations", 0, "category_id", value="1"), True),
    ("category unknown", put("annotations", 0, "category_id", value=9), False),
    ("categories text", put("categories", 0, "id", value="1"), True),
    ("category twice", put("categories", 0, "id", value=2), False),
    ("image unknown", put("annotations", 0, "image_id", value=9), False),
    ("image id twice", put("images", 0, "id", value=1), False),
    ("image id text", put("images", 0, "id", value="0"), True),
    ("size missing", put("images", 0, "width", value=...), False),
    ("size 0", put("images", 0, "width", value=0), False),
    ("size wrong", put("images", 0, "width", value=100), False),
    ("no file name", put("images", 0, "file_name", value=...), False),
    ("no categories", put("categories", value=[]), False),
    ("list missing", put("categories", value=...), False),
    ("no images", put("images", value=[]), False),
    ("not JSON", put("text", value='{"images": [], "annotations": [], "categories": [}'), False),
    ("not a list", put("images", value={"1": 2}), False),
    ("zero byte in a name", put("images", 0, "file_name", value="0\0.jpg"), False),
    ("endless name", put("images", 0, "file_name", value="x" * 5000 + ".jpg"), False),
]]  # fmt: skip
CASES += [(voc, name, change, read) for name, change, read in [
    ("good", lambda root, content: None, True),
    ("no class list", put("labels", value=None), True),
    ("class list empty", put("labels", value=""), False),
    ("class list twice", put("labels", value="ant\nant\nbee\n"), False),
    ("unknown class", put("labels", value="ant\n"), False),
    ("list empty", put("list", value=""), False),
    ("list of one class", put("list", value="0 1\n1 -1\n2 1\n"), False),
    ("xml missing", put("xml", "0", value=...), False),
    ("xml broken", put("xml", "0", value="<annotation><size>"), False),
    ("xml empty", put("xml", "0", value=""), False),
    ("xml of GBK", put("xml", "0", value="<annotation><path>图</path></annotation>".encode("gbk")), False),
    ("xml of an odd encoding", put("xml", "0", value=b'<?xml version="1.0" encoding="odd"?><annotation/>'), False),
    ("no size", put("xml", "0", value="<annotation></annotation>"), False),
    ("no name", put("xml", "0", value=f"<annotation>{SIZE}<object/></annotation>"), False),
]]  # fmt: skip
CASES += [(yolo, name, change, read) for name, change, read in [
    ("good", lambda root, content: None, True),
    ("split a number", put("data", value="train: 5\nnames: [ant, bee]\n"), False),
    ("split null", put("data", value="train:\nnames: [ant, bee]\n"), False),
    ("split a list of numbers", put("data", value="train: [5]\nval: images/train\nnames: [ant, bee]\n"), False),
    ("split a mapping", put("data", value="train: {a: b}\nnames: [ant, bee]\n"), False),
    ("split not there", put("data", value="train: images/none\nnames: [ant, bee]\n"), False),
    ("no names", put("data", value="train: images/train\n"), False),
    ("names twice", put("data", value="train: images/train\nnames: [ant, ant]\n"), False),
    ("names of flags", put("data", value="train: images/train\nnames: [yes, bee]\n"), False),
    ("other count", put("data", value="train: images/train\nnc: 3\nnames: [ant, bee]\n"), False),
    ("names with a gap", put("data", value="train: images/train\nnames: {0: ant, 2: bee}\n"), False),
    ("key points wrong", put("data", value="train: images/train\nnames: [ant, bee]\nkpt_shape: 5\n"), False),
    ("not YAML", put("data", value="train: [\nnames: [ant, bee]\n"), False),
    ("class unknown", put("rows", "0", value="7 0.5 0.5 0.1 0.1\n"), False),
    ("class a fraction", put("rows", "0", value="0.5 0.5 0.5 0.1 0.1\n"), False),
    ("confidence", put("rows", "0", value="0 0.5 0.5 0.1 0.1 0.9\n"), False),
    ("pixels", put("rows", "0", value="0 50 50 10 10\n"), False),
    ("rounding", put("rows", "0", value="0 0.5 0.5 1.002 0.1\n"), True),
    ("decimal commas", put("rows", "0", value="0 0,5 0,5 0,1 0,1\n"), False),
    ("infinite", put("rows", "0", value="0 0.5 0.5 inf 0.1\n"), False),
    ("no text", put("rows", "0", value=b"\xff\xfe0\x00"), False),
    ("empty label", put("rows", "0", value=""), True),
    ("no label", put("rows", "0", value=...), True),
]]  # fmt: skip
CASES += [(crowdhuman, name, change, read) for name, change, read in [
    ("good", lambda root, content: None, True),
    ("not JSON", put("lines", 0, value="{"), False),
    ("not an object", put("lines", 0, value=[1]), False),
    ("no boxes", put("lines", 0, value={"ID": "0"}), False),
    ("number as ID", put("lines", 0, "ID", value=0), False),
    ("unknown tag", put("lines", 0, "gtboxes", 0, "tag", value="dog"), False),
    ("box of text", put("lines", 0, "gtboxes", 0, "fbox", value=["1", "2", "3", "4"]), False),
    ("box inverted", put("lines", 0, "gtboxes", 0, "fbox", value=[50, 50, -9, 9]), False),
    ("nothing", put("lines", value=[]), False),
]]  # fmt: skip
CASES += [(kitti, name, change, read) for name, change, read in [
    ("good", lambda root, content: None, True),
    ("empty label", put("rows", "0", value=""), True),
    ("no label", put("rows", "0", value=...), False),
    ("regions alone", put("rows", "0", value="DontCare -1 -1 -10 9 9 50 40 -1 -1 -1 -1000 -1000 -1000 -10"), True),
    ("columns", put("rows", "0", value="Car 0 0 0 9 9 50 40"), False),
    ("score", put("rows", "0", value="Car 0 0 0 9 9 50 40 1 1 1 1 1 9 0 0.5"), True),
    ("type unknown", put("rows", "0", value="car 0 0 0 9 9 50 40 1 1 1 1 1 9 0"), False),
    ("box inverted", put("rows", "0", value="Car 0 0 0 50 9 9 40 1 1 1 1 1 9 0"), False),
    ("infinite", put("rows", "0", value="Car 0 0 0 9 9 inf 40 1 1 1 1 1 9 0"), False),
    ("no text", put("rows", "0", value=b"\xff\xfe0\x00"), False),
]]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "change", "read"), [pytest.param(d, c, r, id=f"{d.__name__}-{n}") for d, n, c, r in CASES]
)
def test_check_and_training_agree(tmp_path, capsys, monkeypatch, data, change, read):
    root = tmp_path / "data"
    images(root / ROOT[data.__name__])
    load = data(root, change)
    said = ""
    try:
        dataset = load()
        for index in range(len(dataset)):
            assert dataset[index][1]["boxes"].shape[1] == 4
    except DataError as error:
        said = str(error)
    assert (said == "") == read, said
    assert "\n" not in said
    code = quiet_tool(monkeypatch).main(["check", str(root)])
    out, err = capsys.readouterr()
    assert (code == 0) == read, out + err

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Pipes, sockets, devices, folders and links to nothing in the place of files: named at once, in training and check."""

import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from isdfine.core.errors import DataError
from isdfine.core.files import check_regular, file_bytes
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection
from isdfine.data.dataset.image_folder import ImageFolder
from isdfine.data.dataset.kitti import KittiDetection
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection
from planted import quiet_tool


def bind_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "not a regular file but a pipe"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file but a device"),
    "socket": (bind_socket, "not a regular file but a socket"),
    "folder": (lambda path: path.mkdir(), "not a regular file but a folder"),
}
ROW = "0 0.5 0.5 0.5 0.5\n"
XML = (
    "<annotation><size><width>64</width><height>48</height></size><object><name>ant</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
)


def coco(root: Path) -> Callable[[], object]:
    write(root / "images", {"a.png": None, "b.png": None})
    images = [{"id": one, "file_name": f"{name}.png", "height": 48, "width": 64} for one, name in enumerate("ab")]
    boxes = [{"id": one, "image_id": one, "category_id": 1, "bbox": [1, 1, 20, 20]} for one in (0, 1)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ant"}]}
    write(root, {"train.json": json.dumps(content)})
    return lambda: CocoDetection(str(root / "images"), str(root / "train.json"))


def voc(root: Path) -> Callable[[], object]:
    write(root / "JPEGImages", {"a.png": None, "b.png": None})
    write(root / "Annotations", {"a.xml": XML, "b.xml": XML})
    write(root, {"train.txt": "a\nb\n", "label_list.txt": "ant\n"})
    return lambda: VOCDetection(str(root), "train.txt")


def yolo(root: Path) -> Callable[[], object]:
    write(root / "images", {"a.png": None, "b.png": None})
    write(root / "labels", {"a.txt": ROW, "b.txt": ROW})
    write(root, {"data.yaml": "train: train.txt\nnames: [ant]\n", "train.txt": "images/a.png\nimages/b.png\n"})
    return lambda: YoloDetection(str(root / "data.yaml"))


def crowdhuman(root: Path) -> Callable[[], object]:
    write(root / "Images", {"a.jpg": None, "b.jpg": None})
    lines = [json.dumps({"ID": one, "gtboxes": [{"tag": "person", "fbox": [1, 1, 20, 20]}]}) for one in "ab"]
    write(root, {"train.odgt": "\n".join(lines)})
    return lambda: CrowdHumanDetection(str(root / "Images"), str(root / "train.odgt"))


def kitti(root: Path) -> Callable[[], object]:
    write(root / "image_2", {"a.png": None, "b.png": None})
    row = "Car 0 0 0 1 1 20 20 1 1 1 1 1 1 1\n"
    write(root / "label_2", {"a.txt": row, "b.txt": row})
    return lambda: KittiDetection(str(root), "all")


def pictures(root: Path) -> Callable[[], object]:
    write(root, {"a.png": None, "b.png": None})
    return lambda: ImageFolder(str(root))


def write(folder: Path, files: dict[str, str | None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, text) in enumerate(files.items()):
        if text is None:
            Image.new("RGB", (64, 48), (90 * number, 40, 200)).save(folder / name)
        else:
            (folder / name).write_text(text)


FILES = [
    (coco, "train.json"), (coco, "images/a.png"), (voc, "train.txt"), (voc, "label_list.txt"),
    (voc, "Annotations/a.xml"), (voc, "JPEGImages/a.png"), (yolo, "data.yaml"), (yolo, "train.txt"),
    (yolo, "images/a.png"), (yolo, "labels/a.txt"), (crowdhuman, "train.odgt"), (crowdhuman, "Images/a.jpg"),
    (kitti, "image_2/a.png"), (kitti, "label_2/a.txt"), (pictures, "a.png"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "name"), FILES, ids=lambda one: getattr(one, "__name__", one))
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, capsys, monkeypatch, data, name, kind):
    make, said = KINDS[kind]
    root = tmp_path / "d"
    load = data(root)
    load()
    (root / name).unlink()
    make(root / name)
    if (data, kind) == (pictures, "folder"):  # images are looked for in it
        return
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load()
    assert name.rpartition("/")[2] in str(caught.value)
    assert "\n" not in str(caught.value)
    if data is not pictures:
        if kind == "folder" and name in ("train.json", "data.yaml", "train.txt"):
            return  # nobody takes it for an annotation file; a folder may stand in place of a list
        code = quiet_tool(monkeypatch).main(["check", str(root)])
        out, err = capsys.readouterr()
        assert code != 0
        assert re.search(rf"{re.escape(name)}\b[^\n]*{'' if name.endswith('list.txt') else said}", out + err)
    assert time.monotonic() - start < 5


def test_a_label_that_is_a_link_to_nothing_is_not_taken_for_an_empty_one(tmp_path):
    load = yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").unlink()
    (tmp_path / "labels" / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"a\.txt: cannot be opened \(No such file"):
        load()


def test_files_are_read_up_to_a_size(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert file_bytes(tmp_path / "a", max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, more than the 4 that are read"):
        file_bytes(tmp_path / "a", max_bytes=4)
    with pytest.raises(OSError, match="not a regular file but a folder"):
        check_regular(tmp_path)

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes lie on their objects whatever EXIF says: pictures hold one white rectangle, and the boxes are around it."""

import json
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from isdfine.audit.check import check
from isdfine.audit.sources import discover, read_all
from isdfine.core.errors import DataError
from isdfine.data.dataset import frame
from isdfine.data.dataset.coco import CocoDetection, Objects365Detection
from isdfine.data.dataset.crowdhuman import CrowdHumanDetection
from isdfine.data.dataset.image_folder import ImageFolder
from isdfine.data.dataset.images import Header, image_sizes, read_headers
from isdfine.data.dataset.voc import VOCDetection
from isdfine.data.dataset.yolo import YoloDetection

ON_ITS_SIDE, OTHERS = (
    ((40, 60), 6),
    [((40, 60), 2), ((40, 60), 3), ((40, 60), 4), *(((48, 48), index) for index in range(2, 9))],
)


def picture(path, size, orientation):
    """One rectangle in the upper left of what is stored; the sizes and boxes of both frames."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[4:12, 6:26] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    marked = Image.fromarray(pixels)
    marked.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(marked))
    return {False: (size, box_around(pixels)), True: (upright.shape[:2], box_around(upright))}


def box_around(pixels):
    rows, columns = np.nonzero(pixels[:, :, 0] > 128)
    return [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]


def write(root, kinds, *, frames, suffix="png"):
    """A COCO file and its images ``0.png``, ...; frames: per image, whether its entry is upright."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, ((size, orientation), upright) in enumerate(zip(kinds, frames)):
        name = f"{number}.{suffix}"
        (height, width), box = picture(root / "images" / name, size, orientation)[upright]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        entry = {"id": number + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
        annotations.append({**entry, "area": box[2] * box[3]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "white"}]}
    (root / "train.json").write_text(json.dumps(content))
    return str(root / "images"), str(root / "train.json")


def assert_boxes_fit(dataset):
    for index in range(len(dataset)):
        image, target = dataset[index]
        x, y, w, h = box_around(np.asarray(image))
        assert target["boxes"].tolist() == [[x, y, x + w, y + h]], dataset.annotations.file_names[index]
        truth = dataset.ground_truth(int(dataset.annotations.image_ids[index]))
        assert box_around(np.asarray(truth.image())) == [x, y, w, h]


def kinds_found(root):
    return [
        (finding.kind, finding.image)
        for finding in check(read_all(discover(root)))
        if "orientation" in finding.kind or "turned" in finding.kind
    ]


@pytest.mark.parametrize("reader", [CocoDetection, Objects365Detection])
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("upright", [False, True])
def test_a_picture_on_its_side_settles_the_whole_file(tmp_path, upright, suffix, reader):
    kinds = [((40, 60), 1), *OTHERS, ON_ITS_SIDE]
    dataset = reader(*write(tmp_path, kinds, frames=[upright] * len(kinds), suffix=suffix))
    assert dataset.annotations.upright == upright
    assert_boxes_fit(dataset)
    found = kinds_found(tmp_path)
    assert found == [("turned image", f"{number}.{suffix}") for number in range(1, len(kinds))]


def test_without_one_pictures_are_as_viewers_show_them(tmp_path, caplog):
    files = write(tmp_path, OTHERS, frames=[True] * len(OTHERS))
    assert_boxes_fit(CocoDetection(*files))
    assert (
        "EXIF turns 0.png (10 such), and no size tells whether boxes belong to the turned or to the stored pictures; "
        "taken as turned, as annotation tools show them: say upright: True (boxes as viewers show"
    ) in caplog.text
    caplog.clear()
    assert_boxes_fit(CocoDetection(*files, upright=True))
    assert not caplog.records
    assert kinds_found(tmp_path)[0] == ("unclear orientation", "")


def test_the_user_knows_better(tmp_path, caplog):
    files = write(tmp_path / "a", OTHERS, frames=[False] * len(OTHERS))
    assert_boxes_fit(CocoDetection(*files, upright=False))
    files = write(tmp_path / "b", [ON_ITS_SIDE], frames=[True])
    caplog.clear()
    assert_boxes_fit(CocoDetection(*files, upright=False))  # it does not: sizes are proof
    assert "upright is False, but the size of 0.png (1 such) is that of the turned picture, to which" in caplog.text


def test_a_file_of_both_kinds(tmp_path, caplog):
    both = write(tmp_path / "a", [ON_ITS_SIDE, ON_ITS_SIDE], frames=[True, False])
    assert_boxes_fit(CocoDetection(*both))
    text = r"EXIF turns 0.png and 1.png: the first has the size of the turned picture \(1 such\), the second that of"
    assert text.replace("\\", "") in caplog.text
    kinds = [ON_ITS_SIDE, ON_ITS_SIDE, ((40, 60), 3)]
    files = write(tmp_path / "b", kinds, frames=[True, False, True])
    with pytest.raises(
        DataError, match=rf"train.json: {text}.*, so nobody can tell for 2.png: say upright: True \(box"
    ):
        CocoDetection(*files)
    assert_boxes_fit(CocoDetection(*files, upright=True))
    assert kinds_found(tmp_path / "b")[0] == ("mixed orientation", "")


def test_a_check_knows_more_than_the_sample(tmp_path, monkeypatch):
    """Training looks at some headers only; where the others contradict it, check says so."""
    monkeypatch.setattr(frame, "_LOOKED_AT", 1)
    write(tmp_path, [((40, 60), 3), ON_ITS_SIDE], frames=[False, False])
    [found] = [finding for finding in check(read_all(discover(tmp_path))) if finding.kind == "mixed orientation"]
    assert "the size of 1.png is not that of the turned picture, to which the boxes of 0.png are taken to" in found.text


@pytest.mark.parametrize("upright", ["auto", True, False])
def test_formats_without_sizes_are_upright_unless_told(tmp_path, upright):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, (size, orientation) in enumerate([ON_ITS_SIDE, *OTHERS]):
        (height, width), (x, y, w, h) = picture(tmp_path / f"images/{number:02}.jpg", size, orientation)[bool(upright)]
        row = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        (tmp_path / f"labels/{number:02}.txt").write_text(f"0 {' '.join(map(repr, row))}\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [white]\n")
    dataset = YoloDetection(str(tmp_path / "data.yaml"), upright=upright)
    folder = ImageFolder(str(tmp_path / "images"), upright=upright)
    for index in range(len(dataset)):
        image, target = dataset[index]
        x, y, w, h = box_around(np.asarray(image))
        assert np.abs(target["boxes"][0].numpy() - [x, y, x + w, y + h]).max() <= 2  # JPEG
        assert np.array_equal(np.asarray(image), np.asarray(folder[index][0]))
    line = json.dumps({"ID": "00", "gtboxes": [{"tag": "person", "fbox": [x, y, w, h]}]})
    (tmp_path / "train.odgt").write_text(line)
    people = CrowdHumanDetection(str(tmp_path / "images"), str(tmp_path / "train.odgt"), upright=upright)
    assert people.annotations.sizes.tolist() == [[60, 40] if upright else [40, 60]]


@pytest.mark.parametrize("upright", [False, True])
def test_voc_without_sizes_follows_those_that_have_them(tmp_path, upright):
    kinds = [ON_ITS_SIDE, ON_ITS_SIDE, ((40, 60), 3)]
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    for number, (size, orientation) in enumerate(kinds):
        (height, width), (x, y, w, h) = picture(tmp_path / f"JPEGImages/{number}.png", size, orientation)[upright]
        told = f"<size><width>{width}</width><height>{height}</height></size>" if number != 1 else ""
        box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        text = f"<annotation>{told}<object><name>white</name><bndbox>{box}</bndbox></object></annotation>"
        (tmp_path / f"Annotations/{number}.xml").write_text(text)
    (tmp_path / "trainval.txt").write_text("0\n1\n2\n")
    assert_boxes_fit(VOCDetection(str(tmp_path), classes=["white"], size_from_image=True))


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_headers(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    picture(path, (40, 60), orientation)
    assert read_headers([path]) == [Header((40, 60), orientation)]
    assert image_sizes([path], upright=True) == [(60, 40) if orientation == 6 else (40, 60)]


def test_exif_behind_the_pixels_of_a_png_is_read_without_decoding_them(tmp_path):
    picture(tmp_path / "a.png", (40, 60), 6)
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    content = content.replace(chunk, b"")
    data = content.index(b"IDAT")
    broken = content[:data] + b"IDAT" + bytes(len(content) - 12 - data - 8)
    damaged = broken + zlib.crc32(broken).to_bytes(4, "big") + content[-12:]
    for start_of_file in (content, damaged):
        (tmp_path / "b.png").write_bytes(start_of_file[:-12] + chunk + start_of_file[-12:])
        assert read_headers([tmp_path / "b.png"]) == [Header((40, 60), 6)]

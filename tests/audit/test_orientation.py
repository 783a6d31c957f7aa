# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from isdfine.audit.check import check
from isdfine.audit.sources import discover, read_all
from isdfine.audit.writers import write_dataset
from planted import HEIGHT, WIDTH, Planted

BOX = [20, 10, 40, 16]


def with_orientation(folder, orientation):
    """One white rectangle on black, in pixels as stored, in the first training image."""
    data = Planted(folder, train=2, val=1)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[10:26, 20:60] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(data.file("train", 0), quality=95, exif=exif)
    data.content["train"]["annotations"] = [
        annotation for annotation in data.content["train"]["annotations"] if annotation["image_id"] != 1
    ]
    data.box("train", 0, BOX)
    return data.write()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_picture_that_the_format_means(tmp_path, orientation):
    sources = discover(with_orientation(tmp_path / "data", orientation))
    splits = read_all([replace(finding, where={**finding.where, "upright": False}) for finding in sources])
    remarks = write_dataset(splits, tmp_path / "yolo", "yolo")
    assert any("1 images that EXIF turns" in remark for remark in remarks) == (orientation > 1)
    yolo = read_all(discover(tmp_path / "yolo"))
    with Image.open(yolo[0].path(0)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    rows, columns = np.nonzero(upright > 128)
    sources = yolo[0].annotations.boxes_xywh_px[yolo[0].annotations.rows(0)]
    wanted = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    np.testing.assert_allclose(sources, [wanted], atol=1e-6)
    write_dataset(yolo, tmp_path / "coco", "coco")
    back = read_all(discover(tmp_path / "coco"))
    np.testing.assert_allclose(back[0].annotations.boxes_xywh_px[back[0].annotations.rows(0)], [wanted], atol=1e-6)
    assert back[0].annotations.sizes[0].tolist() == list(upright.shape)
    assert back[0].annotations.upright
    remarks = write_dataset(splits, tmp_path / "kept", "coco")
    assert ("train: boxes belong to the pictures as stored: say upright: False in its dataset section" in remarks) == (
        orientation > 1
    )
    assert not [finding for finding in check(back) if finding.severity == "error"]

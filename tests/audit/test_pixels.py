# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest
from PIL import Image

from isdfine.audit.pixels import read_one, read_pixels
from isdfine.data.dataset.images import load_rgb
from planted import picture


def test_size_digest_and_thumbnail(tmp_path):
    picture(1).resize((640, 480)).save(tmp_path / "a.jpg", quality=95)
    picture(1).save(tmp_path / "b.png")
    large, small = read_one(tmp_path / "a.jpg"), read_one(tmp_path / "b.png")
    assert large.good
    assert (large.header.stored, small.header.stored) == ((480, 640), (96, 128))
    assert large.digest != small.digest
    assert np.abs(large.thumbnail.astype(int) - small.thumbnail).mean() < 3


def test_exif_turns_the_upright_size_only(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(tmp_path / "a.jpg", exif=exif)
    pixels = read_one(tmp_path / "a.jpg")
    assert (pixels.header.stored, pixels.header.upright) == ((96, 128), (128, 96))


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "CMYK", "1"])
def test_every_mode_is_read(tmp_path, mode):
    image = picture(2)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    elif mode == "P":
        image = image.quantize(16)
        image.info["transparency"] = b"\x00\x80"
    else:
        image = image.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    image.save(path)
    pixels = read_one(path)
    assert pixels.good, pixels.problem
    assert pixels.thumbnail.std() > 10


def test_broken_files_say_why(tmp_path):
    whole = tmp_path / "whole.jpg"
    picture(3).resize((640, 480)).save(whole, quality=95)
    for name, data, reason in (
        ("half.jpg", whole.read_bytes()[:20000], "cannot be decoded .*truncated"),
        ("empty.jpg", b"", "empty .0 bytes"),
        ("text.jpg", b"hello", "no image format"),
    ):
        (tmp_path / name).write_bytes(data)
        pixels = read_one(tmp_path / name)
        assert not pixels.good
        assert re.search(reason, pixels.problem), pixels.problem
    assert read_one(tmp_path / "none.jpg").missing
    assert "cannot be read" in read_one(tmp_path).problem


def test_each_file_is_read_once_and_progress_sees_the_count(tmp_path):
    picture(4).save(tmp_path / "a.png")
    seen = []

    def progress(items, total, title):
        seen.append((total, title))
        return items

    pixels = read_pixels([tmp_path / "a.png", tmp_path / "a.png"], workers=2, progress=progress)
    assert list(pixels) == [tmp_path / "a.png"]
    assert seen == [(1, "images")]


def test_floats_are_refused_as_training_does(tmp_path):
    Image.new("F", (9, 6), 0.5).save(tmp_path / "a.tif")
    assert read_one(tmp_path / "a.tif").problem == "cannot be decoded (float pixels: convert to 8 or 16 bits)"


@pytest.mark.parametrize(
    ("pixels", "brightest"),
    [
        (np.full((9, 9), 4095, np.uint16), 15),  # 12 bits in a file of 16
        (np.full((9, 9), 255, np.uint16), 0),
        (np.full((9, 9), 65535, np.uint16), 255),
        (np.eye(9, dtype=np.uint8), 1),
        (np.dstack([np.zeros((9, 9, 2), np.uint8), np.full((9, 9), 200, np.uint8)]), 200),
    ],
)
def test_the_brightest_pixel_is_that_of_training(tmp_path, pixels, brightest):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_one(tmp_path / "a.png").brightest == brightest
    assert np.asarray(load_rgb(tmp_path / "a.png", pixels.shape[:2], "a", upright=False)).max() == brightest

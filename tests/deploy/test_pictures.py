# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Every form of an image becomes the same RGB picture, and what is none is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isdfine.core.errors import DataError
from isdfine.data.dataset.images import load_rgb
from isdfine.deploy.onnx.sample import _views
from isdfine.deploy.pictures import as_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_all_forms_agree(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    opaque = np.dstack([PIXELS, np.full((6, 9), 7, dtype=np.uint8)])
    forms: list[Any] = [
        tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PIXELS), PIXELS, tensor, tensor.float() / 255,
        (tensor.double() / 255).requires_grad_(), opaque, PIXELS.astype(np.uint16) * 257,
    ]  # fmt: skip
    for form in forms:
        image = as_rgb(form)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), PIXELS)


def test_colours_of_opencv() -> None:
    for last in (PIXELS[:, :, ::-1], np.dstack([PIXELS[:, :, ::-1], PIXELS[:, :, :1]])):
        assert np.array_equal(np.asarray(as_rgb(last, "bgr")), PIXELS)
    assert np.array_equal(np.asarray(as_rgb(Image.fromarray(PIXELS), "bgr")), PIXELS), "only arrays have an order"
    with pytest.raises(DataError, match="channels is 'BGR': give 'rgb', or 'bgr' for arrays from OpenCV"):
        as_rgb(PIXELS, "BGR")  # type: ignore[arg-type]


def test_grey() -> None:
    grey = PIXELS[:, :, 0]
    for form in (grey, grey[:, :, None], torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert np.array_equal(np.asarray(as_rgb(form)), np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_files_are_read_as_in_training(tmp_path: Path, mode: str) -> None:
    grey = PIXELS[:, :, 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 256)
    else:
        image = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert np.array_equal(np.asarray(as_rgb(path)), np.asarray(load_rgb(path, (6, 9), upright=True)))


def test_exif_rotation_of_files_and_pil_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        for form in (tmp_path / "a.png", opened):
            assert np.array_equal(np.asarray(as_rgb(form)), np.rot90(PIXELS, -1))
            assert np.array_equal(np.asarray(as_rgb(as_rgb(form))), np.rot90(PIXELS, -1)), "not turned twice"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (np.zeros((3, 6, 9), np.uint8), r"array of 3 x 6 x 9 \(channels first: use image.transpose\(1, 2, 0\)\)"),
        (np.zeros((6, 9, 5), np.uint8), "array of 6 x 9 x 5: give height x width x 3, RGB"),
        (np.zeros((0, 9, 3), np.uint8), "array of 0 x 9 x 3: it has no pixels"),
        (np.zeros((6, 9, 3), np.float32), r"array of float32: give uint8 .* \(image \* 255\).round\(\)"),
        (torch.zeros(6, 9, 3), "tensor of 6 x 9 x 3: give 3 x height x width, RGB"),
        (torch.full((3, 6, 9), 2.0), r"floats from 2 to 2: give values in \[0, 1\] that are not normalised"),
        (torch.full((3, 6, 9), torch.nan), "floats from nan to nan"),
        (torch.zeros(3, 6, 9, dtype=torch.int64), r"tensor of torch.int64: give uint8 \(0..255\) or floats"),
        (b"bytes", "image 3 is a bytes: give a path, a PIL image, an array or a tensor"),
    ],
)
def test_what_is_no_image(form: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        as_rgb(form, name="image 3")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(PIXELS).resize((200, 200)).save(whole)
    for name, content, reason in (
        ("empty.jpg", b"", "empty.jpg: the file is empty"),
        ("text.jpg", b"no image", r"text.jpg: cannot be decoded as an image \(cannot identify image file\): replace"),
        ("cut.png", whole.read_bytes()[:3000], "cut.png: cannot be decoded as an image"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=reason):
            as_rgb(tmp_path / name)
    with pytest.raises(DataError, match=r"absent\.jpg: no such image: check the path"):
        as_rgb(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match=r"is a folder: give its files, or use isdfine predict"):
        as_rgb(tmp_path)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"a.png: .*raise --max-pixels, .* \(in Python: PIL.Image.MAX_IMAGE_PIXELS\)"):
        as_rgb(tmp_path / "a.png")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(Path, "is_dir", refuse)  # what a folder without the right to enter it answers
    with pytest.raises(DataError, match=r"a\.png: may not be read: check its permissions"):
        as_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_further_pictures_of_a_file_are_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    first = Image.new("RGB", (9, 6), "red")
    first.save(tmp_path / name)
    as_rgb(tmp_path / name)
    assert not caplog.records
    first.save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (9, 6), "blue")])
    assert as_rgb(tmp_path / name).getpixel((4, 3))[0] > 200  # type: ignore[index]
    assert f"{name}: holds several pictures; only the first is used" in caplog.text


def test_a_tiff_on_its_side_is_the_same_for_export_and_inference(tmp_path: Path) -> None:
    """Pillow mixes up its pixels where it opens the file by its name."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", exif=exif)
    for found in (as_rgb(tmp_path / "a.tif"), next(_views([tmp_path / "a.tif"]))):
        assert np.array_equal(np.asarray(found), np.rot90(PIXELS, -1))

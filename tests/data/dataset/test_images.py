# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from data import coco_files
from isdfine.core.errors import DataError
from isdfine.data.dataset.images import SUFFIXES, image_sizes, list_images, load_rgb
from isdfine.data.dataset.problems import Problems
from isdfine.deploy.pictures import as_rgb


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    values = np.full((6, 9), 200, dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 256)
    else:
        image = Image.fromarray(values).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    decoded = load_rgb(path, (6, 9))
    assert decoded.mode == "RGB"
    assert decoded.size == (9, 6)
    if mode != "1":
        assert np.abs(np.asarray(decoded).astype(int) - 200).max() <= 1


def save_tiff(path, values, bits, sample_format, photometric=1):
    """Grey (H, W) as plain TIFF, which Pillow would not write so."""
    values = np.ascontiguousarray(values)
    height, width = values.shape[0], values.nbytes * 8 // bits // values.shape[0]
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height,
            279: values.nbytes, 339: sample_format}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    path.write_bytes(head + values.tobytes() + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))


@pytest.mark.parametrize(
    ("dtype", "value", "sample_format", "kind"),
    [("f4", 0.8, 3, "float"), ("f4", 200, 3, "float"), ("i4", 200, 2, "signed"), ("i2", 20000, 2, "signed"),
     ("i1", 100, 2, "signed"), ("u4", 200, 1, "32-bit"), ("u4", 50000, 1, "32-bit")],
)  # fmt: skip
def test_pixels_without_a_white_are_refused(tmp_path, dtype, value, sample_format, kind):
    """Pillow clips most of these in silence: 0..1 becomes black, 32 bits white."""
    values = np.full((6, 9), value, dtype)
    save_tiff(tmp_path / "a.tif", values, 8 * values.itemsize, sample_format)
    with pytest.raises(DataError, match=rf"a.tif: cannot be decoded \({kind} pixels: convert to 8 or 16 bits\)"):
        load_rgb(tmp_path / "a.tif", (6, 9))
    with pytest.raises(DataError, match=rf"a.tif: .*{kind} pixels: convert to 8 or 16 bits"):
        as_rgb(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("values", "bits", "photometric", "expected"),
    [(np.full((6, 9), 200 << 8, "u2"), 16, 1, 200), (np.full((6, 9), 200 << 8, "u2"), 16, 0, 55),
     (np.full((6, 8), 200, "u1"), 8, 0, 55), (np.full((6, 12), 0xFF, "u1"), 12, 1, 255)],
)  # fmt: skip
def test_grey_of_any_depth(tmp_path, values, bits, photometric, expected):
    save_tiff(tmp_path / "a.tif", values, bits, 1, photometric)
    decoded = np.asarray(load_rgb(tmp_path / "a.tif", (6, 9 if bits == 16 else 8)))
    assert (decoded == expected).all()


def test_numbers_beyond_16_bits_are_refused():
    for values in ([-1, 5], [0, 70000]):
        with pytest.raises(DataError, match=rf"pixels from {values[0]} to {values[1]}: convert to 8 or 16 bits"):
            as_rgb(Image.fromarray(np.array([values], np.int32)))


def test_palette_with_transparency_does_not_warn(tmp_path):
    image = Image.new("P", (9, 6))
    image.save(tmp_path / "a.png", transparency=bytes([0, 128, 255]))
    assert load_rgb(tmp_path / "a.png", (6, 9)).mode == "RGB"


def save_turned(path, size):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", size, "black")
    image.paste("white", (0, 0, size[0], size[1] // 2))
    image.save(path, exif=exif, quality=95)


def test_orientation_only_where_the_annotated_size_says_so(tmp_path):
    save_turned(tmp_path / "a.jpg", (48, 32))
    stored = load_rgb(tmp_path / "a.jpg", (32, 48))
    assert stored.size == (48, 32)
    assert stored.getpixel((24, 4))[0] > 200
    turned = load_rgb(tmp_path / "a.jpg", (48, 32))
    assert turned.size == (32, 48)
    assert turned.getpixel((28, 24))[0] > 200  # the white upper half is at the right after a quarter turn


def test_another_size_is_an_error(tmp_path):
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png has height, width \(32, 48\), but image 7 of x.json says \(48, 32\)"):
        load_rgb(tmp_path / "a.png", (48, 32), "image 7 of x.json")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n123"])
def test_what_cannot_be_decoded_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a.png: cannot be decoded .* wanted for image 7 of x.json: replace the file"):
        load_rgb(tmp_path / "a.png", (6, 9), "image 7 of x.json")


def test_truncated_photo(tmp_path):
    whole = next((coco_files.TINY / "train").glob("*.jpg")).read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.jpg: cannot be decoded \(image file is truncated"):
        load_rgb(tmp_path / "a.jpg", (6, 9))


def photo_with_exif(path, mode, position, value):
    """A photo on its side, with one byte of its EXIF block replaced."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    Image.new(mode, (6, 4)).save(path, exif=exif)
    content = bytearray(path.read_bytes())
    content[content.index(b"Exif") + position] = value
    path.write_bytes(content)


def test_odd_exif_tags_do_not_matter(tmp_path):
    photo_with_exif(tmp_path / "a.jpg", "RGB", 17, 1)  # the maker's name under a tag of two numbers
    assert load_rgb(tmp_path / "a.jpg", (6, 4)).size == (4, 6)


def test_truncated_exif(tmp_path):
    photo_with_exif(tmp_path / "a.jpg", "L", -1, 15)  # the length of the block
    assert load_rgb(tmp_path / "a.jpg", (4, 6)).size == (6, 4)  # as viewers, which pass over it
    with pytest.raises(DataError, match=r"a.jpg has height, width \(4, 6\), but image 7 says \(6, 4\)"):
        load_rgb(tmp_path / "a.jpg", (6, 4), "image 7")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = load_rgb(tmp_path / "a.png", expected.shape[:2], upright=True)
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB png", "L png", "I;16 png", "RGB tif", "L tif", "CMYK tif", "I;16 tif"])
def test_every_orientation_of_every_kind(tmp_path, kind, orientation):
    """Pillow mixes up the pixels of plain TIFF files on their side, and drops the EXIF data of what is converted."""
    mode, suffix = kind.split()
    values = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    marked = Image.fromarray(values)
    marked.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(marked))
    found = np.asarray(load_rgb(tmp_path / f"a.{suffix}", expected.shape, upright=True))
    assert found.shape == (*expected.shape, 3)
    assert np.array_equal(found[:, :, 0], expected)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"a.png: no such image, but image 7 names it"):
        load_rgb(tmp_path / "a.png", (6, 9), "image 7")


def test_sizes_from_headers(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (9, 6)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    paths = [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert image_sizes(paths) == [(6, 9), (4, 5)]
    assert image_sizes(paths, upright=True) == [(9, 6), (4, 5)]
    with pytest.raises(DataError, match=r"c.png: no such image: add it or remove its entry"):
        image_sizes([tmp_path / "c.png"])
    (tmp_path / "d.png").write_bytes(b"")
    problems = Problems(collect=True)
    assert image_sizes([tmp_path / "c.png", *paths, tmp_path / "d.png"], problems=problems) == [
        None, (6, 9), (4, 5), None,
    ]  # fmt: skip
    assert [problem.kind for problem in problems.found] == ["missing image", "unreadable image"]


def test_an_upright_image_is_turned_even_where_its_size_stays(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.new("RGB", (9, 6))
    image.putpixel((0, 0), (255, 255, 255))
    image.save(tmp_path / "a.png", exif=exif)
    assert load_rgb(tmp_path / "a.png", (6, 9)).getpixel((0, 0)) == (255, 255, 255)
    assert load_rgb(tmp_path / "a.png", (6, 9), upright=True).getpixel((8, 5)) == (255, 255, 255)


def test_images_of_a_folder(tmp_path):
    assert list_images(tmp_path / "none") == []
    (tmp_path / "b").mkdir()
    for name in ("b/c.PNG", "a.webp", "b.txt"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a.webp", "b/c.PNG"]
    (tmp_path / "z").symlink_to(tmp_path / "b")
    assert list_images(tmp_path) == ["a.webp", "b/c.PNG"]
    (tmp_path / "a").symlink_to(tmp_path / "b")
    assert list_images(tmp_path) == ["a.webp", "a/c.PNG"]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_decoding_at_reduced_scale(tmp_path, suffix, divisor):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.add.outer(np.arange(50), 2 * np.arange(70)).astype(np.uint8)
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    for size in ((50, 70), (70, 50)):  # the second is that of the turned image
        whole = load_rgb(tmp_path / f"a.{suffix}", size)
        found = load_rgb(tmp_path / f"a.{suffix}", size, divisor=divisor)
        assert (found.height, found.width) == (-(-size[0] // divisor), -(-size[1] // divisor))
        box = (divisor, divisor, 4 * divisor, 4 * divisor)
        expected = np.asarray(whole.crop(box)).reshape(3, divisor, 3, divisor, 3).mean(axis=(1, 3))
        assert np.abs(np.asarray(found)[1:4, 1:4] - expected).max() < 2
    with pytest.raises(DataError, match=r"has height, width \(50, 70\), but its entry says \(51, 70\)"):
        load_rgb(tmp_path / f"a.{suffix}", (51, 70), divisor=divisor)


# What Pillow can open and no data set consists of: icons, textures, drawings, documents, films, grids of numbers.
NO_PICTURES = (
    ".avifs", ".blp", ".bufr", ".bw", ".cur", ".dcx", ".dds", ".emf", ".eps", ".fit", ".fits", ".flc", ".fli", ".ftc",
    ".ftu", ".gbr", ".grib", ".h5", ".hdf", ".icb", ".icns", ".ico", ".iim", ".im", ".mpeg", ".mpg", ".msp", ".pcd",
    ".pdf", ".pfm", ".ps", ".psd", ".pxr", ".ras", ".rgb", ".rgba", ".vda", ".vst", ".wmf", ".xbm", ".xpm",
)  # fmt: skip


def test_every_suffix_that_pillow_reads_is_known():
    Image.init()
    registered = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert registered - set(NO_PICTURES) - {".mpo"} <= set(SUFFIXES)
    optional = {".avif", ".mpo"} if not features.check("avif") else {".mpo"}
    assert set(SUFFIXES) - optional <= registered


def test_files_that_may_be_pictures_are_counted(tmp_path, caplog):
    for name in ("a.jpg", "a.txt", "b.heic", "c.HEIC", "d", "Thumbs.db", ".hidden", "e.raw"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ["a.jpg"]
    assert "files of other kinds are left out (2 .heic, 1 .raw, 1 without suffix): convert pictures" in caplog.text

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import errno
import json
import logging
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isdfine.core.entries import Entries
from isdfine.core.errors import ConfigError
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.images import load_rgb
from isdfine.data.image_cache import ImageCache
from isdfine.data.transforms import Compose, ConvertBoxes, ConvertPILImage, RandomHorizontalFlip, RandomIoUCrop, Resize

SIZE = (300, 400)


def entries(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def data(tmp_path):
    """(image folder, COCO file) of three smooth images."""
    images = []
    for number in range(1, 4):
        small = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(tmp_path / f"{number}.jpg", quality=95)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
    box = {"bbox": [40, 30, 300, 200], "area": 60000, "iscrowd": 0, "category_id": 1}
    annotations = [{"id": number, "image_id": number, **box} for number in range(1, 4)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "data.json").write_text(json.dumps(content))
    return tmp_path, tmp_path / "data.json"


def dataset(data, cache, *, fused=True, first=None):
    ops = [first or RandomHorizontalFlip(), Resize((64, 64)), ConvertPILImage(), ConvertBoxes()]
    return CocoDetection(*map(str, data), Compose(ops, cache=cache, fused=fused))


def images(of):
    return [of[(0, index, 0)][0].as_subclass(torch.Tensor) for index in range(3)]


def test_entries_are_made_once_and_give_the_same_pixels(data, tmp_path):
    folder = tmp_path / "cache"
    first = images(dataset(data, ImageCache(str(folder), side=96)))
    made = entries(folder)
    assert len(made) == 3
    stamps = [entry.stat().st_mtime_ns for entry in made]
    again = images(dataset(data, ImageCache(str(folder), side=96)))
    assert all(torch.equal(image, other) for image, other in zip(first, again))
    assert [entry.stat().st_mtime_ns for entry in entries(folder)] == stamps
    plain = images(dataset(data, None))
    assert all((image.int() - other.int()).abs().float().mean() < 2 for image, other in zip(first, plain))


def test_what_needs_more_pixels_or_gains_nothing_is_read_from_the_file(data, tmp_path):
    folder = tmp_path / "cache"
    images(dataset(data, ImageCache(str(folder), side=80)))  # 64 of 300 rows with half as much again are 96
    images(dataset(data, ImageCache(str(folder), side=200)))  # two thirds of the file's
    assert entries(folder) == []
    crop = RandomIoUCrop(min_scale=0.3, max_scale=0.31, sampler_options=[0.0, 1.0])
    cached = images(dataset(data, ImageCache(str(folder), side=96), first=crop))
    plain = images(dataset(data, None, first=crop))
    assert 0 < sum(torch.equal(image, other) for image, other in zip(cached, plain)) < 3


def test_a_changed_image_is_another_entry(data, tmp_path):
    folder = tmp_path / "cache"
    before = images(dataset(data, ImageCache(str(folder), side=96)))
    Image.new("RGB", SIZE[::-1], "red").save(data[0] / "1.jpg")
    after = images(dataset(data, ImageCache(str(folder), side=96)))
    assert len(entries(folder)) == 4
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"", lambda content: content[:-1] + b"?"]
)
def test_damaged_entries_are_made_anew(data, tmp_path, caplog, damage):
    folder = tmp_path / "cache"
    before = images(dataset(data, ImageCache(str(folder), side=96)))
    whole = [entry.read_bytes() for entry in entries(folder)]
    entries(folder)[0].write_bytes(damage(whole[0]))
    after = images(dataset(data, ImageCache(str(folder), side=96)))
    assert f"{entries(folder)[0]}: this entry of the image cache is damaged" in caplog.text
    assert all(torch.equal(image, other) for image, other in zip(before, after))
    assert [entry.read_bytes() for entry in entries(folder)] == whole


def test_a_full_cache_goes_on_with_what_it_has(data, tmp_path, caplog):
    folder = tmp_path / "cache"
    one_entry = ImageCache(str(folder), side=96)
    dataset(data, one_entry)[(0, 0, 0)]
    size = entries(folder)[0].stat().st_size
    small = ImageCache(str(folder), side=96, max_gigabytes=1.5 * size / 1e9)
    found = images(dataset(data, small))
    assert len(entries(folder)) == 2  # one above the limit at most, in a folder so small
    roomy = images(dataset(data, ImageCache(str(tmp_path / "roomy"), side=96)))
    assert all(torch.equal(image, other) for image, other in zip(found, roomy))  # a resumed run may find more room
    assert caplog.text.count(f"{folder}: the image cache is full") == 1
    assert "raise max_gigabytes" in caplog.text


def test_no_space_is_named_and_the_run_goes_on(data, tmp_path, caplog, monkeypatch):
    expected = images(dataset(data, ImageCache(str(tmp_path / "roomy"), side=96)))

    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    folder = tmp_path / "cache"
    found = images(dataset(data, ImageCache(str(folder), side=96)))
    assert entries(folder) == []
    assert all(torch.equal(image, other) for image, other in zip(found, expected))
    assert caplog.text.count(f"{folder}: the image cache cannot be written (No space left on device)") == 1


def test_a_folder_that_cannot_be_made_is_named_and_the_run_goes_on(data, tmp_path, caplog):
    expected = images(dataset(data, ImageCache(str(tmp_path / "roomy"), side=96)))
    (tmp_path / "file").write_text("")
    found = images(dataset(data, ImageCache(str(tmp_path / "file"), side=96)))
    assert all(torch.equal(image, other) for image, other in zip(found, expected))
    assert caplog.text.count(f"{tmp_path / 'file'}: the image cache cannot be written (") == 1
    assert "choose another folder" in caplog.text


def test_a_folder_that_is_deleted_during_a_run_is_filled_again(data, tmp_path, caplog):
    of = dataset(data, ImageCache(str(tmp_path / "cache"), side=96))
    before = images(of)
    shutil.rmtree(tmp_path / "cache")
    assert all(torch.equal(image, other) for image, other in zip(images(of), before))
    assert len(entries(tmp_path / "cache")) == 3
    assert caplog.text == ""


def test_damage_that_cannot_be_mended_is_reported_once(data, tmp_path, caplog, monkeypatch):
    of = dataset(data, ImageCache(str(tmp_path / "cache"), side=96))
    before = images(of)
    monkeypatch.setattr(Entries, "write", lambda *_: None)
    for entry in entries(tmp_path / "cache"):
        entry.write_bytes(b"")
    for _ in range(3):
        assert all(torch.equal(image, other) for image, other in zip(images(of), before))
    assert caplog.text.count("this entry of the image cache is damaged") == 3


def test_turned_and_stored_images_are_different_entries(data, tmp_path):
    """One data set's boxes belong to the stored pixels (COCO), another's to what viewers show (YOLO)."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    with Image.open(data[0] / "1.jpg") as image:
        image.save(data[0] / "1.jpg", exif=exif)
    cache, path = ImageCache(str(tmp_path / "cache"), side=96), data[0] / "1.jpg"
    found = [
        cache.load(path, SIZE, (96, 128), lambda turn=turn: load_rgb(path, SIZE, upright=turn), upright=turn)
        for turn in (False, True)
    ]
    assert len(entries(tmp_path / "cache")) == 2
    turned = found[0].transpose(Image.Transpose.ROTATE_180)
    assert np.abs(np.asarray(turned, dtype=int) - np.asarray(found[1])).mean() < 2
    of = dataset(data, cache)
    of.annotations = replace(of.annotations, upright=False)
    assert not torch.equal(images(dataset(data, cache))[0], images(of)[0])


def test_an_image_that_changes_while_it_is_read_is_not_kept(data, tmp_path):
    path = data[0] / "1.jpg"

    def decode():
        Image.new("RGB", SIZE[::-1], "red").save(path)  # a download that is still going on
        return load_rgb(path, SIZE)

    cache = ImageCache(str(tmp_path / "cache"), side=96)
    assert cache.load(path, SIZE, (96, 128), decode).getpixel((3, 3))[0] > 250
    assert entries(tmp_path / "cache") == []


def test_other_files_in_the_folder_are_left_alone(data, tmp_path):
    """A folder of images given by mistake must not lose any."""
    others = [data[0] / "notes.txt", data[0] / "ab" / "cd.77.tmp", data[0] / "1.jpg"]
    others[1].parent.mkdir()
    for other in others[:2]:
        other.write_text("mine")
    for other in others:
        os.utime(other, (time.time() - 7200,) * 2)
    images(dataset(data, ImageCache(str(data[0]), side=96)))
    assert all(other.exists() for other in others)


def test_two_runs_on_one_cache(data, tmp_path):
    folder = tmp_path / "cache"
    expected = images(dataset(data, ImageCache(str(tmp_path / "alone"), side=96)))

    def run(_):
        cache = ImageCache(str(folder), side=96)
        paths = [data[0] / f"{number}.jpg" for number in range(1, 4)]
        sizes = cache.size_of(SIZE, 0.1)
        return [
            np.asarray(cache.load(path, SIZE, sizes, lambda path=path: load_rgb(path, SIZE, divisor=2)))
            for path in paths
        ]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(8)))
    assert all(np.array_equal(image, other) for many in found for image, other in zip(many, found[0]))
    assert len(entries(folder)) == 3
    again = images(dataset(data, ImageCache(str(folder), side=96)))
    assert all(torch.equal(image, other) for image, other in zip(again, expected))


def test_unfinished_files_of_killed_runs_are_removed(data, tmp_path):
    folder = tmp_path / "cache" / "ab"
    folder.mkdir(parents=True)
    old, new = (folder / f"{digit * 46}.77.8.tmp" for digit in "cd")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    images(dataset(data, ImageCache(str(folder.parent), side=96)))
    assert not old.exists()
    assert new.exists()


def test_a_cache_that_is_not_read_is_said_so(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cache = ImageCache(str(tmp_path / "cache"), side=96)
    assert dataset(data, cache).transforms.describe() == f"fused, large images from {cache.folder}"
    plain = dataset(data, cache, fused=False)
    assert plain.transforms.describe() == f"one by one (fused: False), without the cache {cache.folder}"
    images(plain)
    assert entries(cache.folder) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"side": 8}, "ImageCache: side is 8: give 32 pixels or more"),
        ({"max_gigabytes": 0}, "max_gigabytes is 0: give a number above 0"),
        ({"quality": 101}, r"quality is 101: give 1\.\.100"),
    ],
)
def test_wrong_options(tmp_path, options, match):
    with pytest.raises(ConfigError, match=match):
        ImageCache(str(tmp_path), **options)

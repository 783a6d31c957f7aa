# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
import unicodedata

import pytest

from isdfine.data.dataset.layout import UnlistedImages, role_of

WINDOWS, CASE, ENCODED = "paths of Windows: write / for \\", "upper and lower case", "percent-encoding"
UNICODE, UPLOAD, FOLDER = "another Unicode form", "a prefix of Label Studio", "another folder"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("listed", "there", "why"),
    [
        ("sub\\a.jpg", "sub/a.jpg", WINDOWS),
        ("C:\\Users\\me\\sub\\a.jpg", "sub/a.jpg", WINDOWS),
        ("D:/photos/a.jpg", "a.jpg", FOLDER),
        ("..\\images\\a.jpg", "a.jpg", WINDOWS),
        ("/home/me/images/a.jpg", "a.jpg", FOLDER),
        ("a.jpg", "sub/a.jpg", FOLDER),
        ("a.JPG", "a.jpg", CASE),
        ("A.jpg", "a.jpg", CASE),
        ("Train/a.jpg", "train/a.jpg", CASE),
        (unicodedata.normalize("NFC", "größe.jpg"), unicodedata.normalize("NFD", "größe.jpg"), UNICODE),
        (unicodedata.normalize("NFD", "größe.jpg"), unicodedata.normalize("NFC", "größe.jpg"), UNICODE),
        ("my%20photo.jpg", "my photo.jpg", ENCODED),
        ("my photo.jpg", "my%20photo.jpg", ENCODED),
        ("/data/upload/1/0a1b2c3d-a.jpg", "a.jpg", UPLOAD),
        ("upload/1/0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg", FOLDER),
        ("a.jpg", "0a1b2c3d-a.jpg", UPLOAD),
        ("/data/local-files/?d=set%5Cmy%20photo.jpg", "set/my photo.jpg", f"an address, {ENCODED}"),
        ("file:///home/me/A.jpg", "a.jpg", CASE),
        (" a.jpg ", "a.jpg", "blanks around it"),
        ("a.jpg", "a.png", "another suffix"),
        ("SUB\\My%20Photo.JPG", "sub/my photo.jpg", f"{ENCODED}, {WINDOWS}, {CASE}"),
    ],
)
def test_what_a_name_means(tmp_path, listed, there, why):
    found = UnlistedImages(touch(tmp_path, there, "other.jpg")).meant(listed)
    assert (found.name, found.why.startswith(why.split(",")[0])) == (there, True), found
    assert all(reason in found.why for reason in why.split(", ")), found
    assert UnlistedImages(tmp_path).hint(listed) == f"; did you mean {there!r}? ({found.why})"


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("a.jpg", ["b.jpg"]),
        ("a.jpg", ["x/a.jpg", "y/a.jpg"]),
        ("x/a.jpg", ["y/a.jpg"]),
        ("a.jpg", ["a.txt"]),
        ("a.jpg", ["a.png", "a.webp"]),
        ("a.JPG", ["a.jpg", "A.jpg"]),
    ],
)
def test_what_could_be_anything_means_nothing(tmp_path, listed, there):
    assert UnlistedImages(touch(tmp_path, *there)).meant(listed) is None
    assert UnlistedImages(tmp_path).hint(listed) == ""


def test_images_of_other_entries_are_not_meant(tmp_path):
    touch(tmp_path, "a.jpg", "sub/A.jpg")
    assert UnlistedImages(tmp_path, ["sub/A.jpg"]).meant("A.JPG").name == "a.jpg"


@pytest.mark.parametrize(
    ("name", "role"),
    [("train2017", "train"), ("trainval", "train"), ("Validation", "val"), ("valid", "val"), ("objv2_val", "val"),
     ("TEST", "test"), ("test-dev2017", "test"), ("valid/labels", "val"), ("trains", None), ("all", None), ("", None)],
)  # fmt: skip
def test_roles_by_name(name, role):
    assert role_of(name) == role

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What a text on the command line means, and what outputs are called."""

from pathlib import Path

import pytest
from PIL import Image

from isdfine.core.errors import ConfigError
from isdfine.inference.sources import ImageFiles, InputImage, Skipped, open_sources


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images in a folder and two below it, among other files."""
    for name in ("a/1.jpg", "a/2.PNG", "a/deep/1.jpg", "b/1.jpg", "b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*specs: str, recursive: bool = False) -> list[str]:
    [source] = open_sources(specs, recursive=recursive)
    assert isinstance(source, ImageFiles)
    assert source.count == len(source.names)
    return list(source.names)


def test_folders_patterns_and_files(tree: Path) -> None:
    assert names("a") == ["1.jpg", "2.PNG"]
    assert names("a", recursive=True) == ["1.jpg", "2.PNG", "deep/1.jpg"]
    assert names("a", "b") == ["a/1.jpg", "a/2.PNG", "b/1.jpg", "b/1.png"]
    assert names("a/1.jpg") == ["1.jpg"]
    assert names("b/1.jpg", str(tree / "a" / "1.jpg")) == ["b/1.jpg", "a/1.jpg"]
    assert names("a/1.jpg", "a/*.jpg", "a/1.jpg") == ["1.jpg"], "the same file counts once"
    assert names("**/*.jpg") == ["a/1.jpg", "a/deep/1.jpg", "b/1.jpg"]
    assert names("[b]/1.???") == ["1.jpg", "1.png"]


def test_files_that_cannot_be_read_are_passed_over(tree: Path) -> None:
    (tree / "a" / "1.jpg").write_bytes(b"")
    [source] = open_sources(["a"])
    broken, whole = list(source)
    assert isinstance(broken, Skipped)
    assert broken.name == "1.jpg"
    assert broken.reason.endswith("1.jpg: the file is empty")
    assert isinstance(whole, InputImage)
    assert (whole.name, whole.image.size, whole.clip) == ("2.PNG", (8, 6), None)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("absent", "absent: no such file or folder: give images, folders, patterns, videos, or a camera's number"),
        ("*.gif", "no file matches this pattern"),
        ("empty", r"empty: no image in this folder \(.apng, .*\), or --recursive for the folders below; videos are"),
    ],
)
def test_texts_that_mean_nothing(tree: Path, spec: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_sources([spec])


def test_videos_get_names_of_their_own(tree: Path) -> None:
    for name in ("a/clip.mp4", "b/clip.AVI", "b/a.mp4"):
        (tree / name).write_bytes(b"")
    specs = ["a", "b/1.jpg", "a/clip.mp4", "b/clip.AVI", "b/a.mp4", "0", "rtsp://host/live.sdp?x=1"]
    images, *videos = open_sources(specs)
    assert isinstance(images, ImageFiles)
    assert images.names == ["a/1.jpg", "a/2.PNG", "b/1.jpg"]
    assert [video.name for video in videos] == ["clip", "clip-2", "a-2", "camera0", "live"]  # type: ignore[attr-defined]
    assert all(video.clip for video in videos)


def test_a_folder_called_as_a_camera_is_a_folder(tree: Path) -> None:
    (tree / "b").rename(tree / "0")
    assert names("0") == ["1.jpg", "1.png"]
    [camera] = open_sources(["1"])
    assert camera.clip


def test_what_a_folder_does_not_stand_for_is_named(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    names("a", recursive=True)
    assert not caplog.records
    for name in ("a/clip.MP4", "a/deep/x.heic", "a/deep/y.heic"):
        (tree / name).write_bytes(b"")
    names("a")
    assert "a: files of other kinds are left out (1 .mp4): convert pictures (read are .apng, " in caplog.text
    names("a", recursive=True)
    assert "(2 .heic, 1 .mp4)" in caplog.text

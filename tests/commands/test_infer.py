# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine predict from the command line: what it writes, what it says, and its exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builders import ROOT, load_tool
from detector_cases import micro_checkpoint, pictures
from video_cases import load_av, read_video, write_video

TOOL = load_tool("infer")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro checkpoint."""
    return micro_checkpoint(tmp_path_factory.mktemp("model"))


def infer(model: Path, output: Path, *arguments: object) -> int:
    code: int = TOOL.main(["-m", str(model), "-o", str(output), "-d", "cpu", *map(str, arguments)])
    return code


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_with_everything_wrong_in_it(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of every kind are used, broken ones named one by one and counted, and the rest goes on."""
    photos = tmp_path / "photos"
    photos.mkdir()
    base = Image.open(pictures(photos)[0]).convert("RGB")
    for name, image in {
        "grey.png": base.convert("L"), "rgba.png": base.convert("RGBA"), "palette.png": base.convert("P"),
        "deep.png": Image.fromarray(np.asarray(base)[:, :, 0].astype(np.uint16) * 257),
        "cmyk.jpg": base.convert("CMYK"), "dot.png": base.resize((1, 1)), "strip.png": base.resize((20000, 100)),
    }.items():  # fmt: skip
        image.save(photos / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(photos / "turned.jpg", exif=exif)
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:200])
    (photos / "text.jpg").write_text("no image")
    out = tmp_path / "out"
    assert infer(model, out, photos, "--threshold", 0, "--save", "images,coco,yolo,csv") == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("cut.png", "empty.jpg", "text.jpg")):
        assert line.startswith(f"skipped: {photos / name}: ")
    assert "pictures:   12 in" in printed.out
    assert "skipped:    3" in printed.out
    assert "detections: 120 (" in printed.out
    content = json.loads((out / "detections.json").read_text())
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in content["images"]}
    assert (sizes["turned.jpg"], sizes["dot.png"], sizes["strip.png"]) == ((96, 64), (1, 1), (100, 20000))
    assert {annotation["category_id"] for annotation in content["annotations"]} <= {3, 7}
    assert len(files(out / "images")) == 12
    assert len(files(out / "labels")) == 13
    with Image.open(out / "images" / "turned.jpg") as drawn:
        assert drawn.size == (64, 96)
    assert len((out / "detections.csv").read_text().splitlines()) == 121


def test_a_video_and_pictures_together(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_av()
    clip, photo = write_video(tmp_path / "clip.avi", 6), pictures(tmp_path)[0]
    assert infer(model, tmp_path / "out", clip, photo, "--threshold", 0, "--every", 2, "--tile", 40, 40) == 0
    assert files(tmp_path / "out") == ["detections.json", "images/0.png", *(
        f"images/clip/{n:06}.jpg" for n in (0, 2, 4)), "videos/clip.mp4"]  # fmt: skip
    assert len(read_video(tmp_path / "out" / "videos" / "clip.mp4")) == 3
    assert "pictures:   4 in" in capsys.readouterr().out
    (tmp_path / "none.mp4").write_bytes(b"")
    assert infer(model, tmp_path / "none", tmp_path / "none.mp4") == 1
    assert "skipped: " in capsys.readouterr().err
    assert files(tmp_path / "none") == ["detections.json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.jpg"], "absent.jpg: no such file or folder"),
        ([".", "--save", "pdf"], "--save pdf: give some of images,video,coco,yolo,csv, not pdf"),
        ([".", "--save", ","], "--save ,: give some of images,video,coco,yolo,csv"),
        ([".", "--save", "video"], "--save video: none of the sources is a video: leave it out"),
        ([".", "--save", "coco", "--yolo-scores"], "--yolo-scores: no YOLO files are written: add --save yolo"),
        ([".", "--yolo-scores"], "--yolo-scores: no YOLO files are written: add --save yolo"),
        ([".", "--every", "2"], "--every 2: none of the sources is a video: leave it out"),
        ([".", "--threshold", "2"], "--threshold 2.0: give a score from 0 to 1"),
        ([".", "--every", "0"], "--every 0: give 1 or more"),
        ([".", "--max-pixels", "0"], "--max-pixels 0: give 1 or more"),
        ([".", "--batch", "0"], "batch_size is 0: give 1 or more"),
        ([".", "--overlap", "0.3"], "--overlap and --tile-whole are for tiles: add --tile HEIGHT WIDTH"),
        ([".", "--tile", "8", "8"], "tiles of 8 x 8 (height x width): give at least 32 pixels"),
        ([".", "--names", "absent.txt"], "--names absent.txt: cannot be read"),
        ([".", "-d", "abacus"], "device is 'abacus': give cpu, cuda or cuda:0"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], reason: str,
) -> None:  # fmt: skip
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert infer(model, tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {reason}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_models_and_folders_that_cannot_be_used(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = pictures(tmp_path)[0]
    assert infer(tmp_path / "absent.pth", tmp_path / "out", photo) == 2
    assert "absent.pth: no such file" in capsys.readouterr().err
    assert infer(model, photo, photo) == 2
    assert "0.png: is a file: choose a folder" in capsys.readouterr().err
    assert infer(model, tmp_path / "out", photo, "--save", "csv") == 0
    assert infer(model, tmp_path / "out", photo) == 2
    assert "is not empty: choose another folder, or write into it with --overwrite" in capsys.readouterr().err
    assert infer(model, tmp_path / "out", photo, "--overwrite", "--save", "csv") == 0


def test_sources_are_not_overwritten(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data set with images/ and labels/ is where results of these names would go."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    photo = pictures(tmp_path / "images" / "train")[0]
    before = photo.read_bytes()
    for source in (photo, tmp_path / "images" / "train"):
        assert infer(model, tmp_path, source, "--overwrite", "--save", "yolo") == 2
        assert "train: holds sources, and -o " in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert not (tmp_path / "labels").exists()


def test_an_output_that_cannot_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert infer(model, tmp_path / "file" / "out", pictures(tmp_path)[0]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path / 'file' / 'out'}: Not a directory: check permissions and free space\n"


def test_files_of_one_name_from_two_folders(model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pictures(tmp_path / folder)
    out = tmp_path / "out"
    assert infer(model, out, tmp_path / "a" / "0.png", tmp_path / "b" / "0.png", "--save", "images,yolo") == 0
    assert files(out) == ["images/a/0.png", "images/b/0.png", "labels/a/0.txt", "labels/b/0.txt", "labels/classes.txt"]


def test_large_images_on_request(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = pictures(tmp_path)[0]
    before = Image.MAX_IMAGE_PIXELS
    assert infer(model, tmp_path / "a", photo, "--max-pixels", 3000) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert infer(model, tmp_path / "b", photo, "--max-pixels", 6144, "--tile", 40, 40) == 0
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_script_itself_is_quiet_without_a_terminal(model: Path, tmp_path: Path) -> None:
    photo = pictures(tmp_path)[0]
    command = [
        sys.executable,
        ROOT / "tools" / "infer.py",
        "-m",
        model,
        photo,
        "-o",
        tmp_path / "out",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools" / "typing")}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [line.split(":")[0] for line in ran.stdout.splitlines()] == ["pictures", "detections", "skipped", "written"]


def resident_mib() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def memory_of(model: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[float]:
    """MiB after each picture of a run of the tool."""
    sizes: list[float] = []
    original = TOOL.run

    def watched(*given: Any, on_picture: Callable[[], None], **options: Any) -> Any:
        def both() -> None:
            on_picture()
            sizes.append(resident_mib())

        return original(*given, on_picture=both, **options)

    monkeypatch.setattr(TOOL, "run", watched)
    assert infer(model, output, *arguments) == 0
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["video", "folder"])
def test_memory_is_flat(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """2,000 frames and 5,000 images with every output: no more after the last than after the hundredth."""
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc, which only Linux has")
    count = 2000 if kind == "video" else 5000
    if kind == "video":
        load_av()
        source, save = write_video(tmp_path / "long.mp4", count, (240, 320)), "video,images,coco,yolo,csv"
    else:
        source, save = tmp_path / "many", "images,coco,yolo,csv"
        source.mkdir()
        random = np.random.default_rng(0)
        for number in range(count):
            coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            coarse.resize((320, 240)).save(source / f"{number:05}.jpg")
    sizes = memory_of(model, tmp_path / "out", monkeypatch, source, "--save", save, "--threshold", 0)
    assert len(sizes) == count
    marks = [1, 100, *range(500, count + 1, 500)]
    shown = (f"{mark}: {sizes[mark - 1]:.0f}" for mark in marks)
    sys.stdout.write(f"{kind}: resident MiB after {', '.join(shown)}\n")  # for docs/infer.md (-s)
    assert max(sizes[100:]) < sizes[99] + 25


def test_a_name_that_is_not_utf8_costs_no_output(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    first = pictures(photos)[0]
    os.rename(os.fsencode(first), os.fsencode(photos) + b"/caf\xe9.png")
    out = tmp_path / "out"
    assert infer(model, out, photos, "--save", "coco,csv,yolo,images") == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("caf\\udce9.png': its name is not UTF-8: rename the file")
    assert len(json.loads((out / "detections.json").read_text())["images"]) == 3

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""isdfine visualize from the command line: every command, what it writes and says, and its exit codes."""

import csv
import importlib.abc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builders import SIZE, load_tool
from detector_cases import micro_checkpoint
from isdfine.viz.errors import KINDS

TOOL = load_tool("visualize")
Visualize = Callable[..., int]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A micro checkpoint with its config and data."""
    return micro_checkpoint(tmp_path_factory.mktemp("run")).parent


@pytest.fixture
def visualize(run_folder: Path, tmp_path: Path) -> Visualize:
    def call(command: str, *arguments: object, checkpoint: Path | None = None) -> int:
        file = checkpoint or run_folder / "best.pth"  # which holds its config
        config = ["-c", str(run_folder / "micro.yml")] if checkpoint else []
        code: int = TOOL.main(
            [command, *config, "-r", str(file), "-o", str(tmp_path / "out"), "-d", "cpu", *map(str, arguments)]
        )
        return code

    return call


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_report(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("report", "--samples", 3, "--threshold", 0.01) == 0
    out = tmp_path / "out"
    written = files(out)
    assert [name for name in written if name.startswith("sample_")] == [
        "sample_1_000.png", "sample_5_004.png", "sample_8_007.png",
    ]  # fmt: skip
    assert {"report.html", "report.json", "precision_recall.png", "f1.png", "confusion.png"} <= set(written)
    numbers = json.loads((out / "report.json").read_text())
    html = (out / "report.html").read_text()
    assert numbers["num_images"] == 8
    assert f"<td>{100 * numbers['stats']['AP']:.1f}</td>" in html
    assert sum(map(sum, numbers["confusion"][:-1])) == sum(row["num_boxes"] for row in numbers["per_class"])
    assert set(numbers["best"]) == {"dark", "light"}
    assert numbers["threshold"] == 0.01
    assert "8 of 8 images" in html
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out


def test_a_report_of_some_images_chooses_its_threshold(visualize: Visualize, tmp_path: Path) -> None:
    assert visualize("report", "--max-images", 3, "--samples", 1) == 0
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["num_images"] == 3
    assert "3 of 8 images" in (tmp_path / "out" / "report.html").read_text()


def test_the_ap_of_the_curves_is_that_of_the_evaluator(run_folder: Path, tmp_path: Path) -> None:
    options = TOOL.parse_arguments(
        ["report", "-r", str(run_folder / "best.pth"), "-o", str(tmp_path)]
    )  # its own config
    evaluated = TOOL.evaluate(options)
    for curve, expected in zip(evaluated.judgement.curves, evaluated.result.per_class):
        assert curve.ap == pytest.approx(expected.ap50, abs=1e-6)
        assert (curve.name, curve.num_objects) == (expected.name, expected.num_boxes)


def test_errors(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("errors", "--threshold", 0.001, "--most", 30) == 0
    with open(tmp_path / "out" / "errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    printed = dict(line.split(":") for line in capsys.readouterr().out.splitlines() if ":" in line)
    for kind in KINDS:
        count = sum(row["kind"] == kind for row in rows)
        assert int(printed[kind]) == count
        pages = [file for file in files(tmp_path / "out") if file.startswith(kind)]
        assert len(pages) == -(-min(count, 30) // TOOL.SHEET)
    assert rows
    assert {row["class"] for row in rows} <= {"dark", "light"}


def test_detections_of_named_images(visualize: Visualize, tmp_path: Path) -> None:
    other = tmp_path / "some photo.png"
    Image.new("RGB", (200, 100), "grey").save(other)
    assert visualize("detections", "--images", 3, "005.png", other, "--threshold", 0.001) == 0
    assert files(tmp_path / "out") == ["3_002.png", "6_005.png", "some_photo.png"]
    with Image.open(tmp_path / "out" / "3_002.png") as pair, Image.open(tmp_path / "out" / "some_photo.png") as alone:
        assert pair.width > 2 * SIZE[1] + 8, "the titles need more than these pictures"
        assert alone.size == (200, 100)
        assert len(np.unique(np.asarray(alone).reshape(-1, 3), axis=0)) > 1


def test_a_file_of_the_validation_set_has_its_ground_truth(
    visualize: Visualize, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = run_folder.rglob("002.png")
    monkeypatch.chdir(file.parent.parent)
    assert visualize("detections", "--images", file, Path(file.parent.name, "004.png")) == 0
    assert files(tmp_path / "out") == ["3_002.png", "5_004.png"]


def test_files_of_one_name_do_not_overwrite_each_other(visualize: Visualize, tmp_path: Path) -> None:
    named = [tmp_path / name for name in ("a/page.png", "a/page.jpg", "b/page.png")]
    for number, file in enumerate(named, 1):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (100 * number, 90)).save(file)
    assert visualize("detections", "--images", *named) == 0
    widths = {}
    for name in files(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as image:
            widths[name] = image.width
    assert widths == {"page.png": 100, "page-2.png": 200, "page-3.png": 300}


def test_fdr(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("fdr", "--max-images", 2, "--objects", 1, "--threshold", 0) == 0
    assert files(tmp_path / "out") == ["1_000_1.png", "2_001_1.png"]
    assert "1_000_1.png: " in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "1_000_1.png") as figure:
        assert figure.width > 1500


def test_attention(visualize: Visualize, tmp_path: Path) -> None:
    assert visualize("attention", "--images", 1, "--objects", 1, "--threshold", 0, "--layers", 2) == 0
    assert files(tmp_path / "out") == ["1_000_1.png", "1_000_self_attention.png"]


@pytest.mark.parametrize("command", ["detections", "fdr", "attention"])
def test_images_of_any_shape_and_kind(visualize: Visualize, tmp_path: Path, command: str) -> None:
    made = {
        "dot.png": Image.new("RGB", (1, 1)), "strip.png": Image.new("RGB", (20000, 100), "red"),
        "deep.png": Image.fromarray(np.full((40, 60), 40000, dtype=np.uint16)), "cmyk.jpg": Image.new("CMYK", (50, 70)),
    }  # fmt: skip
    for name, image in made.items():
        image.save(tmp_path / name)
    objects = [] if command == "detections" else ["--objects", 1]
    assert visualize(command, "--images", *(tmp_path / name for name in made), "--threshold", 0, *objects) == 0
    written = {"detections": [""], "fdr": ["_1"], "attention": ["_1", "_self_attention"]}[command]
    assert files(tmp_path / "out") == sorted(f"{Path(name).stem}{end}.png" for name in made for end in written)


def test_padded_runs(tmp_path: Path) -> None:
    file = micro_checkpoint(tmp_path, "fit")
    for command in ("detections", "fdr"):
        code = TOOL.main(
            [command, "-c", str(tmp_path / "micro.yml"), "-r", str(file), "-o", str(tmp_path / command), "-d", "cpu",
             "--max-images", "1", "--threshold", "0", *(["--objects", "1"] if command == "fdr" else [])]
        )  # fmt: skip
        assert code == 0
        assert len(files(tmp_path / command)) == 1


def test_nothing_sure_enough_is_said(visualize: Visualize, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("fdr", "--max-images", 1, "--threshold", 1) == 0
    assert "1_000: nothing with a score of at least 1: lower --threshold" in capsys.readouterr().out


def test_models_without_distributions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import isdfine
    from detector_cases import LABELS, micro_config

    micro_config(tmp_path)
    direct = isdfine.load_config(tmp_path / "micro.yml", ["DFINETransformer.box_head=direct"])
    content = {"model": direct.build("model").state_dict(), "label_space": LABELS.to_dict()}
    torch.save(content, tmp_path / "direct.pth")
    code = TOOL.main(
        ["fdr", "-c", str(tmp_path / "micro.yml"), "-r", str(tmp_path / "direct.pth"), "-o", str(tmp_path / "out"),
         "-u", "DFINETransformer.box_head=direct", "--threshold=0"]
    )  # fmt: skip
    assert code == 2
    said = "this model's boxes are no distributions (box_head is direct): use attention instead of fdr"
    assert f"error: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "--max-images", 0), "--max-images 0: give 1 or more"),
        (("report", "--samples", 0), "--samples 0: give 1 or more"),
        (("errors", "--most", -1), "--most -1: give 1 or more"),
        (("fdr", "--objects", 0), "--objects 0: give 1 or more"),
        (("detections", "--threshold", 1.5), "--threshold 1.5: give a score from 0 to 1"),
        (("fdr", "--layers", 3, "--threshold", 0), "--layers 3: the decoder has the layers 1 to 2"),
        (("attention", "--images", "no.jpg"), "--images no.jpg: neither a file nor a name or id of an image in"),
    ],
)
def test_mistakes_of_the_user(
    visualize: Visualize, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    command, *rest = arguments
    assert visualize(str(command), *rest) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_folders_that_are_in_use(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.write_text("")
    assert visualize("fdr") == 2
    assert f"error: {out}: is a file: choose a folder" in capsys.readouterr().err
    out.unlink()
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    assert visualize("fdr") == 2
    assert "is not empty: choose another folder, or write into it with --overwrite" in capsys.readouterr().err
    assert visualize("detections", "--max-images", 1, "--overwrite") == 0
    assert files(out) == ["1_000.png", "mine.txt"]


def test_exported_models(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("report", checkpoint=tmp_path / "model.onnx") == 2
    said = "pictures need the checkpoint it was exported from; isdfine predict draws the detections of exported models"
    assert said in capsys.readouterr().err


def test_without_matplotlib(
    visualize: Visualize, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [module for module in sys.modules if module.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without("matplotlib"), *sys.meta_path])
    assert visualize("fdr", "--max-images", 1, "--threshold", 0) == 2
    assert capsys.readouterr().err.endswith('error: matplotlib is not installed: pip install "isdfine[plots]"\n')


class Without(importlib.abc.MetaPathFinder):
    """As if a package were not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.split(".")[0] == self.name:
            raise ModuleNotFoundError(f"No module named {self.name!r}", name=self.name)


def test_broken_files(visualize: Visualize, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visualize("fdr", checkpoint=tmp_path / "none.pth") == 2
    assert "none.pth" in capsys.readouterr().err
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    assert visualize("attention", "--images", broken) == 2
    assert f"error: {broken}: the file is empty" in capsys.readouterr().err

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of isdfine data: sub-commands, exit codes, messages, and that sources are never written to."""

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from builders import load_tool, write_micro_config
from data import coco_files
from planted import Planted, plant_everything


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """isdfine data as a module."""
    return load_tool("dataset")


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return Planted(tmp_path / "data", train=8, val=4).write()


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    data = Planted(tmp_path / "faulty")
    plant_everything(data)
    return data.write()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_clean_data_set_exits_with_0(tool, clean, capsys):
    assert tool.main(["check", str(clean), "--strict"]) == 0
    out, err = capsys.readouterr()
    assert "train: 8 images, 24 boxes, 3 classes (coco" in out
    assert "nothing found" in out
    assert err == ""  # no progress bar where nobody looks


def test_findings_are_a_table_a_report_and_an_exit_code(tool, faulty, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert tool.main(["check", str(faulty), "--queries", "20", "--json", str(report), "--examples", "1"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"ERROR +2  missing image: an image that is listed but not there\n +\S+train\.json: train_00", out)
    assert "... and 1 more (all of them: --json FILE)" in out
    content = json.loads(report.read_text())
    counts = content["severities"]
    assert out.rstrip().endswith(f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} note")
    assert content["queries"] == 20
    assert content["kinds"]["inverted box"] == 2
    assert [split["name"] for split in content["splits"]] == ["train", "val"]
    word = next(finding for finding in content["findings"] if finding["kind"] == "wrong size")
    assert set(word) == {"kind", "severity", "split", "place", "image", "text", "fix"}
    assert (word["image"], word["split"], word["severity"]) == ("train_03.jpg", "train", "error")


def test_warnings_count_when_asked(tool, tmp_path):
    data = Planted(tmp_path / "data", train=4, val=2)
    data.box("train", 0, [50, 50, 1, 1])
    folder = str(data.write())
    assert tool.main(["check", folder]) == 0
    assert tool.main(["check", folder, "--strict"]) == 1


def test_fix_writes_a_copy_and_leaves_the_source_alone(tool, faulty, tmp_path, capsys):
    before = contents(faulty)
    copy = tmp_path / "copy"
    assert tool.main(["check", str(faulty), "--fix", str(copy), "--images", "link"]) == 1
    out, err = capsys.readouterr()
    assert "train: 22 of 126 boxes left out (6 unreadable image, 3 duplicate id, " in out
    assert "25.0% is more than --allow-loss 0.05, so nothing is written" in err
    assert not copy.exists()
    arguments = ["check", str(faulty), "--fix", str(copy), "--images", "link", "--allow-loss", "0.25"]
    assert tool.main(arguments) == 1
    out = capsys.readouterr().out
    assert contents(faulty) == before
    lines = (copy / "changes.log").read_text().splitlines()
    assert all(line in out for line in lines)
    assert f"{len(lines) - 2} changes; the copy in {copy}: 0 errors" in out
    assert tool.main(["check", str(copy)]) == 0
    assert tool.main(["check", str(faulty), "--fix", str(copy)]) == 2
    assert "--fix" in (error := capsys.readouterr().err)
    assert "the folder is not empty, and nothing is ever overwritten" in error
    assert (copy / "changes.log").read_text().splitlines() == lines


def test_a_run_is_checked_against_its_own_queries(tool, tmp_path, capsys):
    config = write_micro_config(tmp_path, images=8, boxes=(2, 9, 3))
    assert tool.main(["check", "-c", str(config)]) == 1
    out = capsys.readouterr().out
    assert "9 objects for 8 queries" in out
    assert "image in two splits" in out  # this run evaluates on what it learns
    assert tool.main(["check", "-c", str(config), "-u", "DFINETransformer.num_queries=9"]) == 1
    out = capsys.readouterr().out
    assert "too many objects" not in out
    assert "9 objects for 9 queries" in out


def test_stats_write_plots_and_numbers(tool, clean, tmp_path, capsys):
    assert tool.main(["stats", str(clean), "-o", str(tmp_path / "stats"), "--json", str(tmp_path / "n.json")]) == 0
    out = capsys.readouterr().out
    assert "train: 8 images (0 without boxes), 24 boxes (small 24, medium 0, large 0)" in out
    names = {"classes", "box_sizes", "aspect_ratios", "image_sizes", "objects_per_image", "box_centers"}
    assert {path.stem for path in (tmp_path / "stats").glob("*.png")} == names
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers == json.loads((tmp_path / "stats" / "summary.json").read_text())
    assert sum(numbers["val"]["classes"].values()) == 12


def test_convert_there_and_back(tool, clean, tmp_path, capsys):
    before = contents(clean)
    assert tool.main(["convert", str(clean), "--to", "yolo", "-o", str(tmp_path / "yolo")]) == 0
    assert "train: 8 images, 24 boxes" in capsys.readouterr().out
    assert tool.main(["convert", str(tmp_path / "yolo"), "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    wanted = json.loads((clean / "annotations" / "val.json").read_text())
    found = json.loads((tmp_path / "coco" / "annotations" / "val.json").read_text())
    boxes = [np.array([annotation["bbox"] for annotation in content["annotations"]]) for content in (wanted, found)]
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1e-6)
    assert contents(clean) == before


def test_convert_refuses_what_it_cannot_read_completely(tool, faulty, tmp_path, capsys):
    assert tool.main(["convert", str(faulty), "--to", "voc", "-o", str(tmp_path / "voc")]) == 2
    assert re.search(
        r"error: .*train\.json: .* \(\d such problems\): run check with --fix first", capsys.readouterr().err
    )
    assert not (tmp_path / "voc").exists()


def test_split_writes_one_file_per_part(tool, clean, tmp_path, capsys):
    arguments = ["split", str(clean / "annotations" / "train.json"), "--parts", "train=0.75", "val=0.25"]
    assert tool.main([*arguments, "-o", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "train (75.0%)" in out
    assert re.search(r"images +6 \(75\.0%\) +2 \(25\.0%\)", out)
    assert tool.main([*arguments, "-o", str(tmp_path / "b")]) == 0
    parts = [json.loads((tmp_path / "a" / f"{name}.json").read_text()) for name in ("train", "val")]
    assert contents(tmp_path / "a").values() != {}
    assert list(contents(tmp_path / "a").values()) == list(contents(tmp_path / "b").values())
    names = [{image["file_name"] for image in part["images"]} for part in parts]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 8
    assert tool.main(["check", f"{tmp_path}/a/val.json", "--image-folder", str(clean / "train")]) == 0
    assert tool.main([*arguments, "-o", str(tmp_path / "c"), "--group-by", r"train_0(\d)", "--seed", "5"]) == 0
    assert tool.main([*arguments, "-o", str(tmp_path / "d"), "--to", "yolo", "--images", "link"]) == 0
    assert len(list((tmp_path / "d" / "images" / "val").iterdir())) == 2


def test_show_draws_images_with_problems(tool, faulty, clean, tmp_path, capsys):
    folder = tmp_path / "pictures"
    assert tool.main(["show", str(faulty), "-o", str(folder), "--only-problems", "--ids", "train_05.jpg", "2"]) == 0
    out = capsys.readouterr().out
    assert "inverted box: box x, y, width, height = 60, 60, -20, 10" in out
    assert "no picture: train_01.jpg" in out
    assert [path.name for path in folder.iterdir()] == ["000_train_train_05.png"]
    with Image.open(next(folder.iterdir())) as drawn, Image.open(faulty / "train" / "train_05.jpg") as bare:
        assert (np.asarray(drawn) != np.asarray(bare)).any()
    assert tool.main(["show", str(clean), "-o", str(tmp_path / "b"), "--count", "3", "--class", "bee"]) == 0
    assert len(list((tmp_path / "b").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "give one source: PATH, or --split NAME=PATH .* or -c CONFIG"),
        (["check", "{data}", "-c", "x.yml"], "give one source"),
        (["check", "{data}/nothing"], "nothing: no such file or folder"),
        (["check", "{data}/train"], "no data set found in this folder"),
        (["check", "-c", "{data}/x.yml"], "x.yml"),
        (["check", "{broken}"], "broken.json.*not a? ?.*JSON"),
        (["check", "{data}", "--split", "a=b"], "give one source"),
        (["check", "--split", "train={data}/annotations/none.json"], "none.json: no such file or folder"),
        (["check", "{data}", "--queries", "0"], "--queries 0: give 1 or more"),
        (["check", "{data}", "--workers", "0"], "--workers 0: give 1 or more"),
        (["check", "{data}", "--fix", "{data}/train/x"], "lies in .*, which is read: give a folder elsewhere"),
        (["check", "{data}", "--fix", "{data}/annotations/train.json"], "--fix .*: cannot be made"),
        (["check", "{data}", "--json", "{data}/annotations/train.json/x"], "cannot be written"),
        (["stats", "{data}", "-o", "{data}"], "the folder is not empty"),
        (["show", "{data}", "-o", "{new}", "--class", "dog"], "--class dog: no such class; there are ant, bee, cow"),
        (["show", "{data}", "-o", "{new}", "--ids", "99"], "--ids 99: no image has this id or file name"),
        (["show", "{data}", "-o", "{new}", "--only-problems"], "no image is left to show"),
        (["show", "{data}", "-o", "{new}", "--count", "0"], "--count 0: give 1 or more"),
        (["split", "{data}", "-o", "{new}", "--parts", "a=1"], "--parts a=1: write NAME=FRACTION"),
        (["convert", "{data}", "-o", "{new}", "--to", "crowdhuman"], "hold the class person only"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(tool, clean, tmp_path, capsys, arguments, message):
    (tmp_path / "broken.json").write_text('{"images": [')
    before = contents(clean)
    assert (
        tool.main(
            [
                argument.format(data=clean, new=tmp_path / "new", broken=tmp_path / "broken.json")
                for argument in arguments
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) == 1
    assert contents(clean) == before


def test_unknown_words_are_explained_by_the_parser(tool, capsys):
    for arguments in (["chek"], ["convert", "x", "-o", "y", "--to", "pascal"], ["check", "x", "--format", "pascal"]):
        with pytest.raises(SystemExit) as stop:
            tool.main(arguments)
        assert stop.value.code == 2
        assert "invalid choice" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bccd", {"empty box": 2, "near-duplicate box": 7, "near-duplicate in two splits": 1}),
        ("bccd/voc", {"empty box": 2, "near-duplicate box": 7, "near-duplicate in two splits": 1}),
        ("coco128", {"tiny box": 3, "class without boxes": 4, "class not in training": 5, "class imbalance": 1,
                     "class not in evaluation": 3, "image without boxes": 1}),
        ("doclayout-mini", {}),
        ("doclayout-tiny", {}),
        ("publaynet-samples", {}),
    ],
)  # fmt: skip
def test_real_data_has_its_real_faults_and_no_others(tool, tmp_path, name, expected):
    """The list, verified by eye, is in docs/datasets_checked.md."""
    folder = coco_files.shared_data(name.split("/")[0])
    report = tmp_path / "report.json"
    assert tool.main(["check", str(folder.parent / name), "--json", str(report)]) == 0
    assert json.loads(report.read_text())["kinds"] == expected


def test_a_report_never_replaces_a_file_of_somebody_else(tool, clean, tmp_path, capsys):
    source = clean / "annotations" / "train.json"
    before = source.read_bytes()
    for command in (["check"], ["stats", "-o", str(tmp_path / "s")]):
        assert tool.main([*command, str(clean), "--json", str(source)]) == 2
        assert "exists and is no earlier report of this tool: nothing is written over it" in capsys.readouterr().err
        assert source.read_bytes() == before
        own = str(tmp_path / f"{command[0]}.json")
        assert tool.main([*command, str(clean), "--json", own]) == 0
        command[-1] += "" if command == ["check"] else "2"
        assert tool.main([*command, str(clean), "--json", own]) == 0


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "{data}", "--to", "yolo", "-o", "{new}"],
        ["convert", "{data}", "--to", "coco", "-o", "{new}"],
        ["check", "{data}", "--fix", "{new}"],
        ["split", "{data}/annotations/train.json", "--parts", "a=.5", "b=.5", "--images", "copy", "-o", "{new}"],
    ],
)
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was left half written"),
        (OSError(28, "No space left on device"), 2, r"No space left on device\): free space or choose another folder"),
    ],
)
def test_what_stops_on_the_way_leaves_nothing(
    tool, clean, tmp_path, capsys, monkeypatch, command, error, code, message
):
    done = []

    def stop(source, target):
        done.append(target)
        if len(done) == 3:
            raise error
        return Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr("shutil.copyfile", stop)
    assert tool.main([word.format(data=clean, new=tmp_path / "new") for word in command]) == code
    assert re.search(message, capsys.readouterr().err)
    assert len(done) == 3
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["stats", "show"])
def test_pictures_that_cannot_be_written(tool, clean, tmp_path, capsys, monkeypatch, command):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    assert tool.main([command, str(clean), "-o", str(tmp_path / "new")]) == 2
    assert "new: cannot be written (No space left on device): free space" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_pictures_beyond_the_limit_are_findings(tool, clean, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    assert tool.main(["check", str(clean), "--max-pixels", "1000"]) == 1
    assert "raise --max-pixels" in capsys.readouterr().out
    assert tool.main(["check", str(clean), "--max-pixels", "1000000"]) == 0

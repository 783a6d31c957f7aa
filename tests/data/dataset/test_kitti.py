# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""KITTI's label files in every form that is met, written by hand."""

import logging
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from isdfine.audit.found import find_data
from isdfine.audit.sources import discover, read_all
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.dataset.annotations import Annotations
from isdfine.data.dataset.kitti import TYPES, KittiDetection, parse_kitti
from isdfine.data.dataset.problems import Problems
from isdfine.data.dataset.targets import count_targets
from isdfine.data.evaluate import CocoEvaluator
from isdfine.nn.types import BatchDetections
from planted import quiet_tool

CAR = "Car 0.00 0 -1.57 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
VAN = "Van 0.00 1 2.10 100 150 220.5 260 2.0 1.8 4.5 1 1.7 20 2.0"
CUT = "Pedestrian 0.83 2 -0.20 1130.00 143.00 1241.00 374.00 1.89 0.48 1.20 1.84 1.47 8.41 0.01"
SITTING = "Person_sitting 0.00 3 0.5 10 20 40 90 1.2 0.6 0.8 1 1 9 0"
MISC = "Misc -1 -1 -10 300 100 340 160 -1 -1 -1 -1000 -1000 -1000 -10"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"
SEVEN = [name for name in TYPES if name != "Misc"]


def write(root: Path, *rows: str, label: bytes | None = None) -> str:
    """A data set of one image 375 x 1242 with these rows."""
    content = label if label is not None else "".join(f"{row}\n" for row in rows).encode()
    for folder in ("image_2", "label_2"):
        (root / "training" / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1242, 375), (90, 40, 200)).save(root / "training" / "image_2" / "000000.png")
    (root / "training" / "label_2" / "000000.txt").write_bytes(content)
    return str(root)


def many(root: Path, count: int, *, start: int = 0) -> str:
    for folder in ("image_2", "label_2"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.new("RGB", (8, 6), (number % 250, 40, 200)).save(root / "image_2" / f"{number:06}.png")
        (root / "label_2" / f"{number:06}.txt").write_text(CAR.replace("587.01 173.33 614.12 200.12", "1 1 5 4"))
    return str(root)


def names_of(data: Annotations) -> list[str]:
    return [data.label_space.names[label] for label in data.labels.tolist()]


def test_rows_as_they_are_published(tmp_path: Path) -> None:
    dataset = KittiDetection(write(tmp_path, CAR, VAN, CUT, SITTING, MISC, DONT_CARE), "all")
    data = dataset.annotations
    assert data.label_space.names == TYPES
    assert (data.file_names, data.sizes.tolist()) == (("000000.png",), [[375, 1242]])
    assert names_of(data)[:5] == ["Car", "Van", "Pedestrian", "Person_sitting", "Misc"]
    # Truncated and occluded objects are objects: the corners are pixels from 0, cut off at the last one.
    assert data.boxes_xywh_px[:3].round(2).tolist() == [
        [587.01, 173.33, 27.11, 26.79], [100, 150, 120.5, 110], [1130, 143, 111, 231]
    ]  # fmt: skip
    assert dataset[0][1]["labels"].tolist() == [0, 1, 3, 4, 7]
    # The area that nobody annotated is a crowd region of every class.
    assert data.crowd.tolist() == [False] * 5 + [True] * 8
    assert names_of(data)[5:] == list(TYPES)
    assert data.boxes_xywh_px[5:].round(2).tolist() == [[503.89, 169.71, 86.72, 20.42]] * 8


def test_evaluation_ignores_what_is_found_in_regions_of_any_class(tmp_path: Path) -> None:
    root = write(tmp_path, CAR, VAN, DONT_CARE)
    inside = [510.0, 170, 560, 189]
    boxes = torch.tensor([[inside, inside, [587.01, 173.33, 614.12, 200.12], [100, 150, 220.5, 260]]])
    found = BatchDetections(torch.tensor([[0, 1, 0, 1]]), boxes, torch.tensor([[0.9, 0.8, 0.5, 0.4]]))
    scores = {}
    for dont_care in ("ignore", "drop"):
        dataset = KittiDetection(root, "all", dont_care=dont_care)
        evaluator = CocoEvaluator(dataset=dataset)
        evaluator.update(found, [dataset[0][1]])
        scores[dont_care] = evaluator.summarize().stats["AP"]
    assert scores["ignore"] == pytest.approx(1.0)
    assert scores["drop"] < 0.6


def test_regions_that_are_dropped_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = parse_kitti(write(tmp_path, CAR, MISC, DONT_CARE, DONT_CARE), "all", classes=SEVEN, dont_care="drop")
    assert names_of(data) == ["Car"]
    assert "(all): left out: 2 DontCare, 1 Misc" in caplog.text


def test_a_region_of_all_classes_counts_once(tmp_path: Path) -> None:
    data = parse_kitti(write(tmp_path, CAR, DONT_CARE, DONT_CARE.replace("503.89", "400"), VAN), "all")
    counts = count_targets(data)
    assert (counts.boxes, counts.crowd, counts.targets, len(data.ids)) == (4, 2, 2, 18)


@pytest.mark.parametrize(
    ("options", "names", "labels"),
    [
        ({}, TYPES, ["Car", "Van", "Person_sitting", "Misc"]),
        ({"classes": SEVEN}, SEVEN, ["Car", "Van", "Person_sitting"]),
        ({"merge": {"Person_sitting": "Pedestrian"}}, [name for name in TYPES if name != "Person_sitting"],
         ["Car", "Van", "Pedestrian", "Misc"]),
        ({"classes": ["Pedestrian", "Car"], "merge": {"Van": "Car", "Person_sitting": "Pedestrian"}},
         ["Pedestrian", "Car"], ["Car", "Car", "Pedestrian"]),
    ],
    ids=["8", "7 without Misc", "7 merged", "2"],
)  # fmt: skip
def test_class_lists(tmp_path: Path, options: dict, names: list[str], labels: list[str]) -> None:
    data = parse_kitti(write(tmp_path, CAR, VAN, SITTING, MISC), "all", **options)
    assert data.label_space.names == tuple(names)
    assert data.label_space.category_ids == tuple(range(len(names)))
    assert names_of(data) == labels
    assert KittiDetection.label_space_of(options) == data.label_space


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"classes": []}, DataError, "the list of class names is empty"),
        ({"classes": ["Car", "Car"]}, DataError, "'Car' occurs twice"),
        ({"classes": ["Car", "DontCare"]}, ConfigError, "DontCare marks areas that nobody annotated, and is no class"),
        (
            {"merge": {"Person_siting": "Pedestrian"}},
            ConfigError,
            "merge: 'Person_siting' is none of the classes Car",
        ),
        ({"merge": {"Van": "Vehicle"}}, ConfigError, "merge: 'Vehicle' is none of the classes Car, Truck"),
        ({"merge": {"Van": "Truck", "Truck": "Car"}}, ConfigError, "merge: 'Truck' is none of the classes Car, Ped"),
        ({"split": "val", "val_share": 0}, ConfigError, "val_share is 0: give a share above 0 and below 1, or split"),
        ({"split": "val", "val_share": 1.0}, ConfigError, "val_share is 1.0: give a share above 0 and below 1"),
        ({"split": "valid"}, ConfigError, "split is 'valid': KITTI is divided into train and val; all is both"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, options: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        parse_kitti(write(tmp_path, CAR), **{"split": "all", **options})


@pytest.mark.parametrize(
    ("label", "boxes"),
    [
        (b"", 0),
        (b"\n \r\n", 0),
        (f"{CAR}\r\n{CUT}\r\n".encode(), 2),
        (f"\ufeff{CAR}\n\n{CUT}".encode(), 2),
        (CAR.replace(" ", "\t").encode(), 1),
        (CAR.replace("0.00 0 -1.57", "0 0 -1.57e0").encode(), 1),
        (f"{CAR} 0.93\n{CUT}\n".encode(), 2),
    ],
    ids=["empty", "blank lines", "windows", "byte order mark", "tabs", "exponents", "score"],
)
def test_forms_of_label_files(tmp_path: Path, label: bytes, boxes: int, caplog: pytest.LogCaptureFixture) -> None:
    data = parse_kitti(write(tmp_path, label=label), "all")
    assert (len(data), len(data.ids)) == (1, boxes)
    assert ("1 rows have a 16th number, the score of a detection" in caplog.text) == (b"0.93" in label)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("Car 0 0 0 1 2 3 4", r"8 columns, expected 15: type, truncated, occluded, alpha, 4 of the box, 7 in 3D"),
        (f"{CAR} 0.5 1", "17 columns, expected 15"),
        (CAR.replace("Car", "Person sitting"), "'Person sitting 0.00 0 .*holds something that is no number after its"),
        (CAR.replace("587.01", "587,01"), "holds something that is no number"),
        (CAR.replace("587.01", "nan"), "holds a number that is not finite"),
        (CAR.replace("Car", "car"), "type 'car' is none of Car, Van, .*, DontCare: correct it, or list your own types"),
        (f"0 {CAR}", "holds something that is no number"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: str, match: str) -> None:
    root = write(tmp_path, VAN, row)
    with pytest.raises(DataError, match=rf"label_2/000000\.txt:2: .*{match}") as caught:
        parse_kitti(root, "all")
    assert "\n" not in str(caught.value)
    problems = Problems(collect=True)
    assert names_of(parse_kitti(root, "all", problems=problems)) == ["Van"]
    assert [re.search(match, str(problem)) is not None for problem in problems.found] == [True]
    assert problems.losses.boxes.total() == 1


def test_inverted_boxes_follow_the_rule_of_every_format(tmp_path: Path) -> None:
    root = write(tmp_path, VAN, CAR.replace("587.01 173.33 614.12", "614.12 173.33 587.01"))
    with pytest.raises(DataError, match=r"1 of 2 boxes cover nothing of their image \(1 inverted"):
        KittiDetection(root, "all")
    assert len(KittiDetection(root, "all", invalid_boxes="drop")[0][1]["labels"]) == 1


def test_types_of_ones_own(tmp_path: Path) -> None:
    data = parse_kitti(write(tmp_path, CAR.replace("Car", "dog"), CAR), "all", classes=["cat", "dog"])
    assert names_of(data) == ["dog"]


def test_missing_label_files_are_no_empty_ones(tmp_path: Path) -> None:
    root = many(tmp_path, 5)
    for number in (1, 3):
        (tmp_path / "label_2" / f"{number:06}.txt").unlink()
    said = r"000001\.txt: no such label file \(2 of 5 images have none\): add it, empty for an image without objects"
    with pytest.raises(DataError, match=said):
        parse_kitti(root, "all")
    problems = Problems(collect=True)
    assert len(parse_kitti(root, "all", problems=problems)) == 3
    assert [problem.kind for problem in problems.found] == ["missing annotation"] * 2
    assert problems.losses.images.total() == 2


def test_labels_without_images_are_told(tmp_path: Path) -> None:
    root = many(tmp_path, 3)
    (tmp_path / "image_2" / "000002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images that .* lists are missing: 000002\.png"):
        parse_kitti(root, "all")
    problems = Problems(collect=True)
    assert len(parse_kitti(root, "all", problems=problems)) == 2
    assert (problems.losses.images, problems.losses.boxes) == ({"missing image": 1}, {"missing image": 1})


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "image_2").mkdir()
    for root, match in (
        (tmp_path / "no", "no/training/image_2: no such folder: root is to hold training/image_2, or image_2 and labe"),
        (tmp_path, "image_2: no image in this folder"),
    ):
        with pytest.raises(DataError, match=match):
            parse_kitti(root, "all")
        problems = Problems(collect=True)
        assert len(parse_kitti(root, "all", problems=problems)) == 0
        assert [problem.kind for problem in problems.found] == ["missing image"]
    Image.new("RGB", (8, 6)).save(tmp_path / "image_2" / "000000.png")
    with pytest.raises(DataError, match=r"label_2: no such folder of label files for 1 images: .* testing part has"):
        parse_kitti(tmp_path, "all")


def test_parts_are_the_same_on_every_machine(tmp_path: Path) -> None:
    root = many(tmp_path, 10)
    train, val = (parse_kitti(root, part, split_seed=3).file_names for part in ("train", "val"))
    assert val == ("000004.png", "000005.png")  # by the names and the seed alone
    assert sorted(train + val) == [f"{number:06}.png" for number in range(10)]
    assert parse_kitti(root, "val", split_seed=4).file_names != val
    assert len(parse_kitti(root, "val", val_share=0.5)) == 5
    assert set(KittiDetection(root, "train", split_seed=3, subset=0.5).annotations.file_names) < set(train)
    (tmp_path / "list.txt").write_text("000007\n000002\n")
    listed = KittiDetection(root, "all", subset=str(tmp_path / "list.txt"))
    assert listed.annotations.file_names == ("000002.png", "000007.png")


def test_a_folder_is_found_and_divided(tmp_path: Path) -> None:
    many(tmp_path / "training", 10)
    (tmp_path / "testing" / "image_2").mkdir(parents=True)
    found = find_data(tmp_path)
    assert found.lines[0].endswith(": KITTI")
    assert found.lines[1].startswith("training: 8 images")
    assert found.lines[3].startswith("8 classes: Car, Van, Truck")
    train, val = (found.overrides[f"{part}_dataloader.dataset"] for part in ("train", "val"))
    assert train["type"] == "KittiDetection"
    sets = [KittiDetection(**{key: value for key, value in part.items() if key != "type"}) for part in (train, val)]
    assert [len(data) for data in sets] == [8, 2]
    assert sets[1].annotations.file_names == parse_kitti(tmp_path, "val").file_names
    assert [source.name for source in discover(tmp_path / "training", format="kitti")] == ["training"]


def test_check_tells_what_is_wrong_and_a_copy_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = many(tmp_path / "kitti", 4)
    (tmp_path / "kitti" / "label_2" / "000001.txt").write_text("Car 1 2\n")
    (tmp_path / "kitti" / "label_2" / "000002.txt").write_text(DONT_CARE)
    assert quiet_tool(monkeypatch).main(["check", root]) == 1
    said = capsys.readouterr().out
    assert re.search(r"label_2/000001\.txt:1\b.*3 columns", said)
    (tmp_path / "kitti" / "label_2" / "000001.txt").write_text("")
    (tmp_path / "kitti" / "label_2" / "000002.txt").write_text("")
    assert quiet_tool(monkeypatch).main(["convert", root, "--to", "coco", "-o", str(tmp_path / "coco")]) == 0
    assert "truncation, occlusion and boxes in three dimensions of KITTI are not kept" in capsys.readouterr().out
    written = read_all(discover(tmp_path / "coco"))[0].annotations
    assert (len(written), names_of(written)) == (4, ["Car"] * 2)

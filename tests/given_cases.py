#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Run the tools on small faulty inputs, one folder a fault, and say whether each is met as its README asks.

python tests/given_cases.py FOLDER
python tests/given_cases.py FOLDER --only exif_mixed all_crowd

The exit code is 0 if every expectation was met. What a command printed is shown where one was not.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from builders import ROOT, load_tool


@dataclass
class Case:
    """One folder with a fault, and what came out of the commands run on it."""

    folder: Path
    out: Path
    wrong: list[str] = field(default_factory=list)
    printed: str = ""

    def run(self, tool: str, *arguments: object) -> int:
        """Run ``tools/TOOL.py`` as from the command line; keeps what it prints in ``printed``."""
        module, text = load_tool(tool), io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), logging_to(text):
            try:
                code = int(module.main([str(argument) for argument in arguments]) or 0)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except Exception:  # noqa: BLE001  # a traceback for a user's mistake is what is looked for here
                traceback.print_exc(file=text)
                code = 70
        self.printed = text.getvalue()
        self.expect("no traceback", "Traceback" not in self.printed)
        return code

    def train(self, *overrides: str, part: str = "") -> int:
        """Train the small config on the COCO file of the folder."""
        data, shown = self.folder / part, []
        for loader in ("train_dataloader", "val_dataloader"):
            shown += [
                f"{loader}.dataset.img_folder={data / 'images'}",
                f"{loader}.dataset.ann_file={data / 'ann.json'}",
            ]
        config = self.out / "tiny.yml"
        config.parent.mkdir(parents=True, exist_ok=True)
        small = (self.folder.parent / "tiny.yml").read_text().replace("- configs/", f"- {ROOT}/configs/")
        config.write_text(small)
        return self.run("train", "-c", config, "-d", "cpu", "-u", f"output_dir={self.out / 'run'}", *shown, *overrides)

    def check(self, *options: object, part: str = "") -> int:
        """``dataset.py check`` of the folder."""
        return self.run("dataset", "check", self.folder / part, *options)

    def expect(self, what: str, met: bool) -> None:
        """Note an expectation that was not met, with what the last command printed."""
        if not met:
            self.wrong.append(f"{what}\n{self.printed}")

    def says(self, pattern: str) -> None:
        """Expect the last command to have printed something (a regular expression)."""
        self.expect(f"says {pattern!r}", re.search(pattern, self.printed, re.IGNORECASE | re.DOTALL) is not None)


def all_crowd(case: Case) -> None:
    code = case.train()
    case.expect("training is refused", code == 2)
    case.says(r"8 .*iscrowd")
    case.expect("check finds an error", case.check() == 1)
    case.says(r"error.*crowd")


def normalised_boxes(case: Case) -> None:
    code = case.train()
    case.expect("training is refused", code == 2)
    case.says(r"0\.\.1.*fractions|fractions.*0\.\.1")
    case.expect("check finds an error", case.check() == 1)
    case.says(r"fractions")


def yolo_empty_labels(case: Case) -> None:
    case.expect("check finds an error", case.check() == 1)
    case.says(r"label files.*empty")
    kind = ["train_dataloader.dataset.type=YoloDetection", f"train_dataloader.dataset.data={case.folder / 'data.yaml'}"]
    code = case.run(
        "train", "-c", ROOT / "configs/dfine/yolo/dfine_hgnetv2_n_yolo.yml", "-d", "cpu", "-u",
        f"output_dir={case.out / 'run'}", *kind, f"val_dataloader.dataset.data={case.folder / 'data.yaml'}",
        "HGNetv2.pretrained=False", "train_dataloader.total_batch_size=2", "val_dataloader.dataset.split=train",
        "train_dataloader.num_workers=0", "val_dataloader.num_workers=0",
    )  # fmt: skip
    case.expect("training is refused", code == 2)
    case.says(r"error: .*none of the 2 images has a box")


def negative_area(case: Case) -> None:
    case.check()
    case.says(r"area")
    code = case.train("epoches=1")
    case.expect("training runs", code == 0)
    case.says(r"warning.*area")
    case.expect("perfect detections are perfect", perfect_ap(case.folder) > 0.999)


def classes_differ_in_case(case: Case) -> None:
    code = case.train("epoches=1")
    case.expect("training runs", code == 0)
    case.says(r"warning.*'A'.*'a'|warning.*case")


def device_traceback(case: Case) -> None:
    for device in ("mps", "xpu", "meta"):
        config = ROOT / "configs/quickstart.yml"
        code = case.run("train", "-c", config, "-d", device, "-u", f"output_dir={case.out / 'run'}")
        case.expect(f"-d {device} is refused", code == 2)
        case.says(rf"^.*error: device is {device}, [^\n]*\n$")


def exif_mixed(case: Case) -> None:
    code = case.check()
    case.says(r"orientation|turned image")
    for index, name in ((1, "6"), (2, "3"), (3, "8")):
        case.expect(f"the picture of orientation {name} is upright", box_holds_the_object(case.folder, index))
    case.expect("check finds something", code in (0, 1))


def fix_drops_all_text_annotation_ids(case: Case) -> None:
    case.check("--fix", case.out / "fixed")
    case.says(r"new (id|number)")
    case.expect("the copy keeps all boxes", boxes_in(case.out / "fixed") == boxes_in(case.folder) > 0)


def fix_drops_yolo_rounding(case: Case) -> None:
    labels = case.folder / "labels/train/0.txt"
    case.check("--fix", case.out / "fixed")
    copies = [path for path in (case.out / "fixed").rglob("0.txt") if path.read_text().strip()]
    case.expect("the copy keeps all rows", bool(copies) and rows_of(copies[0]) == rows_of(labels))
    case.says(r"cut")


def float_tiff_black(case: Case) -> None:
    case.check()
    case.says(r"float|white")
    model = next(iter(sorted(case.out.parent.glob("negative_area/run/last.pth"))), None)
    if model is None:
        case.expect("negative_area has trained a model", False)
        return
    code = case.run("infer", "-m", model, case.folder / "images", "-o", case.out / "found", "--save", "images")
    black = [path for path in (case.out / "found").rglob("*.png") if is_black(path)]
    case.expect("float pixels are refused or seen", code == 1 or not black)
    case.says(r"convert to 8 or 16 bits|written")


def layouts_not_found(case: Case) -> None:
    for part in ("labelimg", "labelstudio_yolo"):
        code = case.check(part=part)
        case.expect(f"{part} is read", code in (0, 1) and "no data set found" not in case.printed)
        case.says(r"2 images")


def unrelated_yaml_stops_check(case: Case) -> None:
    case.expect("the data set is read", case.check() in (0, 1))
    case.says(r"2 images")


def voc_gbk_hidden_cause(case: Case) -> None:
    case.check()
    case.says(r"0\.xml.*(GBK|decoded)|红色|1 images?")


def windows_separators(case: Case) -> None:
    case.expect("check reaches a verdict", case.check() in (0, 1))
    case.says(r"Windows|write / ")
    case.check("--fix", case.out / "fixed")
    case.expect("the copy holds both images and all boxes", boxes_in(case.out / "fixed") == boxes_in(case.folder) > 0)


def yolo_images_left_out(case: Case) -> None:
    case.check()
    case.says(r"5 images|left out")


def yolo_valid_key(case: Case) -> None:
    case.expect("check reads it", case.check() in (0, 1))
    from isdfine.data.dataset.yolo import parse_yolo

    for split in ("valid", "val"):
        case.expect(f"split {split} is read", len(parse_yolo(str(case.folder / "data.yaml"), split=split)) == 1)


CASES: dict[str, Callable[[Case], None]] = {
    function.__name__: function
    for function in (
        negative_area, all_crowd, classes_differ_in_case, device_traceback, exif_mixed,
        fix_drops_all_text_annotation_ids, fix_drops_yolo_rounding, float_tiff_black, layouts_not_found,
        normalised_boxes, unrelated_yaml_stops_check, voc_gbk_hidden_cause, windows_separators, yolo_empty_labels,
        yolo_images_left_out, yolo_valid_key,
    )
}  # fmt: skip
"""What each folder's README asks for. ``float_tiff_black`` uses the model that ``negative_area`` trains."""


@contextlib.contextmanager
def logging_to(text: io.StringIO) -> Iterator[None]:
    """Send log lines where the rest of a command's output goes."""
    root, ours = logging.getLogger(), logging.getLogger("isdfine")
    kept = [(logger, list(logger.handlers), logger.level) for logger in (root, ours)]
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    root.handlers = [handler]
    ours.handlers = []
    try:
        yield
    finally:
        for logger, handlers, level in kept:
            logger.handlers = handlers
            logger.setLevel(level)


def coco(folder: Path) -> Any:
    """The data set of the COCO file in a folder."""
    from isdfine.data.dataset.coco import CocoDetection

    return CocoDetection(img_folder=str(folder / "images"), ann_file=str(folder / "ann.json"))


def perfect_ap(folder: Path) -> float:
    """AP of detections that equal the ground truth."""
    from isdfine.data.evaluate import CocoEvaluator
    from isdfine.nn.types import BatchDetections

    evaluator = CocoEvaluator(dataset=(data := coco(folder)))
    for image_id in data.annotations.image_ids.tolist():
        truth = data.ground_truth(image_id)
        scores = torch.ones(len(truth.labels))
        found = BatchDetections(truth.labels[None], truth.boxes[None], scores[None])
        evaluator.update(found, [{"image_id": torch.tensor([image_id])}])
    return float(evaluator.summarize().stats["AP"])


def box_holds_the_object(folder: Path, index: int) -> bool:
    """Whether the one coloured thing of a grey picture fills the annotated box, and lies nowhere else."""
    data = coco(folder)
    truth = data.ground_truth(int(data.annotations.image_ids[index]))
    pixels = np.asarray(truth.image(), dtype=float)
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 100
    (x1, y1, x2, y2), *_ = truth.boxes.round().int().tolist()
    inside = coloured[y1:y2, x1:x2]
    return bool(inside.mean() > 0.9 and coloured.sum() - inside.sum() < 0.05 * coloured.sum())


def boxes_in(folder: Path) -> int:
    """Annotations in all COCO files below a folder."""
    files = [path for path in folder.rglob("*.json") if '"annotations"' in path.read_text()]
    return sum(len(json.loads(path.read_text())["annotations"]) for path in files)


def rows_of(path: Path) -> int:
    """Lines that are not empty."""
    return sum(bool(line.strip()) for line in path.read_text().splitlines())


def is_black(path: Path) -> bool:
    """Whether a picture shows next to nothing."""
    from PIL import Image

    return float(np.asarray(Image.open(path).convert("L")).std()) < 2


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds one folder per case, and tiny.yml")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names of cases")
    options = parser.parse_args(arguments)
    there = {path.name for path in options.folder.iterdir() if path.is_dir()}
    unknown = sorted(there - set(CASES))
    failed = [f"{name}: no expectation is written for this folder" for name in unknown]
    out = Path(tempfile.mkdtemp(prefix="cases-"))
    for name, function in CASES.items():
        if name not in there or (options.only and name not in options.only):
            continue
        case = Case((options.folder / name).resolve(), out / name)
        function(case)
        print(f"{name:36} {'as its README says' if not case.wrong else 'WRONG'}", flush=True)
        failed += [f"{name}: expected: {text}" for text in case.wrong]
    print("\n".join(failed), end="\n" if failed else "")
    shutil.rmtree(out, ignore_errors=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

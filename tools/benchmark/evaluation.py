#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of COCO's box metrics: ours, faster-coco-eval and pycocotools, from the same arrays.

    python tools/benchmark/evaluation.py -o evaluation.json   # 5,000 images, 300 detections each, 80 classes: minutes
    python tools/benchmark/evaluation.py --images 500 --peers faster-coco-eval --rounds 5 --markdown

Data are made by seed. Every side is a fresh process in every round, in an order drawn anew; what counts is from the
arrays of detections in memory to the twelve numbers, which must agree to 1e-6. Peers are given dictionaries, the only
thing they take, and making them is part of their time. Ratios are those of a round, side over ours.
Exit codes: 0, 1 numbers differ, 2 a peer is missing or the options are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import numpy as np
import torch

from isdfine.bench.command import bench_parser, publish
from isdfine.bench.machine import PACKAGES, described
from isdfine.bench.timing import Ratio, Timing, ratio, table, take_turns
from isdfine.core.command import one_line_errors
from isdfine.core.errors import ConfigError

OURS = "isdfine"
PEERS = ("faster-coco-eval", "pycocotools")
TOLERANCE = 1e-6
MAX_DETS = (1, 10, 100)


def synthetic(images: int, per_image: int, classes: int, seed: int) -> tuple[Any, list[Any]]:
    """Annotations of pictures of 480 x 640, 7 boxes of 3 classes each, and detections, two in five near a box."""
    from isdfine.data.dataset.annotations import Collected
    from isdfine.data.evaluate import ImageDetections
    from isdfine.data.label_space import LabelSpace

    numbers = np.random.default_rng(seed)
    collected, detections = Collected(), []
    for index in range(images):
        count = int(numbers.poisson(7))
        labels = numbers.choice(numbers.integers(0, classes, 3), count)
        sides = np.exp(numbers.normal(4, 0.9, (count, 2))).clip(4, 400)
        boxes = np.concatenate([numbers.random((count, 2)) * ((640, 480) - sides), sides], axis=1)
        collected.add(f"{index}.jpg", index + 1, (480, 640), boxes, labels, numbers.random(count) < 0.02)
        picks = numbers.integers(0, count + 1, per_image)  # the last one is a box of no class in particular
        sources = np.concatenate([boxes, [[100, 100, 200, 100]]])[picks]
        moved = sources + numbers.normal(0, 0.12, (per_image, 4)) * np.tile(sources[:, 2:], 2)
        corners = np.concatenate([moved[:, :2], moved[:, :2] + moved[:, 2:].clip(2)], axis=1).astype(np.float32)
        near = (numbers.random(per_image) < 0.4) & (picks < count)
        labels_seen = np.where(near, np.append(labels, 0)[picks], numbers.integers(0, classes, per_image))
        scores = np.sort(numbers.random(per_image, np.float32))[::-1].copy()
        detections.append(ImageDetections(index + 1, corners, scores, labels_seen))
    space = LabelSpace.from_names([f"class {index}" for index in range(classes)], "synthetic")
    return collected.annotations(space, "synthetic", ""), detections


def ours(annotations: Any, detections: Sequence[Any]) -> list[float]:
    """This project's twelve numbers."""
    from isdfine.data.evaluate import evaluate_detections

    return list(evaluate_detections(annotations, detections, MAX_DETS).stats.values())


def dictionaries(annotations: Any, detections: Sequence[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same data as COCO's files describe them."""
    owners = np.repeat(annotations.image_ids, np.diff(annotations.offsets)).tolist()
    rows = zip(
        owners, annotations.labels.tolist(), annotations.boxes_xywh_px.tolist(), annotations.area_px.tolist(),
        annotations.crowd.tolist(),
    )  # fmt: skip
    truth = [
        {"id": number, "image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for number, (image, label, box, area, crowd) in enumerate(rows, 1)
    ]
    answers = []
    for detection in detections:
        boxes = detection.boxes_xyxy_px.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        answers += [
            {"image_id": detection.image_id, "category_id": label + 1, "bbox": box, "score": score}
            for label, box, score in zip(detection.labels.tolist(), boxes.tolist(), detection.scores.tolist())
        ]
    images = [{"id": number, "height": 480, "width": 640} for number in annotations.image_ids.tolist()]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(annotations.label_space.names)]
    return {"images": images, "annotations": truth, "categories": categories}, answers


def peer(name: str, annotations: Any, detections: Sequence[Any]) -> list[float]:
    """The twelve numbers of another library."""
    truth, answers = dictionaries(annotations, detections)
    if name == "pycocotools":
        coco, evaluation = (importlib.import_module(f"pycocotools.{part}") for part in ("coco", "cocoeval"))
        data, judge = coco.COCO(), evaluation.COCOeval
        data.dataset = truth
        data.createIndex()
    else:
        library = importlib.import_module("faster_coco_eval")
        data, judge = library.COCO(truth), library.COCOeval_faster
    evaluator = judge(data, data.loadRes(answers), "bbox")
    evaluator.params.maxDets = list(MAX_DETS)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(stat) for stat in evaluator.stats[:12]]


def measured(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: seconds of CPU, peak memory, the numbers."""
    annotations, detections = synthetic(options.images, options.detections, options.classes, options.seed)
    for name in ("isdfine.data.evaluate", "pycocotools.cocoeval", "faster_coco_eval"):  # imports are nobody's time
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        stats = ours(annotations, detections) if side == OURS else peer(side, annotations, detections)
    seconds = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": seconds, "before_mib": before / 1024, "peak_mib": after / 1024, "stats": stats}


def in_process(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measured, side, options).result()
        except BrokenProcessPool:
            raise ConfigError(f"{side} ended without a result (its own message is above)") from None


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all sides."""
    turns = {side: partial(in_process, side, options) for side in (OURS, *options.peers)}
    runs_by_side = take_turns(turns, options.rounds, options.seed)
    expected = runs_by_side[OURS][0]["stats"]
    timings = {side: Timing.of([run["cpu_s"] for run in runs]) for side, runs in runs_by_side.items()}
    return {
        side: {
            "summary": timings[side].summary(options.images),
            "ratio": ratio(timings[side], timings[OURS]).plain(),
            "cpu_s_by_round": [run["cpu_s"] for run in runs],
            "peak_mib": max(run["peak_mib"] for run in runs),
            "before_mib": max(run["before_mib"] for run in runs),
            "largest_difference": max(
                abs(mine - other) for run in runs for mine, other in zip(run["stats"], expected, strict=True)
            ),
            "stats": runs[0]["stats"],
        }
        for side, runs in runs_by_side.items()
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(__doc__, seed=0)
    for name, value in (("images", 5000), ("detections", 300), ("classes", 80), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=_positive, default=value, help=f"default: {value}")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: both")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def comparison_table(sides: dict[str, Any], *, markdown: bool) -> str:
    """One row per side."""
    rows = [["", "CPU s", "spread %", "ratio", "quartiles", "peak MiB", "before", "largest difference"]]
    rows += [
        [
            name, f"{side['summary']['median_ms'] / 1000:.2f}", f"{side['summary']['spread_percent']:.1f}",
            *Ratio(**side["ratio"]).cells(2), f"{side['peak_mib']:.0f}", f"{side['before_mib']:.0f}",
            f"{side['largest_difference']:.0e}",
        ]
        for name, side in sides.items()
    ]  # fmt: skip
    return table(rows, markdown=markdown)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    for name in options.peers:
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            raise ConfigError(f"{name} is missing here: pip install {name}, or leave it out of --peers")
    with described(torch.device("cpu"), None, (*PACKAGES, *options.peers)) as machine:
        sides = compare(options)
    settings = {name: value for name, value in vars(options).items() if name not in ("output", "markdown")}
    results = {"machine": machine, "clock": "processor time", "settings": settings, "sides": sides}
    publish(results, options, comparison_table(sides, markdown=options.markdown),
            note=f"{options.images} images, {options.detections} detections each, {options.classes} classes, "
            f"{options.rounds} rounds, processor time of all threads; "
            f"{', '.join(map(' '.join, machine['versions'].items()))}")  # fmt: skip
    differs = [name for name, side in sides.items() if side["largest_difference"] > TOLERANCE]
    if differs:
        print(f"error: the numbers of {', '.join(differs)} are others than ours", file=sys.stderr)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())

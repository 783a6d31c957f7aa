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
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.machine import describe, load
from bench.timing import Timing, ratio, table
from isdfine.core.command import command_parser
from isdfine.core.files import whole_file

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
        found = sources + numbers.normal(0, 0.12, (per_image, 4)) * np.tile(sources[:, 2:], 2)
        corners = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:].clip(2)], axis=1).astype(np.float32)
        near = (numbers.random(per_image) < 0.4) & (picks < count)
        classes_found = np.where(near, np.append(labels, 0)[picks], numbers.integers(0, classes, per_image))
        scores = np.sort(numbers.random(per_image, np.float32))[::-1].copy()
        detections.append(ImageDetections(index + 1, corners, scores, classes_found))
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
    found = []
    for detection in detections:
        boxes = detection.boxes_xyxy_px.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        found += [
            {"image_id": detection.image_id, "category_id": label + 1, "bbox": box, "score": score}
            for label, box, score in zip(detection.labels.tolist(), boxes.tolist(), detection.scores.tolist())
        ]
    images = [{"id": number, "height": 480, "width": 640} for number in annotations.image_ids.tolist()]
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(annotations.label_space.names)]
    return {"images": images, "annotations": truth, "categories": categories}, found


def peer(name: str, annotations: Any, detections: Sequence[Any]) -> list[float]:
    """The twelve numbers of another library."""
    truth, found = dictionaries(annotations, detections)
    if name == "pycocotools":
        coco, evaluation = (importlib.import_module(f"pycocotools.{part}") for part in ("coco", "cocoeval"))
        data, judge = coco.COCO(), evaluation.COCOeval
        data.dataset = truth
        data.createIndex()
    else:
        library = importlib.import_module("faster_coco_eval")
        data, judge = library.COCO(truth), library.COCOeval_faster
    evaluator = judge(data, data.loadRes(found), "bbox")
    evaluator.params.maxDets = list(MAX_DETS)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(stat) for stat in evaluator.stats[:12]]


def measured(side: str, options: argparse.Namespace, answer: Any) -> None:
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
    answer.send({"cpu_s": seconds, "before_mib": before / 1024, "peak_mib": after / 1024, "stats": stats})


def in_process(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(side, options, there))
    process.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv()
    except EOFError:
        raise SystemExit(f"error: {side} ended without a result (its own message is above)") from None
    process.join()
    return found


def compare(options: argparse.Namespace, run: Callable[[str, argparse.Namespace], dict[str, Any]]) -> dict[str, Any]:
    """All rounds of all sides."""
    sides = [OURS, *options.peers]
    order = random.Random(options.seed)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in order.sample(sides, len(sides)):
            found[side].append(run(side, options))
    expected = found[OURS][0]["stats"]
    timings = {side: Timing(tuple((run["cpu_s"],) for run in runs)) for side, runs in found.items()}
    return {
        side: {
            "summary": timings[side].summary(options.images),
            "ratio": asdict(ratio(timings[side], timings[OURS])),
            "cpu_s_by_round": [run["cpu_s"] for run in runs],
            "peak_mib": max(run["peak_mib"] for run in runs),
            "before_mib": max(run["before_mib"] for run in runs),
            "largest_difference": max(
                abs(a - b) for run in runs for a, b in zip(run["stats"], expected, strict=True)
            ),
            "stats": runs[0]["stats"],
        }
        for side, runs in found.items()
    }  # fmt: skip


def machine_of(peers: Sequence[str]) -> dict[str, Any]:
    """What it was measured on, with the versions of the peers."""
    found = describe(torch.device("cpu"), None)
    found["versions"] |= {name: metadata.version(name) for name in peers}
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    for name, value in (("images", 5000), ("detections", 300), ("classes", 80), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=_positive, default=value, help=f"default: {value}")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: both")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up detections")
    parser.add_argument("-o", "--output", type=Path, help="JSON file: machine, versions, every round")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def comparison_table(sides: dict[str, Any], *, markdown: bool) -> str:
    """One row per side."""
    rows = [["", "CPU s", "spread %", "ratio", "quartiles", "peak MiB", "before", "largest difference"]]
    for side, one in sides.items():
        over = one["ratio"]
        rows.append([
            side, f"{one['summary']['median_ms'] / 1000:.2f}", f"{one['summary']['spread_percent']:.1f}",
            f"{over['median']:.2f}", f"{over['quartile1']:.2f} .. {over['quartile3']:.2f}", f"{one['peak_mib']:.0f}",
            f"{one['before_mib']:.0f}", f"{one['largest_difference']:.0e}",
        ])  # fmt: skip
    return table(rows, markdown=markdown)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    for name in options.peers:
        module = name.replace("-", "_")
        if importlib.util.find_spec(module) is None:
            print(f"error: {name} is missing here: pip install {name}, or leave it out of --peers", file=sys.stderr)
            return 2
    machine = machine_of(options.peers)
    sides = compare(options, in_process)
    machine["load_after"] = load()
    print(comparison_table(sides, markdown=options.markdown))
    print(f"\n{options.images} images, {options.detections} detections each, {options.classes} classes, "
          f"{options.rounds} rounds, processor time of all threads; {machine['cpu']}, load {machine['load']} before, "
          f"{machine['load_after']} after; {', '.join(map(' '.join, machine['versions'].items()))}")  # fmt: skip
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("output", "markdown")}
        found = {"machine": machine, "clock": "processor time", "settings": settings, "sides": sides}
        try:
            with whole_file(options.output) as path:
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    differs = [side for side, one in sides.items() if one["largest_difference"] > TOLERANCE]
    if differs:
        print(f"error: the numbers of {', '.join(differs)} are others than ours", file=sys.stderr)
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())

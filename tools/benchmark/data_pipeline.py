#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Training images per CPU second: ours, fused and one by one, against torchvision's transforms on PIL images.

python tools/benchmark/data_pipeline.py                                     # synthetic JPEG, 480 x 640 and 3000 x 4000
python tools/benchmark/data_pipeline.py --sizes 480x640 --workers 2 -o data.json
python tools/benchmark/data_pipeline.py --sizes 3000x4000 --batch 2 --rounds 8 --repeats 1
python tools/benchmark/data_pipeline.py --images data/coco/val2017 --coco data/coco/annotations/instances_val2017.json

All make batches of images of 640 x 640 with the augmentation of the D-FINE recipe, the same images with the same draws,
each in a process and a thread of its own (as a loader worker does), in turns: in each round every one has its turn, in
an order drawn anew. The published way ends with floats in [0, 1]; ours ends with bytes, which become floats on the
device: "floats on the CPU" includes that too. Times are CPU time of the process, so other work on the machine counts
less. Ratios: medians of the same round. Stages (where the time goes) are CPU time too, all in one process.
Exit codes: 0, 2 something that cannot be measured so.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy start their threads

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFile

from isdfine.bench.command import bench_parser, from_tests, publish
from isdfine.bench.machine import described
from isdfine.bench.side import serve, side_process
from isdfine.bench.timing import Timing, TimingPlan, measure_turns, ratio, table
from isdfine.core.command import one_line_errors
from isdfine.core.errors import ConfigError
from isdfine.data import transforms
from isdfine.data.collate import BatchImageCollateFunction
from isdfine.data.dataset import detection
from isdfine.data.dataset.coco import CocoDetection
from isdfine.data.dataset.detection import SampleKey
from isdfine.data.loader import DataLoader
from isdfine.data.transforms import compose
from isdfine.data.transforms.colour import Distortion

SIDE = 640
REFERENCE = "data/official_transforms.py"
OFFICIAL = "official"
WAYS = (OFFICIAL, "ours, one by one", "ours, fused", "ours, fused, floats on the CPU")
Place = tuple[Any, str, str]
"""Where a function is found, its name, and the stage it belongs to."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(__doc__, batch=8, rounds=12, repeats=2, seed=0)
    parser.add_argument("--sizes", nargs="+", default=["480x640", "3000x4000"], help="HEIGHTxWIDTH of synthetic images")
    parser.add_argument("--count", type=int, default=64, help="synthetic images of up to a megapixel; 6 above")
    parser.add_argument("--quality", type=int, default=85, help="of synthetic JPEG files")
    parser.add_argument("--images", type=Path, help="folder of real images, in place of synthetic ones")
    parser.add_argument("--coco", type=Path, help="COCO annotations of --images")
    parser.add_argument("--ways", nargs="+", choices=WAYS[1:], default=WAYS[1:],
                        help="measured beside the official one")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0,
                        help="also measure our loader with 1 .. N workers (wall clock)")  # fmt: skip
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)  # what the process of a way is told
    return parser.parse_args(arguments)


def photo(random: np.random.Generator, height: int, width: int) -> Image.Image:
    """A picture with the spectrum of a photo (1 / f), shapes with edges on it, and a little noise of a sensor."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / max(height, width)) ** 1.2
    grey = np.fft.irfft2(falloff * np.exp(2j * np.pi * random.random(falloff.shape)), (height, width))
    tint = np.fft.irfft2(falloff**1.3 * np.exp(2j * np.pi * random.random(falloff.shape)), (height, width))
    layers = [random.uniform(80, 150) + 45 * grey / grey.std() + sign * 18 * tint / tint.std() for sign in (1, 0.2, -1)]
    pixels = np.stack(layers, axis=-1) + random.normal(0, 1, (height, width, 1))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.uniform(0, width), random.uniform(0, height)
        w, h = random.uniform(0.02, 0.25, 2) * (width, height)
        colour = tuple(random.integers(0, 256, 3).tolist())
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    return image


def write_photos(folder: Path, size: tuple[int, int], count: int, options: argparse.Namespace) -> tuple[Path, Path]:
    """Image folder and COCO file of synthetic photos with 7 boxes each."""
    random = np.random.default_rng(options.seed)
    height, width = size
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        photo(random, height, width).save(folder / f"{number}.jpg", quality=options.quality)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
        for _ in range(7):
            w, h = random.uniform(0.03, 0.6, 2) * (width, height)
            x, y = random.uniform(0, width - w), random.uniform(0, height - h)
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": 1, "image_id": number}
            annotations.append({"id": len(annotations) + 1, **box})
    path = folder / "annotations.json"
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder, path


def dataset(folder: Path, path: Path, *, fuse: bool) -> CocoDetection:
    """Ours, with the augmentation of configs/dfine/include."""
    ops = transforms.Compose(from_tests(REFERENCE).our_ops(SIDE), fused=fuse)
    return CocoDetection(str(folder), str(path), ops, invalid_boxes="drop")


class Keys:
    """Which images the next batch has; every way has its own, so all see the same images and draw alike."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch, self.next = size, batch, 0

    def __call__(self) -> list[SampleKey]:
        first, self.next = self.next, self.next + self.batch
        return [SampleKey(index // self.size, index % self.size) for index in range(first, first + self.batch)]


def official_way(data: CocoDetection, batch: int) -> Callable[[], object]:
    """Batches as published: transforms one by one, float images stacked by the worker."""
    official, keys = from_tests(REFERENCE), Keys(len(data), batch)
    ops = official.official_transforms(SIDE)
    truths = [data.ground_truth(int(image_id)) for image_id in data.annotations.image_ids]

    def make() -> object:
        samples = []
        for key in keys():
            truth = truths[key.sample]
            target = official.official_target(truth.boxes.clone(), truth.labels, truth.size)
            with detection.seeded(key.seed, key.epoch, key.sample):
                samples.append(official.official_sample(truth.path, target, ops))
        return torch.stack([image for image, _ in samples]), [target for _, target in samples]

    return make


def our_way(data: CocoDetection, batch: int, *, floats: bool) -> Callable[[], object]:
    """Batches as a worker of our loader makes them; ``floats``: also what the loader leaves to the device."""
    collate, keys = BatchImageCollateFunction(SIDE), Keys(len(data), batch)

    def make() -> object:
        images, targets = collate([data[key] for key in keys()])
        return data.pixels(images) if floats else images, targets

    return make


@contextmanager
def clocked(places: Sequence[Place], seconds: dict[str, float]) -> Iterator[None]:
    """Add up the CPU time of functions, each by a label; of nested ones the inner time counts for the inner only."""
    running: list[float] = []

    def timed(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            running.append(0.0)
            begin = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                total = time.process_time() - begin
                seconds[label] += total - running.pop()
                if running:
                    running[-1] += total

        return call

    with ExitStack() as stack:
        for place, name, label in places:
            stack.enter_context(mock.patch.object(place, name, timed(getattr(place, name), label)))
        yield


def places_of(way: str) -> list[Place]:
    """Where the time of a way goes: functions and what they do."""
    if way == OFFICIAL:
        from torchvision.transforms import v2

        ops: Any = v2
        places: list[Place] = [(ImageFile.ImageFile, "load", "decode"), (torch, "stack", "collate")]
    else:
        ops = transforms
        places = [
            (detection, "load_rgb", "decode"),
            (compose, "decide", "decisions"),
            (Distortion, "apply", "colour"),
            (compose, "render", "geometry"),
            (BatchImageCollateFunction, "__call__", "collate"),
            (transforms.PixelConversion, "__call__", "float conversion"),
        ]
    geometry = (ops.RandomZoomOut, ops.RandomIoUCrop, ops.RandomHorizontalFlip, ops.Resize)
    return [
        *places,
        (ops.RandomPhotometricDistort, "forward", "colour"),
        *((op, "forward", "geometry") for op in geometry),
    ]


def stages(make: Callable[[], object], places: Sequence[Place], batches: int, images: int) -> dict[str, float]:
    """Milliseconds of an image by stage."""
    seconds: dict[str, float] = defaultdict(float)
    with clocked(places, seconds):
        begin = time.process_time()
        for _ in range(batches):
            make()
        total = time.process_time() - begin
    seconds["other"] = total - sum(seconds.values())
    return {label: 1000 * second / (batches * images) for label, second in seconds.items()}


def with_workers(data: CocoDetection, workers: int, batch: int, batches: int) -> dict[str, float]:
    """Images per second of our loader (wall clock, after the first batch), and the main process's part of it."""
    loader = DataLoader(
        data, batch_size=batch, shuffle=True, num_workers=workers, drop_last=True,
        collate_fn=BatchImageCollateFunction(SIDE),
    )  # fmt: skip
    epoch, seen = 0, -2 * workers - 1  # what workers prepared ahead does not count
    begin = cpu = 0.0
    while seen < batches:
        loader.set_epoch(epoch)
        for _ in loader:
            seen += 1
            if seen == 0:
                begin, cpu = time.perf_counter(), time.process_time()
            if seen == batches:
                break
        epoch += 1
    wall, main = time.perf_counter() - begin, time.process_time() - cpu
    loader.close()
    images = batch * batches
    return {"images_per_second": images / wall, "main_process_ms_per_image": 1000 * main / images}


def ways(folder: Path, path: Path, batch: int) -> dict[str, Callable[[], object]]:
    """What is compared: each makes the next batch."""
    data, plain_data = dataset(folder, path, fuse=True), dataset(folder, path, fuse=False)
    makers = (
        official_way(data, batch),
        our_way(plain_data, batch, floats=False),
        our_way(data, batch, floats=False),
        our_way(data, batch, floats=True),
    )
    return dict(zip(WAYS, makers))


def serve_way(label: str, folder: str, path: str, batch: int) -> None:
    """A batch for every line of input, and a line with its CPU time."""
    serve(ways(Path(folder), Path(path), batch)[label], time.process_time)


def measure_apart(labels: Sequence[str], folder: Path, path: Path, batch: int, plan: TimingPlan) -> dict[str, Timing]:
    """Times of batches, every way in a process of its own: what others left in caches and on the heap would tell."""
    with ExitStack() as stack:
        turns = {}
        for label in labels:
            command = [sys.executable, __file__, "--batch", str(batch), "--serve", label, str(folder), str(path)]
            failure = ConfigError("a process that makes batches has ended, see the message above")
            turns[label] = stack.enter_context(side_process(command, failure))[1]
        return measure_turns(turns, plan)


def run_one(folder: Path, path: Path, options: argparse.Namespace, plan: TimingPlan) -> dict[str, Any]:
    """Measure all ways on one data set."""
    makers = ways(folder, path, options.batch)
    labels = [label for label in makers if label in (OFFICIAL, *options.ways)]
    data, batches = dataset(folder, path, fuse=True), max(2, plan.rounds // 2)
    timings = measure_apart(labels, folder, path, options.batch, plan)
    return {
        "images": len(data),
        "kilobytes": float(np.mean([file.stat().st_size for file in folder.glob("*.jpg")])) / 1000,
        "timings": timings,
        "stages": {label: stages(makers[label], places_of(label), batches, options.batch) for label in labels},
        "workers": {
            str(count): with_workers(data, count, options.batch, 4 * batches) for count in range(1, options.workers + 1)
        },
    }


def tables(name: str, result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Images per CPU second and how many times the published way's; stages; loaders with workers."""
    batch, timings, markdown = options.batch, result["timings"], options.markdown
    rows = [["way", "ms per image", "spread %", "images per CPU s", "times official", "quartiles"]]
    for label, timing in timings.items():
        summary = timing.summary(batch)
        rows.append([
            label, f"{summary['median_ms'] / batch:.2f}", f"{summary['spread_percent']:.1f}",
            f"{batch / timing.median:.1f}", *ratio(timings[OFFICIAL], timing).cells(2),
        ])  # fmt: skip
    labels = sorted({label for stage in result["stages"].values() for label in stage})
    parts = [["ms per image", *labels]]
    parts += [[way, *(f"{stage.get(label, 0):.2f}" for label in labels)] for way, stage in result["stages"].items()]
    loaders = [f"{workers} workers: {row['images_per_second']:.1f} images/s by the clock, "
               f"{row['main_process_ms_per_image']:.2f} ms per image in the main process: transfer, floats"
               for workers, row in result["workers"].items()]  # fmt: skip
    title = f"{name}: {result['images']} images, {result['kilobytes']:.0f} kB each; batches of {batch}"
    return [title, table(rows, markdown=markdown), table(parts, markdown=markdown), *loaders]


def plain(result: dict[str, Any], batch: int) -> dict[str, Any]:
    """For JSON, every batch included."""
    timings: dict[str, Timing] = result["timings"]
    return {**result, "timings": {
        label: timing.summary(batch)
        | {"times_official": ratio(timings[OFFICIAL], timing).median, "seconds_by_round": timing.rounds}
        for label, timing in timings.items()
    }}  # fmt: skip


def parse_size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) >= 8 and int(width) >= 8):
        raise ConfigError(f"--sizes {text}: give HEIGHTxWIDTH in pixels, each 8 or more, such as 480x640")
    return int(height), int(width)


def measure_all(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Results by the name of the data."""
    if (options.images is None) != (options.coco is None):
        raise ConfigError("--images and --coco belong together: give both, or neither for synthetic images")
    plan = TimingPlan(options.rounds, options.repeats, warmup=2, seed=options.seed)
    if options.images is not None:
        return {str(options.images): run_one(options.images, options.coco, options, plan)}
    results = {}
    for text in options.sizes:
        size = parse_size(text)
        with tempfile.TemporaryDirectory() as name:
            count = options.count if size[0] * size[1] <= 1_000_000 else 6
            folder, path = write_photos(Path(name), size, count, options)
            results[text] = run_one(folder, path, options, plan)
    return results


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # canvases of the published zoom
    torch.set_num_threads(1)
    if options.serve is not None:
        label, folder, path = options.serve
        serve_way(label, folder, path, options.batch)
        return 0
    with described(torch.device("cpu"), 1) as machine:
        results = measure_all(options)
    content = {"machine": machine, "data": {name: plain(result, options.batch) for name, result in results.items()}}
    shown = [text for name, result in results.items() for text in tables(name, result, options)]
    publish(content, options, *shown, note=f"versions {machine['versions']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

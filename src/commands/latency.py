# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Latency of detectors as users meet it: batch 1, post-processing included, models compared in turns.

isdfine bench -m model.onnx --threads 2
isdfine bench -m compile:output/run/best.pth --device cuda -o latency.json
isdfine bench --compare onnx:configs/dfine/dfine_hgnetv2_n_coco.yml theirs.onnx --threads 2
isdfine bench --compare model.onnx openvino:model.onnx --threads 2
isdfine bench -m model.onnx --coco instances_val2017.json --with-preprocessing --image street.jpg

MODEL is [BACKEND:]PATH[+CHECKPOINT]: a config (random weights), CONFIG.yml+CHECKPOINT, a checkpoint, a folder of
transformers, an .onnx file (also of other projects) or an .engine. BACKEND: eager (the default), compile, graph (CUDA
graph), onnx (exports first, ONNX Runtime); files with .onnx and .engine have their own;
openvino:FILE.onnx runs one of isdfine export in OpenVINO.
Times: median, p90, p99, spread (quartile 3 - quartile 1, of the median). Ratios: medians of the same round, in which
the models have their turns in an order drawn anew; below 1 is faster than the first model. Exit codes: 0, 2 something
that cannot be measured so. See docs/benchmarks.md.
"""

import argparse
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import isdfine

from ..bench.accuracy import SubjectBackend, average_precision, dataset_for
from ..bench.command import bench_parser, publish
from ..bench.machine import described
from ..bench.open import open_subject, parse
from ..bench.report import NETWORK, Measurement
from ..bench.subject import Precision, RunWith, Subject, from_memory, from_pictures, tried
from ..bench.timing import TimingPlan, check_counts, measure
from ..core.command import add_option, one_line_errors
from ..core.environment import pick_device
from ..core.errors import ConfigError
from ..deploy.pictures import as_rgb, read_rgb

ARRAY = (480, 640)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(
        __doc__,
        batch=1,
        rounds=TimingPlan.rounds,
        repeats=TimingPlan.repeats,
        warmup=TimingPlan.warmup,
        device=None,
        threads=None,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("-m", "--model", help="one model")
    which.add_argument("--compare", nargs="+", metavar="MODEL", help="two or more; ratios are to the first")
    add_option(parser, "update")
    parser.add_argument("--backend", choices=("eager", "compile", "graph", "onnx"), help="for models that name none")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"),
                        help="of models built here (fp16 on a GPU, fp32 on a CPU); a file has its own")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the network's input")
    parser.add_argument("--with-preprocessing", action="store_true",
                        help="begin with --image as a file in memory, decoded, or a 480 x 640 array")  # fmt: skip
    parser.add_argument("--image", type=Path, help="picture for --with-preprocessing")
    parser.add_argument("--coco", type=Path, metavar="ANNOTATIONS", help="also measure AP on these COCO annotations")
    parser.add_argument("--images", type=Path, help="folder of the images of --coco")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Refuse options that would be read by nobody."""
    if options.image is not None and not options.with_preprocessing:
        raise ConfigError("--image is where --with-preprocessing begins: give both, or leave --image out")
    if options.images is not None and options.coco is None:
        raise ConfigError("--images is the folder of --coco: give both, or leave --images out")
    if options.compare is not None and len(options.compare) < 2:
        raise ConfigError("--compare takes two or more models: use -m for one")
    if options.output is not None and options.output.is_dir():
        raise ConfigError(f"--output {options.output} is a folder: give the name of a JSON file")
    check_counts(options, threads=1)


def open_all(options: argparse.Namespace) -> tuple[dict[str, Subject], RunWith]:
    """Models by label, and how they are run."""
    named = [parse(text, options.backend) for text in options.compare or [options.model]]
    device = pick_device(options.device)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device}: latency is measured on cpu or cuda")
    if any(subject.backend == "tensorrt" for subject in named) and device.type != "cuda":
        raise ConfigError("TensorRT engines run on GPUs: give --device cuda")
    built = [subject for subject in named if subject.built_here]
    for option, given in (("--precision", options.precision), ("-u", options.update), ("--backend", options.backend)):
        if given and not built:
            raise ConfigError(f"{option} is for models that are built here, and all of these are files: leave it out")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    precision: Precision = options.precision or ("fp16" if device.type == "cuda" else "fp32")
    size = (options.size[0], options.size[1]) if options.size else None
    wanted = RunWith(device, options.threads, options.batch, size, precision, tuple(options.update))
    labels = labels_of([subject.text for subject in named])
    return {label: open_subject(subject, wanted, isdfine.load_config) for label, subject in zip(labels, named)}, wanted


def labels_of(texts: list[str]) -> list[str]:
    """A name for each row: the text without folders and suffixes; all are numbered where two are the same."""
    names = [_short(text) for text in texts]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _short(text: str) -> str:
    named = parse(text)
    backend = text.partition(":")[0] + ":" if text.startswith(f"{named.backend}:") else ""
    return backend + "+".join(path.stem for path in (named.path, named.checkpoint) if path is not None)


def pictures(options: argparse.Namespace) -> tuple[Callable[[], list[Image.Image]], str]:
    """What gives the images of a batch, and that in words."""
    if options.image is not None:
        read_rgb(options.image)  # says what is wrong with it, if anything is
        content = options.image.read_bytes()
        words = f"{options.image.name} ({len(content)} bytes) in memory, decoded"
        return lambda: [as_rgb(Image.open(io.BytesIO(content))) for _ in range(options.batch)], words
    array = np.random.default_rng(0).integers(0, 256, (*ARRAY, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    return lambda: [image] * options.batch, f"image of {ARRAY[0]} x {ARRAY[1]} in memory"


def run(options: argparse.Namespace) -> Measurement:
    """Open, time, and judge."""
    check(options)
    plan = TimingPlan(options.rounds, options.repeats, options.warmup)
    subjects, wanted = open_all(options)
    facts = {label: subject.facts for label, subject in subjects.items()}
    dataset = None
    if options.coco is not None:
        dataset = dataset_for(options.coco, options.images)
        for subject in subjects.values():
            SubjectBackend(subject, wanted.batch)  # refuses models without classes before minutes are spent
    if options.with_preprocessing:
        read, words = pictures(options)
        calls = {label: from_pictures(subject, read) for label, subject in subjects.items()}
        measured = f"{words} -> resized, network, detections in the CPU's memory"
    else:
        calls = {label: from_memory(subject, wanted.batch) for label, subject in subjects.items()}
        measured = NETWORK
    calls = {label: tried(label, call) for label, call in calls.items()}
    bar = tqdm(total=plan.rounds, unit="round", leave=False, disable=not sys.stderr.isatty())
    with described(wanted.device, wanted.threads) as machine, bar:
        machine["versions"]["isdfine"] = isdfine.__version__
        timings = measure(calls, plan, on_round=lambda number: bar.update(1))
    accuracy = None
    if dataset is not None:
        accuracy = {label: average_precision(subject, dataset, wanted.batch) for label, subject in subjects.items()}
    return Measurement(timings, facts, plan, wanted.batch, measured, machine, accuracy)


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    results = run(options)
    lines = [f"batch {results.batch}; {results.measured}; {results.plan.rounds} rounds of {results.plan.repeats} calls"]
    lines += [f"{label}: weights {facts.weights}; post-processing: {facts.post_processing}"
              for label, facts in results.facts.items()]  # fmt: skip
    publish(results.plain(), options, results.table(markdown=options.markdown), note="\n".join(lines))
    return 0

#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of a training step with each method of distillation, side by side.

python tools/benchmark/distillation_cost.py --size n --image 320 320 --batch 8 --steps 20 --device cpu --threads 1
python tools/benchmark/distillation_cost.py --size n --teacher L.yml --baseline none --methods none FGD LD LD+cached
python tools/benchmark/distillation_cost.py --size l --image 640 640 --batch 4 --device cuda --precision bf16 --markdown

One model and one batch of noise serve all methods, which take turns step by step; needs no data and no weights. A step
is what tools/train.py does with a batch: forward pass, matching, losses, backward pass, optimizer, averaged weights.
Methods with a teacher go by their class and need --teacher; +cached takes the teacher's answer from memory, as from a
cache without reading its files. Their adapters take no step of the optimizer.
Time: processor time of this process on a CPU, which other work on the machine moves little, wall time up to a finished
device on a GPU.
Memory: what torch's allocator holds at most within a step, with weights, averaged weights and optimizer state;
--resident adds what a process of its own takes for each method. Ratios are to --baseline: time as the median over
rounds with the quartiles, and of the fastest rounds (other work only adds time). Exit codes: 0, 2 something that cannot
be measured so.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler behind the memory figures speaks of itself

import torch
from torch import nn

import isdfine
from isdfine.bench.command import MB, bench_parser, config_of, config_path, publish
from isdfine.bench.machine import described
from isdfine.bench.step import StepClock, Trainee, TrainingStep, dummy_batch
from isdfine.bench.timing import Timing, check_counts, ratio, take_turns
from isdfine.bench.timing import table as text_table
from isdfine.core.command import one_line_errors
from isdfine.core.config import Config, without_initial_weights
from isdfine.core.environment import pick_device
from isdfine.core.errors import ConfigError
from isdfine.distill.objective import build_objective
from isdfine.distill.taught import Batch as TeacherBatch
from isdfine.distill.taught import Lesson
from isdfine.distill.teacher import CommonClasses, Teacher
from isdfine.nn.types import DetectorOutput, Want
from isdfine.solver.probe import storage_bytes
from isdfine.solver.resources import peak_memory

_GO_LSD = {"type": "GOLSD"}
_DOWN = {"type": "InterLayerDistillation", "direction": "deep_to_shallow"}
_UP = {"type": "InterLayerDistillation", "direction": "shallow_to_deep"}
_CLASSES = {**_DOWN, "class_weight": 0.5}
_ATTENTION = {"type": "AttentionDistillation", "ramp": [0.0, 0.0]}
_ATTENTION_UP = {**_ATTENTION, "direction": "shallow_to_deep"}
_LEVELS = {**_ATTENTION, "cross_mode": "levels"}
BASELINE = "go-lsd"
DIAGNOSTICS = "diagnostics"
OWN_MATCHES = "fdr-only"
METHODS: dict[str, list[dict[str, Any]]] = {
    OWN_MATCHES: [],
    "none": [],
    BASELINE: [_GO_LSD],
    "inter-d2s": [_DOWN],
    "inter-s2d": [_UP],
    "inter-d2s+class": [_CLASSES],
    "go-lsd+attn": [_GO_LSD, _ATTENTION],
    "inter-d2s+attn": [_DOWN, _ATTENTION],
    "inter-s2d+attn": [_UP, _ATTENTION_UP],
    "inter-d2s+class+attn": [_CLASSES, _ATTENTION],
    "go-lsd+attn+levels": [_GO_LSD, _LEVELS],
    "inter-d2s+attn+levels": [_DOWN, _LEVELS],
}
"""``distillers:`` by name; ramps act from the first step. ``fdr-only`` also scores every layer on its own matches:
GO-LSD is its union of all layers' matches (which ``none`` keeps) and its loss together."""
CACHED = "+cached"
TAUGHT: dict[str, list[dict[str, Any]]] = {
    name: [{"type": name, "start": {"mode": "step"}}]
    for name in ("FitNet", "FGD", "MGD", "LCMD", "LogitDistillation", "BoxDistillation", "LD", "DistillGOLSD", "KDDETR",
                 "TCLD", "CLoCKDistill", "DETRDistill", "CrossKD")
}  # fmt: skip
"""Methods with a teacher, at their own settings, from the first step."""
USUAL = ("fdr-only", "none", BASELINE, "inter-d2s", "inter-s2d", "inter-d2s+class", "go-lsd+attn", "inter-d2s+attn")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(__doc__, model=True, image=(640, 640), batch=4, boxes=10, warmup=2, device=None, threads=None)
    parser.add_argument("--steps", type=int, default=10, help="rounds that count")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the forward pass")
    parser.add_argument("--methods", nargs="+", default=list(USUAL), metavar="NAME",
                        help=", ".join([*METHODS, *TAUGHT]))  # fmt: skip
    parser.add_argument("--baseline", default=BASELINE, metavar="NAME", help="method of the ratios (%(default)s)")
    parser.add_argument("--teacher", metavar="CONFIG", help="YAML file of a teacher, with random weights")
    parser.add_argument("--diagnostics", action="store_true", help="also a step that writes diagnostics")
    parser.add_argument("--resident", action="store_true",
                        help="also the resident memory of one process per method (CPU)")  # fmt: skip
    parser.add_argument("--resident-of", metavar="NAME", help=argparse.SUPPRESS)  # what such a process is told
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Cost:
    """One method's step."""

    method: str
    timing: Timing
    peak_bytes: int
    """Largest sum of live tensors in a step: weights, averaged weights, optimizer state, batch, activations."""
    resident_bytes: int | None = None
    """Largest resident memory of a process of its own, libraries included; None where it was not measured."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"method": self.method, "summary": self.timing.summary(1), "peak_bytes": self.peak_bytes,
                "resident_bytes": self.resident_bytes, "seconds_by_round": self.timing.rounds}  # fmt: skip


class FirstAnswer:
    """A cache that is in memory: every step has the same images."""

    def open(self, want: Want) -> None:
        """Nothing is there yet."""
        self._known: DetectorOutput | None = None

    def answer(self, batch: TeacherBatch, ask: Callable[[], DetectorOutput]) -> DetectorOutput:
        """What the teacher said first."""
        self._known = self._known or ask()
        return self._known


class Bench:
    """Model, batch and optimizer that all methods share, so that they differ in nothing but their losses.

    Args:
        config: with model, criterion, optimizer; its data is not read.
        options: of the command.
        device: CPU or CUDA.
    """

    def __init__(self, config: Config, options: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        self.config, self.device = config, device
        model: nn.Module = config.build("model")
        let_layers_differ(model)
        self.trainee = Trainee(config, model, options.precision, device)
        classes = int(config.get("num_classes"))
        self.teacher: Teacher | None = None
        if options.teacher:
            values = {"num_classes": classes, "eval_spatial_size": list(options.image)}
            model = without_initial_weights(isdfine.load_config(options.teacher).with_values(values)).build("model")
            let_layers_differ(model)
            self.teacher, self.classes = Teacher(model.to(device)), CommonClasses.of(range(classes), classes, device)
        self.batch = dummy_batch(options.batch, tuple(options.image), options.boxes, classes, device)

    def step(self, method: str, *, diagnose: bool = False) -> TrainingStep:
        """A training step with a method's losses.

        Raises:
            ConfigError: one that the config's model cannot serve.
        """
        name = method.removesuffix(CACHED)
        values: dict[str, Any] = {"distillers": (METHODS | TAUGHT)[name]}
        if method == OWN_MATCHES:
            values[f"{self.config.get('criterion')}.use_uni_set"] = False
        lesson = None
        if name in TAUGHT:
            assert self.teacher is not None  # checked before
            lesson = Lesson(self.teacher, self.classes, cache=FirstAnswer() if name != method else None)
        objective = build_objective(self.config.with_values(values), self.trainee.model, lesson).to(self.device)
        return TrainingStep(self.trainee, objective, self.batch, diagnose=diagnose)

    def peak_bytes(self, step: TrainingStep) -> int:
        """Peak of one step after the warm-up, what was there before included; weights of its teacher count."""
        held = self.trainee.held_bytes()
        taught = step.objective is not None and step.objective.lesson is not None
        teacher = [] if self.teacher is None else [*self.teacher.model.parameters(), *self.teacher.model.buffers()]
        if self.device.type == "cuda":  # where all methods together hold the teacher
            return held - (0 if taught else storage_bytes(teacher)) + step.peak_bytes()
        images, targets = self.batch
        batch = [images, *(tensor for target in targets for tensor in target.values())]
        return held + storage_bytes([*batch, *(teacher if taught else [])]) + step.peak_bytes()


def let_layers_differ(model: nn.Module) -> None:
    """Noise for weights that start at 0: with them all layers agree, and there would be nothing to distil."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad and weight.dim() > 1 and not weight.any():
                weight.copy_(torch.randn(weight.shape, generator=noise) * 0.02)


def measure(bench: Bench, methods: Sequence[str], options: argparse.Namespace) -> list[Cost]:
    """Cost of each method; their steps take turns in a new order each round."""
    steps = {name: bench.step(name) for name in methods}
    if options.diagnostics:
        steps[DIAGNOSTICS] = bench.step(BASELINE, diagnose=True)
    for _ in range(options.warmup):
        for step in steps.values():
            step()
    peaks = {name: bench.peak_bytes(step) for name, step in steps.items()}
    seconds = take_turns({name: seconds_of(step) for name, step in steps.items()}, options.steps)
    return [Cost(name, Timing.of(seconds[name]), peaks[name]) for name in steps]


def seconds_of(step: TrainingStep) -> Any:
    """A call that takes the step and gives its seconds; the device is not waited for inside."""
    clock, step.clock = StepClock(step.trainee.device), StepClock(torch.device("cpu"))

    def turn() -> float:
        begin = clock.now()
        step()
        return clock.now() - begin

    return turn


def resident_peak(bench: Bench, method: str, warmup: int) -> int:
    """Largest resident memory of this process in bytes after a few steps of one method on the CPU; Linux.

    Call it in a process that has done nothing else, with ``MALLOC_MMAP_THRESHOLD_`` set in its environment: the C
    library then returns freed blocks at once.
    """
    step = bench.step(method)
    for _ in range(warmup + 1):
        step()
    return round(peak_memory(torch.device("cpu"))["peak_resident_mib"] * MB)


def resident_bytes(arguments: list[str], method: str) -> int:
    """Resident memory of a fresh process that trains with one method.

    Args:
        arguments: of this command.
    """
    command = [sys.executable, __file__, *arguments, "--resident-of", method]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def table(costs: list[Cost], baseline: str = BASELINE, *, markdown: bool) -> str:
    """Rows of all methods; ratios where the baseline was measured."""
    base = next((cost for cost in costs if cost.method == baseline), None)
    rows = [["method", "ms per step", f"time / {baseline}", "quartiles", "fastest", "peak MB", f"memory / {baseline}"]]
    for cost in costs:
        time, memory = ["", "", ""], ""
        if base is not None:
            fastest = cost.timing.calls[0] / base.timing.calls[0]
            time = [*ratio(cost.timing, base.timing).cells(), f"{fastest:.3f}"]
            memory = f"{cost.peak_bytes / base.peak_bytes:.3f}"
        rows.append([cost.method, f"{cost.timing.median * 1000:.1f}", *time, f"{cost.peak_bytes / MB:.1f}", memory])
    if any(cost.resident_bytes is not None for cost in costs):
        resident = ["" if cost.resident_bytes is None else f"{cost.resident_bytes / MB:.1f}" for cost in costs]
        rows = [[*row, cell] for row, cell in zip(rows, ["resident MB", *resident])]
    return text_table(rows, markdown=markdown)


def check(options: argparse.Namespace, device: torch.device) -> None:
    """Refuse what cannot be measured."""
    check_counts(options, batch=1, boxes=0, steps=1, warmup=1, threads=1)
    if min(options.image) < 32:
        raise ConfigError(f"image is {tuple(options.image)}: give 32 pixels or more")
    methods = [*options.methods, options.baseline, *([options.resident_of] if options.resident_of else [])]
    if unknown := [name for name in methods if name.removesuffix(CACHED) not in METHODS | TAUGHT]:
        raise ConfigError(f"methods: {', '.join(unknown)}: choose from {', '.join([*METHODS, *TAUGHT])}")
    if alone := [name for name in methods if name.endswith(CACHED) and name.removesuffix(CACHED) in METHODS]:
        raise ConfigError(f"methods: {', '.join(alone)}: has no teacher whose answers could be cached")
    if not options.teacher and (taught := [name for name in methods if name.removesuffix(CACHED) in TAUGHT]):
        raise ConfigError(f"methods: {', '.join(taught)}: give the YAML file of a --teacher")
    if options.resident and (device.type != "cpu" or sys.platform != "linux"):
        raise ConfigError("--resident reads what Linux says of a process, which is memory of the CPU: leave it out")


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.ERROR)
    device = pick_device(options.device)
    check(options, device)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(config_of(options, f"precision={options.precision}"), options, device)
    if options.resident_of:
        print(resident_peak(bench, options.resident_of, options.warmup))
        return 0
    with described(device, options.threads) as machine:
        costs = measure(bench, options.methods, options)
    if options.resident:
        given = sys.argv[1:] if arguments is None else arguments
        costs = [
            replace(cost, resident_bytes=resident_bytes(given, cost.method)) if cost.method != DIAGNOSTICS else cost
            for cost in costs
        ]
    height, width = options.image
    results = {"config": str(config_path(options)), "machine": machine, "methods": [cost.plain() for cost in costs]}
    publish(results, options, table(costs, options.baseline, markdown=options.markdown),
            note=f"{config_path(options).stem}, {options.batch} x {height} x {width} pixels, {options.boxes} boxes an "
            f"image, {options.precision}, {options.steps} rounds")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

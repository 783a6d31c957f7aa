#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A whole training step and its phases: time, operators, waits for the device, peak memory; variants in turns.

python tools/benchmark/train_step.py --size n --variants eager channels_last bf16 transformers -o step.json
python tools/benchmark/train_step.py --size l --batch 32 --device cuda --variants bf16 compile+bf16 transformers+bf16

Models have random weights, images are noise, and everything comes from a seed. A step is what tools/train.py does with
a batch: bytes to numbers (data), forward pass, matching, losses (criterion), backward pass, optimizer with clipping,
averaged weights. Variants: eager, channels_last (what tools/train.py does on a CPU if nothing else is said), compile
(backbone and encoder by torch.compile, eager rest), bf16, and transformers (its D-FINE with the same weights and our
optimizer; its own forward pass and losses, no average); joined by +, as in compile+bf16 or transformers+bf16.
Waits: operators that wait for the device; the copy of the matching costs to the host is one, but on a CPU it is none.
Time: processor time of this process on a CPU, wall time up to a finished device on a GPU. --data CONFIG adds the wait
for real batches of that config's train_dataloader. Exit codes: 0, 2 something that cannot be measured so.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import Tensor, nn

import isdfine
from bench.machine import describe, load
from bench.operators import Operators
from bench.timing import Plan, Timing, ratio, table
from isdfine.core.command import add_option, command_parser
from isdfine.core.config import Config, without_initial_weights
from isdfine.core.environment import pick_device
from isdfine.core.errors import CheckpointError, ConfigError, DataError
from isdfine.core.files import whole_file
from isdfine.data.collate import STRIDE
from isdfine.distill.objective import build_objective
from isdfine.optim.ema import ModelEMA
from isdfine.optim.precision import Precision
from isdfine.solver.probe import dummy_target, peak_of_allocations
from isdfine.solver.speed import compile_parts, runs_compiled, use_channels_last
from isdfine.zoo.huggingface.twin import transformers_twin

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dfine"
OPTIONS = ("eager", "channels_last", "compile", "bf16", "transformers")
PHASES = ("data", "forward", "matching", "criterion", "backward", "optimizer", "ema")
MB = 1 << 20


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=("n", "s", "m", "l", "x"), help="D-FINE of this size, 80 classes")
    which.add_argument("-c", "--config", help="YAML file with model, criterion and optimizer")
    add_option(parser, "update")
    parser.add_argument(
        "--variants", nargs="+", default=["eager"], metavar="NAME", help=f"{', '.join(OPTIONS)}, joined by +"
    )
    parser.add_argument("--image", nargs=2, type=int, default=(640, 640), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--boxes", type=int, default=10, help="ground-truth boxes per image")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each variant that count")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each variant before")
    parser.add_argument("--device", help="cpu, cuda or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--data", metavar="CONFIG", help="also the wait for batches of this config's train_dataloader")
    parser.add_argument("-o", "--output", type=Path, help="JSON file: machine, versions, every step")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser.parse_args(arguments)


class Clock:
    """Seconds per phase of one step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, float] = {}

    def now(self) -> float:
        """Processor time, or wall time once the device is done."""
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Any:
        """Add what happens inside to a phase."""
        begin = self.now()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + self.now() - begin


class Step:
    """Our step, or one with another project's forward pass and losses."""

    def __init__(self, variant: str, config: Config, options: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        self.clock = Clock(device)
        self.device = device
        options_on = variant.split("+")
        self.theirs, self.compiled = "transformers" in options_on, "compile" in options_on
        self.model: nn.Module = config.build("model")
        self.objective = build_objective(config, self.model).to(device)
        if self.theirs:
            self.model = transformers_twin(config, self.model)
        self.model.to(device).train()
        self.format = torch.channels_last if "channels_last" in options_on else torch.contiguous_format
        if "channels_last" in options_on:
            use_channels_last(self.model)
        self.optimizer: Any = config.build("optimizer", model=self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # every step finds the same weights
        self.ema = None if self.theirs else ModelEMA(self.model)
        self.precision = Precision("bf16" if "bf16" in options_on else "fp32", device)
        self.max_norm = config.settings.clip_max_norm
        if self.compiled:
            compile_parts(self.model)
        self.batch = dummy_batch(options, int(config.get("num_classes")), device)

    def warm_up(self, steps: int) -> None:
        """Steps that do not count.

        Raises:
            ConfigError: a step that is to be compiled is not.
        """
        for _ in range(steps):
            self()
        if self.compiled and not runs_compiled(self.model):
            raise ConfigError("variants: compile: torch.compile does not work here, see the warning above")

    def __call__(self) -> dict[str, float]:
        """One step; seconds per phase."""
        self.clock.phases = {}
        with self.clock.phase("data"):
            pixels, targets = self.batch
            images = pixels.to(torch.float32).div_(255).contiguous(memory_format=self.format)
        loss = self._peer_loss(images, targets) if self.theirs else self._our_loss(images, targets)
        with self.clock.phase("backward"):
            self.precision.backward(loss)
        with self.clock.phase("optimizer"):
            parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_norm or 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            with self.clock.phase("ema"):
                self.ema.update()
        return self.clock.phases

    def _our_loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        with self.clock.phase("forward"), self.precision.autocast():
            output = self.model(images, targets)
        with self.clock.phase("matching"):
            context = self.objective.context(output, targets)
        with self.clock.phase("criterion"):
            return torch.stack(list(self.objective.terms(context).values())).sum()

    def _peer_loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Forward pass and losses are one call there."""
        labels = [{"class_labels": one["labels"], "boxes": one["boxes"]} for one in targets]
        with self.clock.phase("forward"), self.precision.autocast():
            loss: Tensor = self.model(pixel_values=images, labels=labels).loss
            return loss

    def counts(self) -> dict[str, int]:
        """Operators of a step and waits among them, backward pass included."""
        with Operators() as seen:
            self()
        return {"operators": seen.count, "waits": seen.waits}

    def peak_bytes(self) -> int:
        """What a step holds at most beyond weights and optimizer state."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self()
            return torch.cuda.max_memory_allocated(self.device) - before
        return peak_of_allocations(self)


def dummy_batch(
    options: argparse.Namespace, num_classes: int, device: torch.device
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images (B, 3, H, W) of bytes and their targets."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (options.batch, 3, *options.image), dtype=torch.uint8, generator=random)
    targets = [dummy_target(options.boxes, num_classes, random, device) for _ in range(options.batch)]
    return images.to(device), targets


def measure(steps: dict[str, Step], plan: Plan) -> dict[str, list[dict[str, float]]]:
    """Phases of every step that counts, the variants in turns."""
    for step in steps.values():
        step.warm_up(plan.warmup)
    order, draw = list(steps), random.Random(plan.seed)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(plan.rounds):
        draw.shuffle(order)
        for name in order:
            found[name].append(dict(steps[name]()))
    return found


def data_wait(path: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds from asking for a batch of a real loader to having it, first and median of the next ones."""
    config = isdfine.load_config(path, options.update)
    batches: Any = iter(config.build("train_dataloader").to(device))
    waits = []
    for _ in range(options.rounds + 1):
        begin = time.perf_counter()
        if next(batches, None) is None:
            break
        waits.append(time.perf_counter() - begin)
    if len(waits) < 2:
        raise DataError(f"{path}: train_dataloader has {len(waits)} batch(es): the wait needs two or more")
    return {"first_seconds": waits[0], "median_seconds": statistics.median(waits[1:])}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build, time, count."""
    for name in options.variants:
        parts = set(name.split("+"))
        if not parts <= set(OPTIONS):
            raise ConfigError(f"variants: {name}: choose from {', '.join(OPTIONS)}, joined by +")
        if parts >= {"transformers", "compile"}:
            raise ConfigError(f"variants: {name}: transformers has no parts that compile knows")
    for name, value, least in (
        ("batch", options.batch, 1),
        ("boxes", options.boxes, 0),
        ("threads", options.threads, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}: give {least} or more")
    if min(options.image) < STRIDE or any(side % STRIDE for side in options.image):
        raise ConfigError(f"image is {tuple(options.image)}: height and width must be multiples of {STRIDE}")
    plan = Plan(options.rounds, 1, options.warmup)
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    path = options.config or CONFIGS / f"dfine_hgnetv2_{options.size}_coco.yml"
    config = without_initial_weights(isdfine.load_config(path, options.update))
    config = config.with_values(
        {"num_classes": config.get("num_classes") or 80, "eval_spatial_size": list(options.image)}
    )
    machine = describe(device, options.threads)
    steps = {name: Step(name, config, options, device) for name in options.variants}
    phases = measure(steps, plan)
    timings = {name: Timing(tuple((sum(one.values()),) for one in found)) for name, found in phases.items()}
    first = options.variants[0]
    variants = {}
    for name, step in steps.items():
        medians = {key: statistics.median(one.get(key, 0.0) for one in phases[name]) for key in PHASES}
        variants[name] = {
            "summary": timings[name].summary(options.batch),
            f"time_over_{first}": asdict(ratio(timings[name], timings[first])),
            "median_seconds_of_phases": medians,
            "peak_bytes": step.peak_bytes(),
            **(step.counts() if not step.compiled else {"operators": 0, "waits": 0}),
            "phases_by_round": phases[name],
        }
    machine["load_after"] = load()
    workload = {"batch": options.batch, "image": list(options.image), "boxes": options.boxes}
    found = {"config": str(path), **workload, "plan": asdict(plan), "machine": machine, "variants": variants}
    if options.data:
        found["data_wait"] = data_wait(options.data, options, device)
    return found


def tables(found: dict[str, Any], *, markdown: bool) -> str:
    """One row per variant; then the phases."""
    first = next(iter(found["variants"]))
    rows = [["variant", "ms", "spread %", f"time / {first}", "quartiles", "operators", "waits", "peak MB"]]
    phases = [["variant", *(f"{name} ms" for name in PHASES)]]
    for name, one in found["variants"].items():
        over = one[f"time_over_{first}"]
        rows.append([
            name, f"{one['summary']['median_ms']:.0f}", f"{one['summary']['spread_percent']:.1f}",
            f"{over['median']:.3f}", f"{over['quartile1']:.3f} .. {over['quartile3']:.3f}",
            str(one["operators"] or "-"), str(one["waits"] if one["operators"] else "-"),
            f"{one['peak_bytes'] / MB:.0f}",
        ])  # fmt: skip
        phases.append([name, *(f"{1000 * one['median_seconds_of_phases'][key]:.1f}" for key in PHASES)])
    return f"{table(rows, markdown=markdown)}\n\n{table(phases, markdown=markdown)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        found = run(options)
        if options.output is not None:
            with whole_file(options.output) as partial:
                partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (ConfigError, CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tables(found, markdown=options.markdown))
    machine, (height, width) = found["machine"], options.image
    if "data_wait" in found:
        wait = found["data_wait"]
        print(f"\nwait for data: first batch {wait['first_seconds']:.2f} s, then {wait['median_seconds']:.3f} s")
    print(f"\n{Path(found['config']).stem}, {options.batch} x {height} x {width}, {options.boxes} boxes an image, "
          f"{options.rounds} rounds; {machine['cpu']}, threads {options.threads}, device {machine['device']}, load "
          f"{machine['load']} before, {machine['load_after']} after; torch {torch.__version__}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

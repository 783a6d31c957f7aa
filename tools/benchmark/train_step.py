#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""A whole training step and its phases: time, operators, waits for the device, peak memory; variants in turns.

python tools/benchmark/train_step.py --size n --variants eager channels_last bf16 transformers -o step.json
python tools/benchmark/train_step.py --size l --batch 32 --device cuda --variants bf16 compile+bf16 transformers+bf16

Models have random weights, images are noise, and everything comes from a seed. A step is what tools/train.py does with
a batch: bytes to numbers (data), forward pass, matching, losses (criterion), backward pass, optimizer with clipping,
averaged weights where the config has them. Variants: eager, channels_last (what tools/train.py does on a CPU if nothing
else is said), compile (backbone and encoder by torch.compile, eager rest), bf16, and transformers (its D-FINE,
Deformable DETR or DAB-DETR with the same weights and our optimizer; its own forward pass and losses, no average);
joined by +, as in compile+bf16 or transformers+bf16.
Waits: operators that wait for the device; the copy of the matching costs to the host is one, but on a CPU it is none.
Time: processor time of this process on a CPU, wall time up to a finished device on a GPU. --data CONFIG adds the wait
for real batches of that config's train_dataloader. Exit codes: 0, 2 something that cannot be measured so.
"""

import argparse
import logging
import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch

import isdfine
from isdfine.bench.command import MB, bench_parser, config_of, config_path, publish
from isdfine.bench.machine import described
from isdfine.bench.step import Operators, Trainee, TrainingStep, dummy_batch  # noqa: F401  # checkouts.py reads Operators here
from isdfine.bench.timing import Ratio, Timing, TimingPlan, check_counts, ratio, table, take_turns
from isdfine.bench.twin import transformers_twin
from isdfine.core.command import one_line_errors
from isdfine.core.config import Config, without_initial_weights
from isdfine.core.environment import pick_device
from isdfine.core.errors import ConfigError, DataError
from isdfine.data.collate import STRIDE
from isdfine.distill.objective import build_objective
from isdfine.solver.speed import compile_parts, runs_compiled, use_channels_last

OPTIONS = ("eager", "channels_last", "compile", "bf16", "transformers")
PHASES = ("data", "forward", "matching", "criterion", "backward", "optimizer", "ema")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(
        __doc__, model=True, image=(640, 640), batch=4, boxes=10, rounds=5, warmup=2, device=None, threads=1
    )
    parser.add_argument("--variants", nargs="+", default=["eager"], metavar="NAME",
                        help=f"{', '.join(OPTIONS)}, joined by +")  # fmt: skip
    parser.add_argument("--data", metavar="CONFIG", help="also the wait for batches of this config's train_dataloader")
    return parser.parse_args(arguments)


class Step(TrainingStep):
    """The step of a variant: ours, or one with another project's forward pass and losses."""

    def __init__(self, variant: str, config: Config, options: argparse.Namespace, device: torch.device) -> None:
        torch.manual_seed(0)
        parts = variant.split("+")
        theirs, self.compiled = "transformers" in parts, "compile" in parts
        model = config.build("model")
        objective = None if theirs else build_objective(config, model).to(device)
        if theirs:
            model = transformers_twin(config, model)
        averaged = not theirs and config.settings.use_ema
        model.to(device).train()
        if "channels_last" in parts:
            use_channels_last(model)
        trainee = Trainee(config, model, "bf16" if "bf16" in parts else "fp32", device, average=averaged)
        if self.compiled:
            compile_parts(model)
        batch = dummy_batch(options.batch, options.image, options.boxes, int(config.get("num_classes")), device)
        channels_last = "channels_last" in parts
        super().__init__(
            trainee, objective, batch, format=torch.channels_last if channels_last else torch.contiguous_format
        )

    def warm_up(self, steps: int) -> None:
        """Steps that do not count.

        Raises:
            ConfigError: a step that is to be compiled is not.
        """
        for _ in range(steps):
            self()
        if self.compiled and not runs_compiled(self.trainee.model):
            raise ConfigError("variants: compile: torch.compile does not work here, see the warning above")


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


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured."""
    for name in options.variants:
        parts = set(name.split("+"))
        if not parts <= set(OPTIONS):
            raise ConfigError(f"variants: {name}: choose from {', '.join(OPTIONS)}, joined by +")
        if parts >= {"transformers", "compile"}:
            raise ConfigError(f"variants: {name}: transformers has no parts that compile knows")
    check_counts(options, batch=1, boxes=0, threads=1)
    if min(options.image) < STRIDE or any(side % STRIDE for side in options.image):
        raise ConfigError(f"image is {tuple(options.image)}: height and width must be multiples of {STRIDE}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build, time, count."""
    check(options)
    plan = TimingPlan(options.rounds, 1, options.warmup)
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    config = without_initial_weights(config_of(options))
    with described(device, options.threads) as machine:
        steps = {name: Step(name, config, options, device) for name in options.variants}
        for step in steps.values():
            step.warm_up(plan.warmup)
        phases = take_turns(steps, plan.rounds, plan.seed)
        timings = {name: Timing.of([sum(taken.values()) for taken in rounds]) for name, rounds in phases.items()}
        first = options.variants[0]
        variants = {
            name: {
                "summary": timings[name].summary(options.batch),
                f"time_over_{first}": ratio(timings[name], timings[first]).plain(),
                "median_seconds_of_phases": {
                    phase: statistics.median(taken.get(phase, 0.0) for taken in phases[name]) for phase in PHASES
                },
                "peak_bytes": step.peak_bytes(),
                **(step.counts() if not step.compiled else {"operators": 0, "waits": 0}),
                "phases_by_round": phases[name],
            }
            for name, step in steps.items()
        }
    workload = {"batch": options.batch, "image": list(options.image), "boxes": options.boxes}
    results = {"config": str(config_path(options)), **workload, "plan": vars(plan), "machine": machine}
    wait = {"data_wait": data_wait(options.data, options, device)} if options.data else {}
    return {**results, "variants": variants, **wait}


def tables(variants: dict[str, Any], *, markdown: bool) -> list[str]:
    """One row per variant; then the phases."""
    first = next(iter(variants))
    rows = [["variant", "ms", "spread %", f"time / {first}", "quartiles", "operators", "waits", "peak MB"]]
    phases = [["variant", *(f"{name} ms" for name in PHASES)]]
    for name, variant in variants.items():
        over, counted = Ratio(**variant[f"time_over_{first}"]), bool(variant["operators"])
        rows.append([
            name, f"{variant['summary']['median_ms']:.0f}", f"{variant['summary']['spread_percent']:.1f}",
            *over.cells(), *(str(variant[key]) if counted else "-" for key in ("operators", "waits")),
            f"{variant['peak_bytes'] / MB:.0f}",
        ])  # fmt: skip
        phases.append([name, *(f"{1000 * variant['median_seconds_of_phases'][phase]:.1f}" for phase in PHASES)])
    return [table(rows, markdown=markdown), table(phases, markdown=markdown)]


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING)
    results = run(options)
    height, width = options.image
    shown = tables(results["variants"], markdown=options.markdown)
    if wait := results.get("data_wait"):
        first, later = wait["first_seconds"], wait["median_seconds"]
        shown.append(f"wait for data: first batch {first:.2f} s, then {later:.3f} s")
    name = config_path(options).stem
    publish(results, options, *shown, note=f"{name}, {options.batch} x {height} x {width}, {options.boxes} boxes an "
            f"image, {options.rounds} rounds")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

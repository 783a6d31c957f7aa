#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Matching and losses of a training step, forward and backward, against the published order of work.

python tools/benchmark/matching.py --objects 5 20 100 300 --batch 8 -o matching.json
python tools/benchmark/matching.py --growth --markdown

Outputs are made up from a seed in the shapes of D-FINE-L's decoder: 6 layers, 300 queries, 80 classes, first head,
encoder proposals and denoising queries. The reference is tests/losses/published.py: one prediction set at a time, costs
against the whole batch, overlaps as the diagonal of the full matrix, every loss read for the log. Both take turns in
one process on one thread; the figures are processor time of the process. Losses and gradients of both are compared.
Queries lie anywhere, as before training, the hardest case for the assignment; with --found every object has a query
beside it. --growth: time and peak memory of ours alone, over objects and over the batch, all sizes in turns.
Exit codes: 0, 2 wrong options.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler behind the memory figures speaks of itself

import torch
from torch import Tensor

from bench.machine import describe, load
from bench.operators import Operators
from bench.synthetic import DecoderShapes, MadeUpStep, made_up_step
from bench.timing import Plan, measure, ratio, table
from isdfine.core.command import command_parser
from isdfine.core.errors import ConfigError
from isdfine.core.files import whole_file
from isdfine.distill.objective import Objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.solver.probe import peak_of_allocations

PUBLISHED = Path(__file__).resolve().parents[2] / "tests" / "losses" / "published.py"
WEIGHTS = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
TARGETS = {5: 8.0, 20: 15.0, 100: 30.0, 300: 25.0}
"""Ratios to reach, by objects per image, at batch 8."""
MB = 1 << 20


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--objects", nargs="+", type=int, default=[5, 20, 100, 300], help="boxes of every image")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--queries", type=int, default=300, help="per image")
    parser.add_argument("--layers", type=int, default=6, help="decoder layers")
    parser.add_argument("--classes", type=int, default=80, help="columns of the logits")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side that count")
    parser.add_argument("--warmup", type=int, default=1, help="calls of each side before")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up predictions")
    parser.add_argument("--found", action="store_true", help="every object has a query beside it, as after training")
    parser.add_argument("--growth", action="store_true", help="ours alone, over objects and over the batch")
    parser.add_argument("-o", "--output", type=Path, help="JSON file: machine, versions, every call")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    return parser.parse_args(arguments)


class Side:
    """One way to the losses of a made-up step."""

    def __init__(self, step: MadeUpStep, losses_of: Any, read: Any = None) -> None:
        self.step, self.losses_of, self.read = step, losses_of, read

    def losses(self) -> dict[str, Tensor]:
        """Forward pass alone."""
        found: dict[str, Tensor] = self.losses_of(self.step.output, self.step.targets)
        return found

    def __call__(self) -> dict[str, Tensor]:
        self.forget()
        losses = self.losses()
        torch.stack(list(losses.values())).sum().backward()
        if self.read is not None:
            self.read(losses)
        return losses

    def forget(self) -> None:
        """Drop the gradients of an earlier call."""
        for leaf in self.step.leaves:
            leaf.grad = None

    def gradients(self) -> list[Tensor]:
        """Of all leaves."""
        self()
        found = [leaf.grad for leaf in self.step.leaves if leaf.grad is not None]
        self.forget()
        return found

    def peak_bytes(self) -> int:
        """What a call holds at most."""
        self.forget()
        return peak_of_allocations(self)


def operators(side: Side) -> int:
    """Operators of the forward pass."""
    with Operators() as seen:
        side.losses()
    return seen.count


def ours(shapes: DecoderShapes, step: MadeUpStep) -> Side:
    """Criterion and GO-LSD with the published weights."""
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, use_focal_loss=True)
    losses = ["vfl", "boxes", "local"]
    criterion = DFINECriterion(
        matcher, WEIGHTS, losses, alpha=0.75, num_classes=shapes.num_classes, reg_max=shapes.reg_max
    )
    return Side(step, Objective(criterion))


def published(shapes: DecoderShapes, step: MadeUpStep) -> Side:
    """The reference under tests.

    Raises:
        ConfigError: this is no checkout with tests.
    """
    if not PUBLISHED.is_file():
        raise ConfigError(f"{PUBLISHED} is missing: run this from a checkout, the reference lies among the tests")
    spec = importlib.util.spec_from_file_location("published", PUBLISHED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Side(step, module.PublishedObjective(shapes.num_classes, shapes.reg_max), module.read_for_log)


def compare(shapes: DecoderShapes, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same step."""
    step = made_up_step(shapes, options.seed)
    sides = {"ours": ours(shapes, step), "published": published(shapes, step)}
    losses = {name: side() for name, side in sides.items()}
    gradients = {name: side.gradients() for name, side in sides.items()}
    timings = measure(sides, Plan(options.rounds, 1, options.warmup), clock=time.process_time)
    found = ratio(timings["published"], timings["ours"])
    return {
        "shapes": asdict(shapes),
        "ratio": asdict(found),
        "target": TARGETS.get(shapes.objects) if shapes.batch == DecoderShapes.batch else None,
        "largest_loss_difference": _largest(losses["ours"], losses["published"]),
        "largest_gradient_difference": max(
            float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
            for one, other in zip(gradients["ours"], gradients["published"])
        ),
        "sides": {
            name: {
                "summary": timings[name].summary(shapes.batch),
                "operators": operators(side),
                "peak_bytes": side.peak_bytes(),
                "seconds_by_round": timings[name].rounds,
            }
            for name, side in sides.items()
        },
    }


def grow(sizes: Sequence[DecoderShapes], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours alone, all sizes in turns."""
    sides = {str(shapes): ours(shapes, made_up_step(shapes, options.seed)) for shapes in sizes}
    timings = measure(sides, Plan(options.rounds, 1, options.warmup), clock=time.process_time)
    return [
        {
            "shapes": asdict(shapes),
            "summary": timings[str(shapes)].summary(shapes.batch),
            "peak_bytes": sides[str(shapes)].peak_bytes(),
        }
        for shapes in sizes
    ]


def _largest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest relative difference of losses of the same name."""
    if ours.keys() != theirs.keys():
        raise ConfigError(f"the sides have different losses: {sorted(ours.keys() ^ theirs.keys())}")
    pairs = [(one.detach(), theirs[name].detach()) for name, one in ours.items()]
    return max(float((one - other).abs() / (other.abs() + 1e-6)) for one, other in pairs)


def comparison_table(found: list[dict[str, Any]], *, markdown: bool) -> str:
    """One row per number of objects."""
    rows = [["objects", "ours ms", "published ms", "ratio", "quartiles", "target", "operators", "published",
             "peak MB", "published", "loss diff.", "gradient diff."]]  # fmt: skip
    for one in found:
        mine, theirs = one["sides"]["ours"], one["sides"]["published"]
        quartiles = f"{one['ratio']['quartile1']:.1f} .. {one['ratio']['quartile3']:.1f}"
        rows.append([
            str(one["shapes"]["objects"]), *(f"{side['summary']['median_ms']:.0f}" for side in (mine, theirs)),
            f"{one['ratio']['median']:.1f}", quartiles, "" if one["target"] is None else f"{one['target']:g}",
            str(mine["operators"]), str(theirs["operators"]),
            *(f"{side['peak_bytes'] / MB:.0f}" for side in (mine, theirs)),
            f"{one['largest_loss_difference']:.0e}", f"{one['largest_gradient_difference']:.0e}",
        ])  # fmt: skip
    return table(rows, markdown=markdown)


def growth_table(found: list[dict[str, Any]], *, markdown: bool) -> str:
    """One row per size; the last columns say what one more object of the batch costs at most."""
    rows = [["batch", "objects", "ms", "spread %", "peak MB", "ms per object", "KB per object"]]
    for one in found:
        count = one["shapes"]["batch"] * max(one["shapes"]["objects"], 1)
        milliseconds, spread = one["summary"]["median_ms"], one["summary"]["spread_percent"]
        rows.append([str(one["shapes"]["batch"]), str(one["shapes"]["objects"]), f"{milliseconds:.1f}", f"{spread:.0f}",
                     f"{one['peak_bytes'] / MB:.1f}", f"{milliseconds / count:.3f}",
                     f"{one['peak_bytes'] / 1024 / count:.1f}"])  # fmt: skip
    return table(rows, markdown=markdown)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All sizes that were asked for."""
    torch.set_num_threads(1)
    base = DecoderShapes(
        options.batch, queries=options.queries, layers=options.layers, num_classes=options.classes, found=options.found
    )
    sizes = [replace(base, objects=one) for one in options.objects]
    machine = describe(torch.device("cpu"), 1)
    found: dict[str, Any] = {"machine": machine, "clock": "processor time", "seed": options.seed}
    if options.growth:
        middle = options.objects[len(options.objects) // 2]
        sizes += [replace(base, batch=max(1, int(options.batch * factor)), objects=middle) for factor in (0.5, 2)]
        found["growth"] = grow(sizes, options)
    else:
        found["comparison"] = [compare(one, options) for one in sizes]
    machine["load_after"] = load()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    try:
        found = run(options)
        if options.output is not None:
            with whole_file(options.output) as partial:
                partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.growth:
        print(growth_table(found["growth"], markdown=options.markdown))
    else:
        print(comparison_table(found["comparison"], markdown=options.markdown))
    machine = found["machine"]
    print(f"\nbatch {options.batch}, {options.rounds} rounds, processor time, 1 thread; {machine['cpu']}, load "
          f"{machine['load']} before, {machine['load_after']} after; torch {torch.__version__}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler behind the memory figures speaks of itself

import torch
from torch import Tensor

from isdfine.bench.command import MB, bench_parser, from_tests, publish
from isdfine.bench.machine import described
from isdfine.bench.step import Operators
from isdfine.bench.synthetic import DecoderShapes, SyntheticStep, synthetic_step
from isdfine.bench.timing import Ratio, TimingPlan, measure, ratio, table
from isdfine.core.command import one_line_errors
from isdfine.core.errors import ConfigError
from isdfine.distill.objective import Objective
from isdfine.losses.criterion import DFINECriterion
from isdfine.losses.matcher import HungarianMatcher
from isdfine.solver.probe import peak_of_allocations

WEIGHTS = {"loss_vfl": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_fgl": 0.15, "loss_ddf": 1.5}
TARGETS = {5: 8.0, 20: 15.0, 100: 30.0, 300: 25.0}
"""Ratios to reach, by objects per image, at batch 8."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(__doc__, batch=8, rounds=5, warmup=1, seed=0)
    parser.add_argument("--objects", nargs="+", type=int, default=[5, 20, 100, 300], help="boxes of every image")
    parser.add_argument("--queries", type=int, default=300, help="per image")
    parser.add_argument("--layers", type=int, default=6, help="decoder layers")
    parser.add_argument("--classes", type=int, default=80, help="columns of the logits")
    parser.add_argument("--found", action="store_true", help="every object has a query beside it, as after training")
    parser.add_argument("--growth", action="store_true", help="ours alone, over objects and over the batch")
    return parser.parse_args(arguments)


class Side:
    """One way to the losses of a made-up step."""

    def __init__(self, step: SyntheticStep, losses_of: Any, read: Any = None) -> None:
        self.step, self.losses_of, self.read = step, losses_of, read

    def losses(self) -> dict[str, Tensor]:
        """Forward pass alone."""
        losses: dict[str, Tensor] = self.losses_of(self.step.output, self.step.targets)
        return losses

    def __call__(self) -> dict[str, Tensor]:
        for leaf in self.step.leaves:  # gradients of an earlier call
            leaf.grad = None
        losses = self.losses()
        torch.stack(list(losses.values())).sum().backward()
        if self.read is not None:
            self.read(losses)
        return losses

    def gradients(self) -> list[Tensor]:
        """Of all leaves."""
        self()
        return [leaf.grad for leaf in self.step.leaves if leaf.grad is not None]

    def plain(self) -> dict[str, int]:
        """Operators of the forward pass, and what a call holds at most."""
        with Operators() as seen:
            self.losses()
        return {"operators": seen.count, "peak_bytes": peak_of_allocations(self)}


def ours(shapes: DecoderShapes, step: SyntheticStep) -> Side:
    """Criterion and GO-LSD with the published weights."""
    matcher = HungarianMatcher({"cost_class": 2, "cost_bbox": 5, "cost_giou": 2}, use_focal_loss=True)
    losses = ["vfl", "boxes", "local"]
    criterion = DFINECriterion(
        matcher, WEIGHTS, losses, alpha=0.75, num_classes=shapes.num_classes, reg_max=shapes.reg_max
    )
    return Side(step, Objective(criterion))


def compare(shapes: DecoderShapes, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same step."""
    step, module = synthetic_step(shapes, options.seed), from_tests("losses/published.py")
    reference = module.PublishedObjective(shapes.num_classes, shapes.reg_max)
    sides = {"ours": ours(shapes, step), "published": Side(step, reference, module.read_for_log)}
    losses = {name: side() for name, side in sides.items()}
    gradients = {name: side.gradients() for name, side in sides.items()}
    timings = measure(sides, TimingPlan(options.rounds, 1, options.warmup), clock=time.process_time)
    return {
        "shapes": asdict(shapes),
        "ratio": ratio(timings["published"], timings["ours"]).plain(),
        "target": TARGETS.get(shapes.objects) if shapes.batch == DecoderShapes.batch else None,
        "largest_loss_difference": _largest(losses["ours"], losses["published"]),
        "largest_gradient_difference": max(
            float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12))
            for mine, theirs in zip(gradients["ours"], gradients["published"])
        ),
        "sides": {
            name: {
                "summary": timings[name].summary(shapes.batch),
                **side.plain(),
                "seconds_by_round": timings[name].rounds,
            }
            for name, side in sides.items()
        },
    }


def grow(sizes: Sequence[DecoderShapes], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours alone, all sizes in turns."""
    sides = {str(shapes): ours(shapes, synthetic_step(shapes, options.seed)) for shapes in sizes}
    timings = measure(sides, TimingPlan(options.rounds, 1, options.warmup), clock=time.process_time)
    return [
        {
            "shapes": asdict(shapes),
            "summary": timings[str(shapes)].summary(shapes.batch),
            "peak_bytes": peak_of_allocations(sides[str(shapes)]),
        }
        for shapes in sizes
    ]


def _largest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest relative difference of losses of the same name."""
    if ours.keys() != theirs.keys():
        raise ConfigError(f"the sides have different losses: {sorted(ours.keys() ^ theirs.keys())}")
    pairs = [(loss.detach(), theirs[name].detach()) for name, loss in ours.items()]
    return max(float((mine - other).abs() / (other.abs() + 1e-6)) for mine, other in pairs)


def comparison_table(comparisons: list[dict[str, Any]], *, markdown: bool) -> str:
    """One row per number of objects."""
    rows = [["objects", "ours ms", "published ms", "ratio", "quartiles", "target", "operators", "published",
             "peak MB", "published", "loss diff.", "gradient diff."]]  # fmt: skip
    for size in comparisons:
        sides = [size["sides"][name] for name in ("ours", "published")]
        rows.append([
            str(size["shapes"]["objects"]), *(f"{side['summary']['median_ms']:.0f}" for side in sides),
            *Ratio(**size["ratio"]).cells(1), "" if size["target"] is None else f"{size['target']:g}",
            *(str(side["operators"]) for side in sides), *(f"{side['peak_bytes'] / MB:.0f}" for side in sides),
            f"{size['largest_loss_difference']:.0e}", f"{size['largest_gradient_difference']:.0e}",
        ])  # fmt: skip
    return table(rows, markdown=markdown)


def growth_table(growth: list[dict[str, Any]], *, markdown: bool) -> str:
    """One row per size; the last columns say what one more object of the batch costs at most."""
    rows = [["batch", "objects", "ms", "spread %", "peak MB", "ms per object", "KB per object"]]
    for size in growth:
        batch, objects = size["shapes"]["batch"], size["shapes"]["objects"]
        count, milliseconds = batch * max(objects, 1), size["summary"]["median_ms"]
        rows.append([str(batch), str(objects), f"{milliseconds:.1f}", f"{size['summary']['spread_percent']:.0f}",
                     f"{size['peak_bytes'] / MB:.1f}", f"{milliseconds / count:.3f}",
                     f"{size['peak_bytes'] / 1024 / count:.1f}"])  # fmt: skip
    return table(rows, markdown=markdown)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All sizes that were asked for."""
    torch.set_num_threads(1)
    base = DecoderShapes(
        options.batch, queries=options.queries, layers=options.layers, num_classes=options.classes, found=options.found
    )
    sizes = [replace(base, objects=objects) for objects in options.objects]
    with described(torch.device("cpu"), 1) as machine:
        results: dict[str, Any] = {"machine": machine, "clock": "processor time", "seed": options.seed}
        if options.growth:
            middle = options.objects[len(options.objects) // 2]
            sizes += [replace(base, batch=max(1, int(options.batch * factor)), objects=middle) for factor in (0.5, 2)]
            results["growth"] = grow(sizes, options)
        else:
            results["comparison"] = [compare(size, options) for size in sizes]
    return results


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    results = run(options)
    if options.growth:
        shown = growth_table(results["growth"], markdown=options.markdown)
    else:
        shown = comparison_table(results["comparison"], markdown=options.markdown)
    publish(results, options, shown, note=f"batch {options.batch}, {options.rounds} rounds, processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())

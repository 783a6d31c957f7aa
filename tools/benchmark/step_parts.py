#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Two parts of a training step against their usual forms, in turns: deformable attention's reads, and the update.

python tools/benchmark/step_parts.py --batch 4 -o parts.json

attention: what the 6 layers of D-FINE-L's decoder read from one set of maps of a 640 x 640 image (300 queries and 200
for denoising, 3, 6, 3 points), forward and backward: sums over a table of cells against grid_sample. update: clipping,
AdamW and averaged weights for --tensors tensors: ours against one tensor after the other. Processor time of this
process, one thread. Exit codes: 0, 2 wrong options.
"""

import argparse
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from isdfine.bench.command import bench_parser, publish
from isdfine.bench.machine import described
from isdfine.bench.timing import Ratio, TimingPlan, check_counts, measure, ratio, table
from isdfine.core.command import one_line_errors
from isdfine.nn.cpu import FeatureTable
from isdfine.nn.sampling import DeformableAttention
from isdfine.optim.ema import ModelEMA
from isdfine.optim.param_groups import AdamW

SIZES, POINTS, LAYERS, QUERIES, DIM, HEADS = [(80, 80), (40, 40), (20, 20)], [3, 6, 3], 6, 500, 256, 8


class GridForm(DeformableAttention):
    """The form of exported graphs, in training too."""

    def _by_table(self, queries: Tensor) -> bool:
        return False


class Attention:
    """Six layers over one set of maps."""

    def __init__(self, kind: type[DeformableAttention], batch: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.layer = kind(DIM, HEADS, len(SIZES), POINTS)
        self.queries = torch.randn(batch, QUERIES, DIM, generator=random).requires_grad_()
        self.boxes = torch.rand(batch, QUERIES, 4, generator=random) * 0.5 + 0.2
        self.maps = [torch.randn(batch, DIM, *size, generator=random).requires_grad_() for size in SIZES]
        for weight in (self.layer.sampling_offsets.weight, self.layer.attention_weights.weight):
            nn.init.normal_(weight, std=0.05, generator=random)

    def __call__(self) -> list[Tensor]:
        values = FeatureTable(self.maps)
        total = torch.stack([self.layer(self.queries, self.boxes, values).square().mean() for _ in range(LAYERS)]).sum()
        return [total.detach(), *torch.autograd.grad(total, [self.queries, *self.maps])]


class Update:
    """Clipping, optimizer, averaged weights."""

    def __init__(self, tensors: int, *, one_by_one: bool) -> None:
        random = torch.Generator().manual_seed(0)
        self.model = nn.ParameterList(torch.randn(72, 72, generator=random) for _ in range(tensors))
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        self.one_by_one = one_by_one
        self.optimizer = AdamW(self.model, foreach=False if one_by_one else None)
        self.ema = ModelEMA(self.model)

    def __call__(self) -> None:
        parameters = list(self.model.parameters())
        nn.utils.clip_grad_norm_(parameters, 0.1, foreach=False if self.one_by_one else None)
        self.optimizer.step()
        if not self.one_by_one:
            self.ema.update()
            return
        with torch.no_grad():  # as published: through the state dicts
            current = self.model.state_dict()
            for name, value in self.ema.module.state_dict().items():
                value.mul_(0.9999).add_(current[name] * (1 - 0.9999))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(__doc__, batch=4, rounds=7)
    parser.add_argument("--tensors", type=int, default=700, help="of the update, 72 x 72 numbers each")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both parts."""
    check_counts(options, batch=1, tensors=1)
    torch.set_num_threads(1)
    parts: dict[str, dict[str, Any]] = {}
    with described(torch.device("cpu"), 1) as machine:
        reads = {"ours": Attention(DeformableAttention, options.batch), "usual": Attention(GridForm, options.batch)}
        updates = {name: Update(options.tensors, one_by_one=name == "usual") for name in ("ours", "usual")}
        pairs = list(zip(reads["ours"](), reads["usual"]()))
        for part, sides in (("attention", reads), ("update", updates)):
            timings = measure(sides, TimingPlan(options.rounds, 1, 1), clock=time.process_time)
            parts[part] = {
                "ratio": ratio(timings["usual"], timings["ours"]).plain(),
                "sides": {
                    name: {"summary": timing.summary(1), "rounds": timing.rounds} for name, timing in timings.items()
                },
            }
    difference = max(float((mine - usual).abs().max() / usual.abs().max()) for mine, usual in pairs)
    parts["attention"]["largest_relative_difference"] = difference
    return {"machine": machine, "batch": options.batch, "tensors": options.tensors, "parts": parts}


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    results = run(options)
    rows = [["part", "ours ms", "usual ms", "ratio", "quartiles"]]
    for name, part in results["parts"].items():
        times = [f"{part['sides'][side]['summary']['median_ms']:.1f}" for side in ("ours", "usual")]
        rows.append([name, *times, *Ratio(**part["ratio"]).cells(2)])
    difference = results["parts"]["attention"]["largest_relative_difference"]
    publish(results, options, table(rows, markdown=options.markdown),
            note=f"largest relative difference of the attention's values and gradients: {difference:.0e}; batch "
            f"{options.batch}, {options.tensors} tensors, {options.rounds} rounds, processor time")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of a training step with each self-distillation method, side by side.

python tools/benchmark/distillation_cost.py --size n --image 320 320 --batch 8 --steps 10 --device cpu --markdown
python tools/benchmark/distillation_cost.py --size l --image 640 640 --batch 4 --device cuda --precision bf16

One model and one batch of noise serve all methods, which take turns step by step; needs no data and no weights. Time:
CUDA events on a GPU, processor time of this process on a CPU, which other work on the machine hardly moves. Memory:
what torch's allocator holds at most within a step, with weights, averaged weights and optimizer state. Ratios are to
go-lsd, time as the median over rounds with the quartiles. Exit codes: 0, 2 something that cannot be measured so.
"""

import argparse
import logging
import os
import platform
import resource
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler behind the memory figures speaks of itself

import torch

import isdfine
from isdfine.core.errors import ConfigError
from isdfine.solver.cost import BASELINE, METHODS, Cost, Workload, measure
from isdfine.solver.solver import pick_device

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dfine"
USUAL = ("none", BASELINE, "inter-d2s", "inter-s2d", "go-lsd+attn", "inter-d2s+attn")
MB = 1 << 20


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=("n", "s", "m", "l", "x"), help="D-FINE of this size, 80 classes")
    which.add_argument("-c", "--config", help="YAML file with model, criterion and optimizer")
    parser.add_argument("-u", "--update", nargs="+", action="extend", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--image", nargs=2, type=int, default=(640, 640), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--boxes", type=int, default=12, help="ground-truth boxes per image (BCCD: 12)")
    parser.add_argument("--steps", type=int, default=10, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before")
    parser.add_argument("--device", help="cpu, cuda or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="of a CPU (default: torch's)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--methods", nargs="+", default=list(USUAL), metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--diagnostics", action="store_true", help="also a step that writes diagnostics")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def table(costs: list[Cost], *, markdown: bool) -> str:
    """Rows of all methods; ratios where the baseline was measured."""
    base = next((one for one in costs if one.method == BASELINE), None)
    rows = [("method", "ms per step", f"time / {BASELINE}", "quartiles", "peak MB", f"memory / {BASELINE}")]
    for one in costs:
        ratios = ("", "", "")
        if base is not None:
            middle, low, high = one.time_ratio(base)
            ratios = (f"{middle:.3f}", f"{low:.3f} .. {high:.3f}", f"{one.peak_bytes / base.peak_bytes:.3f}")
        rows.append((one.method, f"{one.median * 1000:.1f}", *ratios[:2], f"{one.peak_bytes / MB:.1f}", ratios[2]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [[cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line) for line in lines)
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def machine(device: torch.device) -> str:
    """What it was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), load of the machine {load}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    path = options.config or CONFIGS / f"dfine_hgnetv2_{options.size}_coco.yml"
    try:
        device = pick_device(options.device)
        config = isdfine.load_config(path, [*options.update, f"precision={options.precision}"])
        work = Workload(
            tuple(options.image), options.batch, options.boxes, options.steps, options.warmup, options.diagnostics
        )
        costs = measure(config, options.methods, work, device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(costs, markdown=options.markdown))
    height, width = options.image
    print(
        f"\n{Path(path).stem}, {options.batch} x {height} x {width} pixels, {options.boxes} boxes an image, "
        f"{options.precision}, {options.steps} rounds; {machine(device)}; torch {torch.__version__}"
    )
    # a check on the peaks where one method is measured alone; Linux counts in KiB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest resident memory of this process: {resident:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of a training step with each self-distillation method, side by side.

python tools/benchmark/distillation_cost.py --size n --image 320 320 --batch 8 --steps 20 --device cpu --threads 1
python tools/benchmark/distillation_cost.py --size l --image 640 640 --batch 4 --device cuda --precision bf16 --markdown

One model and one batch of noise serve all methods, which take turns step by step; needs no data and no weights. A step
is what tools/train.py does with a batch: forward pass, matching, losses, backward pass, optimizer, averaged weights.
Time: CUDA events on a GPU, processor time of this process on a CPU, which other work on the machine moves little.
Memory: what torch's allocator holds at most within a step, with weights, averaged weights and optimizer state;
--resident adds what a process of its own takes for each method. Ratios are to go-lsd: time as the median over rounds
with the quartiles, and of the fastest rounds (other work only adds time). Exit codes: 0, 2 something that cannot be
measured so.
"""

import argparse
import logging
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler behind the memory figures speaks of itself

import torch

import isdfine
from bench.cost import BASELINE, METHODS, Cost, Workload, measure, resident_peak
from bench.timing import table as text_table
from isdfine.core.command import add_option, command_parser
from isdfine.core.environment import pick_device
from isdfine.core.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "dfine"
USUAL = ("fdr-only", "none", BASELINE, "inter-d2s", "inter-s2d", "inter-d2s+class", "go-lsd+attn", "inter-d2s+attn")
MB = 1 << 20


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=("n", "s", "m", "l", "x"), help="D-FINE of this size, 80 classes")
    which.add_argument("-c", "--config", help="YAML file with model, criterion and optimizer")
    add_option(parser, "update")
    parser.add_argument("--image", nargs=2, type=int, default=(640, 640), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--boxes", type=int, default=10, help="ground-truth boxes per image (BCCD has 12, COCO 7)")
    parser.add_argument("--steps", type=int, default=10, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before")
    parser.add_argument("--device", help="cpu, cuda or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="of a CPU (default: torch's)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the forward pass")
    parser.add_argument("--methods", nargs="+", default=list(USUAL), metavar="NAME", help=", ".join(METHODS))
    parser.add_argument("--diagnostics", action="store_true", help="also a step that writes diagnostics")
    parser.add_argument(
        "--resident", action="store_true", help="also the resident memory of one process per method (CPU)"
    )
    parser.add_argument("--resident-of", metavar="NAME", help=argparse.SUPPRESS)  # what such a process is told
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def table(costs: list[Cost], *, markdown: bool) -> str:
    """Rows of all methods; ratios where the baseline was measured."""
    base = next((cost for cost in costs if cost.method == BASELINE), None)
    rows = [("method", "ms per step", f"time / {BASELINE}", "quartiles", "fastest", "peak MB", f"memory / {BASELINE}")]
    for cost in costs:
        time, memory = ("", "", ""), ""
        if base is not None:
            middle, low, high = cost.time_ratio(base)
            time = (f"{middle:.3f}", f"{low:.3f} .. {high:.3f}", f"{cost.fastest / base.fastest:.3f}")
            memory = f"{cost.peak_bytes / base.peak_bytes:.3f}"
        rows.append((cost.method, f"{cost.median * 1000:.1f}", *time, f"{cost.peak_bytes / MB:.1f}", memory))
    if any(cost.resident_bytes is not None for cost in costs):
        resident = ["" if cost.resident_bytes is None else f"{cost.resident_bytes / MB:.1f}" for cost in costs]
        rows = [(*row, cell) for row, cell in zip(rows, ["resident MB", *resident])]
    return text_table(rows, markdown=markdown)


def machine(device: torch.device) -> str:
    """What it was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), load of the machine {load}"


def resident_bytes(arguments: list[str], method: str) -> int:
    """Resident memory of a fresh process that trains with one method.

    Args:
        arguments: of this command.
    """
    command = [sys.executable, __file__, *arguments, "--resident-of", method]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    path = options.config or CONFIGS / f"dfine_hgnetv2_{options.size}_coco.yml"
    try:
        device = pick_device(options.device)
        if options.resident and (device.type != "cpu" or sys.platform != "linux"):
            raise ConfigError("--resident reads what Linux says of a process, which is memory of the CPU: leave it out")
        config = isdfine.load_config(path, [*options.update, f"precision={options.precision}"])
        work = Workload(
            tuple(options.image), options.batch, options.boxes, options.steps, options.warmup, options.diagnostics
        )
        if options.resident_of:
            print(resident_peak(config, options.resident_of, work))
            return 0
        costs = measure(config, options.methods, work, device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.resident:
        given = sys.argv[1:] if arguments is None else arguments
        costs = [
            replace(cost, resident_bytes=resident_bytes(given, cost.method)) if cost.method in METHODS else cost
            for cost in costs
        ]
    print(table(costs, markdown=options.markdown))
    height, width = options.image
    print(
        f"\n{Path(path).stem}, {options.batch} x {height} x {width} pixels, {options.boxes} boxes an image, "
        f"{options.precision}, {options.steps} rounds; {machine(device)}; torch {torch.__version__}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

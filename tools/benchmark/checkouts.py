#!/usr/bin/env python
# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""Two checkouts of this project in turns: training step, operators of the losses, latency, import.

python tools/benchmark/checkouts.py --before ../main --size n --image 320 320 --batch 2 --rounds 20
python tools/benchmark/checkouts.py --before ../main --size l --device cuda --rounds 30 --markdown

--after is this checkout if nothing else is said. Each side is a process of its own with the same Python and packages,
which builds what its own tools/benchmark/train_step.py and latency.py build (eager, fp32, random weights) and waits
for its turn; in each round both have one, in an order drawn anew. Time: processor time of the process on a CPU, wall
time on a GPU; of the import wall time. Ratios are of the same round, after over before: above 1 is slower than before.
Exit codes: 0, 2 something that cannot be measured so.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of one side do not spin while the other has its turn

from bench import checkout_worker
from bench.timing import Timing, ratio, table
from isdfine.core.command import add_option, command_parser

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("before", "after")
WHAT = ("step", "latency", "import")
Call = Callable[[], float]


class Failed(Exception):
    """A side that does not run."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = command_parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="folder of a checkout")
    parser.add_argument("--after", type=Path, default=ROOT, help="folder of another one (default: this one)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--size", choices=("n", "s", "m", "l", "x"), help="D-FINE of this size, each side's own config")
    which.add_argument("-c", "--config", type=Path, help="YAML file with model, criterion and optimizer, for both")
    add_option(parser, "update", help="changes of the config")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT), help="(default: all)")
    parser.add_argument("--image", nargs=2, type=int, default=(640, 640), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per training step; latency is of one")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side")
    parser.add_argument("--warmup", type=int, default=2, help="calls of each side before")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args(arguments)
    for name in ("batch", "rounds", "warmup", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}: give 1 or more")
    return options


@contextmanager
def importable(checkout: Path) -> Iterator[Path]:
    """A folder whose scripts import the package of a checkout, whatever is installed."""
    if not (checkout / "src" / "__init__.py").is_file():
        raise Failed(f"{checkout}: no checkout of this project (src/__init__.py is missing)")
    with tempfile.TemporaryDirectory() as folder:
        for name, place in (("isdfine", "src"), ("bench", "tools/benchmark/bench")):
            if (checkout / place).is_dir():
                Path(folder, name).symlink_to((checkout / place).resolve(), target_is_directory=True)
        yield Path(shutil.copy(checkout_worker.__file__, folder))


@contextmanager
def worker(checkout: Path, asked: dict[str, Any]) -> Iterator[tuple[dict[str, int], Call]]:
    """A process of one side: the operators it counted, and a call that takes one turn and gives its seconds."""
    with importable(checkout) as script:
        command = [sys.executable, str(script), str(checkout.resolve()), json.dumps(asked)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def answer() -> Any:
            if not (line := stdout.readline()):
                raise Failed(f"{checkout}: {asked['what']} cannot be measured there, see above")
            return json.loads(line)

        def turn() -> float:
            stdin.write("\n")
            stdin.flush()
            return float(answer())

        try:
            yield answer(), turn
        finally:
            process.kill()
            process.wait()
            stdin.close()
            stdout.close()


@contextmanager
def importing(checkout: Path) -> Iterator[tuple[dict[str, int], Call]]:
    """A call that gives the seconds of ``import isdfine`` in a fresh process, the interpreter's start included."""
    with importable(checkout) as script:
        command = [sys.executable, "-c", "import isdfine"]

        def turn() -> float:
            begin = time.perf_counter()
            subprocess.run(command, cwd=script.parent, check=True)
            return time.perf_counter() - begin

        turn()  # writes byte code
        yield {}, turn


def compare(what: str, options: argparse.Namespace) -> tuple[dict[str, Timing], dict[str, dict[str, int]]]:
    """Times and operators of both sides."""
    with ExitStack() as stack:
        turns, counts = {}, {}
        for side in SIDES:
            checkout: Path = getattr(options, side)
            config = options.config or checkout / f"configs/dfine/dfine_hgnetv2_{options.size}_coco.yml"
            asked = {"what": what, "config": str(config.resolve()), "update": options.update,
                     "image": list(options.image), "batch": options.batch, "warmup": options.warmup,
                     "device": options.device, "threads": options.threads}  # fmt: skip
            context = importing(checkout) if what == "import" else worker(checkout, asked)
            counts[side], turns[side] = stack.enter_context(context)
        seconds: dict[str, list[tuple[float, ...]]] = {side: [] for side in SIDES}
        draw = random.Random(0)
        for _ in range(options.rounds):
            for side in draw.sample(SIDES, len(SIDES)):
                seconds[side].append((turns[side](),))
    return {side: Timing(tuple(rounds)) for side, rounds in seconds.items()}, counts


def rows_of(what: str, timings: dict[str, Timing], counts: dict[str, dict[str, int]]) -> Iterator[list[str]]:
    """A row for the time, and one for each kind of operators."""
    over = ratio(timings["after"], timings["before"])
    times = [f"{1000 * timings[side].median:.1f}" for side in SIDES]
    yield [f"{what} [ms]", *times, f"{over.median:.3f}", f"{over.quartile1:.3f} .. {over.quartile3:.3f}"]
    for name, before in counts["before"].items():
        after = counts["after"][name]
        yield [f"{what}: {name}", str(before), str(after), f"{after / before:.3f}", ""]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; a mistake of the user is one message and exit code 2."""
    options = parse_arguments(arguments)
    rows = [["what", *SIDES, "after / before", "quartiles"]]
    try:
        for what in options.what:
            rows += rows_of(what, *compare(what, options))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())

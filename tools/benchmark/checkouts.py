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
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads of one side do not spin while the other has its turn

from isdfine.bench import side
from isdfine.bench.command import ROOT, bench_parser, config_path
from isdfine.bench.timing import Timing, ratio, table, take_turns
from isdfine.core.command import one_line_errors
from isdfine.core.errors import ConfigError

SIDES = ("before", "after")
WHAT = ("step", "latency", "import")
Side = tuple[dict[str, int], Callable[[], float]]
"""The operators that a side counted, and a call that takes one turn and gives its seconds."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = bench_parser(
        __doc__, model=True, output=False, image=(640, 640), batch=4, rounds=20, warmup=2, device="cpu", threads=1
    )
    parser.add_argument("--before", type=Path, required=True, help="folder of a checkout")
    parser.add_argument("--after", type=Path, default=ROOT, help="folder of another one (default: this one)")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT), help="(default: all)")
    options: argparse.Namespace = parser.parse_args(arguments)
    for name in ("batch", "rounds", "warmup", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}: give 1 or more")
    return options


@contextmanager
def importable(checkout: Path) -> Iterator[Path]:
    """A folder whose scripts import the package of a checkout, whatever is installed."""
    if not (checkout / "src" / "__init__.py").is_file():
        raise ConfigError(f"{checkout}: no checkout of this project (src/__init__.py is missing)")
    with tempfile.TemporaryDirectory() as folder:
        for name, place in (("isdfine", "src"), ("bench", "tools/benchmark/bench")):
            if (checkout / place).is_dir():
                Path(folder, name).symlink_to((checkout / place).resolve(), target_is_directory=True)
        yield Path(shutil.copy(side.__file__, folder))


@contextmanager
def worker(checkout: Path, asked: dict[str, Any]) -> Iterator[Side]:
    """A process of one side."""
    with importable(checkout) as script:
        command = [sys.executable, str(script), str(checkout.resolve()), json.dumps(asked)]
        failure = ConfigError(f"{checkout}: {asked['what']} cannot be measured there, see above")
        with side.side_process(command, failure) as answering:
            yield answering


@contextmanager
def importing(checkout: Path) -> Iterator[Side]:
    """A call that gives the seconds of ``import isdfine`` in a fresh process, the interpreter's start included."""
    with importable(checkout) as script:

        def turn() -> float:
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import isdfine"], cwd=script.parent, check=True)
            return time.perf_counter() - begin

        turn()  # writes byte code
        yield {}, turn


def compare(what: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """A row for the time, and one for each kind of operators."""
    opened = []
    for name in SIDES:
        checkout: Path = getattr(options, name)
        asked = {"what": what, "config": str(config_path(options, checkout).resolve()), "update": options.update,
                 "image": list(options.image), "batch": options.batch, "warmup": options.warmup,
                 "device": options.device, "threads": options.threads}  # fmt: skip
        opened.append(importing(checkout) if what == "import" else worker(checkout, asked))
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        sides = dict(zip(SIDES, pool.map(stack.enter_context, opened)))  # both start at once
        seconds = take_turns({name: turn for name, (_, turn) in sides.items()}, options.rounds)
    before, after = (Timing.of(seconds[name]) for name in SIDES)
    yield [
        f"{what} [ms]",
        *(f"{1000 * timing.median:.1f}" for timing in (before, after)),
        *ratio(after, before).cells(),
    ]
    (counts_before, _), (counts_after, _) = (sides[name] for name in SIDES)
    for name, count in counts_before.items():
        yield [f"{what}: {name}", str(count), str(counts_after[name]), f"{counts_after[name] / count:.3f}", ""]


@one_line_errors
def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    options = parse_arguments(arguments)
    rows = [["what", *SIDES, "after / before", "quartiles"]]
    for what in options.what:
        rows += compare(what, options)
    print(table(rows, markdown=options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-FileCopyrightText: 2026 The ISD-FINE authors
# SPDX-License-Identifier: Apache-2.0
"""What campaigns of faults share: options, forked runs of tools, and the count of what went wrong."""

import argparse
import contextlib
import os
import random
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isdfine.core.command import command_parser

ROOT = Path(__file__).resolve().parents[2]
Trial = Callable[[str, random.Random, Path, argparse.Namespace], list[str]]
"""Kind of fault, source of chance, a new folder, options -> what went wrong, in a line each."""


def builders() -> dict[str, Any]:
    """The tests' makers of data and configs."""
    return runpy.run_path(str(ROOT / "tests" / "builders.py"))


def fork(work: Callable[[], Any], log: Path) -> int:
    """Do something in a child in a session of its own, with its output in a file; returns the process id.

    What this process has imported need not be imported again.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code: Any = 70
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = work()
    except SystemExit as error:
        code = error.code
    except BaseException:  # noqa: BLE001  # this is where the child ends, whatever happened
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def campaign_parser(text: str | None, kinds: Sequence[str], count: int) -> argparse.ArgumentParser:
    """The options that all have; ``count`` trials where nobody says how many."""
    parser = command_parser(text)
    parser.add_argument("--count", type=int, default=count, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="of faults")
    return parser


def run(trial: Trial, options: argparse.Namespace, well: str) -> int:
    """All trials, each kind in its turn; 1 where something went wrong.

    Args:
        well: what is said of the trials that ended as they should.
    """
    import isdfine.components  # once, for all that are forked

    del isdfine
    choose, failures = random.Random(options.seed), 0
    for number in range(options.count):
        kind = options.kinds[number % len(options.kinds)]
        print(f"{number + 1:3} {kind}", flush=True)
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            wrong = trial(kind, choose, Path(folder), options)
        failures += bool(wrong)
        for message in wrong:
            print(f"      WRONG: {message}", flush=True)
    print(f"{options.count - failures} of {options.count} {well}")
    return 1 if failures else 0
